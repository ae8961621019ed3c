// Comparisons as bits.
#pragma once

#include "../core/simd.h"

namespace mmk::cpu::MMK_ISA {

using namespace mmk::MMK_ISA;

// One bit for each lane where a comparison holds.
template <class M> MMK_INLINE unsigned bits_of(Vec<M> mask) {
#if defined(__AVX512F__)
    if constexpr (sizeof(M) == 4)
        return _mm512_movepi32_mask((__m512i)mask.r[0]);
    else
        return unsigned(_mm512_movepi64_mask((__m512i)mask.r[0])) | unsigned(_mm512_movepi64_mask((__m512i)mask.r[1]))
                                                                        << 8;
#elif defined(__AVX2__)
    unsigned bits = 0;
    for (int i = 0; i < Vec<M>::registers; ++i)
        if constexpr (sizeof(M) == 4)
            bits |= unsigned(_mm256_movemask_ps((__m256)mask.r[i])) << 8 * i;
        else
            bits |= unsigned(_mm256_movemask_pd((__m256d)mask.r[i])) << 4 * i;
    return bits;
#else
    M s[lanes];
    mask.store(s);
    unsigned bits = 0;
    for (int k = 0; k < lanes; ++k) bits |= unsigned(s[k] != 0) << k;
    return bits;
#endif
}

} // namespace mmk::cpu::MMK_ISA
