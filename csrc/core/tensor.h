// Tensor: a pointer with extents and strides. It owns nothing.
#pragma once

#include "compiler.h"

namespace mmk {

enum class DType : int32_t { float32, float64, int32, int64, uint32, uint64, uint8, boolean, float16, bfloat16 };

MMK_INLINE int64_t itemsize(DType type) {
    switch (type) {
    case DType::float32:
    case DType::int32:
    case DType::uint32: return 4;
    case DType::float64:
    case DType::int64:
    case DType::uint64: return 8;
    case DType::float16:
    case DType::bfloat16: return 2;
    case DType::uint8:
    case DType::boolean: return 1;
    }
    return 0;
}

inline constexpr int max_rank = 8;

struct Tensor {
    void* data = nullptr; // null: an optional operand that was not given
    DType dtype = DType::float32;
    int32_t rank = 0;
    int64_t extent[max_rank] = {};
    int64_t stride[max_rank] = {}; // in elements; zero where an extent is broadcast, negative where reversed

    MMK_MEMBER explicit operator bool() const { return data != nullptr; }
    // Extents count from the front, or from the back if negative: extent_at(-1) is the last.
    MMK_MEMBER int64_t extent_at(int axis) const { return extent[axis < 0 ? rank + axis : axis]; }
    MMK_MEMBER int64_t size() const {
        int64_t n = 1;
        for (int i = 0; i < rank; ++i) n *= extent[i];
        return n;
    }
    // The product of extents [first, last).
    MMK_MEMBER int64_t size(int first, int last) const {
        int64_t n = 1;
        for (int i = first; i < last; ++i) n *= extent[i];
        return n;
    }
    MMK_MEMBER bool contiguous() const {
        int64_t expected = 1;
        for (int i = rank - 1; i >= 0; --i) {
            if (extent[i] != 1 && stride[i] != expected) return false;
            expected *= extent[i];
        }
        return true;
    }
};

// The same extents and dtype, contiguous; the pointer is the caller's to set.
MMK_INLINE Tensor contiguous_like(const Tensor& like) {
    Tensor t = like;
    int64_t stride = 1;
    for (int i = t.rank - 1; i >= 0; --i) {
        t.stride[i] = stride;
        stride *= t.extent[i];
    }
    return t;
}
// Dense in the same order of axes, whatever that order is: element k of one lies beside element k of the other.
MMK_INLINE bool same_dense(const Tensor& a, const Tensor& b) {
    int64_t largest = 0, size = 1;
    for (int i = 0; i < b.rank; ++i) {
        if (b.extent[i] == 1) continue;
        if (a.stride[i] != b.stride[i] || b.stride[i] <= 0) return false;
        largest += (b.extent[i] - 1) * b.stride[i];
        size *= b.extent[i];
    }
    return largest == size - 1;
}

} // namespace mmk
