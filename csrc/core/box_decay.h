// How soft suppression lowers a score, on a lane.
#pragma once

#include "arith.h"
#include "boxes.h"

namespace mmk::MMK_ISA {

// IoU; 0 where it is not a number.
template <class T> MMK_INLINE Vec<T> overlap_or_none(Vec<T> intersection, Vec<T> area, Vec<T> other) {
    const Vec<T> iou = intersection / ((area + other) - intersection);
    return select(iou > Vec<T>::zero(), iou, Vec<T>::zero());
}
// linear: s (1 - IoU) above the threshold; gaussian: s exp(-IoU^2 / sigma).
template <class T> MMK_INLINE Vec<T> decayed(Vec<T> score, Vec<T> iou, bool gaussian, Vec<T> threshold, Vec<T> sigma) {
    if (gaussian) return score * exp(-(iou * iou) / sigma);
    return select(iou > threshold, score * (Vec<T>(T(1)) - iou), score);
}

} // namespace mmk::MMK_ISA
