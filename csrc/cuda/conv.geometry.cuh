// A convolution's numbers as kernels take them, and how every kernel of the family ends a sum.
//
// A convolution and its input gradient are the same sum, a Correlation: results at (o, p, q) meet, in tap (t, r, s),
// the source at (o, p, q) * stride + (t, r, s) * dilation - before. The input gradient falls apart into one such sum
// for every residue of (d, h, w) modulo the stride, of stride 1 and with a negative dilation: h = p * stride + r *
// dilation - top is solved for p. Dimensions that an operator lacks have one element.
#pragma once

#include <initializer_list>

#include "../ops/conv.h"
#include "places4.cuh"
#include "products.cuh"
#include "tf32.cuh"

namespace mmk::cuda::conv {

// Strides of an N C D H W operand, in elements.
struct Strides5 {
    int64_t n, c, d, h, w;
    MMK_MEMBER int64_t at(int64_t n_, int64_t c_, int64_t h_, int64_t w_) const {
        return n_ * n + c_ * c + h_ * h + w_ * w;
    }
    MMK_MEMBER int64_t at(int64_t n_, int64_t c_, int64_t d_, int64_t h_, int64_t w_) const {
        return at(n_, c_, h_, w_) + d_ * d;
    }
};
inline Strides5 strides_of(const Tensor& t) {
    return {t.stride[0], t.stride[1], t.stride[2], t.stride[3], t.stride[4]};
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
    t.dtype = std::is_same_v<T, float> || is_tf32<T> ? DType::float32
              : std::is_same_v<T, double>            ? DType::float64
              : std::is_same_v<T, float16>           ? DType::float16
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
    int64_t D, H, W, O, P, Q, T, R, S;          // source, results, taps
    int64_t stride[3], dilation[3], before[3];
    int64_t chunk;                   // channels
    Strides5 source, weight, result; // of a weight: n steps through outputs, c through channels
    int64_t weight_group;            // from a group's weights to the next group's
    int64_t first_slice, last_slice; // of the source that some tap meets, in the border or not

    MMK_MEMBER int64_t taps() const { return T * R * S; }
    MMK_MEMBER int64_t pixels() const { return samples * O * P * Q; }
    int64_t results() const { return groups * outputs * pixels(); }
    // Slices from a window's first to its last.
    int64_t window_slices() const { return T ? (T - 1) * (dilation[0] < 0 ? -dilation[0] : dilation[0]) + 1 : 1; }
    int64_t front() const { return first_slice < 0 ? -first_slice : 0; }
    int64_t back() const { return last_slice >= D ? last_slice - D + 1 : 0; }
};

// A row and a column of an image in one register; positions are added as one number. Columns take as many of its bits
// as they need, and one more, whose sign is kept away by adding a bias; rows take the others. So sequences may be long.
struct Position {
    int both;
};
class Positions {
  public:
    explicit Positions(const Correlation& c) : H_(int(c.H)), W_(int(c.W)), shift_(column_bits(c) + 1) {}
    // Whether both find room: bits of columns and of rows, and a sign for each.
    static bool fit(const Correlation& c) { return column_bits(c) + row_bits(c) + 2 <= 31; }

    MMK_MEMBER Position first(int h, int w) const { return {h * (1 << shift_) + w + bias()}; }
    MMK_MEMBER Position further(int h, int w) const { return {h * (1 << shift_) + w}; }
    MMK_MEMBER bool inside(Position a, Position b) const {
        const int sum = a.both + b.both, mask = (1 << shift_) - 1;
        const int extra = MMK_DEFECT(conv_window_border) ? 1 : 0;
        return unsigned(sum >> shift_) < unsigned(H_ + extra) && unsigned((sum & mask) - bias()) < unsigned(W_);
    }

  private:
    static int bits(int64_t extent, int64_t results, int64_t step, int64_t taps, int64_t apart, int64_t before) {
        const auto size = [](int64_t x) { return x < 0 ? -x : x; };
        const int64_t reach = larger(extent, results * step) + taps * size(apart) + size(before) + 1;
        int count = 1;
        while (count < 40 && int64_t(1) << count <= reach) ++count;
        return count;
    }
    static int column_bits(const Correlation& c) {
        return bits(c.W, c.Q, c.stride[2], c.S, c.dilation[2], c.before[2]);
    }
    static int row_bits(const Correlation& c) { return bits(c.H, c.P, c.stride[1], c.R, c.dilation[1], c.before[1]); }
    MMK_MEMBER int bias() const { return 1 << (shift_ - 1); }
    int H_, W_, shift_;
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
    Strides5 residual_strides{};
    Activation activation = Activation::none;

    MMK_MEMBER Compute<T> added(Compute<T> sum, int64_t n, int64_t k, int64_t o, int64_t p, int64_t q) const {
        const Compute<T> value = sum + (bias ? widen(bias[k]) : Compute<T>(0));
        return residual ? value + widen(residual[residual_strides.at(n, k, o, p, q)]) : value;
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
