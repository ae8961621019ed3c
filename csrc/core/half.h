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
// Selects instead of branches, here and below, so that the compiler can do several at a time.
MMK_INLINE float widen_bits(float16 x) {
    const uint32_t sign = uint32_t(x.bits & 0x8000) << 16, magnitude = x.bits & 0x7fff;
    const uint32_t normal = (magnitude << 13) + (magnitude >= 0x7c00 ? 0x70000000u : 0x38000000u);
    const uint32_t subnormal = detail::bits_of(float(int32_t(magnitude)) * 0x1p-24f);
    return detail::float_of(sign | (magnitude < 0x400 ? subnormal : normal));
}

MMK_INLINE bfloat16 round_to_bfloat16(float x) {
    const uint32_t bits = detail::bits_of(x), rounded = (bits + 0x7fffu + ((bits >> 16) & 1)) >> 16;
    return {uint16_t((bits & 0x7fffffffu) > 0x7f800000u ? 0x7fffu : rounded)};
}
MMK_INLINE float16 round_to_float16(float x) {
    const uint32_t bits = detail::bits_of(x), sign = (bits >> 16) & 0x8000, magnitude = bits & 0x7fffffffu;
    const uint32_t rebased = magnitude - 0x38000000u, normal = (rebased + 0xfffu + ((rebased >> 13) & 1)) >> 13;
    const uint32_t subnormal = detail::bits_of(detail::float_of(magnitude) + 0.5f) - 0x3f000000u; // 1/2 rounds at 2^-24
    const uint32_t finite = magnitude < 0x38800000u ? subnormal : normal;
    const uint32_t number = sign | (magnitude >= 0x477ff000u ? 0x7c00u : finite); // infinite from 65520 up
    return {uint16_t(magnitude > 0x7f800000u ? 0x7fffu : number)};
}

} // namespace mmk
