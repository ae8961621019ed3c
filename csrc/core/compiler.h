// What every file needs from the compiler, and what it must refuse.
#pragma once

#include <cstddef>
#include <cstdint>

#ifdef __FAST_MATH__
#error "mmkernels promises the same bits everywhere: fast-math breaks that promise"
#endif

#if defined(__CUDACC__)
#define MMK_ANYWHERE __host__ __device__
#else
#define MMK_ANYWHERE
#endif
#define MMK_INLINE MMK_ANYWHERE static inline __attribute__((always_inline))
#define MMK_MEMBER MMK_ANYWHERE inline __attribute__((always_inline))
#define MMK_FUNCTION MMK_ANYWHERE static inline
// A kernel that takes its operation as a function object: everything it calls is inlined. Left to itself g++ calls the
// longer operations, and a vector that is passed travels through the stack: 20 times slower on AVX2.
#define MMK_FLATTEN __attribute__((flatten))

// Object files of one instruction set live in a namespace of its name, so that the linker can never
// take a function compiled for AVX-512 in the place of the portable one.
#define MMK_JOIN_(a, b) a##b
#define MMK_JOIN(a, b) MMK_JOIN_(a, b)
#define MMK_TEXT_(a) #a
#define MMK_TEXT(a) MMK_TEXT_(a)
