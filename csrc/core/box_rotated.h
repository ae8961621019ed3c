// Rotated boxes, on a lane: the area of an intersection without polygons.
//
// In the frame of box b, whose sides are the axes there, the part of a that is inside b has at every x the height
// clamp(top of a) - clamp(bottom of a), clamped to b's sides: its area is the sum over a's four edges of the integral
// of the clamped edge, from one clamped end to the other. No vertex is found, nothing is sorted, and every quantity is
// a continuous function of the corners, so that edges which coincide cost no digits.
#pragma once

#include "arith.h"
#include "boxes.h"

namespace mmk::MMK_ISA {

template <class T> struct Rotated {
    Vec<T> x, y, width, height, cosine, sine, area, radius;
};
// The angle turns the x axis towards the y axis; scale: radians in its unit. Sides below 0 are taken as 0.
template <class T>
MMK_INLINE Rotated<T> rotated_box(Vec<T> x, Vec<T> y, Vec<T> width, Vec<T> height, Vec<T> angle, T scale) {
    Rotated<T> b;
    b.x = x, b.y = y;
    b.width = at_least(width, Vec<T>::zero()), b.height = at_least(height, Vec<T>::zero());
    sincos(angle * Vec<T>(scale), b.sine, b.cosine);
    // NaN if any number is not finite, so that every comparison with it fails
    const Vec<T> zero = Vec<T>::zero();
    const Vec<T> finite = ((x * zero + y * zero) + (width * zero + height * zero)) + angle * zero;
    b.area = b.width * b.height + finite;
    b.radius = Vec<T>(T(0.5)) * sqrt(b.width * b.width + b.height * b.height);
    return b;
}

// The integral of clamp(y, -side, side) along an edge, x falling; x is clamped to +-wide.
template <class T> MMK_INLINE Vec<T> under_edge(Vec<T> xa, Vec<T> ya, Vec<T> xb, Vec<T> yb, Vec<T> wide, Vec<T> side) {
    const Vec<T> slope = select(xa == xb, Vec<T>::zero(), (yb - ya) / (xb - xa));
    const Vec<T> left = clamp(xa, -wide, wide), right = clamp(xb, -wide, wide);
    const Vec<T> from = ya + (left - xa) * slope, to = yb + (right - xb) * slope;
    const Vec<T> low = clamp(from, -side, side), high = clamp(to, -side, side);
    // of the way: before y enters the band, inside it, behind it
    const Vec<T> sum = ((low - from) * low + (high - low) * (Vec<T>(T(0.5)) * (low + high))) + (to - high) * high;
    return (left - right) * select(low == high, low, sum / (to - from));
}

template <class T> MMK_INLINE Vec<T> rotated_intersection(const Rotated<T>& a, const Rotated<T>& b) {
    using V = Vec<T>;
    const V half(T(0.5)), zero = V::zero();
    const V dx = a.x - b.x, dy = a.y - b.y, reach = a.radius + b.radius;
    const V x = dx * b.cosine + dy * b.sine, y = dy * b.cosine - dx * b.sine; // a's centre in b's frame
    const V cosine = a.cosine * b.cosine + a.sine * b.sine, sine = a.sine * b.cosine - a.cosine * b.sine;
    const V across = half * a.width, along = half * a.height, wide = half * b.width, side = half * b.height;
    const V ux = across * cosine, uy = across * sine, vx = -(along * sine), vy = along * cosine;
    const auto apart = (dx * dx + dy * dy >= reach * reach) | (abs(x) >= wide + (abs(ux) + abs(vx))) |
                       (abs(y) >= side + (abs(uy) + abs(vy)));
    const V px[4] = {(x - ux) - vx, (x + ux) - vx, (x + ux) + vx, (x - ux) + vx};
    const V py[4] = {(y - uy) - vy, (y + uy) - vy, (y + uy) + vy, (y - uy) + vy};
    V sum = under_edge(px[0], py[0], px[1], py[1], wide, side);
    for (int k = 1; k < 4; ++k) sum = sum + under_edge(px[k], py[k], px[(k + 1) % 4], py[(k + 1) % 4], wide, side);
    // four edges' roundings are at most some 20 units of b's area: less than 64 is nothing
    const V least = V(sizeof(T) == 4 ? T(0x1p-18f) : T(0x1p-47)) * b.area;
    return select(apart | (sum <= least), zero, at_most(at_most(sum, a.area), b.area));
}

} // namespace mmk::MMK_ISA
