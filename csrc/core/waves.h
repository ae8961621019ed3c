// Numbers as waves: the frequencies of sinusoidal features, and sin and cos of any number of quarter turns. The table
// is in double by + - * / alone, so that it has the same bits on every machine.
#pragma once

#include "arith.h"

namespace mmk::MMK_ISA {

inline constexpr double ln2_high = 0x1.62e42feep-1, ln2_low = 0x1.a39ef35793c76p-33; // ln(2); 33 bits in the first

// 2^e, -1022 <= e <= 1023
MMK_FUNCTION double power_of_two(int64_t e) {
    const uint64_t bits = uint64_t(e + 1023) << 52;
    double power;
    std::memcpy(&power, &bits, sizeof power);
    return power;
}
// e^x; Taylor's polynomial of degree 14 leaves 2^-57 at |r| <= ln(2) / 2.
MMK_FUNCTION double table_exp(double x) {
    if (x > 720) x = 720; // inf
    if (x < -760) x = -760;
    const double n = (x * 0x1.71547652b82fep0 + 0x1.8p52) - 0x1.8p52;
    const double r = (x - n * ln2_high) - n * ln2_low;
    double sum = 1;
    for (int i = 14; i >= 1; --i) sum = 1 + sum * r / i;
    // 2^n in two factors: only the last product can round, where the result is subnormal
    const int64_t whole = int64_t(n), half = whole >> 1;
    return sum * power_of_two(half) * power_of_two(whole - half);
}
// ln(x), 0 < x < inf: of x = m 2^e with m in [sqrt(1/2), sqrt(2)), 2 artanh((m - 1) / (m + 1)); 13 terms leave 2^-67.
static inline double table_log(double x) {
    int e = 0;
    double m = __builtin_frexp(x, &e);
    if (m < 0x1.6a09e667f3bcdp-1) m = 2 * m, --e;
    const double s = (m - 1) / (m + 1), z = s * s;
    double sum = 0;
    for (int i = 25; i >= 1; i -= 2) sum = sum * z + 1.0 / i;
    return e * ln2_high + (2 * s * sum + e * ln2_low);
}

// sin and cos of z quarter turns.
MMK_INLINE void wave(F64x16 z, F32x16& sine, F32x16& cosine) {
    const F64x16 round_shift(0x1.8p52), shifted = z + round_shift;
    // From 2^51 on z counts as whole; an infinity becomes NaN here.
    const F64x16 n = select(abs(z) < F64x16(0x1p51), shifted - round_shift, z);
    sincos(convert<float>((z - n) * F64x16(0x1.921fb54442d18p0)), sine, cosine);
    uint64_t bits[lanes];
    uint32_t quadrants[lanes];
    bit_cast<uint64_t>(shifted).store(bits);
    for (int k = 0; k < lanes; ++k) quadrants[k] = uint32_t(bits[k]);
    const U32x16 quadrant = U32x16::load(quadrants);
    const auto swapped = (quadrant & U32x16(1)) != U32x16(0);
    const F32x16 s = select(swapped, cosine, sine), c = select(swapped, sine, cosine);
    // sin is negative in quadrants 2 and 3, cos in 1 and 2
    sine = bit_cast<float>(bit_cast<uint32_t>(s) ^ (quadrant & U32x16(2)) << 30);
    cosine = bit_cast<float>(bit_cast<uint32_t>(c) ^ ((quadrant + U32x16(1)) & U32x16(2)) << 30);
}

} // namespace mmk::MMK_ISA
