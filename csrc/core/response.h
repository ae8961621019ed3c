// The power of local_response_norm: b^beta. Of AlexNet's 0.75 and of 0.5 by square roots, which are correctly rounded.
#pragma once

#include "arith.h"

namespace mmk::MMK_ISA {

enum class Power { one, half, three_quarters, any };
MMK_INLINE Power power_of(double beta) {
    return beta == 1 ? Power::one : beta == 0.5 ? Power::half : beta == 0.75 ? Power::three_quarters : Power::any;
}

template <class T> MMK_INLINE Vec<T> response_power(Vec<T> b, Power power, T beta) {
    if (power == Power::one) return b;
    if (power == Power::any) return exp(Vec<T>(beta) * log(b));
    const Vec<T> root = sqrt(b);
    return power == Power::half ? root : root * sqrt(root);
}

} // namespace mmk::MMK_ISA
