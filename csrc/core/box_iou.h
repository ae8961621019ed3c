// Intersection over union of two boxes and what is made of it (GIoU, DIoU, CIoU), with gradients, on a lane.
#pragma once

#include "box_maps.h"

namespace mmk::MMK_ISA {

enum class Overlap : int64_t { iou, giou, diou, ciou };

// The angle of a rectangle's diagonal against its height, for sides of 0 or more; 0 for an empty one.
MMK_INLINE F32x16 diagonal_angle(F32x16 width, F32x16 height) {
    const Mask<float> wide = width > height;
    const F32x16 longer = select(wide, width, height), shorter = select(wide, height, width);
    const F32x16 t = select(longer == F32x16::zero(), F32x16::zero(), shorter / longer), z = t * t;
    // arctan(t) = t + t z p(z), fitted 1.5e-8
    const F32x16 p =
        detail::polynomial(z, -0x1.d62fd2p-10f, 0x1.65a64cp-7f, -0x1.fed15p-6f, 0x1.dac9dcp-5f, -0x1.58348ep-4f,
                           0x1.c099fep-4f, -0x1.2421b6p-3f, 0x1.9991fep-3f, -0x1.55553ep-2f);
    const F32x16 angle = fma(t * z, p, t);
    return select(wide, F32x16(0x1.921fb6p0f) - angle, angle);
}
MMK_INLINE F64x16 diagonal_angle(F64x16 width, F64x16 height) {
    double w[lanes], h[lanes];
    width.store(w), height.store(h);
    for (int k = 0; k < lanes; ++k) w[k] = MMK_LIBM(atan2)(w[k], h[k]);
    return F64x16::load(w);
}

// What the four kinds share. Sides below 0 are taken as 0; `raw` is before that.
template <class T> struct BoxPair {
    using V = Vec<T>;
    V raw[2][2], side[2][2];     // [box][axis]
    V raw_common[2], common[2];  // of the intersection
    V raw_hull[2], hull[2];      // of the smallest box around both
    V intersection, united, iou; // united: the area of the union
    V offset[2];                 // between the centres

    MMK_MEMBER BoxPair(const Quad<T>& a, const Quad<T>& b, V eps) {
        const V zero = V::zero();
        for (int axis = 0; axis < 2; ++axis) {
            const V low_a = a.at[axis], low_b = b.at[axis], high_a = a.at[axis + 2], high_b = b.at[axis + 2];
            raw[0][axis] = high_a - low_a, raw[1][axis] = high_b - low_b;
            for (int k = 0; k < 2; ++k) side[k][axis] = at_least(raw[k][axis], zero);
            raw_common[axis] = at_most(high_b, high_a) - at_least(low_b, low_a);
            raw_hull[axis] = at_least(high_b, high_a) - at_most(low_b, low_a);
            common[axis] = at_least(raw_common[axis], zero), hull[axis] = at_least(raw_hull[axis], zero);
            offset[axis] = V(T(0.5)) * ((low_a - low_b) + (high_a - high_b));
        }
        intersection = common[0] * common[1];
        united = (side[0][0] * side[0][1] + side[1][0] * side[1][1]) - intersection;
        iou = intersection / (united + eps);
    }
    MMK_MEMBER V hull_area() const { return hull[0] * hull[1]; }
    MMK_MEMBER V distance() const { return offset[0] * offset[0] + offset[1] * offset[1]; } // squared
    MMK_MEMBER V diagonal() const { return hull[0] * hull[0] + hull[1] * hull[1]; }         // squared
    MMK_MEMBER V turn() const {
        return diagonal_angle(side[0][0], side[0][1]) - diagonal_angle(side[1][0], side[1][1]);
    }
    // v and its weight v / (1 - IoU + v); shapes that agree weigh nothing
    MMK_MEMBER static V aspect(V turn) { return V(T(0x1.9f02f6222c72p-2)) * (turn * turn); } // 4 / pi^2
    MMK_MEMBER V weight(V v, V eps) const {
        return select(v == V::zero(), V::zero(), v / (((V(T(1)) - iou) + v) + eps));
    }
};

template <class T> MMK_INLINE Vec<T> box_overlap(Overlap kind, const Quad<T>& a, const Quad<T>& b, Vec<T> eps) {
    const BoxPair<T> p(a, b, eps);
    if (kind == Overlap::iou) return p.iou;
    if (kind == Overlap::giou) return p.iou - (p.hull_area() - p.united) / (p.hull_area() + eps);
    const Vec<T> diou = p.iou - p.distance() / (p.diagonal() + eps);
    if (kind == Overlap::diou) return diou;
    const Vec<T> v = p.aspect(p.turn());
    return diou - p.weight(v, eps) * v;
}

// The share of a's end in max(a, b) or, with the two exchanged, in min: 1, 0, or a half where they are equal.
template <class T> MMK_INLINE Vec<T> share(Vec<T> greater, Vec<T> smaller) {
    const Vec<T> zero = Vec<T>::zero();
    return select(greater > smaller, Vec<T>(T(1)), select(greater == smaller, Vec<T>(T(0.5)), zero));
}
template <class T> MMK_INLINE Vec<T> where_not_negative(Vec<T> raw, Vec<T> g) {
    return select(raw >= Vec<T>::zero(), g, Vec<T>::zero());
}

// g times the derivatives by the corners of a and b.
template <class T> MMK_INLINE void box_overlap_grad(Overlap kind, const Quad<T>& a, const Quad<T>& b, Vec<T> eps,
                                                    Vec<T> g, Quad<T>& ga, Quad<T>& gb) {
    using V = Vec<T>;
    const V one(T(1)), two(T(2)), zero = V::zero();
    const BoxPair<T> p(a, b, eps);
    const V united = p.united + eps;
    V of_iou = g, of_turn = zero, of_hull[2] = {zero, zero}, of_offset[2] = {zero, zero};
    if (kind == Overlap::ciou) {
        const V turn = p.turn(), weight = p.weight(p.aspect(turn), eps);
        of_iou = g * (one - weight * weight);
        of_turn = -(g * (weight * (two - weight))) * (V(T(0x1.9f02f6222c72p-1)) * turn);
    }
    V of_common = of_iou * (one + p.iou) / united, of_area = -(of_iou * p.iou / united);
    if (kind == Overlap::giou) {
        const V hull = p.hull_area() + eps, of_union = g / hull;
        of_common = of_common - of_union, of_area = of_area + of_union;
        for (int axis = 0; axis < 2; ++axis) of_hull[axis] = -(of_union * (united / hull)) * p.hull[1 - axis];
    }
    if (kind == Overlap::diou || kind == Overlap::ciou) {
        const V diagonal = p.diagonal() + eps, each = g / diagonal;
        for (int axis = 0; axis < 2; ++axis) {
            of_hull[axis] = each * (p.distance() / diagonal) * (two * p.hull[axis]);
            of_offset[axis] = -(each * p.offset[axis]);
        }
    }
    for (int axis = 0; axis < 2; ++axis) {
        const V common = where_not_negative(p.raw_common[axis], of_common * p.common[1 - axis]);
        const V hull = where_not_negative(p.raw_hull[axis], of_hull[axis]);
        const V low_a = a.at[axis], low_b = b.at[axis], high_a = a.at[axis + 2], high_b = b.at[axis + 2];
        V of_side[2];
        for (int k = 0; k < 2; ++k) {
            of_side[k] = of_area * p.side[k][1 - axis];
            if (kind == Overlap::ciou) {
                // the angle's derivatives are height / (width^2 + height^2) and -width / (...)
                const V square = p.side[k][0] * p.side[k][0] + p.side[k][1] * p.side[k][1];
                const V slope = select(square == zero, zero, p.side[k][1 - axis] / square);
                const V turned = of_turn * slope;
                of_side[k] = (k == axis) ? of_side[k] + turned : of_side[k] - turned;
            }
            of_side[k] = where_not_negative(p.raw[k][axis], of_side[k]);
        }
        const V low = share(low_a, low_b), high = share(high_b, high_a); // of a in the intersection's ends
        const V out_low = share(low_b, low_a), out_high = share(high_a, high_b);
        ga.at[axis] = ((-(common * low) - of_side[0]) - hull * out_low) + of_offset[axis];
        ga.at[axis + 2] = ((common * high + of_side[0]) + hull * out_high) + of_offset[axis];
        gb.at[axis] = ((-(common * (one - low)) - of_side[1]) - hull * (one - out_low)) - of_offset[axis];
        gb.at[axis + 2] = ((common * (one - high) + of_side[1]) + hull * (one - out_high)) - of_offset[axis];
    }
}

} // namespace mmk::MMK_ISA
