// CUDA's vector types, and the two 16-bit floating-point types as bits.
#pragma once

#include <cstdint>
#include <cstring>

struct uint3 {
    unsigned x, y, z;
};
struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

#define SIMT_VECTOR2(name, element, alignment)                                                                         \
    struct alignas(alignment) name {                                                                                   \
        element x, y;                                                                                                  \
    };                                                                                                                 \
    constexpr name make_##name(element x, element y) { return {x, y}; }
#define SIMT_VECTOR4(name, element, alignment)                                                                         \
    struct alignas(alignment) name {                                                                                   \
        element x, y, z, w;                                                                                            \
    };                                                                                                                 \
    constexpr name make_##name(element x, element y, element z, element w) { return {x, y, z, w}; }
SIMT_VECTOR2(char2, signed char, 2)
SIMT_VECTOR2(uchar2, unsigned char, 2)
SIMT_VECTOR2(short2, short, 4)
SIMT_VECTOR2(ushort2, unsigned short, 4)
SIMT_VECTOR2(int2, int, 8)
SIMT_VECTOR2(uint2, unsigned, 8)
SIMT_VECTOR2(float2, float, 8)
SIMT_VECTOR2(double2, double, 16)
SIMT_VECTOR2(longlong2, long long, 16)
SIMT_VECTOR2(ulonglong2, unsigned long long, 16)
SIMT_VECTOR4(char4, signed char, 4)
SIMT_VECTOR4(uchar4, unsigned char, 4)
SIMT_VECTOR4(short4, short, 8)
SIMT_VECTOR4(ushort4, unsigned short, 8)
SIMT_VECTOR4(int4, int, 16)
SIMT_VECTOR4(uint4, unsigned, 16)
SIMT_VECTOR4(float4, float, 16)
#undef SIMT_VECTOR2
#undef SIMT_VECTOR4

namespace simt {

template <class To, class From> inline To bits_as(From from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    std::memcpy(&to, &from, sizeof to);
    return to;
}

inline float bfloat16_to_float(uint16_t bits) { return bits_as<float>(uint32_t(bits) << 16); }
// Nearest even; every NaN becomes 0x7fff, as cvt.rn.bf16.f32 has it.
inline uint16_t float_to_bfloat16(float value) {
    const uint32_t bits = bits_as<uint32_t>(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fff;
    return uint16_t((bits + 0x7fffu + (bits >> 16 & 1)) >> 16);
}

inline float float16_to_float(uint16_t bits) {
    const uint32_t sign = uint32_t(bits & 0x8000) << 16, exponent = bits >> 10 & 31, fraction = bits & 1023;
    if (exponent == 0) return bits_as<float>(bits_as<uint32_t>(float(fraction) * 0x1p-24f) | sign);
    const uint32_t rebiased = exponent == 31 ? 255 : exponent + (127 - 15);
    return bits_as<float>(sign | rebiased << 23 | fraction << 13);
}
// Nearest even; every NaN becomes 0x7fff, as cvt.rn.f16.f32 has it.
inline uint16_t float_to_float16(float value) {
    const uint32_t bits = bits_as<uint32_t>(value), magnitude = bits & 0x7fffffffu;
    const uint16_t sign = uint16_t(bits >> 16 & 0x8000);
    if (magnitude > 0x7f800000u) return 0x7fff;
    if (magnitude >= 0x477ff000u) return sign | 0x7c00; // 65520 and above
    if (magnitude < 0x38800000u) {                      // subnormal: one unit is 2^-24, the last place of 0.5
        const float shifted = bits_as<float>(magnitude) + 0.5f;
        return uint16_t(sign | (bits_as<uint32_t>(shifted) - bits_as<uint32_t>(0.5f)));
    }
    const uint32_t rebiased = magnitude - (uint32_t(127 - 15) << 23);
    return uint16_t(sign | (rebiased + 0xfffu + (rebiased >> 13 & 1)) >> 13);
}

} // namespace simt
