// The activations that other operators apply to their results: the same functions as the operators of their names.
#pragma once

#include "activation.h"
#include "arith.h"

namespace mmk {

namespace MMK_ISA {

inline constexpr double activation_negative_slope = 0.01; // of leaky_relu

// One value or sixteen.
template <Activation activation, class V> MMK_INLINE V activate(V x) {
    if constexpr (activation == Activation::relu) return relu(x);
    if constexpr (activation == Activation::leaky_relu) return leaky_relu(x, V(activation_negative_slope));
    if constexpr (activation == Activation::sigmoid) return sigmoid(x);
    if constexpr (activation == Activation::tanh) return tanh(x);
    if constexpr (activation == Activation::silu) return silu(x);
    if constexpr (activation == Activation::gelu) return gelu(x);
    return x;
}

// body(f): f(x) activates one value or sixteen. The choice is made once, outside the caller's loop.
template <class Body> MMK_INLINE void visit_activation(Activation activation, Body&& body) {
    switch (activation) {
    case Activation::none: return body([](auto x) { return activate<Activation::none>(x); });
    case Activation::relu: return body([](auto x) { return activate<Activation::relu>(x); });
    case Activation::leaky_relu: return body([](auto x) { return activate<Activation::leaky_relu>(x); });
    case Activation::sigmoid: return body([](auto x) { return activate<Activation::sigmoid>(x); });
    case Activation::tanh: return body([](auto x) { return activate<Activation::tanh>(x); });
    case Activation::silu: return body([](auto x) { return activate<Activation::silu>(x); });
    case Activation::gelu: return body([](auto x) { return activate<Activation::gelu>(x); });
    }
}

} // namespace MMK_ISA
} // namespace mmk
