// N C H W operands by their strides, and how their elements are dealt out to threads: along lines, or, channels last,
// along the channels of a pixel, 16 bytes at a time.
#pragma once

#include "divide.cuh"
#include "layout.cuh"
#include "packs.cuh"

namespace mmk::cuda {

MMK_INLINE int64_t smaller(int64_t a, int64_t b) { return b < a ? b : a; }
MMK_INLINE int64_t larger(int64_t a, int64_t b) { return b > a ? b : a; }

// Strides of an N C H W operand, in elements.
struct Strides4 {
    int64_t n, c, h, w;
    Strides4() = default;
    explicit Strides4(const Tensor& t) : n(t.stride[0]), c(t.stride[1]), h(t.stride[2]), w(t.stride[3]) {}
    MMK_MEMBER int64_t at(int64_t n_, int64_t c_, int64_t h_, int64_t w_) const {
        return n_ * n + c_ * c + h_ * h + w_ * w;
    }
};

struct Place4 {
    int64_t n, c, h, w;
};
// Thread i makes the i-th pack in memory: `pack` neighbours along a line, or of a pixel's channels.
struct Order4 {
    bool channels;
    int pack;
    Divisor inner, middle, outer;
    int64_t count = 0;

    Order4() = default;
    Order4(const Tensor& result, bool channels_, int pack_) : channels(channels_), pack(pack_) {
        const int64_t c = result.extent[1], h = result.extent[2], w = result.extent[3];
        count = result.size() / pack;
        if (count == 0) return;
        inner = Divisor((channels ? c : w) / pack), middle = Divisor(channels ? w : h),
        outer = Divisor(channels ? h : c);
    }
    MMK_MEMBER Place4 place(int64_t i) const {
        const int64_t a = inner.take(i) * pack, b = middle.take(i), c = outer.take(i);
        return channels ? Place4{i, a, c, b} : Place4{i, c, b, a};
    }
};

// Whether the channels of a pixel are neighbours in memory, and the pixels of a line are not.
inline bool has_channels_last(const Tensor& t) { return t.stride[1] == 1 && t.extent[1] > 1 && t.stride[3] != 1; }
// Whether 16 bytes of channels, or of a line, can be moved at once.
template <class T> bool has_packs(const Tensor& t, int axis) {
    if (!t) return true;
    bool packs = t.stride[axis] == 1 && t.extent[axis] % wide_pack<T> == 0 && aligned(t.data, 16);
    for (int i = 0; i < 4; ++i) packs &= i == axis || t.extent[i] == 1 || t.stride[i] % wide_pack<T> == 0;
    return packs;
}
template <class T> bool has_packs_of_channels(const Tensor& t) { return has_packs<T>(t, 1); }
template <class T> bool has_packs_of_columns(const Tensor& t) { return has_packs<T>(t, 3); }

inline constexpr int place_threads = 256;
// body(place) for each element or pack.
template <class Body> __device__ inline void for_places(const Order4& order, const Body& body) {
    for (int64_t i = int64_t(blockIdx.x) * place_threads + threadIdx.x; i < order.count;
         i += int64_t(gridDim.x) * place_threads)
        body(order.place(i));
}
inline dim3 grid_of_places(const Order4& order) { return grid_of(ceil_div(order.count, place_threads)); }

} // namespace mmk::cuda
