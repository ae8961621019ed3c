// Samples of a deformable convolution on the CPU: an image with channels innermost and zeros around it, the places of a
// run of pixels, and their sampled channels.
#pragma once

#include "../ops/deform.h"

#include "../core/bilinear.h"
#include "../core/layout.h"
#include "../core/products.h"

namespace mmk::cpu::MMK_ISA {

using namespace mmk::MMK_ISA;

namespace {

MMK_INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
MMK_INLINE int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
MMK_INLINE int64_t ceil_divide(int64_t a, int64_t b) { return (a + b - 1) / b; }
MMK_INLINE int64_t round_up(int64_t a, int64_t b) { return ceil_divide(a, b) * b; }

// [sample][-1 .. H + 1][-1 .. W][channels, rounded up to whole vectors]: a row and a column of zeros before, two rows
// and a column behind, so that every corner of core/bilinear.h is there.
template <class T> struct Image {
    const T* data;
    int64_t channels, pixel, row, sample; // steps

    MMK_MEMBER const T* at(int64_t n, int64_t h, int64_t w) const {
        return data + n * sample + (h + 1) * row + (w + 1) * pixel;
    }
};
template <class T> Image<T> channels_innermost(Context& context, const Tensor& x) {
    const int64_t N = x.extent[0], C = x.extent[1], H = x.extent[2], W = x.extent[3];
    const int64_t pixel = round_up(C, lanes), row = (W + 2) * pixel, sample = (H + 3) * row;
    T* const to = context.scratch<T>(N * sample + lanes); // a vector may begin at any channel
    for (int64_t i = 0; i < lanes; ++i) to[N * sample + i] = T(0);
    parallel_ranges(context, N * (H + 3), 1 + 16384 / (1 + row), [&](int64_t begin, int64_t end, int) {
        for (int64_t i = begin; i < end; ++i) {
            const int64_t n = i / (H + 3), h = i % (H + 3) - 1;
            T* const line = to + i * row;
            const bool inside = h >= 0 && h < H;
            const int64_t blank = inside ? pixel : row;
            for (int64_t k = 0; k < blank; k += lanes) Vec<T>::zero().store(line + k);
            if (!inside) continue;
            pack_panel(static_cast<const T*>(x.data) + n * x.stride[0] + h * x.stride[2], x.stride[3], x.stride[1], W,
                       C, pixel, line + pixel);
            for (int64_t k = 0; k < pixel; k += lanes) Vec<T>::zero().store(line + row - pixel + k);
        }
    });
    return {to, C, pixel, row, sample};
}

template <class T> struct Sampling {
    int64_t H, W, taps, S, P, Q, sets; // sets: groups of offsets
    int64_t stride[2], dilation[2], before[2];
    const T *offset, *mask; // dense; no mask: null

    template <class Op> MMK_MEMBER Sampling(const Op& op, int64_t height, int64_t width, int64_t R, int64_t S_,
                                            const T* offset_, const T* mask_)
        : H(height), W(width), taps(R * S_), S(S_), P(op.offset.extent[2]), Q(op.offset.extent[3]),
          sets(op.offset_groups), stride{op.stride[0], op.stride[1]}, dilation{op.dilation[0], op.dilation[1]},
          before{op.padding[0], op.padding[2]}, offset(offset_), mask(mask_) {}
    MMK_MEMBER int64_t pixels() const { return P * Q; }
};

// One tap of one group of offsets, for a run of pixels.
inline constexpr int64_t most_places = 256;
template <class T> struct Places {
    int32_t row[most_places], column[most_places];
    T top[most_places], bottom[most_places], left[most_places], right[most_places], mask[most_places];
};
// Pixels [first, first + count) of sample n.
template <class T> void find_places(const Sampling<T>& s, int64_t n, int64_t set, int64_t tap, int64_t first,
                                    int64_t count, Places<T>& to) {
    const int64_t h0 = tap / s.S * s.dilation[0] - s.before[0], w0 = tap % s.S * s.dilation[1] - s.before[1];
    const int64_t plane = (n * s.sets + set) * s.taps + tap;
    const T *const dy = s.offset + 2 * plane * s.pixels() + first, *const dx = dy + s.pixels();
    const Vec<T> H(sampled_extent<T>(s.H)), W(sampled_extent<T>(s.W));
    int64_t p = first / s.Q, q = first % s.Q;
    for (int64_t i = 0; i < count; i += lanes) {
        const int64_t some = smaller(lanes, count - i);
        T y[lanes] = {}, x[lanes] = {};
        for (int64_t k = 0; k < some; ++k) {
            y[k] = T(p * s.stride[0] + h0), x[k] = T(q * s.stride[1] + w0);
            if (++q == s.Q) q = 0, ++p;
        }
        const BilinearPlace<T> place(Vec<T>::load(y) + Vec<T>::load(dy + i, some),
                                     Vec<T>::load(x) + Vec<T>::load(dx + i, some), H, W);
        place.row.store(to.row + i), place.column.store(to.column + i);
        place.top.store(to.top + i), place.bottom.store(to.bottom + i);
        place.left.store(to.left + i), place.right.store(to.right + i);
        if (s.mask) Vec<T>::load(s.mask + plane * s.pixels() + first + i, some).store(to.mask + i);
    }
}

// The corners of one sample, channel after channel.
template <class T> struct Corners {
    const T *v00, *v10;
    int64_t pixel;

    MMK_MEMBER Corners(const Image<T>& image, int64_t n, const Places<T>& places, int64_t i, int64_t channel)
        : v00(image.at(n, places.row[i], places.column[i]) + channel), v10(v00 + image.row), pixel(image.pixel) {}
    MMK_MEMBER Vec<T> at00(int64_t c) const { return Vec<T>::load(v00 + c); }
    MMK_MEMBER Vec<T> at01(int64_t c) const { return Vec<T>::load(v00 + pixel + c); }
    MMK_MEMBER Vec<T> at10(int64_t c) const { return Vec<T>::load(v10 + c); }
    MMK_MEMBER Vec<T> at11(int64_t c) const { return Vec<T>::load(v10 + pixel + c); }
};

// body(first channel, channel behind the last, group of offsets) for channels [begin, end).
template <class Body> MMK_INLINE void for_sets(int64_t channels_of_set, int64_t begin, int64_t end, Body&& body) {
    for (int64_t c = begin; c < end;) {
        const int64_t set = c / channels_of_set, next = smaller(end, (set + 1) * channels_of_set);
        body(c, next, set);
        c = next;
    }
}

// Samples of channels [begin, end) at pixels [first, first + count) of sample n:
// to[pixel * pixel_step + tap * tap_step + channel - begin]. What lies up to a vector behind a tap is written too.
template <class T> void sample_channels(const Image<T>& image, const Sampling<T>& s, int64_t n, int64_t first,
                                        int64_t count, int64_t begin, int64_t end, Places<T>& places, T* to,
                                        int64_t pixel_step, int64_t tap_step) {
    for_sets(image.channels / s.sets, begin, end, [&](int64_t low, int64_t high, int64_t set) {
        for (int64_t tap = 0; tap < s.taps; ++tap) {
            find_places(s, n, set, tap, first, count, places);
            for (int64_t i = 0; i < count; ++i) {
                const Corners<T> corners(image, n, places, i, low);
                const Vec<T> w00(places.top[i] * places.left[i]), w01(places.top[i] * places.right[i]);
                const Vec<T> w10(places.bottom[i] * places.left[i]), w11(places.bottom[i] * places.right[i]);
                T* const out = to + i * pixel_step + tap * tap_step + low - begin;
                if (s.mask) {
                    const Vec<T> mask(places.mask[i]);
                    for (int64_t c = 0; c < high - low; c += lanes)
                        (mask * bilinear_sample(w00, w01, w10, w11, corners.at00(c), corners.at01(c), corners.at10(c),
                                                corners.at11(c)))
                            .store(out + c);
                } else {
                    for (int64_t c = 0; c < high - low; c += lanes)
                        bilinear_sample(w00, w01, w10, w11, corners.at00(c), corners.at01(c), corners.at10(c),
                                        corners.at11(c))
                            .store(out + c);
                }
            }
        }
    });
}
// Room for `channels` of a tap and what is written behind them.
MMK_INLINE int64_t tap_room(int64_t channels) { return round_up(channels + lanes - 1, lanes); }

// body(n, first, count, done) for the runs of pixels [begin, end), counted through all samples, that lie in one sample.
template <class Body> MMK_INLINE void for_runs(int64_t begin, int64_t end, int64_t image, Body&& body) {
    for (int64_t i = begin; i < end;) {
        const int64_t n = i / image, first = i % image;
        const int64_t count = smaller(smaller(end - i, image - first), most_places);
        body(n, first, count, i - begin);
        i += count;
    }
}

// z of one sample's pixels: gy times the weights, for the channels of one group. Weights are packed for it by tap, in
// panels of channels.
template <class T> struct PulledBack {
    using Shape = ProductShape<T>;
    int64_t groups, channels, outputs, taps, panels; // of one group
    const T* packed;                                 // [group][panel][tap][k][width]
    const int64_t* offset;                           // of each k in gy
    const Tensor& gy;

    MMK_MEMBER PulledBack(Context& context, const Tensor& weight, const Tensor& gy_, int64_t groups_)
        : groups(groups_), channels(weight.extent[1]), outputs(weight.extent[0] / groups_),
          taps(weight.extent[2] * weight.extent[3]), panels(ceil_divide(channels, Shape::width)), gy(gy_) {
        const Dense<T> dense(context, weight);
        T* const to = context.scratch<T>(groups * panels * taps * outputs * Shape::width);
        parallel_for(context, groups * panels, [&](int64_t index, int) {
            const int64_t g = index / panels, c0 = index % panels * Shape::width;
            for (int64_t tap = 0; tap < taps; ++tap)
                pack_panel(dense + (g * outputs * channels + c0) * taps + tap, channels * taps, taps, outputs,
                           smaller(Shape::width, channels - c0), width(c0),
                           to + (index * taps + tap) * outputs * Shape::width);
        });
        packed = to;
        int64_t* const steps = context.scratch<int64_t>(outputs);
        for (int64_t k = 0; k < outputs; ++k) steps[k] = k * gy.stride[1];
        offset = steps;
    }
    MMK_MEMBER int64_t width(int64_t c0) const { return channels - c0 > lanes ? Shape::width : lanes; }

    // One panel, all taps: to[pixel * pixel_step + tap * tap_step], width(..) values each. Shape::rows pixels behind
    // the last are written too.
    MMK_MEMBER void operator()(int64_t n, int64_t g, int64_t panel, int64_t first, int64_t count, T* to,
                               int64_t pixel_step, int64_t tap_step) const {
        const T* row[most_places + Shape::rows];
        const int64_t Q = gy.extent[3];
        const T* const image = static_cast<const T*>(gy.data) + n * gy.stride[0] + g * outputs * gy.stride[1];
        for (int64_t i = 0; i < count; ++i)
            row[i] = image + (first + i) / Q * gy.stride[2] + (first + i) % Q * gy.stride[3];
        TileWork<T> w;
        w.offset = offset;
        w.begin = 0;
        w.end = outputs;
        w.chunk = chunk_products;
        w.sums_stride = pixel_step;
        w.first = true;
        for (int64_t tap = 0; tap < taps; ++tap) {
            w.b = packed + ((g * panels + panel) * taps + tap) * outputs * Shape::width;
            w.sums = to + tap * tap_step;
            panel_rows(w, row, count, width(panel * Shape::width));
        }
    }
};

} // namespace

} // namespace mmk::cpu::MMK_ISA
