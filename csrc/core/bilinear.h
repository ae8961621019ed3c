// Where a bilinear sample lies: four elements of a plane and their weights. One statement for both floors: sixteen
// samples at a time, or a thread's one.
#pragma once

#include "simd.h"

namespace mmk::MMK_ISA {

// x rounded down, for |x| < 2^30.
template <class T> MMK_INLINE Vec<T> round_down(Vec<T> x) {
    const Vec<T> whole = convert<T>(convert<int32_t>(x));
    return select(whole > x, whole - Vec<T>(T(1)), whole);
}

// An extent as places take it: beyond 2^24 a float32 counts no single elements, beyond 2^30 an int32 soon none.
template <class T> MMK_INLINE T sampled_extent(int64_t extent) {
    constexpr int64_t most = int64_t(1) << (sizeof(T) == 4 ? 24 : 30);
    return T(extent < most ? extent : most);
}

// Elements (row, column) to (row + 1, column + 1), of which those outside the plane are zeros. A sample that lies
// outside (-1, H) x (-1, W) has the row H and the column -1: four zeros. Where a coordinate is NaN, weights are NaN too.
template <class T> struct BilinearPlace {
    Vec<T> top, bottom, left, right; // weights of the rows and of the columns
    Vec<int32_t> row, column;

    MMK_MEMBER BilinearPlace(Vec<T> y, Vec<T> x, Vec<T> H, Vec<T> W) {
        const Vec<T> before(T(-1)), one(T(1));
        const Mask<T> number = (y == y) & (x == x);
        const Mask<T> inside = (y > before) & (y < H) & (x > before) & (x < W);
        const Vec<T> y_inside = select(inside, y, H), x_inside = select(inside, x, before);
        const Vec<T> y_low = round_down(y_inside), x_low = round_down(x_inside);
        bottom = select(number, y_inside - y_low, y + x), right = select(number, x_inside - x_low, y + x);
        top = one - bottom, left = one - right;
        row = convert<int32_t>(y_low), column = convert<int32_t>(x_low);
    }
};

// The sample of sixteen channels, or of one, from their corners, and what it gains along y and x.
template <class T> MMK_INLINE Vec<T> bilinear_sample(Vec<T> w00, Vec<T> w01, Vec<T> w10, Vec<T> w11, Vec<T> v00,
                                                     Vec<T> v01, Vec<T> v10, Vec<T> v11) {
    return fma(w11, v11, fma(w10, v10, fma(w01, v01, w00 * v00)));
}
template <class T>
MMK_INLINE Vec<T> slope_along_y(Vec<T> left, Vec<T> right, Vec<T> v00, Vec<T> v01, Vec<T> v10, Vec<T> v11) {
    return fma(right, v11 - v01, left * (v10 - v00));
}
template <class T>
MMK_INLINE Vec<T> slope_along_x(Vec<T> top, Vec<T> bottom, Vec<T> v00, Vec<T> v01, Vec<T> v10, Vec<T> v11) {
    return fma(bottom, v11 - v10, top * (v01 - v00));
}

} // namespace mmk::MMK_ISA
