// Activations that no other operator fuses, and their slopes: one lane or sixteen. Every operation is rounded by itself,
// in the order of the parentheses.
#pragma once

#include "arith.h"

namespace mmk::MMK_ISA {

// x below which e^x is 0.
template <class T> inline constexpr T exp_vanishes = sizeof(T) == 4 ? T(-104) : T(-760);

namespace detail {
// log(1 + z) for 0 <= z <= 1: twice the area tangent of z / (2 + z), whose series ends at 1.4e-9.
MMK_INLINE F32x16 log1p_unit(F32x16 z) {
    const F32x16 s = z / (F32x16(2.0f) + z), square = s * s;
    const F32x16 p = polynomial(square, 0x1.111112p-4f, 0x1.3b13b2p-4f, 0x1.745d18p-4f, 0x1.c71c72p-4f, 0x1.24924ap-3f,
                                0x1.99999ap-3f, 0x1.555556p-2f);
    const F32x16 twice = s + s;
    return fma(twice * square, p, twice);
}
// e^x - 1 for x <= 0, by tanh(x / 2), where nothing cancels.
MMK_INLINE F32x16 expm1_negative(F32x16 x) {
    const F32x16 t = tanh(x * F32x16(0.5f));
    return (t + t) / (F32x16(1.0f) - t);
}
MMK_FUNCTION F64x16 log1p_unit(F64x16 z) {
    double s[lanes];
    z.store(s);
    for (int k = 0; k < lanes; ++k) s[k] = MMK_LIBM(log1p)(s[k]);
    return F64x16::load(s);
}
MMK_FUNCTION F64x16 expm1_negative(F64x16 x) {
    double s[lanes];
    x.store(s);
    for (int k = 0; k < lanes; ++k) s[k] = MMK_LIBM(expm1)(s[k]);
    return F64x16::load(s);
}
template <class T> MMK_INLINE Vec<T> gate(Vec<T> x) { // of hardsigmoid and hardswish
    return clamp(x + Vec<T>(T(3)), Vec<T>::zero(), Vec<T>(T(6))) / Vec<T>(T(6));
}
} // namespace detail

template <class T> MMK_INLINE Vec<T> hardtanh(Vec<T> x, Vec<T> low, Vec<T> high) {
    return clamp(x, low, high) + Vec<T>::zero();
}
template <class T> MMK_INLINE Vec<T> hardtanh_grad(Vec<T> x, Vec<T> gy, Vec<T> low, Vec<T> high) {
    return select((x <= low) | (x >= high), Vec<T>::zero(), gy);
}

// min(max(x + 3, 0), 6) / 6
template <class T> MMK_INLINE Vec<T> hardsigmoid(Vec<T> x) { return detail::gate(x); }
template <class T> MMK_INLINE Vec<T> hardsigmoid_grad(Vec<T> x, Vec<T> gy) {
    return select((x <= Vec<T>(T(-3))) | (x >= Vec<T>(T(3))), Vec<T>::zero(), gy / Vec<T>(T(6)));
}

// x hardsigmoid(x)
template <class T> MMK_INLINE Vec<T> hardswish(Vec<T> x) {
    return at_least(x, Vec<T>(T(-3))) * detail::gate(x) + Vec<T>::zero();
}
template <class T> MMK_INLINE Vec<T> hardswish_grad(Vec<T> x, Vec<T> gy) {
    const Vec<T> inside = gy * (x / Vec<T>(T(3)) + Vec<T>(T(0.5)));
    return select(x <= Vec<T>(T(-3)), Vec<T>::zero(), select(x >= Vec<T>(T(3)), gy, inside));
}

// x tanh(log(1 + e^x)) = x w / (w + 2) with w = e^x (e^x + 2); beyond 20 the quotient is 1.
template <class T> MMK_INLINE Vec<T> mish(Vec<T> x) {
    const Vec<T> e = exp(at_most(x, Vec<T>(T(20)))), w = e * (e + Vec<T>(T(2)));
    return at_least(x, Vec<T>(exp_vanishes<T>)) * (w / (w + Vec<T>(T(2))));
}
template <class T> MMK_INLINE Vec<T> mish_grad(Vec<T> x, Vec<T> gy) {
    x = clamp(x, Vec<T>(exp_vanishes<T>), Vec<T>(T(20)));
    const Vec<T> e = exp(x), w = e * (e + Vec<T>(T(2))), v = w + Vec<T>(T(2));
    return gy * (w / v + x * ((Vec<T>(T(4)) * e) * (e + Vec<T>(T(1))) / (v * v)));
}

// x sigmoid(1.702 x)
template <class T> MMK_INLINE Vec<T> quick_gelu(Vec<T> x) {
    return at_least(x, Vec<T>(exp_vanishes<T>)) * sigmoid(x * Vec<T>(T(1.702)));
}
template <class T> MMK_INLINE Vec<T> quick_gelu_grad(Vec<T> x, Vec<T> gy) {
    return gy * silu_grad(x * Vec<T>(T(1.702)));
}

// log(1 + e^(beta x)) / beta; x where beta x is above the threshold
template <class T> MMK_INLINE Vec<T> softplus(Vec<T> x, Vec<T> beta, Vec<T> threshold) {
    const Vec<T> u = x * beta;
    const Vec<T> sum = at_least(u, Vec<T>::zero()) + detail::log1p_unit(exp(-abs(u)));
    return select(u > threshold, x, sum / beta);
}
template <class T> MMK_INLINE Vec<T> softplus_grad(Vec<T> x, Vec<T> gy, Vec<T> beta, Vec<T> threshold) {
    const Vec<T> u = x * beta;
    return select(u > threshold, gy, gy * sigmoid(u));
}

// x > 0 ? positive x : negative (e^(inner x) - 1)
template <class T> MMK_INLINE Vec<T> elu(Vec<T> x, Vec<T> positive, Vec<T> negative, Vec<T> inner) {
    const Vec<T> below = at_most(x, Vec<T>::zero()) * inner;
    return select(x > Vec<T>::zero(), x * positive, negative * detail::expm1_negative(below));
}
// slope: negative * inner, rounded once
template <class T> MMK_INLINE Vec<T> elu_grad(Vec<T> x, Vec<T> gy, Vec<T> positive, Vec<T> slope, Vec<T> inner) {
    return select(x > Vec<T>::zero(), gy * positive, gy * (slope * exp(x * inner)));
}

} // namespace mmk::MMK_ISA
