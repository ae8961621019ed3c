// Arithmetic of single boxes, on a lane: conversions, clipping, and the offsets that detectors learn. Both floors run
// these functions over their arrays.
#pragma once

#include "arith.h"

namespace mmk::MMK_ISA {

template <class T> struct Quad {
    Vec<T> at[4];
};

// Of each axis: (u, v) -> (m[0] u + m[1] v, m[2] u + m[3] v). A factor of 0 takes no part: infinities stay.
template <class T> struct ConvertBox {
    T m[4];
    MMK_MEMBER void operator()(const Quad<T>* x, Quad<T>* y) const {
        for (int axis = 0; axis < 2; ++axis) {
            const Vec<T> u = x[0].at[axis], v = x[0].at[axis + 2];
            y[0].at[axis] = sum(m[0], u, m[1], v);
            y[0].at[axis + 2] = sum(m[2], u, m[3], v);
        }
    }

  private:
    MMK_MEMBER static Vec<T> sum(T p, Vec<T> u, T q, Vec<T> v) {
        if (p == T(0)) return Vec<T>(q) * v;
        if (q == T(0)) return Vec<T>(p) * u;
        return Vec<T>(p) * u + Vec<T>(q) * v;
    }
};

// x between 0 and width, y between 0 and height; NaN stays.
template <class T> struct ClipBox {
    T width, height;
    MMK_MEMBER void operator()(const Quad<T>* x, Quad<T>* y) const {
        for (int k = 0; k < 4; ++k)
            y[0].at[k] = clamp(x[0].at[k], Vec<T>::zero(), Vec<T>(k % 2 ? height : width)) + Vec<T>::zero();
    }
};
// x[0]: the gradient; x[1]: what was clipped.
template <class T> struct ClipBoxGrad {
    T width, height;
    MMK_MEMBER void operator()(const Quad<T>* x, Quad<T>* y) const {
        for (int k = 0; k < 4; ++k) {
            const Vec<T> b = x[1].at[k];
            y[0].at[k] =
                select((b >= Vec<T>::zero()) & (b <= Vec<T>(k % 2 ? height : width)), x[0].at[k], Vec<T>::zero());
        }
    }
};

template <class T> struct BoxArea {
    MMK_MEMBER void operator()(const Quad<T>* x, Quad<T>* y) const {
        y[0].at[0] = (x[0].at[2] - x[0].at[0]) * (x[0].at[3] - x[0].at[1]);
    }
};

// Side and centre of an axis of a box.
template <class T> MMK_INLINE Vec<T> side_of(const Quad<T>& b, int axis) { return b.at[axis + 2] - b.at[axis]; }
template <class T> MMK_INLINE Vec<T> centre_of(const Quad<T>& b, int axis, Vec<T> side) {
    return b.at[axis] + Vec<T>(T(0.5)) * side;
}

// x[0]: boxes, x[1]: anchors; y: the offsets of centres, in sides, and the logarithms of the sides' ratios.
template <class T> struct EncodeBox {
    T weights[4];
    MMK_MEMBER void operator()(const Quad<T>* x, Quad<T>* y) const {
        for (int axis = 0; axis < 2; ++axis) {
            const Vec<T> side = side_of(x[0], axis), anchor = side_of(x[1], axis);
            const Vec<T> shift = centre_of(x[0], axis, side) - centre_of(x[1], axis, anchor);
            y[0].at[axis] = Vec<T>(weights[axis]) * shift / anchor;
            y[0].at[axis + 2] = Vec<T>(weights[axis + 2]) * log(side / anchor);
        }
    }
};
// x[0]: deltas, x[1]: anchors; y: boxes.
template <class T> struct DecodeBox {
    T weights[4], most; // of the logarithm of a side's ratio
    MMK_MEMBER void operator()(const Quad<T>* x, Quad<T>* y) const {
        for (int axis = 0; axis < 2; ++axis) {
            const Vec<T> anchor = side_of(x[1], axis);
            const Vec<T> shift = x[0].at[axis] / Vec<T>(weights[axis]);
            const Vec<T> growth = at_most(x[0].at[axis + 2] / Vec<T>(weights[axis + 2]), Vec<T>(most));
            const Vec<T> centre = shift * anchor + centre_of(x[1], axis, anchor);
            const Vec<T> half = Vec<T>(T(0.5)) * (exp(growth) * anchor);
            y[0].at[axis] = centre - half;
            y[0].at[axis + 2] = centre + half;
        }
    }
};
// x[0]: the boxes' gradient, x[1]: deltas, x[2]: anchors; y[0]: of the deltas, y[1]: of the anchors.
template <class T> struct DecodeBoxGrad {
    T weights[4], most;
    MMK_MEMBER void operator()(const Quad<T>* x, Quad<T>* y) const {
        const Vec<T> zero = Vec<T>::zero(), one_half(T(0.5));
        for (int axis = 0; axis < 2; ++axis) {
            const Vec<T> anchor = side_of(x[2], axis);
            const Vec<T> centre = x[0].at[axis] + x[0].at[axis + 2];
            const Vec<T> side = one_half * (x[0].at[axis + 2] - x[0].at[axis]);
            const Vec<T> shift = x[1].at[axis] / Vec<T>(weights[axis]);
            const Vec<T> growth = x[1].at[axis + 2] / Vec<T>(weights[axis + 2]);
            const Vec<T> ratio = exp(at_most(growth, Vec<T>(most)));
            y[0].at[axis] = centre * anchor / Vec<T>(weights[axis]);
            y[0].at[axis + 2] =
                select(growth > Vec<T>(most), zero, side * (ratio * anchor) / Vec<T>(weights[axis + 2]));
            const Vec<T> of_anchor = centre * shift + side * ratio;
            y[1].at[axis] = one_half * centre - of_anchor;
            y[1].at[axis + 2] = one_half * centre + of_anchor;
        }
    }
};

// x[0]: distances from a cell's centre to the left, up, right and down, in the cell's sides; x[1]: cells; y: boxes.
template <class T> struct DecodeDistances {
    MMK_MEMBER void operator()(const Quad<T>* x, Quad<T>* y) const {
        for (int axis = 0; axis < 2; ++axis) {
            const Vec<T> side = side_of(x[1], axis), centre = centre_of(x[1], axis, side);
            y[0].at[axis] = centre - x[0].at[axis] * side;
            y[0].at[axis + 2] = centre + x[0].at[axis + 2] * side;
        }
    }
};
// x[0]: the boxes' gradient, x[1]: cells; y: of the distances.
template <class T> struct DecodeDistancesGrad {
    MMK_MEMBER void operator()(const Quad<T>* x, Quad<T>* y) const {
        for (int axis = 0; axis < 2; ++axis) {
            const Vec<T> side = side_of(x[1], axis);
            y[0].at[axis] = -(x[0].at[axis] * side);
            y[0].at[axis + 2] = x[0].at[axis + 2] * side;
        }
    }
};

// Box b of cell (row, column) of a grid: numbers x, y in the cell, roots of width and height in the picture.
template <class T> struct GridBox {
    T rows, columns, height, width; // of the grid in cells, of the picture
    MMK_MEMBER void operator()(int64_t row, int64_t column, const T (&x)[4], T (&y)[4]) const {
        const T centre_x = (T(column) + x[0]) / columns, centre_y = (T(row) + x[1]) / rows;
        const T half_x = T(0.5) * (x[2] * x[2]), half_y = T(0.5) * (x[3] * x[3]);
        y[0] = (centre_x - half_x) * width, y[1] = (centre_y - half_y) * height;
        y[2] = (centre_x + half_x) * width, y[3] = (centre_y + half_y) * height;
    }
};

} // namespace mmk::MMK_ISA
