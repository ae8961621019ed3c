#include "../ops/detect.h"

#include "../core/boxes.h"
#include "../core/score_order.h"
#include "detect.cuh"

namespace mmk::cuda {
namespace {

constexpr int threads = suppress_threads;

// ---- the order by score ---------------------------------------------------------------------------------------------

// Each tile by counting: 256 comparisons a thread cost less than the launches of two more merges.
template <class T> __global__ void __launch_bounds__(threads)
    sort_tiles(const T* scores, int64_t count, Scored* sorted) {
    SHARED(uint64_t, keys, [threads]);
    const int me = int(threadIdx.x);
    for (int64_t begin = int64_t(blockIdx.x) * threads; begin < count; begin += int64_t(gridDim.x) * threads) {
        const int here = count - begin < threads ? int(count - begin) : threads;
        uint64_t key = 0;
        if (me < here) keys[me] = key = falling_key(widen(scores[begin + me]));
        if (!MMK_DEFECT(detect_missing_barrier)) __syncthreads();
        int place = 0;
        for (int k = 0; k < here; ++k) place += keys[k] < key || (keys[k] == key && k < me);
        if (me < here) sorted[begin + place] = {key, begin + me};
        __syncthreads();
    }
}

// Runs of `length` in pairs: how many of the other run stand before an element is found by bisection.
__global__ void __launch_bounds__(threads) merge_runs(const Scored* from, Scored* to, int64_t count, int64_t length) {
    for (int64_t i = int64_t(blockIdx.x) * threads + threadIdx.x; i < count; i += int64_t(gridDim.x) * threads) {
        const Scored mine = from[i];
        const int64_t run = i / length, base = run / 2 * 2 * length;
        const bool second = run % 2 == 1;
        int64_t low = second ? base : base + length, high = low + length;
        low = low < count ? low : count, high = high < count ? high : count;
        const int64_t other = low;
        while (low < high) {
            const int64_t middle = (low + high) / 2;
            const uint64_t key = from[middle].key;
            if (key < mine.key || ((second || MMK_DEFECT(detect_unstable_merge)) && key == mine.key))
                low = middle + 1;
            else
                high = middle;
        }
        to[base + i % length + (low - other)] = mine;
    }
}

} // namespace

template <class T> const Scored* sorted_by_score(Context& context, const T* scores, int64_t n) {
    Scored *from = context.scratch<Scored>(n), *to = n > threads ? context.scratch<Scored>(n) : nullptr;
    MMK_LAUNCH(context, (sort_tiles<T>), grid_of(ceil_div(n, threads)), threads, 0, scores, n, from);
    for (int64_t length = threads; length < n; length *= 2) {
        MMK_LAUNCH(context, merge_runs, grid_of(ceil_div(n, threads)), threads, 0, from, to, n, length);
        std::swap(from, to);
    }
    return from;
}
template const Scored* sorted_by_score(Context&, const float*, int64_t);
template const Scored* sorted_by_score(Context&, const double*, int64_t);
template const Scored* sorted_by_score(Context&, const float16*, int64_t);
template const Scored* sorted_by_score(Context&, const bfloat16*, int64_t);

// ---- the walk -------------------------------------------------------------------------------------------------------

namespace {

__global__ void __launch_bounds__(threads) begin_walk(int64_t most, int64_t* keep, int64_t* count) {
    const int64_t first = int64_t(blockIdx.x) * threads + threadIdx.x;
    if (first == 0) *count = 0;
    for (int64_t i = first; i < most; i += int64_t(gridDim.x) * threads) keep[i] = -1;
}

// One warp; lane w holds the bits of word w of the chunk. The rows of the next 32 ranks are on their way while those of
// these are walked along.
__device__ inline void load_rows(uint32_t (&rows)[32], const uint32_t* mask, int group, int lane) {
#pragma unroll
    for (int k = 0; k < 32; ++k) rows[k] = mask[(group * 32 + k) * chunk_words + lane];
}
__global__ void __launch_bounds__(32) walk_mask(Walked w, int64_t begin) {
    const int lane = int(threadIdx.x);
    const int64_t words = (w.boxes - begin + 31) / 32;
    uint32_t dead = lane < words ? w.dead[begin / 32 + lane] : ~0u, kept = 0;
    int64_t count = *w.count;
    uint32_t rows[32], next[32];
    load_rows(rows, w.mask, 0, lane);
    for (int group = 0; group < chunk_words && group < words && count < w.most; ++group) {
        load_rows(next, w.mask, group + 1 < chunk_words ? group + 1 : group, lane);
        uint32_t alive = ~__shfl_sync(0xffffffffu, dead, group), stays = 0;
#pragma unroll
        for (int k = 0; k < 32; ++k) {
            const uint32_t struck = __shfl_sync(0xffffffffu, rows[k], group);
            if (alive >> k & 1) {
                stays |= 1u << k;
                alive &= ~struck;
                dead |= rows[k];
            }
        }
        // ranks beyond `most` are not kept: their strikes change nothing any more
        const int before = __popc(stays & ((1u << lane) - 1));
        const bool mine = (stays >> lane & 1) && count + before < w.most;
        if (mine) w.keep[count + before] = w.order[begin + group * 32 + lane].index;
        if (lane == group) kept = stays;
        count += __popc(stays);
#pragma unroll
        for (int k = 0; k < 32; ++k) rows[k] = next[k];
    }
    w.kept[lane] = kept;
    __syncwarp(); // every lane has read the count
    if (lane == 0) *w.count = count < w.most || MMK_DEFECT(detect_count_too_large) ? count : w.most;
}

} // namespace

Walked walk_of_ranks(Context& context, const Scored* order, int64_t boxes, int64_t* keep, int64_t* count,
                     int64_t most) {
    MMK_LAUNCH(context, begin_walk, grid_of(ceil_div(most, threads) + 1), threads, 0, most, keep, count);
    Walked walked{order, nullptr, nullptr, nullptr, keep, count, boxes, most};
    if (boxes) {
        walked.dead = context.scratch<uint32_t>(ceil_div(boxes, 32));
        walked.mask = context.scratch<uint32_t>(int64_t(chunk) * chunk_words);
        walked.kept = context.scratch<uint32_t>(chunk_words);
    }
    return walked;
}
void walk_chunk(Context& context, const Walked& walked, int64_t begin) {
    MMK_LAUNCH(context, walk_mask, 1, 32, 0, walked, begin);
}

// ---- upright boxes --------------------------------------------------------------------------------------------------

namespace {

// One 16-byte access for the corners in float32, and one for the rest.
template <class C> struct alignas(sizeof(C) == 4 ? 16 : 8) Upright {
    C x1, y1, x2, y2, area, unused;
    int64_t label;

    MMK_MEMBER bool strikes(const Upright& b, C threshold) const {
        using V = Vec<C>;
        const V common = box_intersection(V(x1), V(y1), V(x2), V(y2), V(b.x1), V(b.y1), V(b.x2), V(b.y2));
        return label == b.label && overlap_exceeds(common, V(area), V(b.area), V(threshold)).v;
    }
};

template <class T> __global__ void __launch_bounds__(threads)
    gather(const T* from, const T* scores, Labels labels, const Scored* order, int64_t count, Compute<T> least,
           uint32_t* dead, Upright<Compute<T>>* boxes) {
    using V = Vec<Compute<T>>;
    for (int64_t i = int64_t(blockIdx.x) * threads + threadIdx.x; i < (count + 31) / 32 * 32;
         i += int64_t(gridDim.x) * threads) {
        bool takes_part = false;
        if (i < count) {
            const int64_t index = order[i].index;
            const T* const b = from + 4 * index;
            const auto x1 = widen(b[0]), y1 = widen(b[1]), x2 = widen(b[2]), y2 = widen(b[3]);
            boxes[i] = {x1, y1, x2, y2, area_of_box(V(x1), V(y1), V(x2), V(y2)).v, 0, labels.of(index)};
            takes_part = is_above(widen(scores[index]), least);
        }
        const uint32_t votes = __ballot_sync(0xffffffffu, takes_part);
        if (threadIdx.x % 32 == 0) dead[i / 32] = ~votes;
    }
}

} // namespace

void nms(const Nms& op, Context& context) {
    const int64_t n = op.scores.extent[0], most = op.keep.extent[0];
    DenseOut<int64_t> keep(context, op.keep), total(context, op.count);
    const Labels labels = labels_of(context, op.classes);
    visit_storage(op.boxes.dtype, [&](auto type) {
        using T = typename decltype(type)::type;
        using C = Compute<T>;
        const Dense<T> boxes(context, op.boxes), scores(context, op.scores);
        const Scored* const order = n ? sorted_by_score(context, scores.get(), n) : nullptr;
        const Walked walked = walk_of_ranks(context, order, n, keep.get(), total.get(), most);
        if (n == 0) return;
        Upright<C>* const sorted = context.scratch<Upright<C>>(n);
        MMK_LAUNCH(context, (gather<T>), grid_of(ceil_div(n, threads)), threads, 0, boxes.get(), scores.get(), labels,
                   order, n, C(op.score_threshold), walked.dead, sorted);
        suppress(context, sorted, walked, C(op.iou_threshold));
    });
    keep.finish(), total.finish();
}

} // namespace mmk::cuda
