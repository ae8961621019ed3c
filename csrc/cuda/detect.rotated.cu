#include "../ops/detect.h"

#include "../core/box_rotated.h"
#include "detect.cuh"

namespace mmk::cuda {
namespace {

constexpr int threads = suppress_threads;

template <class C> struct Turned {
    C part[8]; // x, y, width, height, cosine, sine, area, radius
    int64_t label;

    MMK_MEMBER Rotated<C> box() const {
        using V = Vec<C>;
        return {V(part[0]), V(part[1]), V(part[2]), V(part[3]), V(part[4]), V(part[5]), V(part[6]), V(part[7])};
    }
    MMK_MEMBER void set(const Rotated<C>& b) {
        part[0] = b.x.v, part[1] = b.y.v, part[2] = b.width.v, part[3] = b.height.v;
        part[4] = b.cosine.v, part[5] = b.sine.v, part[6] = b.area.v, part[7] = b.radius.v;
    }
    MMK_MEMBER bool strikes(const Turned& b, C threshold) const {
        if (label != b.label) return false;
        const Rotated<C> mine = box(), other = b.box();
        return overlap_exceeds(rotated_intersection(mine, other), mine.area, other.area, Vec<C>(threshold)).v;
    }
};
template <class T> __device__ inline Rotated<Compute<T>> turned(const T* b, Compute<T> scale) {
    using V = Vec<Compute<T>>;
    return rotated_box(V(widen(b[0])), V(widen(b[1])), V(widen(b[2])), V(widen(b[3])), V(widen(b[4])), scale);
}

// In the order of their scores, or as they stand.
template <class T> __global__ void __launch_bounds__(threads)
    turn_boxes(const T* boxes, int64_t count, Compute<T> scale, const Scored* order, const T* scores, Labels labels,
               Compute<T> least, uint32_t* dead, Turned<Compute<T>>* result) {
    for (int64_t i = int64_t(blockIdx.x) * threads + threadIdx.x; i < (count + 31) / 32 * 32;
         i += int64_t(gridDim.x) * threads) {
        bool takes_part = MMK_DEFECT(detect_rotated_beyond);
        if (i < count) {
            const int64_t index = order && !MMK_DEFECT(detect_rotated_order) ? order[i].index : i;
            result[i].set(turned(boxes + 5 * index, scale));
            result[i].label = labels.of(index);
            takes_part = scores && is_above(widen(scores[index]), least);
        }
        const uint32_t votes = __ballot_sync(0xffffffffu, takes_part);
        if (dead && threadIdx.x % 32 == 0) dead[i / 32] = ~votes;
    }
}
template <class T> Turned<Compute<T>>* turn(Context& context, const T* boxes, int64_t count, double scale,
                                            const Scored* order = nullptr, const T* scores = nullptr,
                                            Labels labels = {}, double least = 0, uint32_t* dead = nullptr) {
    Turned<Compute<T>>* const result = context.scratch<Turned<Compute<T>>>(count);
    MMK_LAUNCH(context, (turn_boxes<T>), grid_of(ceil_div(count, threads)), threads, 0, boxes, count, Compute<T>(scale),
               order, scores, labels, Compute<T>(least), dead, result);
    return result;
}

template <class T> __global__ void __launch_bounds__(threads)
    overlaps(const Turned<Compute<T>>* a, const Turned<Compute<T>>* b, int64_t columns, int64_t count, T* y) {
    for (int64_t i = int64_t(blockIdx.x) * threads + threadIdx.x; i < count; i += int64_t(gridDim.x) * threads) {
        const Rotated<Compute<T>> first = a[i / columns].box(),
                                  second = b[MMK_DEFECT(detect_rotated_column) ? i / columns : i % columns].box();
        const auto common = rotated_intersection(first, second);
        y[i] = narrow<T>((common / ((first.area + second.area) - common)).v);
    }
}

} // namespace

void box_iou_rotated(const BoxIouRotated& op, Context& context) {
    visit_storage(op.y.dtype, [&](auto type) {
        using T = typename decltype(type)::type;
        const int64_t rows = op.y.extent[0], columns = op.y.extent[1];
        const Dense<T> boxes1(context, op.boxes1), boxes2(context, op.boxes2);
        DenseOut<T> y(context, op.y);
        const auto *const a = turn(context, boxes1.get(), rows, op.angle_scale), *const b =
                                                                                     turn(context, boxes2.get(),
                                                                                          columns, op.angle_scale);
        MMK_LAUNCH(context, (overlaps<T>), grid_of(ceil_div(rows * columns, threads)), threads, 0, a, b, columns,
                   rows * columns, y.get());
        y.finish();
    });
}
void nms_rotated(const NmsRotated& op, Context& context) {
    const int64_t n = op.scores.extent[0], most = op.keep.extent[0];
    DenseOut<int64_t> keep(context, op.keep), total(context, op.count);
    const Labels labels = labels_of(context, op.classes);
    visit_storage(op.boxes.dtype, [&](auto type) {
        using T = typename decltype(type)::type;
        const Dense<T> boxes(context, op.boxes), scores(context, op.scores);
        const Scored* const order = n ? sorted_by_score(context, scores.get(), n) : nullptr;
        const Walked walked = walk_of_ranks(context, order, n, keep.get(), total.get(), most);
        if (n == 0) return;
        const auto* const sorted =
            turn(context, boxes.get(), n, op.angle_scale, order, scores.get(), labels, op.score_threshold, walked.dead);
        suppress(context, sorted, walked, Compute<T>(op.iou_threshold));
    });
    keep.finish(), total.finish();
}

} // namespace mmk::cuda
