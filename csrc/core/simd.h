// Vec<T>: sixteen lanes of T, whatever the machine. One zmm for float on AVX-512, two ymm on AVX2, four 16-byte
// registers elsewhere; twice as many for double. Kernels written with it give the same bits on every
// instruction set, because lane i always does the same operations in the same order.
//
// Included only by files that are compiled once per instruction set (MMK_ISA names it).
#pragma once

#include <cstring>
#include <type_traits>

#include "compiler.h"

#ifndef MMK_ISA
#error "simd.h belongs to files that are compiled once per instruction set"
#endif

namespace mmk::MMK_ISA::detail {
template <class T> struct Integer;
template <> struct Integer<float> {
    using type = int32_t;
};
template <> struct Integer<double> {
    using type = int64_t;
};
template <> struct Integer<int32_t> {
    using type = int32_t;
};
template <> struct Integer<uint32_t> {
    using type = int32_t;
};
template <> struct Integer<int64_t> {
    using type = int64_t;
};
template <> struct Integer<uint64_t> {
    using type = int64_t;
};
} // namespace mmk::MMK_ISA::detail

#if defined(MMK_DEVICE)
#include "lane.h"
#else
#if defined(__AVX2__) || defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace mmk::MMK_ISA {

#if defined(__AVX512F__)
inline constexpr int vector_bytes = 64;
#elif defined(__AVX2__)
inline constexpr int vector_bytes = 32;
#else
inline constexpr int vector_bytes = 16;
#endif
inline constexpr int lanes = 16;

namespace detail {
// GCC reads the attribute only on a typedef, not on a template alias.
template <class T> struct Register {
    typedef T type __attribute__((vector_size(vector_bytes), may_alias));
};
} // namespace detail

#define MMK_REGISTERS _Pragma("GCC unroll 16") for (int i = 0; i < Vec<T>::registers; ++i)

#if defined(__AVX512F__)
MMK_INLINE __mmask16 first_lanes(int64_t n) { return __mmask16((1u << n) - 1); } // 0 <= n < 16
#endif

template <class T> struct Vec {
    using Reg = typename detail::Register<T>::type;
    static constexpr int per_register = vector_bytes / int(sizeof(T));
    static constexpr int registers = lanes / per_register;
    Reg r[registers];

    Vec() = default;
    // s - 0 keeps every s, -0 and NaN included; a loop over lanes costs g++ a factor of ten.
    explicit MMK_MEMBER Vec(T s) { MMK_REGISTERS r[i] = s - Reg{}; }

    MMK_MEMBER static Vec zero() { return Vec(T(0)); }
    // Register by register: as one copy of 64 bytes, g++ sends it through the stack in pieces of 16.
    MMK_MEMBER static Vec load(const T* p) {
        Vec v;
        MMK_REGISTERS std::memcpy(&v.r[i], p + i * per_register, sizeof(Reg));
        return v;
    }
    MMK_MEMBER void store(T* p) const { MMK_REGISTERS std::memcpy(p + i * per_register, &r[i], sizeof(Reg)); }
    // The first n lanes; the others are zero. Masked where the machine can: a call of memcpy costs as much as forty
    // lanes.
    MMK_MEMBER static Vec load(const T* p, int64_t n) {
        if (n >= lanes) return load(p);
        Vec v = zero();
#if defined(__AVX512F__)
        if constexpr (sizeof(T) == 4) {
            v.r[0] = (Reg)_mm512_maskz_loadu_epi32(first_lanes(n), p);
            return v;
        } else if constexpr (sizeof(T) == 8) {
            MMK_REGISTERS v.r[i] = (Reg)_mm512_maskz_loadu_epi64(__mmask8(first_lanes(n) >> 8 * i), p + 8 * i);
            return v;
        }
#endif
        std::memcpy(&v, p, size_t(n) * sizeof(T));
        return v;
    }
    MMK_MEMBER void store(T* p, int64_t n) const {
        if (n >= lanes) return store(p);
#if defined(__AVX512F__)
        if constexpr (sizeof(T) == 4)
            return _mm512_mask_storeu_epi32(p, first_lanes(n), (__m512i)r[0]);
        else if constexpr (sizeof(T) == 8) {
            MMK_REGISTERS _mm512_mask_storeu_epi64(p + 8 * i, __mmask8(first_lanes(n) >> 8 * i), (__m512i)r[i]);
            return;
        }
#endif
        std::memcpy(p, this, size_t(n) * sizeof(T));
    }
    MMK_MEMBER T lane(int k) const { return r[k / per_register][k % per_register]; }
    MMK_MEMBER void set_lane(int k, T s) { r[k / per_register][k % per_register] = s; }
    // 0, 1, ..., 15
    MMK_MEMBER static Vec iota() {
        T s[lanes];
        for (int k = 0; k < lanes; ++k) s[k] = T(k);
        return load(s);
    }
};

