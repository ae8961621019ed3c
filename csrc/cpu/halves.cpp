#include "../core/halves.h"

#include "../core/half.h"
#include "../core/simd.h"

namespace mmk::cpu::MMK_ISA {
namespace {

constexpr int64_t grain = 16384; // elements for which a second thread pays

// to[i] = f(from[i])
template <class From, class To, class F>
void each(Context& context, const From* from, To* to, int64_t count, const F& f) {
    parallel_ranges(context, count, grain, [&](int64_t begin, int64_t end, int) {
        for (int64_t i = begin; i < end; ++i) to[i] = f(from[i]);
    });
}

// float16 eight at a time where the machine has instructions for it: the bits of core/half.h. The instructions make
// NaNs quiet and keep what they hold, so that vectors with NaNs are left to the integers, or NaNs are made 0x7fff. They
// do not ask MXCSR whether subnormals are kept.
#if defined(__AVX2__) && defined(__F16C__)
constexpr int64_t at_once = 8;
MMK_INLINE bool widen_vector(const uint16_t* from, float* to) {
    const __m256 wide = _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
    _mm256_storeu_ps(to, wide);
    return _mm256_movemask_ps(_mm256_cmp_ps(wide, wide, _CMP_UNORD_Q)) == 0;
}
MMK_INLINE void narrow_vector(const float* from, uint16_t* to) {
    const __m256 x = _mm256_loadu_ps(from);
    const __m128i half = _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT);
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    const __m128i nan16 = _mm_packs_epi32(_mm256_castsi256_si128(nan), _mm256_extracti128_si256(nan, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm_blendv_epi8(half, _mm_set1_epi16(0x7fff), nan16));
}
#else
constexpr int64_t at_once = 0;
MMK_INLINE bool widen_vector(const uint16_t*, float*) { return false; }
MMK_INLINE void narrow_vector(const float*, uint16_t*) {}
#endif

void widen_float16(Context& context, const uint16_t* from, float* to, int64_t count) {
    parallel_ranges(context, count, grain, [&](int64_t begin, int64_t end, int) {
        int64_t i = begin;
        for (; at_once != 0 && i + at_once <= end; i += at_once) {
            if (widen_vector(from + i, to + i)) continue;
            for (int64_t k = i; k < i + at_once; ++k) to[k] = widen_bits(float16{from[k]});
        }
        for (; i < end; ++i) to[i] = widen_bits(float16{from[i]});
    });
}
void narrow_float16(Context& context, const float* from, uint16_t* to, int64_t count) {
    parallel_ranges(context, count, grain, [&](int64_t begin, int64_t end, int) {
        int64_t i = begin;
        for (; at_once != 0 && i + at_once <= end; i += at_once) narrow_vector(from + i, to + i);
        for (; i < end; ++i) to[i] = round_to_float16(from[i]).bits;
    });
}

} // namespace

void widen(const Widen& op, Context& context) {
    if (op.ieee)
        widen_float16(context, op.from, op.to, op.count);
    else
        each(context, op.from, op.to, op.count, [](uint16_t bits) { return widen_bits(bfloat16{bits}); });
}
void narrow(const Narrow& op, Context& context) {
    if (op.ieee)
        narrow_float16(context, op.from, op.to, op.count);
    else
        each(context, op.from, op.to, op.count, [](float x) { return round_to_bfloat16(x).bits; });
}

} // namespace mmk::cpu::MMK_ISA
