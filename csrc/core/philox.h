// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011): four words for each counter,
// a stateless function of counter and key. Elements 4c .. 4c+3 of a sample's noise are the words of the 64-bit
// counter c under the sample's key, whoever draws them and in whatever order.
#pragma once

#include "arith.h"

namespace mmk::MMK_ISA {

namespace detail {
inline constexpr uint32_t philox_multiplier[2] = {0xD2511F53u, 0xCD9E8D57u};
inline constexpr uint32_t philox_key_step[2] = {0x9E3779B9u, 0xBB67AE85u};
inline constexpr int philox_rounds = 10;
} // namespace detail

// One counter. The words may overlap the counter.
MMK_FUNCTION void philox4x32(const uint32_t counter[4], const uint32_t key[2], uint32_t words[4]) {
    uint32_t c[4] = {counter[0], counter[1], counter[2], counter[3]}, k[2] = {key[0], key[1]};
    for (int round = 0; round < detail::philox_rounds; ++round) {
        const uint64_t p = uint64_t(c[0]) * detail::philox_multiplier[0];
        const uint64_t q = uint64_t(c[2]) * detail::philox_multiplier[1];
        c[0] = uint32_t(q >> 32) ^ c[1] ^ k[0], c[1] = uint32_t(q);
        c[2] = uint32_t(p >> 32) ^ c[3] ^ k[1], c[3] = uint32_t(p);
        // constants by value: an array's elements are not there on a device
        constexpr uint32_t step_0 = detail::philox_key_step[0], step_1 = detail::philox_key_step[1];
        k[0] += step_0, k[1] += step_1;
    }
    std::memcpy(words, c, sizeof c);
}

// A new key from a key and a number: words 0 and 1 of the counter (low, high, 0, 1). Its word 3 keeps it apart from
// every counter that noise is drawn from.
MMK_FUNCTION uint64_t philox_fold_in(uint64_t key, uint64_t data) {
    const uint32_t k[2] = {uint32_t(key), uint32_t(key >> 32)};
    uint32_t c[4] = {uint32_t(data), uint32_t(data >> 32), 0, 1};
    philox4x32(c, k, c);
    return c[0] | uint64_t(c[1]) << 32;
}

// The keys of all rounds. Make one per sample, outside the loop over its elements.
struct PhiloxKey {
    uint64_t round[detail::philox_rounds][2];
    MMK_MEMBER explicit PhiloxKey(uint64_t key) {
        uint32_t k[2] = {uint32_t(key), uint32_t(key >> 32)};
        for (auto& r : round)
            for (int i = 0; i < 2; ++i) r[i] = k[i], k[i] += detail::philox_key_step[i];
    }
};

namespace detail {
// Box and Muller's pair of independent normal variates (R cos, R sin) from two words: R = sqrt(-2 ln u) with
// u = float(radius) 2^-32 + 2^-33, angle = 2 pi word 2^-32.
// Error against float64 from the same u: 6e-7. From the exact u (radius + 1/2) 2^-32 as well where R > 0.05; below,
// float32 has too few values near u = 1: 2.7e-6 for R > 0.01 and 2.5e-4 at worst, once in 2^25 pairs. |z| <= 6.77.
MMK_INLINE void box_muller(U32x16 radius, U32x16 angle, F32x16& cosine, F32x16& sine) {
    const F32x16 one(1.0f);
    const F32x16 u = fma(convert<float>(radius), F32x16(0x1p-32f), F32x16(0x1p-33f));
    // u = m 2^e with m in [sqrt(1/2), sqrt(2)); with s = (m-1)/(m+1), ln(m) = 2 s + s^3 p(s^2), fitted 8.1e-10.
    // All is scaled by -2, which changes no bit.
    const U32x16 bits = bit_cast<uint32_t>(u);
    const I32x16 exponent = bit_cast<int32_t>(bits - U32x16(0x3f3504f3u)) >> 23;
    const F32x16 m = bit_cast<float>(bits - (bit_cast<uint32_t>(exponent) << 23)), e = convert<float>(exponent);
    const F32x16 s = (m - one) / (m + one), z = s * s;
    const F32x16 p = polynomial(z, -0x1.31e096p-1f, -0x1.995ed6p-1f, -0x1.55557ap0f, -4.0f);
    const F32x16 r = sqrt(fma(e, F32x16(-0x1.62e43p0f), s * p));
    // The octant is the top three bits; odd octants are measured from their upper end.
    const U32x16 octant = angle >> 29, odd = U32x16(0) - (octant & U32x16(1));
    const U32x16 offset = ((angle ^ odd) & U32x16(0x1fffffffu)) - odd;
    const F32x16 t = convert<float>(bit_cast<int32_t>(offset)) * F32x16(0x1.921fb6p-30f);
    const F32x16 sin_t = sin_polynomial(t), cos_t = cos_polynomial(t);
    const Mask<float> swapped = ((octant + U32x16(1)) & U32x16(2)) != U32x16(0);
    const U32x16 sin_sign = (octant & U32x16(4)) << 29, cos_sign = ((octant + U32x16(2)) & U32x16(4)) << 29;
    cosine = r * bit_cast<float>(bit_cast<uint32_t>(select(swapped, sin_t, cos_t)) ^ cos_sign);
    sine = r * bit_cast<float>(bit_cast<uint32_t>(select(swapped, cos_t, sin_t)) ^ sin_sign);
}
} // namespace detail

#if defined(MMK_DEVICE)
// A thread's share: the four elements 4c .. 4c+3 of the sample whose counter c this is.
MMK_FUNCTION void philox_uniform(uint64_t key, uint64_t counter, float (&out)[4]) {
    const uint32_t k[2] = {uint32_t(key), uint32_t(key >> 32)};
    uint32_t words[4] = {uint32_t(counter), uint32_t(counter >> 32), 0, 0};
    philox4x32(words, k, words);
    for (int i = 0; i < 4; ++i) out[i] = float(int32_t(words[i] & 0xffffffu)) * 0x1p-24f;
}
MMK_FUNCTION void philox_normal(uint64_t key, uint64_t counter, float (&out)[4]) {
    const uint32_t k[2] = {uint32_t(key), uint32_t(key >> 32)};
    uint32_t words[4] = {uint32_t(counter), uint32_t(counter >> 32), 0, 0};
    philox4x32(words, k, words);
    for (int i = 0; i < 4; i += 2) {
        F32x16 cosine, sine;
        detail::box_muller(U32x16(words[i]), U32x16(words[i + 1]), cosine, sine);
        out[i] = cosine.v, out[i + 1] = sine.v;
    }
}
#else
// Elements that one call draws: 4 words of 16 counters.
inline constexpr int philox_block = 4 * lanes;

// Words 0 and 2 (even) and 1 and 3 (odd) of 16 consecutive counters, alternating, 8 counters a vector.
struct PhiloxWords {
    U32x16 even[2], odd[2];
};
MMK_INLINE PhiloxWords philox_words(const PhiloxKey& key, uint64_t first_counter) {
    // Words live in the low halves of 64-bit lanes, where the products are; what the high halves hold never matters.
    const U64x16 m0(detail::philox_multiplier[0]), m1(detail::philox_multiplier[1]);
    U64x16 c0 = U64x16(first_counter) + U64x16::iota(), c1 = c0 >> 32, c2 = U64x16::zero(), c3 = c2;
#pragma GCC unroll 10
    for (int round = 0; round < detail::philox_rounds; ++round) {
        const U64x16 p = multiply_low_halves(c0, m0), q = multiply_low_halves(c2, m1);
        c0 = xor3(q >> 32, c1, U64x16(key.round[round][0])), c1 = q;
        c2 = xor3(p >> 32, c3, U64x16(key.round[round][1])), c3 = p;
    }
    const U64x16 low(0xffffffffu);
    const U64x16 even = (c0 & low) | (c2 << 32), odd = (c1 & low) | (c3 << 32);
    PhiloxWords words;
    std::memcpy(words.even, &even, sizeof even);
    std::memcpy(words.odd, &odd, sizeof odd);
    return words;
}

// Elements 4c .. 4c+63 of the uniform noise in [0, 1), c being the first counter: low 24 bits of each word, times
// 2^-24.
MMK_INLINE void philox_uniform(const PhiloxKey& key, uint64_t first_counter, F32x16 (&out)[4]) {
    const PhiloxWords words = philox_words(key, first_counter);
    const U32x16 low(0xffffffu);
    const F32x16 scale(0x1p-24f);
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i) {
        const F32x16 even = convert<float>(bit_cast<int32_t>(words.even[i] & low)) * scale;
        const F32x16 odd = convert<float>(bit_cast<int32_t>(words.odd[i] & low)) * scale;
        interleave(even, odd, out[2 * i], out[2 * i + 1]);
    }
}

// Elements 4c .. 4c+63 of the normal noise: words (0, 1) make elements 0 and 1, words (2, 3) elements 2 and 3.
MMK_INLINE void philox_normal(const PhiloxKey& key, uint64_t first_counter, F32x16 (&out)[4]) {
    const PhiloxWords words = philox_words(key, first_counter);
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i) {
        F32x16 cosine, sine;
        detail::box_muller(words.even[i], words.odd[i], cosine, sine);
        interleave(cosine, sine, out[2 * i], out[2 * i + 1]);
    }
}
#endif // MMK_DEVICE

} // namespace mmk::MMK_ISA
