// Rows whose long sums (reduce.cuh) are needed while their elements are at hand: held in the registers of half a warp
// or of a warp, of the sixteen lanes of a column of threads, or anywhere that a block can reach.
//
// Chunks that are missing at the end may be added as +0: a binary-counter tree is the tree over chunks padded by +0 to
// a power of two, because a chunk, which starts from +0, is never -0. So trees of a fixed shape do here.
#pragma once

#include "reduce.cuh"

namespace mmk::cuda {

// Elements of a row in a thread's registers: its lane of four chunks, of two where they take two registers each.
template <class C> inline constexpr int held = sizeof(C) == 8 ? 16 : 32;
inline constexpr int chunk_steps = sum_chunk / sum_lanes;

// Several sums at once.
template <class T, int count> struct Several {
    T at[count];
    Several() = default;
    explicit MMK_MEMBER Several(T all) {
        for (int k = 0; k < count; ++k) at[k] = all;
    }
};
template <class T, int count>
MMK_INLINE Several<T, count> operator+(const Several<T, count>& a, const Several<T, count>& b) {
    Several<T, count> sum;
#pragma unroll
    for (int k = 0; k < count; ++k) sum.at[k] = a.at[k] + b.at[k];
    return sum;
}
template <class T, int count> __device__ inline Several<T, count> join_lanes(Several<T, count> sums) {
#pragma unroll
    for (int k = 0; k < count; ++k) sums.at[k] = join_lanes(sums.at[k]);
    return sums;
}

// What one thread holds of a row: slot k is element first + 16 k. C is a number.
template <class C> struct Slots {
    int first, left; // elements from the first one on; none or less where the thread holds nothing

    __device__ Slots(int first_, int count) : first(first_), left(count - first_) {}

    // body(k, element) for every slot that is filled. Whole chunks are skipped by one comparison.
    template <class Body> __device__ void each(const Body& body) const {
#pragma unroll
        for (int begin = 0; begin < held<C>; begin += chunk_steps)
            if (begin * sum_lanes < left) {
#pragma unroll
                for (int k = begin; k < begin + chunk_steps; ++k)
                    if (k * sum_lanes < left) body(k, first + k * sum_lanes);
            }
    }
    // The lane's part of the sum of term(k), a number or Several.
    template <class Term> __device__ auto lane_sum(const Term& term) const {
        using S = std::decay_t<decltype(term(0))>;
        S chunk[held<C> / chunk_steps];
#pragma unroll
        for (int c = 0; c < held<C> / chunk_steps; ++c) {
            chunk[c] = S(0);
            if (c * sum_chunk < left) {
#pragma unroll
                for (int k = c * chunk_steps; k < (c + 1) * chunk_steps; ++k)
                    if (k * sum_lanes < left) chunk[c] = chunk[c] + term(k);
            }
        }
        if constexpr (held<C> == 2 * chunk_steps)
            return chunk[0] + chunk[1];
        else
            return (chunk[0] + chunk[1]) + (chunk[2] + chunk[3]);
    }
    template <class Value> __device__ C largest(const Value& value) const {
        C most = -C(__builtin_inff());
        each([&](int k, int) { most = value(k) > most ? value(k) : most; });
        return most;
    }
};

// A row of at most 512 elements in half a warp, of at most 1024 in a warp (`halves` is 2), half as many of float64: the
// whole warp calls.
template <class C> inline constexpr int half_warp_row = held<C> * sum_lanes;
template <class C, int halves> __device__ inline Slots<C> slots_of_row(int count) {
    const int thread = int(threadIdx.x);
    return Slots<C>(thread / sum_lanes % halves * half_warp_row<C> + thread % sum_lanes, count);
}
template <int halves, class T> __device__ inline T row_sum(T lane_part) {
    if (halves == 2) lane_part = lane_part + __shfl_xor_sync(0xffffffffu, lane_part, sum_lanes);
    return join_lanes(lane_part);
}
template <int halves, class T, int count> __device__ inline Several<T, count> row_sum(Several<T, count> lane_parts) {
#pragma unroll
    for (int k = 0; k < count; ++k) lane_parts.at[k] = row_sum<halves>(lane_parts.at[k]);
    return lane_parts;
}
template <int halves, class T> __device__ inline T row_largest(T most) {
#pragma unroll
    for (int other = halves * sum_lanes / 2; other >= 1; other /= 2) {
        const T theirs = __shfl_xor_sync(0xffffffffu, most, other);
        most = theirs > most ? theirs : most;
    }
    return most;
}

// ---- groups of planes, summed by a block -------------------------------------------------------------------------

// A group is `planes` rows of `size` elements; its sum is that of the planes' long sums, in their order, from +0. Each
// plane is cut into runs of 2^k chunks, so that all half warps of a block have work: a row (one plane) is cut as well
// as a group of many small planes.
struct Group {
    int64_t planes, size, run; // elements of a run
    int runs;                  // of a plane, at most 256
    int a_round;               // planes that are summed between two barriers

