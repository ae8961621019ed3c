#include "../ops/detect.h"

#include "../core/box_decay.h"
#include "../core/layout.h"
#include "detect.bits.h"

namespace mmk::cpu::MMK_ISA {
namespace {

// Boxes and their scores by columns; a score of -inf is no longer there.
template <class T> struct Field {
    T *x1, *y1, *x2, *y2, *area, *score;
    int64_t size;

    // The place of the first of the greatest scores; -1 if there is none.
    MMK_MEMBER int64_t best() const {
        Vec<T> most(-T(__builtin_inf()));
        for (int64_t k = 0; k < size; k += lanes) {
            const Vec<T> s = Vec<T>::load(score + k);
            most = select(s > most, s, most);
        }
        T of_lane[lanes], greatest = -T(__builtin_inf());
        most.store(of_lane);
        for (int k = 0; k < lanes; ++k) greatest = of_lane[k] > greatest ? of_lane[k] : greatest;
        if (!(greatest > -T(__builtin_inf()))) return -1;
        for (int64_t k = 0;; k += lanes)
            if (const unsigned found = bits_of(Vec<T>::load(score + k) == Vec<T>(greatest)))
                return k + __builtin_ctz(found);
    }
    MMK_MEMBER void decay(int64_t at, bool gaussian, T threshold, T sigma) const {
        const Vec<T> bx1(x1[at]), by1(y1[at]), bx2(x2[at]), by2(y2[at]), of(area[at]), limit(threshold), width(sigma);
        for (int64_t k = 0; k < size; k += lanes) {
            const Vec<T> common = box_intersection(bx1, by1, bx2, by2, Vec<T>::load(x1 + k), Vec<T>::load(y1 + k),
                                                   Vec<T>::load(x2 + k), Vec<T>::load(y2 + k));
            if (bits_of(common > Vec<T>::zero()) == 0) continue; // IoU is 0 for all: nothing changes
            const Vec<T> iou = overlap_or_none(common, of, Vec<T>::load(area + k));
            decayed(Vec<T>::load(score + k), iou, gaussian, limit, width).store(score + k);
        }
    }
};

template <class T> Field<T> lay_out(Context& context, const T* boxes, const T* scores, int64_t n) {
    const int64_t size = (n + lanes - 1) / lanes * lanes;
    T* const all = context.scratch<T>(6 * size);
    const Field<T> f{all, all + size, all + 2 * size, all + 3 * size, all + 4 * size, all + 5 * size, size};
    for (int64_t i = 0; i < size; ++i) {
        const T none[4] = {}, *const b = i < n ? boxes + 4 * i : none;
        f.x1[i] = b[0], f.y1[i] = b[1], f.x2[i] = b[2], f.y2[i] = b[3];
        // NaN is never the greatest; what overlaps may turn it into another NaN, no more
        f.score[i] = i < n ? scores[i] : -T(__builtin_inf());
    }
    for (int64_t k = 0; k < size; k += lanes)
        area_of_box(Vec<T>::load(f.x1 + k), Vec<T>::load(f.y1 + k), Vec<T>::load(f.x2 + k), Vec<T>::load(f.y2 + k))
            .store(f.area + k);
    return f;
}

template <class T>
MMK_FLATTEN int64_t select_boxes(const Field<T>& field, const SoftNms& op, int64_t most, int64_t* keep, T* scores) {
    int64_t count = 0;
    for (; count < most; ++count) {
        const int64_t at = field.best();
        if (at < 0 || !(field.score[at] > T(op.score_threshold))) break;
        keep[count] = at;
        scores[count] = field.score[at];
        field.score[at] = -T(__builtin_inf());
        field.decay(at, op.method != 0, T(op.iou_threshold), T(op.sigma));
        field.score[at] = -T(__builtin_inf()); // its own overlap of 1 made it NaN
    }
    return count;
}

} // namespace

void soft_nms(const SoftNms& op, Context& context) {
    visit_float(op.boxes.dtype, [&](auto zero) {
        using T = decltype(zero);
        const int64_t n = op.scores.extent[0], most = op.keep.extent[0];
        const Dense<T> boxes(context, op.boxes), scores(context, op.scores);
        const DenseOut<int64_t> keep(context, op.keep), total(context, op.count);
        const DenseOut<T> decayed_scores(context, op.decayed);
        const Field<T> field = lay_out(context, boxes.get(), scores.get(), n);
        const int64_t count = select_boxes<T>(field, op, most, keep.get(), decayed_scores.get());
        for (int64_t i = count; i < most; ++i) keep[i] = -1, decayed_scores[i] = T(0);
        *total.get() = count;
    });
}

} // namespace mmk::cpu::MMK_ISA