using F32x16 = Vec<float>;
using F64x16 = Vec<double>;
using I32x16 = Vec<int32_t>;
using U32x16 = Vec<uint32_t>;
using U64x16 = Vec<uint64_t>;

// A comparison's answer: all bits of a lane set, or none.
template <class T> using Mask = Vec<typename detail::Integer<T>::type>;

#define MMK_BINARY(op)                                                                                                 \
    template <class T> MMK_INLINE Vec<T> operator op(Vec<T> a, Vec<T> b) {                                             \
        Vec<T> v;                                                                                                      \
        MMK_REGISTERS v.r[i] = a.r[i] op b.r[i];                                                                       \
        return v;                                                                                                      \
    }                                                                                                                  \
    template <class T> MMK_INLINE Vec<T>& operator op## = (Vec<T> & a, Vec<T> b) { return a = a op b; }
MMK_BINARY(+)
MMK_BINARY(-)
MMK_BINARY(*)
MMK_BINARY(/)
MMK_BINARY(&)
MMK_BINARY(|)
MMK_BINARY(^)
#undef MMK_BINARY

#define MMK_COMPARE(op)                                                                                                \
    template <class T> MMK_INLINE Mask<T> operator op(Vec<T> a, Vec<T> b) {                                            \
        Mask<T> v;                                                                                                     \
        MMK_REGISTERS v.r[i] = (typename Mask<T>::Reg)(a.r[i] op b.r[i]);                                              \
        return v;                                                                                                      \
    }
MMK_COMPARE(<)
MMK_COMPARE(<=)
MMK_COMPARE(>)
MMK_COMPARE(>=)
MMK_COMPARE(==)
MMK_COMPARE(!=)
#undef MMK_COMPARE

template <class T> MMK_INLINE Vec<T> operator<<(Vec<T> a, int n) {
    MMK_REGISTERS a.r[i] = a.r[i] << n;
    return a;
}
template <class T> MMK_INLINE Vec<T> operator>>(Vec<T> a, int n) {
    MMK_REGISTERS a.r[i] = a.r[i] >> n;
    return a;
}
template <class T> MMK_INLINE Vec<T> operator-(Vec<T> a) {
    MMK_REGISTERS a.r[i] = -a.r[i];
    return a;
}
template <class T> MMK_INLINE Vec<T> operator~(Vec<T> a) {
    MMK_REGISTERS a.r[i] = ~a.r[i];
    return a;
}

template <class T> MMK_INLINE Vec<T> select(Mask<T> take_a, Vec<T> a, Vec<T> b) {
    Vec<T> v;
    MMK_REGISTERS v.r[i] = take_a.r[i] ? a.r[i] : b.r[i];
    return v;
}