    Group(int64_t planes_, int64_t size_, int threads) : planes(planes_), size(size_), run(sum_chunk) {
        const int wanted = 2 * threads / sum_lanes; // items of work, for half warps to share evenly; at most 128
        while (run < size && planes * ceil_div(size, 2 * run) >= wanted) run *= 2;
        runs = int(ceil_div(size, run));
        const int fit = 2 * wanted / (runs > 0 ? runs : 1);
        a_round = fit < planes ? fit : int(planes);
    }
    // Values of shared memory that group_sum wants.
    int shared_values() const { return a_round * (runs * sum_lanes + 1); }
};

// The parts of `here` planes, 16 values a run, joined into sum[0] .. sum[here - 1] by the warps of a block.
template <int levels, class S> __device__ inline void join_runs(int64_t here, int64_t runs, const S* part, S* sum) {
    const int half = int(threadIdx.x) / sum_lanes, halves = int(blockDim.x) / sum_lanes;
    const int lane = int(threadIdx.x) % sum_lanes;
    for (int64_t first = half & ~1; first < here; first += halves) { // both halves of a warp, because lanes are joined
        const int64_t plane = first + (half & 1);
        S mine = S(0);
        if (plane < here) {
            ChunkCounter<S, levels> counter;
#pragma unroll 1
            for (int64_t r = 0; r < runs; ++r) counter.add(part[(plane * runs + r) * sum_lanes + lane]);
            mine = counter.total();
        }
        mine = join_lanes(mine);
        if (plane < here && lane == 0) sum[plane] = mine;
    }
}

// The group's sum of term(plane, element), by a block, all threads of which call and get it. Whoever calls may look at
// each plane's own sum: each(plane, sum), by one thread. S is a number or Several of them; `shared` holds
// group.shared_values() of it, and may be used for the next sum of that type at once. A run is less than 2^levels chunks.
template <int levels, class S, class Term, class Each>
__device__ inline S group_sum(const Group& group, S* shared, const Term& term, const Each& each) {
    const int half = int(threadIdx.x) / sum_lanes, halves = int(blockDim.x) / sum_lanes;
    const int lane = int(threadIdx.x) % sum_lanes;
    S* const part = shared;
    S* const sum = shared + group.a_round * group.runs * sum_lanes;
    S total = S(0);
#pragma unroll 1
    for (int64_t first = 0; first < group.planes; first += group.a_round) {
        const int64_t left = group.planes - first;
        const int here = left < group.a_round ? int(left) : group.a_round;
#pragma unroll 1
        for (int item = half; item < here * group.runs; item += halves) {
            const int plane = item / group.runs;
            const int64_t begin = (item - plane * group.runs) * group.run;
            const int64_t end = begin + group.run < group.size ? begin + group.run : group.size;
            part[item * sum_lanes + lane] =
                lane_sum<S, levels>(lane, begin, end, [&](int64_t i) { return term(first + plane, i); });
        }
        if (!MMK_DEFECT(rows_missing_barrier)) __syncthreads();
        join_runs<9>(here, group.runs, part, sum); // nine levels: 256 runs
        __syncthreads();
        for (int plane = 0; plane < here; ++plane) {
            total = total + sum[plane];
            if (threadIdx.x == 0) each(first + plane, sum[plane]);
        }
    }
    return total;
}
template <int levels, class S, class Term>
__device__ inline S group_sum(const Group& group, S* shared, const Term& term) {
    return group_sum<levels>(group, shared, term, [](int64_t, S) {});
}

} // namespace mmk::cuda
