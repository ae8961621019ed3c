// Windows along an axis, as maximum and average pooling share them.
#pragma once

#include "places4.cuh"

namespace mmk::cuda {

// Window i has taps i * stride - padding + tap * dilation.
struct WindowAxis {
    int64_t extent, outputs, kernel, padding;
    Divisor stride, dilation;

    WindowAxis() = default;
    WindowAxis(int64_t extent_, int64_t outputs_, int64_t kernel_, int64_t stride_, int64_t padding_, int64_t dilation_)
        : extent(extent_), outputs(outputs_), kernel(kernel_), padding(padding_), stride(stride_), dilation(dilation_) {
    }

    MMK_MEMBER int64_t start(int64_t i) const { return i * stride.by() - padding; }
    // Taps [first, end) lie inside.
    MMK_MEMBER int64_t first(int64_t i) const { return start(i) >= 0 ? 0 : dilation(dilation.by() - 1 - start(i)); }
    MMK_MEMBER int64_t end(int64_t i) const {
        const int64_t room = extent - start(i);
        return larger(first(i), room <= 0 ? 0 : smaller(kernel, dilation(room + dilation.by() - 1)));
    }
    // Windows [first_seen, end_seen) see position i, if there is no dilation.
    MMK_MEMBER int64_t first_seen(int64_t i) const {
        const int64_t from = i + padding - kernel + 1;
        return from <= 0 ? 0 : stride(from + stride.by() - 1);
    }
    MMK_MEMBER int64_t end_seen(int64_t i) const { return smaller(outputs, stride(i + padding) + 1); }
};

// Outputs below each other that a thread makes where windows are small and overlap.
inline constexpr int strip = 4;
inline Order4 order_of_strips(Tensor y) {
    y.extent[2] = ceil_div(y.extent[2], strip);
    return Order4(y, false, 1);
}

} // namespace mmk::cuda
