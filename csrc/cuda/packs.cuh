// Neighbouring elements of one thread: how they are moved, and their sums.
#pragma once

#include "launch.cuh"

namespace mmk::cuda {

// Elements that one access of 16 bytes moves.
template <class T> inline constexpr int wide_pack = int(16 / sizeof(T));

template <class T, int N> __device__ inline const Pack<T, N>& pack_at(const T* from) {
    return *reinterpret_cast<const Pack<T, N>*>(from);
}
template <class T, int N> __device__ inline void store_pack(T* to, const Pack<T, N>& from) {
    *reinterpret_cast<Pack<T, N>*>(to) = from;
}

// N elements, of which n exist: one access if the caller knows that they lie right for it.
template <bool packed, class T, int N> __device__ inline void load_some(Pack<T, N>& to, const T* from, int64_t n) {
    if (packed && n >= N) {
        to = pack_at<T, N>(from);
        return;
    }
#pragma unroll
    for (int k = 0; k < N; ++k)
        if (k < n) to.at[k] = from[k];
}
template <bool packed, class T, int N> __device__ inline void store_some(T* to, const Pack<T, N>& from, int64_t n) {
    if (packed && n >= N) {
        store_pack(to, from);
        return;
    }
#pragma unroll
    for (int k = 0; k < N; ++k)
        if (k < n) to[k] = from.at[k];
}

// N sums, from +0, in the type that is computed in.
template <class C, int N> struct Sums {
    C at[N];

    __device__ Sums() {
#pragma unroll
        for (int k = 0; k < N; ++k) at[k] = C(0);
    }
    template <class T> __device__ void add(const Pack<T, N>& more) {
#pragma unroll
        for (int k = 0; k < N; ++k) at[k] = at[k] + widen(more.at[k]);
    }
    template <class T> __device__ void add_quotients(const Pack<T, N>& more, C divisor) {
#pragma unroll
        for (int k = 0; k < N; ++k) at[k] = at[k] + widen(more.at[k]) / divisor;
    }
    template <class T> __device__ void store(T* to) const {
        Pack<T, N> rounded;
#pragma unroll
        for (int k = 0; k < N; ++k) rounded.at[k] = narrow<T>(at[k]);
        store_pack(to, rounded);
    }
};

} // namespace mmk::cuda
