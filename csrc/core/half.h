// The two storage types of 16 bits. Nothing computes in them: operands are widened exactly, results are rounded once,
// to the nearest, ties to even; subnormals are kept, NaN stays NaN. The conversions are integer code, so that every
// machine gives the same bits; a GPU's own instructions give these bits too (csrc/cuda/ptx.cuh).
#pragma once

#include <cstring>

#include "compiler.h"

namespace mmk {

struct float16 {
    uint16_t bits;
};
struct bfloat16 {
    uint16_t bits;
};

namespace detail {
MMK_INLINE uint32_t bits_of(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    return bits;
}
MMK_INLINE float float_of(uint32_t bits) {
    float x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
}
} // namespace detail

MMK_INLINE float widen_bits(bfloat16 x) { return detail::float_of(uint32_t(x.bits) << 16); }
MMK_INLINE float widen_bits(float16 x) {
    const uint32_t sign = uint32_t(x.bits & 0x8000) << 16, exponent = (x.bits >> 10) & 31, fraction = x.bits & 1023;
    if (exponent == 31) return detail::float_of(sign | 0x7f800000u | fraction << 13);
    if (exponent) return detail::float_of(sign | (exponent + 112) << 23 | fraction << 13);
    const float magnitude = float(fraction) * 0x1p-24f;
    return sign ? -magnitude : magnitude;
}

MMK_INLINE bfloat16 round_to_bfloat16(float x) {
    const uint32_t bits = detail::bits_of(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return {0x7fff};
    return {uint16_t((bits + 0x7fffu + ((bits >> 16) & 1)) >> 16)};
}
MMK_INLINE float16 round_to_float16(float x) {
    const uint32_t bits = detail::bits_of(x), sign = (bits >> 16) & 0x8000, magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return {0x7fff};
    if (magnitude >= 0x477ff000u) return {uint16_t(sign | 0x7c00)}; // from 65520 up
    if (magnitude < 0x38800000u) {                                  // subnormal: the sum with 1/2 rounds at 2^-24
        const float sum = detail::float_of(magnitude) + 0.5f;
        return {uint16_t(sign | (detail::bits_of(sum) - 0x3f000000u))};
    }
    const uint32_t rebased = magnitude - 0x38000000u;
    return {uint16_t(sign | (rebased + 0xfffu + ((rebased >> 13) & 1)) >> 13)};
}

} // namespace mmk