// The same bits as another type of equal size.
template <class U, class T> MMK_INLINE Vec<U> bit_cast(Vec<T> a) {
    static_assert(sizeof(U) == sizeof(T));
    Vec<U> v;
    std::memcpy(&v, &a, sizeof v);
    return v;
}
// The same values in another type; lane counts are equal, register counts need not be.
template <class U, class T> MMK_INLINE Vec<U> convert(Vec<T> a) {
    Vec<U> v;
    if constexpr (sizeof(U) == sizeof(T)) {
        MMK_REGISTERS v.r[i] = __builtin_convertvector(a.r[i], typename Vec<U>::Reg);
    } else {
        T in[lanes];
        U out[lanes];
        a.store(in);
        for (int k = 0; k < lanes; ++k) out[k] = U(in[k]);
        v = Vec<U>::load(out);
    }
    return v;
}

// a*b + c with one rounding. Without a hardware instruction: the product of two floats is exact in double;
// the sum is rounded to odd there, so that the last rounding, to float, sees on which side of a tie it was.
MMK_INLINE float fma_scalar(float a, float b, float c) {
#if defined(__FMA__) || defined(__aarch64__)
    return __builtin_fmaf(a, b, c);
#else
    const double p = double(a) * double(b), q = double(c);
    double s = p + q;
    const double t = s - p, e = (p - (s - t)) + (q - t);
    uint64_t bits;
    std::memcpy(&bits, &s, sizeof bits);
    // e is NaN when s is not finite, and then neither comparison holds
    if ((e > 0.0 || e < 0.0) && !(bits & 1)) {
        bits += (e > 0.0) == (s > 0.0) ? 1 : uint64_t(-1);
        std::memcpy(&s, &bits, sizeof s);
    }
    return float(s);
#endif
}
MMK_INLINE double fma_scalar(double a, double b, double c) { return __builtin_fma(a, b, c); }

#if defined(__AVX512F__) || defined(__AVX2__)
template <class T> MMK_INLINE Vec<T> fma(Vec<T> a, Vec<T> b, Vec<T> c) {
    Vec<T> v;
#if defined(__AVX512F__)
    MMK_REGISTERS {
        if constexpr (std::is_same_v<T, float>)
            v.r[i] = (typename Vec<T>::Reg)_mm512_fmadd_ps((__m512)a.r[i], (__m512)b.r[i], (__m512)c.r[i]);
        else
            v.r[i] = (typename Vec<T>::Reg)_mm512_fmadd_pd((__m512d)a.r[i], (__m512d)b.r[i], (__m512d)c.r[i]);
    }
#else
    MMK_REGISTERS {
        if constexpr (std::is_same_v<T, float>)
            v.r[i] = (typename Vec<T>::Reg)_mm256_fmadd_ps((__m256)a.r[i], (__m256)b.r[i], (__m256)c.r[i]);
        else
            v.r[i] = (typename Vec<T>::Reg)_mm256_fmadd_pd((__m256d)a.r[i], (__m256d)b.r[i], (__m256d)c.r[i]);
    }
#endif
    return v;
}
#else
// One function, not inlined: sixteen emulations at every use would be most of what the compiler has to chew.
template <class T> __attribute__((noinline)) static Vec<T> fma(Vec<T> a, Vec<T> b, Vec<T> c) {
    T s[3][lanes];
    a.store(s[0]), b.store(s[1]), c.store(s[2]);
    for (int k = 0; k < lanes; ++k) s[2][k] = fma_scalar(s[0][k], s[1][k], s[2][k]);
    return Vec<T>::load(s[2]);
}
#endif
// c - a*b with one rounding
template <class T> MMK_INLINE Vec<T> fnma(Vec<T> a, Vec<T> b, Vec<T> c) { return fma(-a, b, c); }

