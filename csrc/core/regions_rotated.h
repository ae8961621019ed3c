// Rotated boxes on maps, for both floors.
#pragma once

#include "arith.h"
#include "regions.h"

namespace mmk::MMK_ISA {

struct RotationRules {
    RegionRules along; // both axes of the region
    bool clockwise = false, degrees = false;
};
template <class Op> MMK_INLINE RotationRules rotation_rules(const Op& op) {
    return {visiting_rules(op), op.clockwise != 0, op.degrees != 0};
}

// Its axes run from -size / 2 to size / 2; a sample is turned about the centre, then moved there.
template <class T> struct RotatedRegion {
    RegionAxis<T> rows, columns;
    T centre_y, centre_x, cosine, sine;

    RotatedRegion() = default;
    MMK_MEMBER RotatedRegion(const RotationRules& rules, const T* box, int64_t height, int64_t width, int64_t bins_y,
                             int64_t bins_x)
        : rows(along(rules, box[4], bins_y, height)), columns(along(rules, box[3], bins_x, width)) {
        const T scale = T(rules.along.scale), offset = T(rules.along.offset);
        centre_x = box[1] * scale - offset, centre_y = box[2] * scale - offset;
        T angle = rules.degrees ? box[5] * T(0x1.1df46a2529d39p-6) : box[5];
        if (rules.clockwise) angle = -angle;
        cosine = cos(angle), sine = sin(angle);
        if (!is_finite(centre_x) || !is_finite(centre_y) || !is_finite(angle)) rows.count = 0;
        if (rows.count == 0 || columns.count == 0) rows.count = columns.count = 0;
    }

    MMK_MEMBER int64_t samples() const { return rows.count * columns.count; } // of a bin
    // Sample `index` of bin (p, q), row by row.
    MMK_MEMBER Corners<T> corners(int64_t p, int64_t q, int64_t index) const {
        const T down = at(rows, p, index / columns.count), across = at(columns, q, index % columns.count);
        const T y = (down * cosine - across * sine) + centre_y, x = (down * sine + across * cosine) + centre_x;
        return Corners<T>(rows, columns, y, x);
    }

  private:
    MMK_MEMBER static RegionAxis<T> along(const RotationRules& rules, T length, int64_t bins, int64_t extent) {
        RegionAxis<T> axis;
        axis.extent = extent, axis.windows = false;
        T size = length * T(rules.along.scale);
        const bool empty = !is_finite(size) || extent <= 0;
        if (rules.along.grown && size < T(1)) size = T(1);
        axis.start = -size / T(2), axis.bin = size / T(bins);
        const T whole = ceil_of(axis.bin);
        axis.count = rules.along.sampling > 0 ? rules.along.sampling
                     : whole > T(0)           ? (whole < T(rules.along.most) ? int64_t(whole) : rules.along.most)
                                              : 0;
        if (empty) axis.count = 0;
        return axis;
    }
    MMK_MEMBER static T at(const RegionAxis<T>& axis, int64_t p, int64_t i) {
        return (axis.start + T(p) * axis.bin) + (T(i) + T(0.5)) * axis.bin / T(axis.count);
    }
};

} // namespace mmk::MMK_ISA
