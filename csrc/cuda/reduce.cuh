// The long sum of the arithmetic (core/reduce.h says its order) by the threads of a block. Sixteen threads are the
// sixteen lanes of a chunk; a run of 2^k chunks that starts at a multiple of 2^k is a whole subtree of the
// binary-counter tree, so that runs can be summed by different threads and joined afterwards without a changed bit.
#pragma once

#include "launch.cuh"

namespace mmk::cuda {

inline constexpr int sum_lanes = 16;
inline constexpr int sum_chunk = 128;

// One lane of the tree. Recursion by templates, so that every index is known and the levels stay in registers: a loop
// with an exit is not unrolled, and its levels would live in memory.
template <class T, int levels = 24> class ChunkCounter {
  public:
    // Levels that nothing was written to would count as live from the kernel's first instruction on, in the registers of
    // every counter there is.
    MMK_MEMBER ChunkCounter() {
#pragma unroll
        for (int k = 0; k < levels; ++k) level_[k] = T(0);
    }
    MMK_MEMBER void add(T chunk) { carry<0>(count_++, chunk); }
    // The partial sums that are left, from the smallest to the largest.
    MMK_MEMBER T total() const { return joined<0>(T(0), false); }
    // The same where `tail` is the total of what lies behind, less than a whole subtree.
    MMK_MEMBER T total(T tail) const { return joined<0>(tail, true); }

  private:
    template <int level> MMK_MEMBER void carry(uint64_t count, T chunk) {
        if constexpr (level < levels) {
            if (count >> level & 1)
                carry<level + 1>(count, level_[level] + chunk);
            else
                level_[level] = chunk;
        }
    }
    template <int level> MMK_MEMBER T joined(T sum, bool has_sum) const {
        if constexpr (level < levels) {
            const bool one = count_ >> level & 1; // selected, not branched on: each branch would double the code
            const T more = has_sum ? level_[level] + sum : level_[level];
            return joined<level + 1>(one ? more : sum, has_sum || one);
        } else
            return sum;
    }
    T level_[levels];
    uint64_t count_ = 0;
};

// This thread's lane of elements [begin, end) of a row, begin being a multiple of the chunk.
template <class T, int levels = 24, class Term>
MMK_INLINE T lane_sum(int lane, int64_t begin, int64_t end, const Term& term) {
    ChunkCounter<T, levels> counter;
    for (; begin < end; begin += sum_chunk) {
        T chunk = T(0);
        if (begin + sum_chunk <= end || MMK_DEFECT(reduce_ragged_chunk)) {
#pragma unroll
            for (int k = 0; k < sum_chunk; k += sum_lanes) chunk = chunk + term(begin + k + lane);
        } else {
            for (int64_t i = begin + lane; i < end; i += sum_lanes) chunk = chunk + term(i);
        }
        counter.add(chunk);
    }
    return counter.total();
}
// The lanes last, as 8, 4, 2, 1. Every lane of the sixteen gets the sum; the whole warp calls.
template <class T> __device__ inline T join_lanes(T sum) {
#pragma unroll
    for (int half = sum_lanes / 2; half >= 1; half /= 2) {
        const T other = __shfl_xor_sync(MMK_DEFECT(reduce_wrong_mask) ? 0xffffu : 0xffffffffu, sum, half, sum_lanes);
        sum = (threadIdx.x & half) ? other + sum : sum + other; // both orders are the same sum
    }
    return sum;
}

// The row's sum by sixteen threads of a warp, all lanes of which call, each half for its own row: fewer than 32,768
// elements, so that eight levels do (24 take 50 registers more).
template <class T, class Term> __device__ inline T half_warp_sum(int64_t count, const Term& term) {
    return join_lanes(lane_sum<T, 8>(int(threadIdx.x) % sum_lanes, 0, count, term));
}

// The row's sum by a block of `threads` threads, all of which call and get it. `part` is shared memory for it,
// which may be used again after the next barrier.
template <class T, int threads> struct BlockSum {
    static constexpr int groups = threads / sum_lanes;
    T part[groups + 1][sum_lanes];
};
template <class T, int threads, class Term>
__device__ inline T block_sum(BlockSum<T, threads>& shared, int64_t count, const Term& term) {
    constexpr int groups = threads / sum_lanes;
    const int lane = int(threadIdx.x) % sum_lanes, group = int(threadIdx.x) / sum_lanes;
    const int64_t chunks = ceil_div(count, sum_chunk);
    int64_t run = 1; // chunks of a group: a power of two
    while (run * groups < chunks) run *= 2;
    const int64_t begin = group * run * sum_chunk,
                  end = begin + run * sum_chunk < count ? begin + run * sum_chunk : count;
    if (begin < end) shared.part[group][lane] = lane_sum<T>(lane, begin, end, term);
    if (!MMK_DEFECT(reduce_missing_barrier)) __syncthreads();
    if (threadIdx.x < 32) {
        const int64_t whole = chunks / run; // runs that are whole subtrees; at most one more is begun
        ChunkCounter<T, 7> counter;
        for (int64_t g = 0; g < whole; ++g) counter.add(shared.part[g][lane]);
        T sum = whole < ceil_div(chunks, run) ? counter.total(shared.part[whole][lane]) : counter.total();
        sum = join_lanes(sum);
        if (threadIdx.x == 0) shared.part[groups][0] = sum;
    }
    if (!MMK_DEFECT(reduce_early_result)) __syncthreads();
    return shared.part[groups][0];
}

} // namespace mmk::cuda