// Correctly rounded on every machine.
template <class T> MMK_INLINE Vec<T> sqrt(Vec<T> a) {
    // the masked forms: g++ 12 warns inside its own header at the plain ones
#if defined(__AVX512F__)
    MMK_REGISTERS {
        if constexpr (std::is_same_v<T, float>)
            a.r[i] = (typename Vec<T>::Reg)_mm512_maskz_sqrt_ps(__mmask16(-1), (__m512)a.r[i]);
        else
            a.r[i] = (typename Vec<T>::Reg)_mm512_maskz_sqrt_pd(__mmask8(-1), (__m512d)a.r[i]);
    }
#elif defined(__AVX2__)
    MMK_REGISTERS {
        if constexpr (std::is_same_v<T, float>)
            a.r[i] = (typename Vec<T>::Reg)_mm256_sqrt_ps((__m256)a.r[i]);
        else
            a.r[i] = (typename Vec<T>::Reg)_mm256_sqrt_pd((__m256d)a.r[i]);
    }
#else
    T s[lanes];
    a.store(s);
    for (int k = 0; k < lanes; ++k)
        if constexpr (std::is_same_v<T, float>)
            s[k] = __builtin_sqrtf(s[k]);
        else
            s[k] = __builtin_sqrt(s[k]);
    a = Vec<T>::load(s);
#endif
    return a;
}

template <class T> MMK_INLINE Vec<T> abs(Vec<T> a) {
    using I = typename detail::Integer<T>::type;
    using U = std::make_unsigned_t<I>;
    return bit_cast<T>(bit_cast<U>(a) & Vec<U>(U(~U(0)) >> 1));
}

// max(a, b) of the arithmetic: b if it is greater or NaN. In a chain over x_0, x_1, ... with the running value
// as a, ties keep the first; a NaN that is already there must be kept by the caller's order (see keep_nan_max).
template <class T> MMK_INLINE Vec<T> max(Vec<T> a, Vec<T> b) { return select((b > a) | (b != b), b, a); }
template <class T> MMK_INLINE Vec<T> min(Vec<T> a, Vec<T> b) { return select((b < a) | (b != b), b, a); }
// low where x is below it, high where x is above it; NaN stays. x86's max and min are these comparisons when x is
// their second operand.
template <class T> MMK_INLINE Vec<T> at_least(Vec<T> x, Vec<T> low) {
#if defined(__AVX512F__)
    if constexpr (std::is_same_v<T, float>) {
        MMK_REGISTERS x.r[i] =
            (typename Vec<T>::Reg)_mm512_maskz_max_ps(__mmask16(-1), (__m512)low.r[i], (__m512)x.r[i]);
        return x;
    }
#elif defined(__AVX2__)
    if constexpr (std::is_same_v<T, float>) {
        MMK_REGISTERS x.r[i] = (typename Vec<T>::Reg)_mm256_max_ps((__m256)low.r[i], (__m256)x.r[i]);
        return x;
    }
#endif
    return select(x < low, low, x);
}
template <class T> MMK_INLINE Vec<T> at_most(Vec<T> x, Vec<T> high) {
#if defined(__AVX512F__)
    if constexpr (std::is_same_v<T, float>) {
        MMK_REGISTERS x.r[i] =
            (typename Vec<T>::Reg)_mm512_maskz_min_ps(__mmask16(-1), (__m512)high.r[i], (__m512)x.r[i]);
        return x;
    }
#elif defined(__AVX2__)
    if constexpr (std::is_same_v<T, float>) {
        MMK_REGISTERS x.r[i] = (typename Vec<T>::Reg)_mm256_min_ps((__m256)high.r[i], (__m256)x.r[i]);
        return x;
    }
#endif
    return select(x > high, high, x);
}
template <class T> MMK_INLINE Vec<T> clamp(Vec<T> x, Vec<T> low, Vec<T> high) {
    return at_most(at_least(x, low), high);
}

// Whether a comparison holds in any lane.
MMK_INLINE bool any(Vec<int32_t> mask) {
#if defined(__AVX512F__)
    return _mm512_test_epi32_mask((__m512i)mask.r[0], (__m512i)mask.r[0]) != 0;
#elif defined(__AVX2__)
    const __m256i both = (__m256i)(mask.r[0] | mask.r[1]);
    return !_mm256_testz_si256(both, both);
#else
    int32_t bits[lanes], found = 0;
    mask.store(bits);
    for (int k = 0; k < lanes; ++k) found |= bits[k];
    return found != 0;
#endif
}

