// Vec<T> where a thread is one of the lanes: the simd.h of a GPU. What is written in terms of Vec (arith.h, philox.h)
// is thus stated once, and a device thread does for its element the operations that a CPU's lane does.
#pragma once

namespace mmk::MMK_ISA {

inline constexpr int lanes = 1;

template <class T> struct Vec {
    T v;

    Vec() = default;
    explicit MMK_MEMBER Vec(T s) : v(s) {}
    MMK_MEMBER static Vec zero() { return Vec(T(0)); }
    MMK_MEMBER static Vec load(const T* p) { return Vec(*p); }
    MMK_MEMBER void store(T* p) const { *p = v; }
    MMK_MEMBER T lane(int) const { return v; }
};

// The names that arith.h uses: here they are one lane of sixteen.
using F32x16 = Vec<float>;
using F64x16 = Vec<double>;
using I32x16 = Vec<int32_t>;
using U32x16 = Vec<uint32_t>;
using U64x16 = Vec<uint64_t>;

template <class T> using Mask = Vec<typename detail::Integer<T>::type>;

#define MMK_BINARY(op)                                                                                                 \
    template <class T> MMK_INLINE Vec<T> operator op(Vec<T> a, Vec<T> b) { return Vec<T>(a.v op b.v); }
MMK_BINARY(+)
MMK_BINARY(-)
MMK_BINARY(*)
MMK_BINARY(/)
MMK_BINARY(&)
MMK_BINARY(|)
MMK_BINARY(^)
#undef MMK_BINARY
#define MMK_COMPARE(op)                                                                                                \
    template <class T> MMK_INLINE Mask<T> operator op(Vec<T> a, Vec<T> b) { return Mask<T>(a.v op b.v ? -1 : 0); }
MMK_COMPARE(<)
MMK_COMPARE(<=)
MMK_COMPARE(>)
MMK_COMPARE(>=)
MMK_COMPARE(==)
MMK_COMPARE(!=)
#undef MMK_COMPARE
template <class T> MMK_INLINE Vec<T> operator<<(Vec<T> a, int n) { return Vec<T>(a.v << n); }
template <class T> MMK_INLINE Vec<T> operator>>(Vec<T> a, int n) { return Vec<T>(a.v >> n); }
template <class T> MMK_INLINE Vec<T> operator-(Vec<T> a) { return Vec<T>(-a.v); }
template <class T> MMK_INLINE Vec<T> operator~(Vec<T> a) { return Vec<T>(~a.v); }

template <class T> MMK_INLINE Vec<T> select(Mask<T> take_a, Vec<T> a, Vec<T> b) { return take_a.v ? a : b; }

template <class U, class T> MMK_INLINE Vec<U> bit_cast(Vec<T> a) {
    static_assert(sizeof(U) == sizeof(T));
    Vec<U> v;
    std::memcpy(&v, &a, sizeof v);
    return v;
}
template <class U, class T> MMK_INLINE Vec<U> convert(Vec<T> a) { return Vec<U>(U(a.v)); }

MMK_INLINE float fma_scalar(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
MMK_INLINE double fma_scalar(double a, double b, double c) { return __builtin_fma(a, b, c); }
template <class T> MMK_INLINE Vec<T> fma(Vec<T> a, Vec<T> b, Vec<T> c) { return Vec<T>(fma_scalar(a.v, b.v, c.v)); }
template <class T> MMK_INLINE Vec<T> fnma(Vec<T> a, Vec<T> b, Vec<T> c) { return fma(-a, b, c); }
MMK_INLINE Vec<float> sqrt(Vec<float> a) { return Vec<float>(__builtin_sqrtf(a.v)); }
MMK_INLINE Vec<double> sqrt(Vec<double> a) { return Vec<double>(__builtin_sqrt(a.v)); }

template <class T> MMK_INLINE Vec<T> abs(Vec<T> a) {
    using U = std::make_unsigned_t<typename detail::Integer<T>::type>;
    return bit_cast<T>(bit_cast<U>(a) & Vec<U>(U(~U(0)) >> 1));
}
template <class T> MMK_INLINE Vec<T> max(Vec<T> a, Vec<T> b) { return b.v > a.v || b.v != b.v ? b : a; }
template <class T> MMK_INLINE Vec<T> min(Vec<T> a, Vec<T> b) { return b.v < a.v || b.v != b.v ? b : a; }
template <class T> MMK_INLINE Vec<T> at_least(Vec<T> x, Vec<T> low) { return x.v < low.v ? low : x; }
template <class T> MMK_INLINE Vec<T> at_most(Vec<T> x, Vec<T> high) { return x.v > high.v ? high : x; }
template <class T> MMK_INLINE Vec<T> clamp(Vec<T> x, Vec<T> low, Vec<T> high) {
    return at_most(at_least(x, low), high);
}
MMK_INLINE bool any(Vec<int32_t> mask) { return mask.v != 0; }

// As in simd.h: x * 2^n with one rounding where the first product is exact.
MMK_INLINE Vec<float> ldexp(Vec<float> x, Vec<float> n) {
    const Vec<int32_t> whole = convert<int32_t>(n), half = whole >> 1, bias(127);
    return x * bit_cast<float>((half + bias) << 23) * bit_cast<float>((whole - half + bias) << 23);
}
template <class T> MMK_INLINE Vec<T> xor3(Vec<T> a, Vec<T> b, Vec<T> c) { return a ^ b ^ c; }

} // namespace mmk::MMK_ISA
