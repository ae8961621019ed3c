// How a tensor core of sm_90 sums products, as published studies that agree with the hardware bit for bit have it:
// the products of one instruction and the accumulator are aligned to the largest exponent among them (of a product: the
// sum of its operands' exponents), truncated to 25 fraction bits below it, added exactly, and the sum is rounded
// toward zero. Operands are not flushed; zeros have no exponent; every NaN becomes 0x7fffffff.
// (sm_80 differs: 24 fraction bits, and k in two groups one after the other.)
#pragma once

#include <algorithm>

#include "simt.h"

namespace simt {

inline constexpr int fraction_bits = 25, no_exponent = -4000, columns_at_once = 8;

// Without branches, so that loops over them become vector instructions.
template <Element element> inline float operand_value(uint32_t bits) {
    if constexpr (element == Element::bf16) return bits_as<float>(bits << 16);
    if constexpr (element == Element::tf32) return bits_as<float>(bits & 0xffffe000u); // the low 13 bits are dropped
    // f16: as bits of a float32 its exponent is 112 too small
    const uint32_t magnitude = (bits & 0x7fff) << 13, sign = (bits & 0x8000) << 16;
    const uint32_t finite = bits_as<uint32_t>(bits_as<float>(magnitude) * 0x1p112f);
    return bits_as<float>(sign | (magnitude >= 0x0f800000u ? magnitude | 0x7f800000u : finite));
}
template <Element element> inline int exponent_of(float value) {
    constexpr int lowest = element == Element::f16 ? -14 : -126;
    const int exponent = std::max(int(bits_as<uint32_t>(value) >> 23 & 255) - 127, lowest);
    return value == 0.0f ? no_exponent : exponent;
}
// Operands of one type, from bits to values and exponents.
template <Element element> inline void decode(const uint32_t* bits, int count, double* values, int* exponents) {
    for (int i = 0; i < count; ++i) {
        const float value = operand_value<element>(bits[i]);
        values[i] = value, exponents[i] = exponent_of<element>(value);
    }
}
inline void decode(Element element, const uint32_t* bits, int count, double* values, int* exponents) {
    if (element == Element::f16)
        decode<Element::f16>(bits, count, values, exponents);
    else if (element == Element::bf16)
        decode<Element::bf16>(bits, count, values, exponents);
    else
        decode<Element::tf32>(bits, count, values, exponents);
}
inline double power_of_two(int exponent) { return bits_as<double>(uint64_t(1023 + exponent) << 52); }

// One row of A (k values) and eight columns of B.
struct Row {
    double value[16];
    int exponent[16];
};
struct alignas(32) Columns {
    double value[16][columns_at_once];
    int exponent[16][columns_at_once];
};

// d += row columns
void accumulate(int k, const Row& row, const Columns& columns, float* d);

} // namespace simt
