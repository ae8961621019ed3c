// In which order of its axes a tensor's elements lie in memory.
#pragma once

#include "tensor.h"

namespace mmk {

MMK_INLINE bool same_order(const Tensor& a, const Tensor& b) {
    for (int i = 0; i < a.rank; ++i)
        if (a.extent[i] != 1 && a.stride[i] != b.stride[i]) return false;
    return true;
}
// Those that are given.
MMK_INLINE bool all_in_order_of(const Tensor& first, const Tensor* const* tensors, int count) {
    for (int i = 0; i < count; ++i)
        if (*tensors[i] && !same_order(*tensors[i], first)) return false;
    return true;
}
// Samples one after another, each dense, in whatever order of its axes.
MMK_INLINE bool dense_samples(const Tensor& t) {
    int64_t last = 0, size = 1;
    for (int i = 1; i < t.rank; ++i) {
        if (t.extent[i] == 1) continue;
        if (t.stride[i] <= 0) return false;
        last += (t.extent[i] - 1) * t.stride[i];
        size *= t.extent[i];
    }
    return last == size - 1 && (t.extent[0] == 1 || t.stride[0] == size);
}
// Whether the channels of a pixel of N C *S are neighbours in memory, all pixels dense: channels-last, or nothing behind
// C.
MMK_INLINE bool has_channels_inside(const Tensor& t) {
    int64_t expected = t.extent[1];
    if (t.extent[1] == 1 ? t.size(2, t.rank) != 1 : t.stride[1] != 1) return false; // one channel: a plane
    for (int k = t.rank; k > 1; --k) { // the last axis to the third, then the first
        const int axis = k > 2 ? k - 1 : 0;
        if (t.extent[axis] != 1 && t.stride[axis] != expected) return false;
        expected *= t.extent[axis];
    }
    return true;
}

} // namespace mmk
