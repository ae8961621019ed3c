// What maximum and average pooling share: windows along an axis, lines split into phases, rows written sixteen at a
// time.
#pragma once

#include "layouts4.h"

namespace mmk::cpu::MMK_ISA {

MMK_INLINE int64_t smaller(int64_t a, int64_t b) { return b < a ? b : a; }
MMK_INLINE int64_t larger(int64_t a, int64_t b) { return b > a ? b : a; }
MMK_INLINE int64_t up_to_lanes(int64_t n) { return (n + lanes - 1) / lanes * lanes; }

// Windows along one axis: window i has taps i * stride - padding + tap * dilation.
struct Axis {
    int64_t extent, outputs, kernel, stride, padding, dilation;

    MMK_MEMBER int64_t start(int64_t i) const { return i * stride - padding; }
    MMK_MEMBER int64_t span() const { return (kernel - 1) * dilation; }
    // No window has more taps inside.
    MMK_MEMBER int64_t most_taps() const { return smaller(kernel, larger(extent, 1)); }
    // Lines hold their padding; with more than this, memory would go to nothing but padding.
    MMK_MEMBER bool holds_padding() const { return padding <= 2 * extent + 64; }
    // Taps [first, end) lie inside.
    MMK_MEMBER int64_t first(int64_t i) const { return start(i) >= 0 ? 0 : (dilation - 1 - start(i)) / dilation; }
    MMK_MEMBER int64_t end(int64_t i) const {
        const int64_t room = extent - start(i);
        return larger(first(i), room <= 0 ? 0 : smaller(kernel, (room + dilation - 1) / dilation));
    }
};

// Elements 0, 2, 4, ... and 1, 3, 5, ... of a followed by b.
template <class T> MMK_INLINE void separate(Vec<T> a, Vec<T> b, Vec<T>& even, Vec<T>& odd) {
    typename Vec<T>::Reg in[2 * Vec<T>::registers];
    MMK_REGISTERS in[i] = a.r[i], in[Vec<T>::registers + i] = b.r[i];
    MMK_REGISTERS {
        const auto low = in[2 * i], high = in[2 * i + 1];
        if constexpr (Vec<T>::per_register == 16) {
            even.r[i] = __builtin_shufflevector(low, high, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
            odd.r[i] = __builtin_shufflevector(low, high, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
        } else if constexpr (Vec<T>::per_register == 8) {
            even.r[i] = __builtin_shufflevector(low, high, 0, 2, 4, 6, 8, 10, 12, 14);
            odd.r[i] = __builtin_shufflevector(low, high, 1, 3, 5, 7, 9, 11, 13, 15);
        } else if constexpr (Vec<T>::per_register == 4) {
            even.r[i] = __builtin_shufflevector(low, high, 0, 2, 4, 6);
            odd.r[i] = __builtin_shufflevector(low, high, 1, 3, 5, 7);
        } else {
            even.r[i] = __builtin_shufflevector(low, high, 0, 2);
            odd.r[i] = __builtin_shufflevector(low, high, 1, 3);
        }
    }
}

// A line of input between its padding, dealt out to `stride` phases: position i * stride + f of the padded line is
// element i of phase f. Tap s of windows i .. i+15 is then the sixteen elements from offset(s) + i.
template <class T> class Lines {
  public:
    MMK_MEMBER explicit Lines(const Axis& axis)
        : axis_(axis), phases_(smaller(axis.stride, axis.span() + 1)),
          length_(up_to_lanes(up_to_lanes(axis.outputs) + axis.span() / axis.stride)) {}

    MMK_MEMBER int64_t size() const { return phases_ * length_; }
    MMK_MEMBER int64_t offset(int64_t tap) const {
        const int64_t position = tap * axis_.dilation;
        return position % axis_.stride * length_ + position / axis_.stride;
    }
    // Once per buffer: fill() writes between the padding only.
    MMK_MEMBER void clear(T* line, T padding) const {
        for (int64_t i = 0; i < size(); ++i) line[i] = padding;
    }
    MMK_MEMBER void fill(T* line, const T* x) const {
        if (axis_.stride == 1) {
            const int64_t n = smaller(axis_.extent, length_ - axis_.padding);
            if (n > 0) std::memcpy(line + axis_.padding, x, size_t(n) * sizeof(T));
        } else if (axis_.stride == 2 && phases_ == 2)
            fill_two(line, x);
        else
            for (int64_t f = 0; f < phases_; ++f) fill_phase(line, x, f);
    }

  private:
    MMK_MEMBER void fill_phase(T* line, const T* x, int64_t f) const {
        const int64_t stride = axis_.stride, shift = f - axis_.padding;
        const int64_t begin = shift >= 0 ? 0 : (stride - 1 - shift) / stride;
        const int64_t end = smaller(length_, (axis_.extent - shift + stride - 1) / stride);
        for (int64_t i = begin; i < end; ++i) line[f * length_ + i] = x[i * stride + shift];
    }
    MMK_MEMBER void fill_two(T* line, const T* x) const {
        const int64_t odd_padding = axis_.padding & 1, half = axis_.padding / 2;
        T* const first = line + odd_padding * length_ + half; // takes x[0], x[2], ...
        T* const second = line + (1 - odd_padding) * length_ + half + odd_padding;
        const int64_t room = length_ - half, n_first = smaller((axis_.extent + 1) / 2, room),
                      pairs = smaller(axis_.extent / 2, room - odd_padding);
        if (n_first > pairs && n_first > 0) first[n_first - 1] = x[2 * (n_first - 1)];
        const auto block = [&](int64_t i) {
            Vec<T> even, odd;
            separate(Vec<T>::load(x + 2 * i), Vec<T>::load(x + 2 * i + lanes), even, odd);
            even.store(first + i), odd.store(second + i);
        };
        if (pairs < lanes) {
            for (int64_t i = 0; i < pairs; ++i) first[i] = x[2 * i], second[i] = x[2 * i + 1];
            return;
        }
        for (int64_t i = 0; i + lanes <= pairs; i += lanes) block(i);
        if (pairs % lanes) block(pairs - lanes);
    }

    Axis axis_;
    int64_t phases_, length_;
};

// Rows written from front to back: a block may spill into the next row of the same range, which overwrites it.
template <class T> MMK_INLINE void store_block(Vec<T> v, T* to, const T* end) {
    if (to + lanes <= end)
        v.store(to);
    else
        v.store(to, end - to);
}

} // namespace mmk::cpu::MMK_ISA
