// What pooling computes in one, two or three axes, regular or adaptive: a result per thread, or 16 bytes of channels,
// from the elements that it reads.
#pragma once

#include "../core/windows.h"
#include "pool.windows.cuh"

namespace mmk::cuda {

struct Strides5 {
    int64_t n = 0, c = 0, axis[3] = {};
    Strides5() = default;
    explicit Strides5(const Tensor& t) : n(t.stride[0]), c(t.stride[1]), axis{t.stride[2], t.stride[3], t.stride[4]} {}
};
struct Place5 {
    int64_t n, c, at[3];
    MMK_MEMBER int64_t in(const Strides5& s) const {
        return n * s.n + c * s.c + at[0] * s.axis[0] + at[1] * s.axis[1] + at[2] * s.axis[2];
    }
};
// Thread i makes the i-th pack in memory: one element of a line, or `pack` of a pixel's channels.
struct Order5 {
    bool channels;
    int pack;
    Divisor extent[4]; // from the innermost
    int64_t count = 0;

    Order5() = default;
    Order5(const Tensor& result, bool channels_, int pack_)
        : channels(channels_), pack(pack_), count(result.size() / pack_) {
        if (count == 0) return;
        const int64_t c = result.extent[1] / pack, w = result.extent[4], h = result.extent[3], d = result.extent[2];
        const int64_t inner[4] = {channels ? c : w, channels ? w : h, channels ? h : d, channels ? d : c};
        for (int k = 0; k < 4; ++k) extent[k] = Divisor(inner[k]);
    }
    MMK_MEMBER Place5 place(int64_t i) const {
        const int64_t a = extent[0].take(i), b = extent[1].take(i), c = extent[2].take(i), d = extent[3].take(i);
        return channels ? Place5{i, a * pack, {d, c, b}} : Place5{i, d, {c, b, a}};
    }
};

// What result i reads along an axis, for each i; what windows count for. Made on the device by one small kernel, so that
// the others divide nothing. pool.volumes.cu.
struct Tables {
    const Reach* reach[3];
    const int64_t* counted[3];
    int64_t height, width; // of the planes that are read
};
Tables make_tables(Context& context, const PoolAxis (&axes)[3], bool backward, bool count_include_pad = false);

// Results of windows, or of the elements that windows read. from: what is read; own: what lies beside the results.
template <class T> struct Volume {
    Tables tables;
    Order5 order;
    Strides5 from_strides, to_strides;
    const T* from;
    T* to;
};

template <class T> bool has_packs5(const Tensor& t) {
    if (!t) return true;
    bool packs = t.stride[1] == 1 && t.extent[1] % wide_pack<T> == 0 && aligned(t.data, 16);
    for (int i = 0; i < 5; ++i) packs &= i == 1 || t.extent[i] == 1 || t.stride[i] % wide_pack<T> == 0;
    return packs;
}
// Whether the channels of a pixel are neighbours in memory and 16 bytes of them can be moved at once.
template <class T> bool in_packs(Context& context, const Tensor& x, const Tensor& y, const Tensor& more = Tensor(),
                                 const Tensor& third = Tensor()) {
    const bool packs =
        x.extent[1] > 1 && has_packs5<T>(x) && has_packs5<T>(y) && has_packs5<T>(more) && has_packs5<T>(third);
    context.chose(packs ? "channels" : "planes", packs ? "16 bytes of channels at a time" : "a result per thread");
    return packs;
}

// body(place, reach): this thread's results and what each reads along each axis.
template <class T, class Body> __device__ inline void for_results(const Volume<T>& v, const Body& body) {
    for (int64_t i = int64_t(blockIdx.x) * place_threads + threadIdx.x; i < v.order.count;
         i += int64_t(gridDim.x) * place_threads) {
        const Place5 place = v.order.place(i);
        const Reach reach[3] = {v.tables.reach[0][place.at[0]], v.tables.reach[1][place.at[1]],
                                v.tables.reach[2][place.at[2]]};
        body(place, reach);
    }
}
// body(offset from `from`, d, h, w) in scan order; `ahead` elements of a line are asked for at a time.
template <int ahead = 4, class Body>
__device__ inline void each_read(const Place5& place, const Reach (&reach)[3], const Strides5& s, const Body& body) {
    const int64_t base = place.n * s.n + place.c * s.c;
    for (int64_t k = 0, d = reach[0].begin; k < reach[0].count; ++k, d += reach[0].step)
        for (int64_t l = 0, h = reach[1].begin; l < reach[1].count; ++l, h += reach[1].step) {
            const int64_t line = base + d * s.axis[0] + h * s.axis[1];
#pragma unroll(ahead)
            for (int64_t m = 0; m < reach[2].count; ++m) {
                const int64_t w = reach[2].begin + m * reach[2].step;
                body(line + w * s.axis[2], d, h, w);
            }
        }
}
inline dim3 grid_of_results(const Order5& order) { return grid_of(ceil_div(order.count, place_threads)); }

// x and y are volumes.
template <class T> Volume<T> volume_of(const Tables& tables, const Tensor& x, const Tensor& y, bool packs) {
    const bool channels = packs || (y.stride[1] == 1 && y.extent[1] > 1 && y.stride[4] != 1);
    return {tables,
            Order5(y, channels, packs ? wide_pack<T> : 1),
            Strides5(x),
            Strides5(y),
            static_cast<const T*>(x.data),
            static_cast<T*>(y.data)};
}

// packs(std::integral_constant<int, V>) with V channels, or one result, per thread.
template <class T, class Launch> void launch_packs(bool packs, Launch&& launch) {
    if (packs)
        launch(std::integral_constant<int, wide_pack<T>>());
    else
        launch(std::integral_constant<int, 1>());
}

} // namespace mmk::cuda
