// Rows of four numbers as four vectors, sixteen rows at a time.
#pragma once

#include "../core/box_maps.h"
#include "../core/layout.h"

namespace mmk::cpu::MMK_ISA {

using namespace mmk::MMK_ISA;

// Rows `step` apart, numbers `next` apart; those behind the first n are 0.
template <class T> MMK_INLINE Quad<T> load_quad(const T* from, int64_t step, int64_t next, int64_t n) {
    T s[4][lanes];
    if (n < lanes) std::memset(s, 0, sizeof s);
    for (int64_t k = 0; k < (n < lanes ? n : lanes); ++k)
        for (int c = 0; c < 4; ++c) s[c][k] = from[k * step + c * next];
    return {{Vec<T>::load(s[0]), Vec<T>::load(s[1]), Vec<T>::load(s[2]), Vec<T>::load(s[3])}};
}
template <int Columns, class T> MMK_INLINE void store_quad(const Quad<T>& q, T* to, int64_t n) {
    if constexpr (Columns == 1) return q.at[0].store(to, n);
    T s[4][lanes];
    for (int c = 0; c < 4; ++c) q.at[c].store(s[c]);
    for (int64_t k = 0; k < (n < lanes ? n : lanes); ++k)
        for (int c = 0; c < 4; ++c) to[4 * k + c] = s[c][k];
}

} // namespace mmk::cpu::MMK_ISA
