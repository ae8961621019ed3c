// What products of float32 storage are made of where TF32 is asked for (core/algorithm.h).
#pragma once

#include "../core/algorithm.h"
#include "launch.cuh"

namespace mmk::cuda {

// A float32 number in memory whose part in products is its value rounded to TF32. Biases, residuals and results of such
// products have this type too: they are plain float32.
struct tf32 {
    float value;

    tf32() = default;
    MMK_MEMBER tf32(float value_) : value(value_) {}
    MMK_MEMBER operator float() const { return value; }
};
template <> struct ComputeOf<tf32> {
    using type = float;
};
template <class T> inline constexpr bool is_tf32 = std::is_same_v<T, tf32>;

// Types whose products tensor cores make.
template <class T> inline constexpr bool on_tensor_cores = sizeof(T) == 2 || is_tf32<T>;
// Elements of 16 bytes.
template <class T> inline constexpr int piece = 16 / int(sizeof(T));

// A factor of the definition, outside tensor cores.
template <class T> __device__ __forceinline__ Compute<T> factor(T x) {
    if constexpr (is_tf32<T>)
        return mmk::detail::float_of(to_tf32(x.value));
    else
        return widen(x);
}

// body(type): visit_storage(), or tf32.
template <class F> void visit_factors(DType dtype, Algorithm algorithm, F&& body) {
    if (algorithm == Algorithm::tf32) return body(Type<tf32>());
    visit_storage(dtype, body);
}

// The values of a float32 tensor rounded, contiguous, for kernels of float32. tf32.cu
Tensor rounded_to_tf32(Context& context, const Tensor& x);

} // namespace mmk::cuda
