// float64 waves: angles are counted in quarter turns by pairs of doubles, whose sum has twice the digits, so that sin
// and cos of any angle err by little more than libm's on [-pi/4, pi/4] does.
#pragma once

#include <cmath>

#include "../core/waves.h"
#include "launch.cuh"

namespace mmk::cuda {

struct Twofold {
    double high, low; // |low| <= half a unit of high
};
MMK_INLINE Twofold renormalised(double high, double low) {
    const double sum = high + low;
    return {sum, low - (sum - high)};
}
MMK_INLINE Twofold product(double a, double b) {
    const double p = a * b;
    return {p, fma_scalar(a, b, -p)};
}
MMK_INLINE Twofold product(Twofold a, double b) {
    const Twofold p = product(a.high, b);
    return renormalised(p.high, fma_scalar(a.low, b, p.low));
}
MMK_INLINE Twofold product(Twofold a, Twofold b) {
    const Twofold p = product(a.high, b.high);
    return renormalised(p.high, fma_scalar(a.high, b.low, fma_scalar(a.low, b.high, p.low)));
}
MMK_INLINE Twofold quotient(Twofold a, double b) {
    const double q = a.high / b;
    return renormalised(q, (fma_scalar(-q, b, a.high) + a.low) / b);
}
MMK_INLINE Twofold sum(double a, Twofold b) { // |a| >= |b|
    const double s = a + b.high;
    return renormalised(s, (b.high - (s - a)) + b.low);
}

inline constexpr Twofold ln2{0x1.62e42fefa39efp-1, 0x1.abc9e3b39803fp-56};
inline constexpr Twofold two_over_pi{0x1.45f306dc9c883p-1, -0x1.6b01ec5417056p-55};
inline constexpr Twofold half_pi{0x1.921fb54442d18p0, 0x1.1a62633145c07p-54};

// e^x for -700 < x < 700. Taylor's polynomial of degree 18 leaves 2^-79 at |r| <= ln(2) / 2.
MMK_FUNCTION Twofold exp(Twofold x) {
    const double n = rint(x.high * 0x1.71547652b82fep0);
    const Twofold whole = product(ln2, n);
    const Twofold r = renormalised(x.high - whole.high, x.low - whole.low); // the first difference is exact
    Twofold e{1, 0};
#pragma unroll 1
    for (int i = 18; i >= 1; --i) e = sum(1, quotient(product(e, r), i));
    const double scale = power_of_two(int64_t(n));
    return {e.high * scale, e.low * scale};
}

// sin and cos of z quarter turns.
MMK_FUNCTION void wave(Twofold z, double& sine, double& cosine) {
    const double first = rint(z.high), left = z.high - first, rest = left + z.low, second = rint(rest);
    const double r = rest - second, r_low = z.low - (rest - left);
    const Twofold angle = product(half_pi, r);
    const double low = fma_scalar(r_low, half_pi.high, angle.low);
    const double s = std::sin(angle.high), c = std::cos(angle.high), sin_r = s + c * low, cos_r = c - s * low;
    const double turns = first + second, quadrant = turns - 4 * floor(turns * 0.25);
    const bool swapped = quadrant == 1 || quadrant == 3;
    sine = swapped ? cos_r : sin_r, cosine = swapped ? sin_r : cos_r;
    if (quadrant >= 2) sine = -sine;
    if (quadrant == 1 || quadrant == 2) cosine = -cosine;
}

} // namespace mmk::cuda
