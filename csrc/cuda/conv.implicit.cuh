// Convolutions as matrix products whose matrix of windows is never written down (implicit GEMM): the operands and
// results of products.cuh that find an image's elements. Pixels of one launch are fewer than 2^31.
#pragma once

#include "conv.direct.cuh"

namespace mmk::cuda::conv {

// A row and a column of an image in one register; positions are added as one number. Both are in [-32768, 32768), which
// products_cover() sees to; the column is kept 32768 higher, so that it is no negative number.
struct Position {
    int both;
    MMK_MEMBER static Position first(int h, int w) { return {h * 65536 + w + 32768}; }
    MMK_MEMBER static Position further(int h, int w) { return {h * 65536 + w}; }
    MMK_MEMBER bool inside(Position more, int H, int W) const {
        const int sum = both + more.both;
        const int extra = MMK_DEFECT(conv_window_border) ? 1 : 0;
        return unsigned(sum >> 16) < unsigned(H + extra) && unsigned((sum & 0xffff) - 32768) < unsigned(W);
    }
};

// ---- conv2d and its input gradient: pixels of the result, taps -----------------------------------------------------

// k = (c, r, s), c slowest: the definition's order, which float32 keeps. Rows are pixels, neighbours in memory.
template <class T> struct WindowOperand {
    using Element = T;
    static constexpr bool along_k = false;
    static constexpr int width = 1;
    struct Row {
        const T* at;
        Position position;
    };
    struct Depth {
        int offset;
        Position position;
    };

    const T* data;
    Strides4 strides;
    int64_t group; // step
    int H, W, stride[2], dilation[2], before[2];
    ShortDivisor by_row, by_column, by_tap_row, by_tap_column;

    WindowOperand(const Correlation& c, const T* data_)
        : data(data_), strides(c.source), group(c.channels * c.source.c), H(int(c.H)), W(int(c.W)),
          stride{int(c.stride[0]), int(c.stride[1])}, dilation{int(c.dilation[0]), int(c.dilation[1])},
          before{int(c.before[0]), int(c.before[1])}, by_row(c.Q), by_column(c.P), by_tap_row(c.S), by_tap_column(c.R) {
    }
    MMK_MEMBER Row row(int64_t batch, int64_t pixel) const {
        int n = int(pixel);
        const int q = by_row.take(n), p = by_column.take(n);
        const int h = p * stride[0] - before[0], w = q * stride[1] - before[1];
        return {data + batch * group + strides.at(n, 0, h, w), Position::first(h, w)};
    }
    MMK_MEMBER Depth depth(int64_t k) const {
        int c = int(k);
        const int s = by_tap_row.take(c), r = by_tap_column.take(c), h = r * dilation[0], w = s * dilation[1];
        return {c * int(strides.c) + h * int(strides.h) + w * int(strides.w), Position::further(h, w)};
    }
    MMK_MEMBER const T* at(const Row& row, const Depth& depth) const {
        return row.position.inside(depth.position, H, W) ? row.at + depth.offset : nullptr;
    }
};
// The weights that meet them. Rows are outputs; the taps of one channel are neighbours.
template <class T> struct FilterOperand {
    using Element = T;
    static constexpr bool along_k = true;
    static constexpr int width = 1;
    using Row = int;
    using Depth = int;

    const T* data;
    Strides4 strides;
    int64_t group;
    ShortDivisor by_tap_row, by_tap_column;

    FilterOperand(const Correlation& c, const T* data_)
        : data(data_), strides(c.weight), group(c.weight_group), by_tap_row(c.S), by_tap_column(c.R) {}
    MMK_MEMBER Row row(int64_t batch, int64_t output) const { return int(batch * group + output * strides.n); }
    MMK_MEMBER Depth depth(int64_t k) const {
        int c = int(k);
        const int s = by_tap_row.take(c), r = by_tap_column.take(c);
        return c * int(strides.c) + r * int(strides.h) + s * int(strides.w);
    }
    MMK_MEMBER const T* at(Row row, Depth depth) const { return data + (row + depth); }
};

// k = (r, s, c), c fastest, eight channels of one tap at a time: for tensor cores, from images and weights whose
// channels are neighbours, counted by 8 (`channels` of them in a group).
template <class T> struct WindowVectors : WindowOperand<T> {
    using Base = WindowOperand<T>;
    using typename Base::Depth;
    static constexpr bool along_k = true;
    static constexpr int width = 8;
    ShortDivisor by_channels;

    WindowVectors(const Correlation& c, const T* data_) : Base(c, data_), by_channels(c.channels) {}
    MMK_MEMBER Depth depth(int64_t k) const {
        int r = int(k);
        const int c = by_channels.take(r), s = this->by_tap_row.take(r);
        const int h = r * this->dilation[0], w = s * this->dilation[1];
        return {h * int(this->strides.h) + w * int(this->strides.w) + c, Position::further(h, w)};
    }
};
template <class T> struct FilterVectors : FilterOperand<T> {
    using Base = FilterOperand<T>;
    using typename Base::Depth;
    static constexpr int width = 8;
    ShortDivisor by_channels;

    FilterVectors(const Correlation& c, const T* data_) : Base(c, data_), by_channels(c.channels) {}
    MMK_MEMBER Depth depth(int64_t k) const {
        int r = int(k);
        const int c = by_channels.take(r), s = this->by_tap_row.take(r);
        return r * int(this->strides.h) + s * int(this->strides.w) + c;
    }
};

// Results: columns are pixels and rows outputs (planes), or the other way round (channels last).
template <class T, bool last> struct ImageFinish {
    using C = Compute<T>;
    static constexpr bool along_rows = false;
    static constexpr int width = 16 / int(sizeof(T));

    Correlation c;
    Operands<T> o;
    ShortDivisor by_row, by_column;
    bool whole; // `width` results are neighbours, at an address to which they may be stored at once
    bool skips; // zeros on the border stand for taps that take no part

    ImageFinish(const Correlation& c_, const Operands<T>& o_, bool skips_)
        : c(c_), o(o_), by_row(c.Q), by_column(c.P), skips(skips_) {
        const Strides4& s = c.result;
        const bool dense =
            last ? s.c == 1 && s.h % width == 0 && s.w % width == 0 : s.w == 1 && s.h == c.Q && s.c % width == 0;
        whole = dense && (last ? c.outputs : c.P * c.Q) % width == 0 && s.n % width == 0 &&
                aligned(o.result, width * sizeof(T));
    }
    MMK_MEMBER void next(Place4& y) const {
        if (last) {
            ++y.c;
        } else if (++y.w == c.Q) {
            y.w = 0;
            if (++y.h == c.P) y.h = 0, ++y.n;
        }
    }
    // Only a weight that is not finite makes NaN from a border's zero; so NaN is looked into.
    __device__ void without_border(Place4 y, int64_t group, C (&value)[width], int count) const {
#pragma unroll 1
        for (int i = 0; i < count; ++i, next(y)) {
            const C sum = correlation_sum<true>(c, o.source, o.weight, y.n, group, y.c - group * c.outputs, y.h, y.w);
#pragma unroll
            for (int j = 0; j < width; ++j)
                if (j == i && value[j] != value[j]) value[j] = sum;
        }
    }
    __device__ void operator()(int64_t batch, int64_t row, int64_t column, const C (&sum)[width], int count) const {
        int n = int(last ? row : column);
        const int q = by_row.take(n), p = by_column.take(n);
        const Place4 first{n, batch * c.outputs + (last ? column : row), p, q};
        C value[width];
        bool numbers = true;
#pragma unroll
        for (int i = 0; i < width; ++i) value[i] = i < count ? sum[i] : C(0), numbers = numbers && value[i] == value[i];
        if (skips && !numbers) without_border(first, batch, value, count);
        Place4 y = first;
#pragma unroll
        for (int i = 0; i < width; ++i, next(y))
            if (i < count) value[i] = o.ending.added(value[i], y.n, y.c, y.h, y.w);
        o.ending.activate_all(value);
        Pack<T, width> result;
#pragma unroll
        for (int i = 0; i < width; ++i) result.at[i] = narrow<T>(value[i]);
        y = first;
        if (whole) {
            *reinterpret_cast<Pack<T, width>*>(o.result + c.result.at(y.n, y.c, y.h, y.w)) = result;
            return;
        }
#pragma unroll
        for (int i = 0; i < width; ++i, next(y))
            if (i < count) o.result[c.result.at(y.n, y.c, y.h, y.w)] = result.at[i];
    }
};

// ---- the weight gradient: outputs, taps; products over pixels -----------------------------------------------------

// The source at tap (c, r, s) of pixel (n, p, q). Rows are (c, r, s), or (r, s, c) where `last`: neighbours in memory.
template <class T, bool last, int width_> struct SourceOperand {
    using Element = T;
    static constexpr bool along_k = !last;
    static constexpr int width = width_;
    struct Row {
        int offset;
        Position position;
    };
    struct Depth {
        const T* at;
        Position position;
    };

    const T* data;
    Strides4 strides;
    int64_t group;
    int H, W, stride[2], dilation[2], before[2];
    ShortDivisor by_row, by_column, by_tap_row, by_tap_column, by_channels;

    SourceOperand(const Correlation& c, const T* data_)
        : data(data_), strides(c.source), group(c.channels * c.source.c), H(int(c.H)), W(int(c.W)),
          stride{int(c.stride[0]), int(c.stride[1])}, dilation{int(c.dilation[0]), int(c.dilation[1])},
          before{int(c.before[0]), int(c.before[1])}, by_row(c.Q), by_column(c.P), by_tap_row(c.S), by_tap_column(c.R),
          by_channels(c.channels) {}
    MMK_MEMBER Row row(int64_t batch, int64_t index) const {
        int left = int(index);
        int c = last ? by_channels.take(left) : 0;
        const int s = by_tap_row.take(left), r = last ? left : by_tap_column.take(left);
        if (!last) c = left;
        const int h = r * dilation[0] - before[0], w = s * dilation[1] - before[1];
        return {int(batch * group + strides.at(0, c, h, w)), Position::first(h, w)};
    }
    MMK_MEMBER Depth depth(int64_t pixel) const {
        int n = int(pixel);
        const int q = by_row.take(n), p = by_column.take(n), h = p * stride[0], w = q * stride[1];
        return {data + strides.at(n, 0, h, w), Position::further(h, w)};
    }
    MMK_MEMBER const T* at(const Row& row, const Depth& depth) const {
        return row.position.inside(depth.position, H, W) ? depth.at + row.offset : nullptr;
    }
};
// gy at pixel (n, p, q). Rows are outputs.
template <class T, bool last, int width_> struct ResultOperand {
    using Element = T;
    static constexpr bool along_k = !last;
    static constexpr int width = width_;
    using Row = int;
    using Depth = const T*;

    const T* data;
    Strides4 strides;
    int64_t group;
    ShortDivisor by_row, by_column;

    ResultOperand(const Correlation& c, const T* data_)
        : data(data_), strides(c.result), group(c.outputs * c.result.c), by_row(c.Q), by_column(c.P) {}
    MMK_MEMBER Row row(int64_t batch, int64_t output) const { return int(batch * group + output * strides.c); }
    MMK_MEMBER Depth depth(int64_t pixel) const {
        int n = int(pixel);
        const int q = by_row.take(n), p = by_column.take(n);
        return data + strides.at(n, 0, p, q);
    }
    MMK_MEMBER const T* at(Row row, Depth depth) const { return depth + row; }
};

} // namespace mmk::cuda::conv
