// From one name to the variant that runs.
#pragma once

#include "context.h"
#include "failure.h"
#include "fields.h"

namespace mmk {
namespace cpu {
using Context = ::mmk::Context;
}
namespace cuda {
class Context; // cuda/context.h
}
} // namespace mmk

// MMK_OPERATOR(conv2d, Conv2d) declares the operator on both floors: cuda::conv2d(const Conv2d&, Context&), which
// csrc/cuda/<family>.cu defines, and cpu::conv2d with its variant for every instruction set, which csrc/cpu/<family>.cpp
// defines, once per instruction set.
#define MMK_OPERATOR(function, Op)                                                                                     \
    namespace cuda {                                                                                                   \
    void function(const Op&, Context&);                                                                                \
    }                                                                                                                  \
    MMK_OPERATOR_OF_CPU(function, Op)
#if defined(MMK_DEVICE)
#define MMK_OPERATOR_OF_CPU(function, Op)
#else
#define MMK_OPERATOR_OF_CPU(function, Op)                                                                              \
    namespace cpu {                                                                                                    \
    MMK_OPERATOR_VARIANTS(function, Op)                                                                                \
    MMK_INLINE void function(const Op& op, Context& context) {                                                         \
        switch (context.isa) {                                                                                         \
            MMK_OPERATOR_CASES(function)                                                                               \
        case Isa::count: break;                                                                                        \
        }                                                                                                              \
    }                                                                                                                  \
    }
#endif
#define MMK_ONE_VARIANT(isa, function, Op)                                                                             \
    namespace isa {                                                                                                    \
    void function(const Op&, Context&);                                                                                \
    }
#define MMK_ONE_CASE(isa, function)                                                                                    \
    case Isa::isa: return isa::function(op, context);
#if defined(__x86_64__)
#define MMK_OPERATOR_VARIANTS(function, Op)                                                                            \
    MMK_ONE_VARIANT(portable, function, Op) MMK_ONE_VARIANT(avx2, function, Op) MMK_ONE_VARIANT(avx512, function, Op)
#define MMK_OPERATOR_CASES(function)                                                                                   \
    MMK_ONE_CASE(portable, function) MMK_ONE_CASE(avx2, function) MMK_ONE_CASE(avx512, function)
#else
#define MMK_OPERATOR_VARIANTS(function, Op) MMK_ONE_VARIANT(portable, function, Op)
#define MMK_OPERATOR_CASES(function) MMK_ONE_CASE(portable, function)
#endif

#if !defined(MMK_DEVICE)
namespace mmk {

// visit_float(x.dtype, [&](auto zero) { using T = decltype(zero); ... })
template <class F> MMK_INLINE void visit_float(DType type, F&& body) {
    switch (type) {
    case DType::float32: return body(float(0));
    case DType::float64: return body(double(0));
    default: unexpected_dtype();
    }
}
template <class F> MMK_INLINE void visit_integer(DType type, F&& body) {
    switch (type) {
    case DType::int32: return body(int32_t(0));
    case DType::int64: return body(int64_t(0));
    default: unexpected_dtype();
    }
}

} // namespace mmk
#endif // MMK_DEVICE
