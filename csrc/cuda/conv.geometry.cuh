// A convolution's numbers as kernels take them, and how every kernel of the family ends a sum.
//
// conv2d and its input gradient are the same sum, a Correlation: results at (p, q) meet, in tap (r, s), the source at
// (p * stride + r * dilation - before). The input gradient falls apart into one such sum for every residue of (h, w)
// modulo the stride, of stride 1 and with a negative dilation: h = p * stride + r * dilation - top is solved for p.
#pragma once

#include <initializer_list>

#include "../ops/conv.h"
#include "places4.cuh"
#include "products.cuh"

namespace mmk::cuda::conv {

inline Strides4 strides4(int64_t n, int64_t c, int64_t h, int64_t w) {
    Strides4 s;
    s.n = n, s.c = c, s.h = h, s.w = w;
    return s;
}

// Divisor for numbers below 2^31 alone, in half the registers; by 1 where there is nothing to divide.
class ShortDivisor {
  public:
    explicit ShortDivisor(int64_t by) : by_(by > 1 ? int(by) : 1) {
        while (int64_t(1) << shift_ < by_) ++shift_;
        multiplier_ = uint32_t(((uint64_t(1) << shift_) - uint64_t(by_)) * (uint64_t(1) << 32) / uint64_t(by_)) + 1;
    }
    // The remainder; n becomes the quotient.
    MMK_MEMBER int take(int& n) const {
        const int quotient = int((uint32_t(uint64_t(uint32_t(n)) * multiplier_ >> 32) + uint32_t(n)) >> shift_);
        const int rest = n - quotient * by_;
        n = quotient;
        return rest;
    }

  private:
    int by_;
    uint32_t multiplier_;
    int shift_ = 0;
};

template <class T>
Tensor view_of(const T* data, std::initializer_list<int64_t> extents, std::initializer_list<int64_t> strides) {
    Tensor t;
    t.data = const_cast<T*>(data);
    t.dtype = std::is_same_v<T, float>     ? DType::float32
              : std::is_same_v<T, double>  ? DType::float64
              : std::is_same_v<T, float16> ? DType::float16
                                           : DType::bfloat16;
    t.rank = int32_t(extents.size());
    int axis = 0;
    for (const int64_t e : extents) t.extent[axis++] = e;
    axis = 0;
    for (const int64_t s : strides) t.stride[axis++] = s;
    return t;
}

struct Correlation {
    int64_t samples, groups, channels, outputs; // of one group: channels are summed over, outputs are made
    int64_t H, W, P, Q, R, S;                   // source, results, taps
    int64_t stride[2], dilation[2], before[2];
    int64_t chunk;                   // channels
    Strides4 source, weight, result; // of a weight: n steps through outputs, c through channels
    int64_t weight_group;            // from a group's weights to the next group's

    int64_t results() const { return samples * groups * outputs * P * Q; }
};

// An element of N C H W from its number, in the order of memory: `last`: channels are neighbours.
MMK_INLINE Place4 place_of(int64_t index, int64_t C, int64_t H, int64_t W, bool last) {
    if (last) return {index / (C * H * W), index % C, index / (C * W) % H, index / C % W};
    return {index / (C * H * W), index / (H * W) % C, index / W % H, index % W};
}

// What follows the sum: + bias or + 0, + residual, activation; then one rounding to storage.
template <class T> struct Ending {
    const T* bias = nullptr;
    const T* residual = nullptr;
    Strides4 residual_strides{};
    Activation activation = Activation::none;

    MMK_MEMBER Compute<T> added(Compute<T> sum, int64_t n, int64_t k, int64_t p, int64_t q) const {
        const Compute<T> value = sum + (bias ? widen(bias[k]) : Compute<T>(0));
        return residual ? value + widen(residual[residual_strides.at(n, k, p, q)]) : value;
    }
    template <int N> MMK_MEMBER void activate_all(Compute<T> (&values)[N]) const {
        visit_activation(activation, [&](auto activate) {
#pragma unroll
            for (int i = 0; i < N; ++i) values[i] = activate(Vec<Compute<T>>(values[i])).v;
        });
    }
};

// The operands of one correlation.
template <class T> struct Operands {
    const T* source;
    const T* weight;
    T* result;
    Ending<T> ending;
};

} // namespace mmk::cuda::conv
