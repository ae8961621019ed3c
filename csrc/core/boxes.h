// Boxes with corners (x1, y1) and (x2, y2), on a lane: their areas and overlaps, in the order that both floors take.
#pragma once

#include "simd.h"

namespace mmk::MMK_ISA {

// at_most and at_least are one instruction each, and a NaN of their first operand stays.
template <class T> MMK_INLINE Vec<T> area_of_box(Vec<T> x1, Vec<T> y1, Vec<T> x2, Vec<T> y2) {
    const Vec<T> zero = Vec<T>::zero();
    return at_least(x2 - x1, zero) * at_least(y2 - y1, zero);
}
// (min(x2) - max(x1)) * (min(y2) - max(y1)), sides below 0 taken as 0.
template <class T> MMK_INLINE Vec<T> box_intersection(Vec<T> ax1, Vec<T> ay1, Vec<T> ax2, Vec<T> ay2, Vec<T> bx1,
                                                      Vec<T> by1, Vec<T> bx2, Vec<T> by2) {
    const Vec<T> zero = Vec<T>::zero();
    const Vec<T> width = at_least(at_most(bx2, ax2) - at_least(bx1, ax1), zero);
    const Vec<T> height = at_least(at_most(by2, ay2) - at_least(by1, ay1), zero);
    return width * height;
}
// IoU > threshold without its division. A box whose area is not a positive finite number makes the right side NaN or
// infinite, or the left side 0: it suppresses nothing and nothing suppresses it.
template <class T>
MMK_INLINE Mask<T> overlap_exceeds(Vec<T> intersection, Vec<T> area, Vec<T> other, Vec<T> threshold) {
    return intersection > threshold * ((area + other) - intersection);
}

} // namespace mmk::MMK_ISA
