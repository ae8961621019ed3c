// Scores as unsigned integers that grow as the scores fall: equal scores (-0 and +0 too) are equal, NaN is the greatest.
#pragma once

#include <cstring>

#include "compiler.h"

namespace mmk {

MMK_INLINE uint32_t falling_key(float score) {
    if (score != score) return ~uint32_t(0);
    score = score + 0.0f;
    uint32_t bits;
    std::memcpy(&bits, &score, sizeof bits);
    return bits >> 31 ? bits : ~(bits | uint32_t(1) << 31);
}
MMK_INLINE uint64_t falling_key(double score) {
    if (score != score) return ~uint64_t(0);
    score = score + 0.0;
    uint64_t bits;
    std::memcpy(&bits, &score, sizeof bits);
    return bits >> 63 ? bits : ~(bits | uint64_t(1) << 63);
}

} // namespace mmk