// x * 2^n with one rounding, for integral n in [-252, 252]: the first product is exact while |x| is in [2^-1, 2^1]
// or so, the case of every caller.
MMK_INLINE Vec<float> ldexp(Vec<float> x, Vec<float> n) {
#if defined(__AVX512F__)
    x.r[0] = (Vec<float>::Reg)_mm512_maskz_scalef_ps(__mmask16(-1), (__m512)x.r[0], (__m512)n.r[0]);
    return x;
#else
    const Vec<int32_t> whole = convert<int32_t>(n), half = whole >> 1, bias(127);
    return x * bit_cast<float>((half + bias) << 23) * bit_cast<float>((whole - half + bias) << 23);
#endif
}

template <class T> MMK_INLINE Vec<T> xor3(Vec<T> a, Vec<T> b, Vec<T> c) {
#if defined(__AVX512F__)
    MMK_REGISTERS a.r[i] =
        (typename Vec<T>::Reg)_mm512_ternarylogic_epi64((__m512i)a.r[i], (__m512i)b.r[i], (__m512i)c.r[i], 0x96);
    return a;
#else
    return a ^ b ^ c;
#endif
}

// The 64-bit product of the low halves of each lane.
MMK_INLINE Vec<uint64_t> multiply_low_halves(Vec<uint64_t> a, Vec<uint64_t> b) {
    using T = uint64_t;
#if defined(__AVX512F__)
    MMK_REGISTERS a.r[i] = (Vec<T>::Reg)_mm512_maskz_mul_epu32(__mmask8(-1), (__m512i)a.r[i], (__m512i)b.r[i]);
    return a;
#elif defined(__AVX2__)
    MMK_REGISTERS a.r[i] = (Vec<T>::Reg)_mm256_mul_epu32((__m256i)a.r[i], (__m256i)b.r[i]);
    return a;
#else
    const Vec<T> low(0xffffffffu);
    return (a & low) * (b & low);
#endif
}

// a0 b0 a1 b1 ... a7 b7 and a8 b8 ... a15 b15
template <class T> MMK_INLINE void interleave(Vec<T> a, Vec<T> b, Vec<T>& low, Vec<T>& high) {
    static_assert(sizeof(T) == 4);
    Vec<T> v[2];
    MMK_REGISTERS {
#if defined(__AVX512F__)
        v[0].r[i] = __builtin_shufflevector(a.r[i], b.r[i], 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
        v[1].r[i] =
            __builtin_shufflevector(a.r[i], b.r[i], 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
#else
        constexpr int n = Vec<T>::registers;
#if defined(__AVX2__)
        v[2 * i / n].r[2 * i % n] = __builtin_shufflevector(a.r[i], b.r[i], 0, 8, 1, 9, 2, 10, 3, 11);
        v[2 * i / n].r[2 * i % n + 1] = __builtin_shufflevector(a.r[i], b.r[i], 4, 12, 5, 13, 6, 14, 7, 15);
#else
        v[2 * i / n].r[2 * i % n] = __builtin_shufflevector(a.r[i], b.r[i], 0, 4, 1, 5);
        v[2 * i / n].r[2 * i % n + 1] = __builtin_shufflevector(a.r[i], b.r[i], 2, 6, 3, 7);
#endif
#endif
    }
    low = v[0], high = v[1];
}

// The lanes of a long sum, last of all: as 8, 4, 2, 1.
template <class T> MMK_INLINE T sum_lanes(Vec<T> a) {
    T s[lanes];
    a.store(s);
    for (int half = lanes / 2; half >= 1; half /= 2)
        for (int k = 0; k < half; ++k) s[k] = s[k] + s[k + half];
    return s[0];
}
template <class T> MMK_INLINE T max_lanes(Vec<T> a) {
    T s[lanes];
    a.store(s);
    T m = s[0];
    for (int k = 1; k < lanes; ++k) m = (s[k] > m || s[k] != s[k]) ? s[k] : m;
    return m;
}

} // namespace mmk::MMK_ISA
#endif // MMK_DEVICE
