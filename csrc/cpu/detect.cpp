#include "../ops/detect.h"

#include "detect.order.h"
#include "detect.suppress.h"

namespace mmk::cpu::MMK_ISA {
namespace {

template <class T> void suppress(const Nms& op, Context& context) {
    const Dense<T> boxes(context, op.boxes);
    const Ranking ranking = rank_boxes<T>(context, op.scores, op.classes, op.score_threshold);
    const int workers = on_threads(ranking) ? context.threads : 1;
    Room<T>* const rooms = context.scratch<Room<T>>(workers);
    for (int w = 0; w < workers; ++w) rooms[w] = Room<T>::take(context, (ranking.largest + lanes - 1) / lanes * lanes);
    const Suppression<T> suppression{boxes, ranking.index, T(op.iou_threshold), op.keep.extent[0]};
    keep_by_class(context, ranking, op.keep, op.count, [&](const int32_t* ranks, int64_t n, int worker, uint8_t* kept) {
        suppression.run(ranks, n, rooms[worker], kept);
    });
}

} // namespace

void nms(const Nms& op, Context& context) {
    visit_float(op.boxes.dtype, [&](auto zero) { suppress<decltype(zero)>(op, context); });
}

} // namespace mmk::cpu::MMK_ISA
