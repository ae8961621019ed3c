#include "../ops/detect.h"

#include "../core/box_decay.h"
#include "layout.cuh"

namespace mmk::cuda {
namespace {

constexpr int threads = 256, warps = threads / 32;

template <class T> struct Soft {
    using C = Compute<T>;
    const T *boxes, *scores;
    C* current; // scores as they fall; -inf is no longer there
    int64_t *keep, *count;
    T* decayed;
    int64_t boxes_count, most;
    C iou_threshold, sigma, score_threshold;
    bool gaussian;
};
template <class C> struct Best {
    C score;
    int64_t index;
    // the greater score, of equal ones the lower index
    MMK_MEMBER void meet(C other, int64_t at) {
        if (other > score || (other == score && at < index)) score = other, index = at;
    }
};
template <class C> __device__ inline void best_of_warp(Best<C>& best) {
    for (int half = 16; half >= (MMK_DEFECT(detect_half_warp) ? 2 : 1); half /= 2) {
        const C score = __shfl_xor_sync(0xffffffffu, best.score, half);
        const int64_t index = __shfl_xor_sync(0xffffffffu, best.index, half);
        best.meet(score, index);
    }
}

// One block: each choice waits for the one before it. A thread owns every 256th box.
template <class T> __global__ void __launch_bounds__(threads) choose_and_decay(Soft<T> s) {
    using C = Compute<T>;
    using V = Vec<C>;
    SHARED(Best<C>, of_warps, [2][warps]); // by turns, so that one barrier a choice is enough
    const C none = -C(__builtin_inf());
    const int me = int(threadIdx.x), lane = me % 32;
    for (int64_t i = me; i < s.boxes_count; i += threads) s.current[i] = widen(s.scores[i]);
    int64_t chosen = -1, count = 0;
    V x1, y1, x2, y2, area;
    for (; count <= s.most; ++count) {
        Best<C> best{none, s.boxes_count};
        for (int64_t i = me; i < s.boxes_count; i += threads) {
            C score = s.current[i];
            if (chosen >= 0) {
                const T* const b = s.boxes + 4 * i;
                const V bx1(widen(b[0])), by1(widen(b[1])), bx2(widen(b[2])), by2(widen(b[3]));
                const V iou = overlap_or_none(box_intersection(x1, y1, x2, y2, bx1, by1, bx2, by2), area,
                                              area_of_box(bx1, by1, bx2, by2));
                score = i == chosen ? none : decayed(V(score), iou, s.gaussian, V(s.iou_threshold), V(s.sigma)).v;
                s.current[i] = score;
            }
            best.meet(score, i);
        }
        best_of_warp(best);
        Best<C>* const turn = of_warps[MMK_DEFECT(detect_one_turn) ? 0 : count % 2];
        if (lane == 0) turn[me / 32] = best;
        __syncthreads();
        for (int w = 0; w < warps; ++w) best.meet(turn[w].score, turn[w].index);
        // every thread has come to the same one
        if (count == s.most || !(best.score > s.score_threshold) || !(best.score > none)) break;
        chosen = best.index;
        if (me == 0) s.keep[count] = chosen, s.decayed[count] = narrow<T>(best.score);
        const T* const b = s.boxes + 4 * chosen;
        x1 = V(widen(b[0])), y1 = V(widen(b[1])), x2 = V(widen(b[2])), y2 = V(widen(b[3]));
        area = area_of_box(x1, y1, x2, y2);
    }
    for (int64_t i = count + me + (MMK_DEFECT(detect_soft_rest) ? 1 : 0); i < s.most; i += threads)
        s.keep[i] = -1, s.decayed[i] = narrow<T>(C(0));
    if (me == 0) *s.count = count;
}

} // namespace

void soft_nms(const SoftNms& op, Context& context) {
    DenseOut<int64_t> keep(context, op.keep), total(context, op.count);
    visit_storage(op.boxes.dtype, [&](auto type) {
        using T = typename decltype(type)::type;
        using C = Compute<T>;
        const int64_t n = op.scores.extent[0];
        const Dense<T> boxes(context, op.boxes), scores(context, op.scores);
        DenseOut<T> decayed_scores(context, op.decayed);
        MMK_LAUNCH(context, (choose_and_decay<T>), 1, threads, 0,
                   (Soft<T>{boxes.get(), scores.get(), n ? context.scratch<C>(n) : nullptr, keep.get(), total.get(),
                            decayed_scores.get(), n, op.keep.extent[0], C(op.iou_threshold), C(op.sigma),
                            C(op.score_threshold), op.method != 0}));
        decayed_scores.finish();
    });
    keep.finish(), total.finish();
}

} // namespace mmk::cuda
