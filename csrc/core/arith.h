// Elementary functions of Vec<float> with the same bits on every machine. They use only + - * / sqrt fma, comparisons
// and bit operations, so every result follows from IEEE 754; no libm, no approximate reciprocal. Polynomials are in
// Horner form with fma; "fitted" is the largest relative error of the exact polynomial with its rounded coefficients.
// NaN gives NaN; limits at the infinities are exact. Subnormals are read and written like any other number.
//
// Largest errors found on some 10^7 arguments each (ulp: units in the last place of a result that is not subnormal):
//     exp2 0.79   softmax_exp2 1.95   exp 1.0   log 0.88   erf 1.11   tanh 1.34   sigmoid 2.4   silu 2.4
//     sin, cos: 1.55 ulp and 7.1e-8 to |x| = 2^17; 2.6 ulp beyond, for every finite x
//     gelu: 2.4e-7 absolute; 6 ulp, tail included, down to x = -13, where factors become subnormal
//     gelu_tanh: 1.9 ulp for x > 0; 18 ulp to x = -4, 200 at -10, where the exponent's own rounding is magnified
//     silu_grad, gelu_grad, gelu_tanh_grad: 2.5e-7 absolute; few digits next to their zeros
#pragma once

#include "simd.h"

namespace mmk::MMK_ISA {

namespace detail {

// Coefficients from the highest power down.
template <class... Rest> MMK_INLINE F32x16 polynomial(F32x16 x, float highest, Rest... rest) {
    F32x16 sum(highest);
    ((sum = fma(sum, x, F32x16(rest))), ...);
    return sum;
}

// Adding it rounds a number below 2^22 to an integer, which then stands in the sum's low bits.
inline constexpr float round_shift = 0x1.8p23f;
// The same, with the integer raised by the bias of an exponent.
inline constexpr float exponent_shift = round_shift + 127.0f;

// e^r for |r| <= 0.3473 (ln(2)/2 and what rounding adds to it); fitted 3.2e-9.
MMK_INLINE F32x16 exp_polynomial(F32x16 r) {
    const F32x16 p = polynomial(r, 0x1.6a4154p-10f, 0x1.1239c6p-7f, 0x1.5558bcp-5f, 0x1.555492p-3f, 0x1.fffffcp-2f);
    return F32x16(1.0f) + fma(p, r * r, r);
}
// x - n ln(2): the first difference is exact.
MMK_INLINE F32x16 exp_remainder(F32x16 x, F32x16 n) {
    return fma(n, F32x16(0x1.05c61p-29f), fma(n, F32x16(-0x1.62e43p-1f), x));
}
inline constexpr float log2_e = 0x1.715476p0f;

// e^x for x in [-104, 89], subnormal results and overflow included.
MMK_INLINE F32x16 exp_bounded(F32x16 x) {
    const F32x16 n = fma(x, F32x16(log2_e), F32x16(round_shift)) - F32x16(round_shift);
    return ldexp(exp_polynomial(exp_remainder(x, n)), n);
}
// e^x for x in [-87, 88], where 2^n is one multiplication away. Adding n to the exponent as an integer would turn
// some NaNs into numbers.
MMK_INLINE F32x16 exp_normal(F32x16 x) {
    const F32x16 shifted = fma(x, F32x16(log2_e), F32x16(exponent_shift)), n = shifted - F32x16(exponent_shift);
    return exp_polynomial(exp_remainder(x, n)) * bit_cast<float>(bit_cast<uint32_t>(shifted) << 23);
}
// e^-|x|
MMK_INLINE F32x16 exp_of_minus(F32x16 magnitude) { return exp_bounded(at_least(-magnitude, F32x16(-104.0f))); }

MMK_INLINE F32x16 copy_sign(F32x16 magnitude, F32x16 sign) {
    return bit_cast<float>(bit_cast<uint32_t>(magnitude) | (bit_cast<uint32_t>(sign) & U32x16(0x80000000u)));
}

// sin and cos of |r| <= 0.79; fitted 4.2e-9 and 1.3e-10.
MMK_INLINE F32x16 sin_polynomial(F32x16 r) {
    const F32x16 z = r * r;
    return fma(r * z, polynomial(z, -0x1.991c1ep-13f, 0x1.1106c6p-7f, -0x1.555544p-3f), r);
}
MMK_INLINE F32x16 cos_polynomial(F32x16 r) {
    const F32x16 z = r * r;
    return fma(z, polynomial(z, 0x1.99e336p-16f, -0x1.6c0c1ep-10f, 0x1.55554ap-5f, -0.5f), F32x16(1.0f));
}

// Payne and Hanek's reduction in integers, of 2^17 <= x < inf: x = (quadrant + r) pi/2. Of 2/pi, bits that only add
// whole turns are left out; the next 96 decide the quadrant and 70 bits of the fraction.
MMK_INLINE float reduce_large(float x, uint32_t& quadrant) {
    constexpr uint32_t two_over_pi[8] = {0,           0xa2f9836eu, 0x4e441529u, 0xfc2757d1u,
                                         0xf534ddc0u, 0xdb629599u, 0x3c439041u, 0xfe5163abu};
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    const uint32_t first_bit = (bits >> 23) - 120, word = first_bit >> 5, shift = first_bit & 31;
    const uint64_t significand = (bits & 0x7fffffu) | 0x800000u;
    uint64_t sum[3];
    for (uint32_t i = 0; i < 3; ++i) {
        const uint64_t pair = uint64_t(two_over_pi[word + i]) << 32 | two_over_pi[word + i + 1];
        sum[i] = significand * uint32_t(pair >> (32 - shift));
    }
    sum[1] += sum[2] >> 32;
    const uint32_t high = uint32_t(sum[0]) + uint32_t(sum[1] >> 32);
    const uint64_t fraction = uint64_t(high) << 34 | uint64_t(uint32_t(sum[1])) << 2 | (sum[2] & 0xffffffffu) >> 30;
    quadrant = (high >> 30) + uint32_t(fraction >> 63);
    return float(int64_t(fraction)) * 0x1.921fb6p-64f;
}

struct Angle {
    F32x16 r;
    U32x16 quadrant;
};
// x >= 0 less the nearest multiple of pi/2. Up to 2^17 the first difference is exact (Cody and Waite with fma).
MMK_INLINE Angle reduce_angle(F32x16 x) {
    const F32x16 shifted = fma(x, F32x16(0x1.45f306p-1f), F32x16(round_shift)), n = shifted - F32x16(round_shift);
    Angle angle;
    angle.r = fma(n, F32x16(-0x1.921fb6p0f), x);
    angle.r = fma(n, F32x16(0x1.777a5cp-25f), angle.r);
    angle.r = fma(n, F32x16(0x1.ee59dap-50f), angle.r);
    angle.quadrant = bit_cast<uint32_t>(shifted);
    if (any(x > F32x16(0x1p17f))) {
        float value[lanes], r[lanes];
        uint32_t quadrant[lanes];
        x.store(value), angle.r.store(r), angle.quadrant.store(quadrant);
        for (int k = 0; k < lanes; ++k)
            if (value[k] > 0x1p17f && value[k] <= 0x1.fffffep127f) r[k] = reduce_large(value[k], quadrant[k]);
        angle.r = F32x16::load(r), angle.quadrant = U32x16::load(quadrant);
    }
    return angle;
}
// sin(r + quadrant pi/2), its sign flipped by the top bit of sign.
MMK_INLINE F32x16 sin_of(F32x16 sin_r, F32x16 cos_r, U32x16 quadrant, U32x16 sign) {
    const F32x16 value = select((quadrant & U32x16(1)) != U32x16(0), cos_r, sin_r);
    return bit_cast<float>(xor3(bit_cast<uint32_t>(value), (quadrant & U32x16(2)) << 30, sign));
}

// 2^-32 (1 + e^-x): the factor keeps e^-x finite as long as its reciprocal is not 0.
inline constexpr float logistic_scale = 0x1p-32f;
MMK_INLINE F32x16 logistic_denominator(F32x16 x) {
    const F32x16 y = clamp(-x, F32x16(-104.0f), F32x16(112.0f));
    const F32x16 n = fma(y, F32x16(log2_e), F32x16(round_shift)) - F32x16(round_shift);
    return F32x16(logistic_scale) + ldexp(exp_polynomial(exp_remainder(y, n)), n - F32x16(32.0f));
}
// sigmoid(x) and sigmoid(-x), neither of them by subtraction.
struct Logistic {
    F32x16 value, complement;
};
MMK_INLINE Logistic logistic(F32x16 x) {
    const F32x16 e = exp_of_minus(abs(x)), large = F32x16(1.0f) / (F32x16(1.0f) + e), small = e * large;
    const Mask<float> negative = x < F32x16(0.0f);
    return {select(negative, small, large), select(negative, large, small)};
}

// The normal distribution beyond 0 <= a <= 15: tail = density * ratio, the ratio a polynomial in 1 / (1 + 0.35 a),
// fitted 3.4e-8. density lacks its factor 1/sqrt(2 pi); the rounding error of a^2 is put back into it.
struct Normal {
    F32x16 density, ratio;
};
MMK_INLINE Normal normal_tail(F32x16 a) {
    const F32x16 t = F32x16(1.0f) / fma(a, F32x16(0x1.666666p-2f), F32x16(1.0f));
    const F32x16 p = polynomial(t, -0x1.ddcf4cp-6f, 0x1.270798p-3f, -0x1.060976p-2f, 0x1.466c4ep-3f, -0x1.7d1666p-6f,
                                0x1.b06d9cp-4f, 0x1.eac4p-4f, 0x1.1e712cp-3f, 0x1.1df1cp-3f);
    const F32x16 square = a * a, error = fma(a, a, -square);
    const F32x16 e = exp_of_minus(square * F32x16(0.5f));
    return {fma(e * F32x16(-0.5f), error, e), p * t};
}

// The argument of the logistic function in the approximate GELU, 2 sqrt(2/pi) (x + 0.044715 x^3), and its derivative.
MMK_INLINE F32x16 gelu_tanh_argument(F32x16 x) { return x * fma(x * x, F32x16(0x1.2444f2p-4f), F32x16(0x1.988454p0f)); }
MMK_INLINE F32x16 gelu_tanh_slope(F32x16 x) { return fma(x * x, F32x16(0x1.b6676cp-3f), F32x16(0x1.988454p0f)); }

} // namespace detail

// 2^x
MMK_INLINE F32x16 exp2(F32x16 x) {
    x = clamp(x, F32x16(-151.0f), F32x16(129.0f));
    const F32x16 n = (x + F32x16(detail::round_shift)) - F32x16(detail::round_shift), f = x - n;
    // |f| <= 1/2, fitted 3.0e-9
    const F32x16 p = detail::polynomial(f, 0x1.416b8p-13f, 0x1.5f0838p-10f, 0x1.3b2dep-7f, 0x1.c6af7cp-5f,
                                        0x1.ebfbdcp-3f, 0x1.62e43p-1f);
    return ldexp(fma(p, f, F32x16(1.0f)), n);
}

// 2^x for softmax and attention, where a common factor cancels: degree 5, fitted 9.4e-8. 0 from -126.5 down, so no
// result is subnormal; inf from 127.5 up.
MMK_INLINE F32x16 softmax_exp2(F32x16 x) {
    x = clamp(x, F32x16(-127.0f), F32x16(128.0f));
    const F32x16 shifted = x + F32x16(detail::exponent_shift), f = x - (shifted - F32x16(detail::exponent_shift));
    const F32x16 p =
        detail::polynomial(f, 0x1.5bd898p-10f, 0x1.3ce8cp-7f, 0x1.c6b6dcp-5f, 0x1.ebf9c2p-3f, 0x1.62e42ap-1f, 1.0f);
    return p * bit_cast<float>(bit_cast<uint32_t>(shifted) << 23);
}

MMK_INLINE F32x16 exp(F32x16 x) { return detail::exp_bounded(clamp(x, F32x16(-104.0f), F32x16(89.0f))); }

MMK_INLINE F32x16 log(F32x16 x) {
    const Mask<float> subnormal = x < F32x16(0x1p-126f);
    const U32x16 bits = bit_cast<uint32_t>(select(subnormal, x * F32x16(0x1p23f), x));
    // x = (1 + f) 2^e with 1 + f in [sqrt(1/2), sqrt(2))
    const U32x16 sqrt_half(0x3f3504f3u);
    const I32x16 exponent = bit_cast<int32_t>(bits - sqrt_half) >> 23;
    const F32x16 f = bit_cast<float>(bits - (bit_cast<uint32_t>(exponent) << 23)) - F32x16(1.0f);
    const F32x16 e = convert<float>(exponent) + select(subnormal, F32x16(-23.0f), F32x16(0.0f));
    // log(1 + f) = f - f^2/2 + f^3 p(f), fitted 5.8e-9
    const F32x16 p = detail::polynomial(f, -0x1.38c9dep-4f, 0x1.055ec6p-3f, -0x1.0d8242p-3f, 0x1.22d92ep-3f,
                                        -0x1.54728ap-3f, 0x1.99a01cp-3f, -0x1.000226p-2f, 0x1.555554p-2f);
    const F32x16 square = f * f, tail = fma(square, F32x16(-0.5f), square * f * p);
    // e times the upper 15 bits of ln(2) is exact, and so is the error of its sum with f.
    const F32x16 whole = e * F32x16(0x1.62e4p-1f), sum = whole + f, error = f - (sum - whole);
    F32x16 y = sum + fma(e, F32x16(0x1.7f7d1cp-20f), tail + error);
    constexpr float infinity = __builtin_inff();
    y = select(x < F32x16(infinity), y, x);
    y = select(x < F32x16(0.0f), F32x16(__builtin_nanf("")), y);
    return select(x == F32x16(0.0f), F32x16(-infinity), y);
}

MMK_INLINE void sincos(F32x16 x, F32x16& sine, F32x16& cosine) {
    const detail::Angle angle = detail::reduce_angle(abs(x));
    const F32x16 s = detail::sin_polynomial(angle.r), c = detail::cos_polynomial(angle.r);
    sine = detail::sin_of(s, c, angle.quadrant, bit_cast<uint32_t>(x) & U32x16(0x80000000u));
    cosine = detail::sin_of(s, c, angle.quadrant + U32x16(1), U32x16(0));
}
MMK_INLINE F32x16 sin(F32x16 x) {
    F32x16 sine, cosine;
    sincos(x, sine, cosine);
    return sine;
}
MMK_INLINE F32x16 cos(F32x16 x) {
    F32x16 sine, cosine;
    sincos(x, sine, cosine);
    return cosine;
}

MMK_INLINE F32x16 erf(F32x16 x) {
    const F32x16 a = abs(x), z = x * x, b = at_most(a, F32x16(4.0f));
    // below 0.93: x + x p(x^2), fitted 9.0e-10
    const F32x16 p = detail::polynomial(z, 0x1.4f676p-14f, -0x1.a60a2ep-11f, 0x1.544a1ap-8f, -0x1.b8011ap-6f,
                                        0x1.ce2d64p-4f, -0x1.81274p-2f, 0x1.06eba8p-3f);
    const F32x16 near = fma(a, p, a);
    // above: 1 - e^-q, where q = -log(erfc(x)) is fitted to 2.9e-9 of the result
    const F32x16 q = b * detail::polynomial(b, -0x1.bfccbp-13f, 0x1.a4e858p-9f, -0x1.76d734p-6f, 0x1.af14c8p-4f,
                                            0x1.457e8cp-1f, 0x1.20e614p0f);
    const F32x16 far = F32x16(1.0f) - detail::exp_normal(-q);
    return detail::copy_sign(select(a < F32x16(0.93f), near, far), x);
}

MMK_INLINE F32x16 tanh(F32x16 x) {
    const F32x16 a = abs(x), z = x * x;
    // below 0.625: x + x^3 p(x^2), fitted 4.5e-9
    const F32x16 p =
        detail::polynomial(z, -0x1.750ce4p-8f, 0x1.51f8cep-6f, -0x1.b835a4p-5f, 0x1.1106f6p-3f, -0x1.555532p-2f);
    const F32x16 near = fma(p * z, a, a);
    const F32x16 e = detail::exp_normal(at_most(a + a, F32x16(40.0f)));
    const F32x16 far = F32x16(1.0f) - F32x16(2.0f) / (e + F32x16(1.0f));
    return detail::copy_sign(select(a < F32x16(0.625f), near, far), x);
}

// 1 / (1 + e^-x)
MMK_INLINE F32x16 sigmoid(F32x16 x) { return F32x16(detail::logistic_scale) / detail::logistic_denominator(x); }

// x sigmoid(x)
MMK_INLINE F32x16 silu(F32x16 x) {
    // The denominator is infinite at -112: the clamp keeps -inf from meeting it. Above 112 the quotient might overflow.
    const F32x16 quotient = at_least(x, F32x16(-112.0f)) / detail::logistic_denominator(x);
    return select(x > F32x16(112.0f), x, quotient * F32x16(detail::logistic_scale));
}
MMK_INLINE F32x16 silu_grad(F32x16 x) {
    x = clamp(x, F32x16(-104.0f), F32x16(104.0f));
    const detail::Logistic l = detail::logistic(x);
    return l.value * fma(x, l.complement, F32x16(1.0f));
}

// x Phi(x), Phi the cumulative normal distribution (Hendrycks and Gimpel, arXiv 1606.08415).
MMK_INLINE F32x16 gelu(F32x16 x) {
    const F32x16 b = clamp(x, F32x16(-15.0f), F32x16(15.0f));
    const detail::Normal normal = detail::normal_tail(abs(b));
    const F32x16 tail = normal.density * normal.ratio;
    return select(x <= F32x16(0.0f), b * tail, fnma(b, tail, x));
}
// Phi(x) + x phi(x)
MMK_INLINE F32x16 gelu_grad(F32x16 x) {
    const F32x16 a = at_most(abs(x), F32x16(15.0f));
    const detail::Normal normal = detail::normal_tail(a);
    const F32x16 g = normal.density * fma(a, F32x16(-0x1.988454p-2f), normal.ratio);
    return select(x < F32x16(0.0f), g, F32x16(1.0f) - g);
}

// The approximation x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) / 2 = x sigmoid(2 sqrt(2/pi) (x + 0.044715 x^3)).
MMK_INLINE F32x16 gelu_tanh(F32x16 x) {
    // at -11 the denominator is infinite, at 11 the factor is 1
    const F32x16 low = at_least(x, F32x16(-11.0f));
    const F32x16 quotient = low / detail::logistic_denominator(detail::gelu_tanh_argument(low));
    return select(x > F32x16(11.0f), x, quotient * F32x16(detail::logistic_scale));
}
MMK_INLINE F32x16 gelu_tanh_grad(F32x16 x) {
    x = clamp(x, F32x16(-11.0f), F32x16(11.0f));
    const detail::Logistic l = detail::logistic(detail::gelu_tanh_argument(x));
    return l.value * fma(x * detail::gelu_tanh_slope(x), l.complement, F32x16(1.0f));
}

// x > 0 ? x : +0; NaN stays
template <class T> MMK_INLINE Vec<T> relu(Vec<T> x) { return at_least(x, Vec<T>::zero()) + Vec<T>::zero(); }
template <class T> MMK_INLINE Vec<T> leaky_relu(Vec<T> x, Vec<T> negative_slope) {
    return select(x > Vec<T>::zero(), x, x * negative_slope);
}

// One float: the bits of a lane.
#define MMK_OF_ONE(name)                                                                                               \
    MMK_FUNCTION float name(float x) { return name(F32x16(x)).lane(0); }
MMK_OF_ONE(exp2)
MMK_OF_ONE(softmax_exp2)
MMK_OF_ONE(exp)
MMK_OF_ONE(log)
MMK_OF_ONE(sin)
MMK_OF_ONE(cos)
MMK_OF_ONE(erf)
MMK_OF_ONE(tanh)
MMK_OF_ONE(sigmoid)
MMK_OF_ONE(silu)
MMK_OF_ONE(silu_grad)
MMK_OF_ONE(gelu)
MMK_OF_ONE(gelu_grad)
MMK_OF_ONE(gelu_tanh)
MMK_OF_ONE(gelu_tanh_grad)
#undef MMK_OF_ONE

// float64 is for references and gradient checks: libm, lane by lane, with no promise across machines. By the compiler's
// own names: <cmath> of C++20 takes a tenth of a second in each of two hundred files.
#if defined(__CUDACC__)
#define MMK_LIBM(function) ::function
#else
#define MMK_LIBM(function) __builtin_##function
#endif
MMK_FUNCTION double exp2(double x) { return MMK_LIBM(exp2)(x); }
MMK_FUNCTION double softmax_exp2(double x) { return MMK_LIBM(exp2)(x); }
MMK_FUNCTION double exp(double x) { return MMK_LIBM(exp)(x); }
MMK_FUNCTION double log(double x) { return MMK_LIBM(log)(x); }
MMK_FUNCTION double sin(double x) { return MMK_LIBM(sin)(x); }
MMK_FUNCTION double cos(double x) { return MMK_LIBM(cos)(x); }
MMK_FUNCTION double erf(double x) { return MMK_LIBM(erf)(x); }
MMK_FUNCTION double tanh(double x) { return MMK_LIBM(tanh)(x); }
MMK_FUNCTION double sigmoid(double x) {
    const double e = MMK_LIBM(exp)(-MMK_LIBM(fabs)(x));
    return (x < 0 ? e : 1) / (1 + e);
}
// The clamps below keep an infinity from meeting a zero; NaN stays.
MMK_FUNCTION double at_least(double x, double low) { return x < low ? low : x; }
MMK_FUNCTION double clamp(double x, double low, double high) { return x < low ? low : x > high ? high : x; }
MMK_FUNCTION double silu(double x) { return at_least(x, -760.0) * sigmoid(x); }
MMK_FUNCTION double silu_grad(double x) {
    x = clamp(x, -760.0, 760.0);
    return sigmoid(x) * (1 + x * sigmoid(-x));
}
MMK_FUNCTION double gelu(double x) { return at_least(x, -40.0) * (0.5 * MMK_LIBM(erfc)(x * -0x1.6a09e667f3bcdp-1)); }
MMK_FUNCTION double gelu_grad(double x) {
    x = clamp(x, -40.0, 40.0);
    return 0.5 * MMK_LIBM(erfc)(x * -0x1.6a09e667f3bcdp-1) + x * (0x1.9884533d43651p-2 * MMK_LIBM(exp)(-0.5 * x * x));
}
MMK_FUNCTION double gelu_tanh(double x) {
    x = at_least(x, -40.0);
    return x * sigmoid(x * (0x1.9884533d43651p0 * (1 + 0.044715 * x * x)));
}
MMK_FUNCTION double gelu_tanh_grad(double x) {
    x = clamp(x, -40.0, 40.0);
    const double argument = x * (0x1.9884533d43651p0 * (1 + 0.044715 * x * x));
    const double slope = 0x1.9884533d43651p0 * (1 + 3 * 0.044715 * x * x);
    return sigmoid(argument) * (1 + x * slope * sigmoid(-argument));
}
#define MMK_LANE_BY_LANE(name)                                                                                         \
    MMK_FUNCTION F64x16 name(F64x16 x) {                                                                               \
        double s[lanes];                                                                                               \
        x.store(s);                                                                                                    \
        for (int k = 0; k < lanes; ++k) s[k] = name(s[k]);                                                             \
        return F64x16::load(s);                                                                                        \
    }
MMK_LANE_BY_LANE(exp2)
MMK_LANE_BY_LANE(softmax_exp2)
MMK_LANE_BY_LANE(exp)
MMK_LANE_BY_LANE(log)
MMK_LANE_BY_LANE(sin)
MMK_LANE_BY_LANE(cos)
MMK_LANE_BY_LANE(erf)
MMK_LANE_BY_LANE(tanh)
MMK_LANE_BY_LANE(sigmoid)
MMK_LANE_BY_LANE(silu)
MMK_LANE_BY_LANE(silu_grad)
MMK_LANE_BY_LANE(gelu)
MMK_LANE_BY_LANE(gelu_grad)
MMK_LANE_BY_LANE(gelu_tanh)
MMK_LANE_BY_LANE(gelu_tanh_grad)
#undef MMK_LANE_BY_LANE
MMK_FUNCTION void sincos(F64x16 x, F64x16& sine, F64x16& cosine) { sine = sin(x), cosine = cos(x); }

// One value of either type.
template <class T> MMK_INLINE T relu(T x) { return x > T(0) ? x : x != x ? x : T(0); }
template <class T> MMK_INLINE T leaky_relu(T x, T negative_slope) { return x > T(0) ? x : x * negative_slope; }

} // namespace mmk::MMK_ISA
