// Convolutions as matrix products whose matrix of windows is never written down (implicit GEMM): the operands and
// results of products.cuh that find an image's elements. Pixels of one launch are fewer than 2^31.
#pragma once

#include "conv.direct.cuh"

namespace mmk::cuda::conv {

// ---- convolution and its input gradient: pixels of the result, taps ------------------------------------------------

// The slices of a source have their border in memory: positions are those of an image.

// k = (c, t, r, s), c slowest: the definition's order, which float32 keeps. Rows are pixels, neighbours in memory.
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
    Strides5 strides;
    int64_t group; // step
    Positions positions;
    int stride[3], dilation[3], before[3], slices, tap_slices;
    ShortDivisor by_row, by_column, by_slice, by_tap_row, by_tap_column, by_tap_slice;

    WindowOperand(const Correlation& c, const T* data_)
        : data(data_), strides(c.source), group(c.channels * c.source.c), positions(c),
          stride{int(c.stride[0]), int(c.stride[1]), int(c.stride[2])},
          dilation{int(c.dilation[0]), int(c.dilation[1]), int(c.dilation[2])},
          before{int(c.before[0]), int(c.before[1]), int(c.before[2])}, slices(int(c.O)), tap_slices(int(c.T)),
          by_row(c.Q), by_column(c.P), by_slice(c.O), by_tap_row(c.S), by_tap_column(c.R), by_tap_slice(c.T) {}
    MMK_MEMBER Row row(int64_t batch, int64_t pixel) const {
        int n = int(pixel);
        const int q = by_row.take(n), p = by_column.take(n), o = slices > 1 ? by_slice.take(n) : 0;
        const int d = o * stride[0] - before[0], h = p * stride[1] - before[1], w = q * stride[2] - before[2];
        return {data + batch * group + strides.at(n, 0, d, h, w), positions.first(h, w)};
    }
    MMK_MEMBER Depth depth(int64_t k) const {
        int c = int(k);
        const int s = by_tap_row.take(c), r = by_tap_column.take(c), h = r * dilation[1], w = s * dilation[2];
        int offset = h * int(strides.h) + w * int(strides.w);
        if (tap_slices > 1) offset += by_tap_slice.take(c) * dilation[0] * int(strides.d);
        return {c * int(strides.c) + offset, positions.further(h, w)};
    }
    MMK_MEMBER const T* at(const Row& row, const Depth& depth) const {
        return positions.inside(row.position, depth.position) ? row.at + depth.offset : nullptr;
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
    Strides5 strides;
    int64_t group;
    int tap_slices;
    ShortDivisor by_tap_row, by_tap_column, by_tap_slice;

    FilterOperand(const Correlation& c, const T* data_)
        : data(data_), strides(c.weight), group(c.weight_group), tap_slices(int(c.T)), by_tap_row(c.S),
          by_tap_column(c.R), by_tap_slice(c.T) {}
    MMK_MEMBER Row row(int64_t batch, int64_t output) const { return int(batch * group + output * strides.n); }
    MMK_MEMBER Depth depth(int64_t k) const {
        int c = int(k);
        const int s = by_tap_row.take(c), r = by_tap_column.take(c);
        int offset = r * int(strides.h) + s * int(strides.w);
        if (tap_slices > 1) offset += by_tap_slice.take(c) * int(strides.d);
        return c * int(strides.c) + offset;
    }
    MMK_MEMBER const T* at(Row row, Depth depth) const { return data + (row + depth); }
};

// k = (t, r, s, c), c fastest, eight channels (TF32: four) of one tap at a time: for tensor cores, from images and weights
// whose channels are neighbours, counted by so many (`channels` of them in a group).
template <class T> struct WindowVectors : WindowOperand<T> {
    using Base = WindowOperand<T>;
    using typename Base::Depth;
    static constexpr bool along_k = true;
    static constexpr int width = piece<T>;
    ShortDivisor by_channels;

    WindowVectors(const Correlation& c, const T* data_) : Base(c, data_), by_channels(c.channels) {}
    MMK_MEMBER Depth depth(int64_t k) const {
        int r = int(k);
        const int c = by_channels.take(r), s = this->by_tap_row.take(r);
        int offset = c;
        if (this->tap_slices > 1) {
            int t = r;
            r = this->by_tap_column.take(t);
            offset += t * this->dilation[0] * int(this->strides.d);
        }
        const int h = r * this->dilation[1], w = s * this->dilation[2];
        return {h * int(this->strides.h) + w * int(this->strides.w) + offset, this->positions.further(h, w)};
    }
};
template <class T> struct FilterVectors : FilterOperand<T> {
    using Base = FilterOperand<T>;
    using typename Base::Depth;
    static constexpr int width = piece<T>;
    ShortDivisor by_channels;

    FilterVectors(const Correlation& c, const T* data_) : Base(c, data_), by_channels(c.channels) {}
    MMK_MEMBER Depth depth(int64_t k) const {
        int r = int(k);
        const int c = by_channels.take(r), s = this->by_tap_row.take(r);
        int offset = c;
        if (this->tap_slices > 1) {
            int t = r;
            r = this->by_tap_column.take(t);
            offset += t * int(this->strides.d);
        }
        return r * int(this->strides.h) + s * int(this->strides.w) + offset;
    }
};

// Results: columns are pixels and rows outputs (planes), or the other way round (channels last). Slices of all samples
// are counted as one extent.
template <class T, bool last> struct ImageFinish {
    using C = Compute<T>;
    static constexpr bool along_rows = false;
    static constexpr int width = 16 / int(sizeof(T));

    Correlation c;
    Operands<T> o;
    ShortDivisor by_row, by_column, by_slice;
    bool whole; // `width` results are neighbours, at an address to which they may be stored at once
    bool skips; // zeros on the border stand for taps that take no part

    ImageFinish(const Correlation& c_, const Operands<T>& o_, bool skips_)
        : c(c_), o(o_), by_row(c.Q), by_column(c.P), by_slice(c.O), skips(skips_) {
        const Strides5& s = c.result;
        const bool dense =
            last ? s.c == 1 && s.h % width == 0 && s.w % width == 0 : s.w == 1 && s.h == c.Q && s.c % width == 0;
        whole = dense && (last ? c.outputs : c.P * c.Q) % width == 0 && s.n % width == 0 && s.d % width == 0 &&
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
    // The slice of a sample; n becomes the sample.
    MMK_MEMBER int slice(int64_t& n) const {
        if (c.O == 1) return 0;
        int sample = int(n);
        const int o = by_slice.take(sample);
        n = sample;
        return o;
    }
    MMK_MEMBER T* at(Place4 y) const {
        const int d = slice(y.n);
        return o.result + c.result.at(y.n, y.c, d, y.h, y.w);
    }
    // Only a weight that is not finite makes NaN from a border's zero; so NaN is looked into.
    __device__ void without_border(Place4 y, int64_t group, C (&value)[width], int count) const {
#pragma unroll 1
        for (int i = 0; i < count; ++i, next(y)) {
            int64_t n = y.n;
            const int d = slice(n);
            const C sum = correlation_sum(c, o.source, o.weight, true, n, group, y.c - group * c.outputs, d, y.h, y.w);
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
            if (i < count) {
                int64_t n = y.n;
                const int d = slice(n);
                value[i] = o.ending.added(value[i], n, y.c, d, y.h, y.w);
            }
        o.ending.activate_all(value);
        Pack<T, width> result;
#pragma unroll
        for (int i = 0; i < width; ++i) result.at[i] = narrow<T>(value[i]);
        y = first;
        if (whole) {
            *reinterpret_cast<Pack<T, width>*>(at(y)) = result;
            return;
        }
#pragma unroll
        for (int i = 0; i < width; ++i, next(y))
            if (i < count) *at(y) = result.at[i];
    }
};

// ---- the weight gradient: outputs, taps; products over pixels -----------------------------------------------------

// The source at tap (c, t, r, s) of pixel (n, o, p, q). Rows are (c, t, r, s), or (t, r, s, c) where `last`: neighbours
// in memory.
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
    Strides5 strides;
    int64_t group;
    Positions positions;
    int stride[3], dilation[3], before[3], slices;
    ShortDivisor by_row, by_column, by_slice, by_tap_row, by_tap_column, by_tap_slice, by_channels;

    SourceOperand(const Correlation& c, const T* data_)
        : data(data_), strides(c.source), group(c.channels * c.source.c), positions(c),
          stride{int(c.stride[0]), int(c.stride[1]), int(c.stride[2])},
          dilation{int(c.dilation[0]), int(c.dilation[1]), int(c.dilation[2])},
          before{int(c.before[0]), int(c.before[1]), int(c.before[2])}, slices(int(c.O)), by_row(c.Q), by_column(c.P),
          by_slice(c.O), by_tap_row(c.S), by_tap_column(c.R), by_tap_slice(c.T), by_channels(c.channels) {}
    MMK_MEMBER Row row(int64_t batch, int64_t index) const {
        int left = int(index);
        int c = last ? by_channels.take(left) : 0;
        const int s = by_tap_row.take(left), r = by_tap_column.take(left), t = by_tap_slice.take(left);
        if (!last) c = left;
        const int d = t * dilation[0] - before[0], h = r * dilation[1] - before[1], w = s * dilation[2] - before[2];
        return {int(batch * group + strides.at(0, c, d, h, w)), positions.first(h, w)};
    }
    MMK_MEMBER Depth depth(int64_t pixel) const {
        int n = int(pixel);
        const int q = by_row.take(n), p = by_column.take(n), o = slices > 1 ? by_slice.take(n) : 0;
        const int h = p * stride[1], w = q * stride[2];
        return {data + strides.at(n, 0, o * stride[0], h, w), positions.further(h, w)};
    }
    MMK_MEMBER const T* at(const Row& row, const Depth& depth) const {
        return positions.inside(row.position, depth.position) ? depth.at + row.offset : nullptr;
    }
};
// gy at pixel (n, o, p, q). Rows are outputs.
template <class T, bool last, int width_> struct ResultOperand {
    using Element = T;
    static constexpr bool along_k = !last;
    static constexpr int width = width_;
    using Row = int;
    using Depth = const T*;

    const T* data;
    Strides5 strides;
    int64_t group;
    int slices;
    ShortDivisor by_row, by_column, by_slice;

    ResultOperand(const Correlation& c, const T* data_)
        : data(data_), strides(c.result), group(c.outputs * c.result.c), slices(int(c.O)), by_row(c.Q), by_column(c.P),
          by_slice(c.O) {}
    MMK_MEMBER Row row(int64_t batch, int64_t output) const { return int(batch * group + output * strides.c); }
    MMK_MEMBER Depth depth(int64_t pixel) const {
        int n = int(pixel);
        const int q = by_row.take(n), p = by_column.take(n), o = slices > 1 ? by_slice.take(n) : 0;
        return data + strides.at(n, 0, o, p, q);
    }
    MMK_MEMBER const T* at(Row row, Depth depth) const { return depth + row; }
};

} // namespace mmk::cuda::conv
