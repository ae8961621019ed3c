// The long sum of the arithmetic: element i goes to lane i % 16 of chunk i / 128; a chunk is eight additions per
// lane from +0, in order; chunks are added lane-wise in a binary-counter tree; the lanes last, as 8, 4, 2, 1;
// missing elements are +0. Its error grows with log n, not n.
#pragma once

#include "simd.h"

namespace mmk::MMK_ISA {

static_assert(lanes == 16, "the long sum of a device is in csrc/cuda/reduce.cuh");
inline constexpr int64_t sum_chunk = 128;

// Adds chunk vectors in the order of a binary counter: equal-sized halves are joined first.
template <class T> class ChunkTree {
  public:
    MMK_MEMBER void add(Vec<T> chunk) {
        int level = 0;
        for (uint64_t n = count_++; n & 1; n >>= 1) chunk = level_[level++] + chunk;
        level_[level] = chunk;
    }
    // The partial sums that are left, from the smallest to the largest.
    MMK_MEMBER Vec<T> total() const {
        Vec<T> sum = Vec<T>::zero();
        bool first = true;
        for (int level = 0; count_ >> level; ++level) {
            if (!(count_ >> level & 1)) continue;
            sum = first ? level_[level] : level_[level] + sum;
            first = false;
        }
        return sum;
    }

  private:
    Vec<T> level_[48];
    uint64_t count_ = 0;
};

// term(i, n): elements i .. i+15 of the row as a Vec, of which the first n < 16 exist and the others are +0.
template <class T, class Term> MMK_INLINE Vec<T> long_sum_lanes(int64_t count, Term&& term) {
    ChunkTree<T> tree;
    for (int64_t begin = 0; begin < count; begin += sum_chunk) {
        const int64_t end = begin + sum_chunk < count ? begin + sum_chunk : count;
        Vec<T> chunk = Vec<T>::zero();
        int64_t i = begin;
        for (; i + lanes <= end; i += lanes) chunk = chunk + term(i, int64_t(lanes));
        if (i < end) chunk = chunk + term(i, end - i);
        tree.add(chunk);
    }
    return tree.total();
}
template <class T, class Term> MMK_INLINE T long_sum(int64_t count, Term&& term) {
    return sum_lanes(long_sum_lanes<T>(count, term));
}
template <class T> MMK_INLINE T long_sum(const T* x, int64_t count) {
    return long_sum<T>(count, [x](int64_t i, int64_t n) { return Vec<T>::load(x + i, n); });
}

} // namespace mmk::MMK_ISA
