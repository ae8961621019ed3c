// What every .cu file stands on: storage types, the arithmetic of one thread, launching with its check.
#pragma once

#include "ptx.cuh"

#include "../core/arith.h"
#include "../core/dispatch.h"
#include "../core/half.h"
#include "context.h"

namespace mmk::cuda {

// T is what memory holds, Compute<T> what registers hold.
template <class T> struct ComputeOf {
    using type = T;
};
template <> struct ComputeOf<float16> {
    using type = float;
};
template <> struct ComputeOf<bfloat16> {
    using type = float;
};
template <class T> using Compute = typename ComputeOf<T>::type;

// A device has one instruction for what core/half.h does in up to eight, and 16-bit kernels that only move memory have
// some thirty to spend on an element.
template <class T> MMK_INLINE Compute<T> widen(T x) {
#if defined(__CUDA_ARCH__)
    if constexpr (std::is_same_v<T, float16>) return widen_f16(x.bits);
#endif
    if constexpr (sizeof(T) == 2)
        return widen_bits(x);
    else
        return x;
}
template <class T> MMK_INLINE T narrow(Compute<T> x) {
#if defined(__CUDA_ARCH__)
    if constexpr (std::is_same_v<T, float16>) return {uint16_t(pack_f16(x, 0.0f))};
    if constexpr (std::is_same_v<T, bfloat16>) return {uint16_t(pack_bf16(x, 0.0f))};
#endif
    if constexpr (std::is_same_v<T, float16>)
        return round_to_float16(x);
    else if constexpr (std::is_same_v<T, bfloat16>)
        return round_to_bfloat16(x);
    else
        return x;
}

// N values that move in one access of N * sizeof(T) bytes: 16 at best.
template <class T, int N> struct alignas(N * sizeof(T) < 16 ? N * sizeof(T) : 16) Pack {
    T at[N];
};

// body(type): type.value is a T. Storage types; float32 and float64 alone; integers.
template <class T> struct Type {
    using type = T;
};
template <class F> void visit_storage(DType dtype, F&& body) {
    switch (dtype) {
    case DType::float32: return body(Type<float>());
    case DType::float64: return body(Type<double>());
    case DType::float16: return body(Type<float16>());
    case DType::bfloat16: return body(Type<bfloat16>());
    default: unexpected_dtype();
    }
}
template <class F> void visit_index(DType dtype, F&& body) {
    switch (dtype) {
    case DType::int32: return body(Type<int32_t>());
    case DType::int64: return body(Type<int64_t>());
    default: unexpected_dtype();
    }
}

MMK_INLINE int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
MMK_INLINE bool aligned(const void* p, size_t bytes) { return reinterpret_cast<uintptr_t>(p) % bytes == 0; }

#if defined(__CUDACC__)
inline cudaStream_t stream_of(const Context& context) { return static_cast<cudaStream_t>(context.stream); }
#else
inline void* stream_of(const Context& context) { return context.stream; }
#endif

// A grid of one dimension: blocks of y and z end at 65535, those of x at 2^31 - 1. Kernels whose blocks may be more
// take them in a grid-stride loop.
inline dim3 grid_of(int64_t blocks) { return dim3(unsigned(blocks < 0x7fffffff ? blocks : 0x7fffffff)); }

// Defects that the tests plant into the checked kernels of the emulator, to see that each is found: MMK_DEFECT(name) is
// true while the defect of that name is planted, and the constant false in every other build.
#if defined(MMK_PLANT)
uint64_t planted_defect(); // context.cpp, which is not instrumented
constexpr uint64_t defect_id(const char* name) {
    uint64_t id = 0xcbf29ce484222325u; // Fowler, Noll and Vo's hash
    for (; *name; ++name) id = (id ^ uint64_t(*name)) * 0x100000001b3u;
    return id;
}
#define MMK_DEFECT(name)                                                                                               \
    (::mmk::cuda::planted_defect() == std::integral_constant<uint64_t, ::mmk::cuda::defect_id(#name)>::value)
#else
#define MMK_DEFECT(name) false
#endif

void check_launch(const char* kernel, int error); // throws std::runtime_error; context.cpp

} // namespace mmk::cuda

// MMK_LAUNCH(context, kernel or (kernel<T, 4>), grid, threads, shared bytes, arguments...)
#define MMK_LAUNCH(context, kernel, grid, block, shared, ...)                                                          \
    ::mmk::cuda::check_launch(#kernel,                                                                                 \
                              LAUNCH(kernel, grid, block, shared, ::mmk::cuda::stream_of(context), __VA_ARGS__))
