// Rows of four numbers: one 16-byte access (32 in float64) where the address allows it.
#pragma once

#include "../core/box_maps.h"
#include "layout.cuh"

namespace mmk::cuda {

template <class T> MMK_INLINE Quad<Compute<T>> quad_of(const T (&x)[4]) {
    using V = Vec<Compute<T>>;
    return {{V(widen(x[0])), V(widen(x[1])), V(widen(x[2])), V(widen(x[3]))}};
}
// Dense rows.
template <class T> __device__ inline Quad<Compute<T>> load_quad(const T* from, bool packed) {
    if (packed) return quad_of(reinterpret_cast<const Pack<T, 4>*>(from)->at);
    const T x[4] = {from[0], from[1], from[2], from[3]};
    return quad_of(x);
}
template <class T> __device__ inline void store_quad(const Quad<Compute<T>>& q, T* to, bool packed) {
    const Pack<T, 4> y{{narrow<T>(q.at[0].v), narrow<T>(q.at[1].v), narrow<T>(q.at[2].v), narrow<T>(q.at[3].v)}};
    if (packed)
        *reinterpret_cast<Pack<T, 4>*>(to) = y;
    else
        for (int k = 0; k < 4; ++k) to[k] = y.at[k];
}
template <class T> bool rows_are_packed(const T* x) { return aligned(x, alignof(Pack<T, 4>)); }

} // namespace mmk::cuda
