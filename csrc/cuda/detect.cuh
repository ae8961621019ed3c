// What every suppression of the family stands on: an order by score, and a walk along it that keeps a box unless a kept
// one before it strikes it out. 1024 boxes at a time: a mask of who would strike whom among them, a warp that walks
// along it, then the kept ones strike later boxes. Scratch memory: 128 KB of mask and some bytes for each box.
#pragma once

#include "layout.cuh"

namespace mmk::cuda {

inline constexpr int suppress_threads = 256, chunk_words = 32, chunk = 32 * chunk_words;

// Rising keys (core/score_order.h), equal ones in the order of their indices.
struct Scored {
    uint64_t key;
    int64_t index;
};
// In scratch memory. Scores are dense.
template <class T> const Scored* sorted_by_score(Context& context, const T* scores, int64_t n);

// One of them, or none: all boxes are of one class.
struct Labels {
    const int32_t* narrow = nullptr;
    const int64_t* wide = nullptr;
    MMK_MEMBER int64_t of(int64_t i) const { return narrow ? narrow[i] : wide ? wide[i] : 0; }
};
inline Labels labels_of(Context& context, const Tensor& classes) {
    if (!classes) return {};
    if (classes.dtype == DType::int32) return {Dense<int32_t>(context, classes).get(), nullptr};
    return {nullptr, Dense<int64_t>(context, classes).get()};
}
// Whether a score lets its box take part; -inf lets all.
template <class C> MMK_INLINE bool is_above(C score, C least) { return score > least || least == -C(__builtin_inf()); }

struct Walked {
    const Scored* order;
    uint32_t* dead;        // a bit for each rank: struck out, or not taking part
    uint32_t *mask, *kept; // of a chunk: [rank][word of ranks], [word of ranks]
    int64_t *keep, *count;
    int64_t boxes, most;
};
Walked walk_of_ranks(Context& context, const Scored* order, int64_t boxes, int64_t* keep, int64_t* count, int64_t most);
void walk_chunk(Context& context, const Walked& walked, int64_t begin);

// A warp takes 32 ranks of a chunk against 32 later ones: a lane is one of the later.
template <class Box, class C> __global__ void __launch_bounds__(suppress_threads)
    mask_chunk(const Box* boxes, int64_t begin, int64_t count, C threshold, uint32_t* mask) {
    const int lane = int(threadIdx.x) % 32;
    const int task = (int(blockIdx.x) * suppress_threads + int(threadIdx.x)) / 32;
    const int rows = task / chunk_words, word = task % chunk_words;
    const int64_t first = begin + rows * 32, mine = begin + word * 32 + lane;
    uint32_t votes = 0;
    if (word >= rows + (MMK_DEFECT(detect_diagonal) ? 1 : 0) && begin + word * 32 < count) { // a warp agrees on it
        const Box box = boxes[mine < count ? mine : count - 1];
        for (int k = 0; k < 32 && first + k < count; ++k) {
            const bool later = mine < count && mine > first + k;
            const uint32_t vote = __ballot_sync(0xffffffffu, later && boxes[first + k].strikes(box, threshold));
            if (lane == k) votes = vote;
        }
    }
    mask[(rows * 32 + lane) * chunk_words + word] = votes;
}

// A warp takes 32 ranks of a chunk, of which it looks at the kept ones, against 32 ranks behind the chunk.
template <class Box, class C> __global__ void __launch_bounds__(suppress_threads)
    strike_later(const Box* boxes, int64_t begin, int64_t count, C threshold, const uint32_t* kept, uint32_t* dead) {
    const int lane = int(threadIdx.x) % 32;
    const int64_t end = begin + chunk, words = (count - end + 31) / 32;
    const int64_t warps = int64_t(gridDim.x) * (suppress_threads / 32);
    for (int64_t task = (int64_t(blockIdx.x) * suppress_threads + threadIdx.x) / 32; task < words * chunk_words;
         task += warps) {
        const int64_t word = task / chunk_words, mine = end + word * 32 + lane;
        const int rows = int(task % chunk_words);
        uint32_t strikers = kept[rows];
        if (!strikers) continue;
        const Box box = boxes[mine < count ? mine : count - 1];
        bool struck = false;
        for (; strikers; strikers &= strikers - 1)
            struck |= boxes[begin + rows * 32 + __ffs(int(strikers)) - 1].strikes(box, threshold);
        const uint32_t votes = __ballot_sync(0xffffffffu, struck);
        if (lane == 0 && votes) {
            if (MMK_DEFECT(detect_lost_strike))
                dead[end / 32 + word] |= votes;
            else
                atomicOr(dead + end / 32 + word, votes);
        }
    }
}

// boxes[rank].strikes(later one, threshold); ranks that take no part are marked in walked.dead.
template <class Box, class C> void suppress(Context& context, const Box* boxes, const Walked& walked, C threshold) {
    for (int64_t begin = 0; begin < walked.boxes; begin += chunk) {
        constexpr int tasks = chunk_words * chunk_words;
        MMK_LAUNCH(context, (mask_chunk<Box, C>), tasks * 32 / suppress_threads, suppress_threads, 0, boxes, begin,
                   walked.boxes, threshold, walked.mask);
        walk_chunk(context, walked, begin);
        const int64_t later = ceil_div(walked.boxes - begin - chunk, 32);
        if (later > 0)
            MMK_LAUNCH(context, (strike_later<Box, C>), grid_of(ceil_div(later * chunk_words * 32, suppress_threads)),
                       suppress_threads, 0, boxes, begin, walked.boxes, threshold, walked.kept, walked.dead);
    }
}

} // namespace mmk::cuda
