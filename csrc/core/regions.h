// Boxes on maps: which elements of an axis each bin of a region takes, and with what weights. ops/roi.h says what is
// computed; both floors compile this, so that they compute it alike.
#pragma once

#include "simd.h"

namespace mmk::MMK_ISA {

template <class T> MMK_INLINE T floor_of(T v) {
    if constexpr (sizeof(T) == 4)
        return __builtin_floorf(v);
    else
        return __builtin_floor(v);
}
template <class T> MMK_INLINE T ceil_of(T v) { return -floor_of(-v); }
template <class T> MMK_INLINE T root_of(T v) {
    if constexpr (sizeof(T) == 4)
        return __builtin_sqrtf(v);
    else
        return __builtin_sqrt(v);
}
// To the nearest whole number, halves away from zero.
template <class T> MMK_INLINE T round_of(T v) {
    const T size = v < T(0) ? -v : v, whole = floor_of(size), rounded = size - whole >= T(0.5) ? whole + T(1) : whole;
    return v < T(0) ? -rounded : rounded;
}
template <class T> MMK_INLINE bool is_finite(T v) { return v - v == T(0); }

// A whole number below `limit`, or -1.
template <class T> MMK_INLINE int64_t index_of(T v, int64_t limit) {
    if (!(v > T(-1) && v < T(limit))) return -1;
    const int64_t index = int64_t(v);
    return index < limit ? index : -1;
}

inline constexpr int max_levels = 5;
inline constexpr int64_t most_samples = int64_t(1) << 24; // of a bin along an axis, if its length says how many
inline constexpr int64_t most_visited = 256;              // the same where every sample is visited

// How boxes become regions of a map.
struct RegionRules {
    double scale = 1, offset = 0; // a position is a coordinate * scale - offset
    int64_t sampling = 0;         // samples of a bin along each axis; 0 or less: one for each element of its length
    int64_t most = most_samples;  // of those that are counted so
    bool grown = false;           // a region is at least one element long
    bool windows = false;         // bins hold whole elements, between rounded borders, in place of samples
    int64_t extra = 0;            // windows: what a region is longer than its borders are apart,
    int64_t hidden = 0;           // and how many elements at the map's end no window holds
    bool sensitive = false;       // plane (c * bins_y + p) * bins_x + q of the map holds bin (p, q) of channel c alone
    int levels = 1, level = 0;    // the map's level; a box whose side is sides[k - 1] or more is of level k
    double sides[max_levels - 1] = {};

    template <class T> MMK_MEMBER bool takes(const T* corners) const {
        if (levels == 1) return true;
        const T side = root_of((corners[2] - corners[0]) * (corners[3] - corners[1]));
        int found = 0;
        for (int k = 1; k < levels; ++k)
            if (side >= T(sides[k - 1])) found = k;
        return found == level;
    }
};

// Samples between the elements. Aligned: coordinates name the borders of elements, whose centres are what is sampled.
MMK_INLINE RegionRules sampling_rules(double scale, int64_t sampling, bool aligned) {
    RegionRules rules;
    rules.scale = scale, rules.sampling = sampling, rules.offset = aligned ? 0.5 : 0.0, rules.grown = !aligned;
    return rules;
}
template <class Op> MMK_INLINE RegionRules sampling_rules(const Op& op) {
    return sampling_rules(op.spatial_scale, op.sampling_ratio, op.aligned != 0);
}
template <class Op> MMK_INLINE RegionRules sensitive_sampling_rules(const Op& op) {
    RegionRules rules = sampling_rules(op.spatial_scale, op.sampling_ratio, true);
    rules.sensitive = true;
    return rules;
}
template <class Op> MMK_INLINE RegionRules level_rules(const Op& op, int64_t level) {
    RegionRules rules = sampling_rules(op.spatial_scales[level], op.sampling_ratio, op.aligned != 0);
    rules.levels = int(op.levels), rules.level = int(level);
    for (int k = 0; k < max_levels - 1; ++k) rules.sides[k] = op.sides[k];
    return rules;
}
// The same where every sample is visited.
template <class Op> MMK_INLINE RegionRules visiting_rules(const Op& op) {
    RegionRules rules = sampling_rules(op);
    rules.most = most_visited;
    return rules;
}
// Whole elements: of R-FCN, whose maps keep their last row and column to themselves, or of Fast R-CNN.
MMK_INLINE RegionRules window_rules(double scale, bool sensitive) {
    RegionRules rules;
    rules.scale = scale, rules.windows = true, rules.extra = sensitive ? 0 : 1, rules.hidden = sensitive ? 1 : 0;
    rules.sensitive = sensitive;
    return rules;
}

// A region along one axis.
template <class T> struct RegionAxis {
    T start, bin;
    int64_t count; // samples of a bin; 0: an empty region
    int64_t extent;
    bool windows;

    RegionAxis() = default;
    MMK_MEMBER RegionAxis(const RegionRules& rules, T low, T high, int64_t bins, int64_t extent_)
        : extent(extent_ - rules.hidden), windows(rules.windows) {
        const T scale = T(rules.scale), offset = T(rules.offset);
        start = low * scale - offset;
        T end = high * scale - offset;
        if (windows) start = round_of(start), end = round_of(end);
        T size = end - start;
        const bool empty = !is_finite(start) || !is_finite(end) || !is_finite(size) || extent <= 0;
        if (windows) size = size + T(rules.extra);
        if ((windows || rules.grown) && size < T(1)) size = T(1);
        bin = size / T(bins);
        const T whole = ceil_of(bin);
        count = rules.sampling > 0 ? rules.sampling
                : whole > T(0)     ? (whole < T(rules.most) ? int64_t(whole) : rules.most)
                                   : 0;
        if (empty) start = bin = T(0), count = 0;
    }

    // Bin p holds the elements [first, end).
    MMK_MEMBER void window(int64_t p, int64_t& first, int64_t& end) const {
        first = inside(floor_of(T(p) * bin) + start), end = inside(ceil_of(T(p + 1) * bin) + start);
        if (count == 0 || end < first) first = end = 0;
    }

    // Sample j of bin p, by rising position: a region whose borders are exchanged is walked from its end.
    MMK_MEMBER T sample(int64_t p, int64_t j) const {
        const int64_t i = bin < T(0) ? count - 1 - j : j;
        return (start + T(p) * bin) + (T(i) + T(0.5)) * bin / T(count);
    }
    // Whether a position is on the map; then the element before it, and how far it is beyond that. The last element has
    // nothing behind it.
    MMK_MEMBER bool place(T position, int64_t& low, T& beyond) const {
        if (!(position >= T(-1) && position <= T(extent))) return false;
        if (!(position > T(0))) position = T(0);
        low = int64_t(position);
        beyond = position - T(low);
        if (low >= extent - 1) low = extent - 1, beyond = T(0);
        return true;
    }
    // Samples [first, end) are all that may be on the map.
    MMK_MEMBER void samples_inside(int64_t p, int64_t& first, int64_t& end) const {
        first = 0, end = count;
        if (count <= 8) return;
        for (int64_t low = 0, high = count; low < high;) { // the first at -1 or more
            const int64_t middle = low + (high - low) / 2;
            if (sample(p, middle) >= T(-1))
                high = middle;
            else
                low = middle + 1;
            first = low;
        }
        for (int64_t low = first, high = count; low < high;) { // the first beyond the map
            const int64_t middle = low + (high - low) / 2;
            if (sample(p, middle) > T(extent))
                high = middle;
            else
                low = middle + 1;
            end = low;
        }
    }

    // body(element, weight) for each element that bin p takes, by rising position. A sample gives 1 - beyond to the
    // element before it and what is left to the next; an element's gifts are added in the samples' order, from +0, and
    // divided by their count. Elements that are given nothing take no part.
    template <class Body> MMK_MEMBER void for_taps(int64_t p, Body&& body) const {
        if (windows) {
            int64_t first, end;
            window(p, first, end);
            for (int64_t i = first; i < end; ++i) body(i, T(1) / T(end - first));
            return;
        }
        int64_t first, end, at = -1;
        samples_inside(p, first, end);
        T given = T(0), next = T(0); // to the element `at` and to the one behind it
        for (int64_t j = first; j <= end; ++j) {
            int64_t low = -1; // none: everything is given out
            T beyond = T(0);
            if (j < end && !place(sample(p, j), low, beyond)) continue;
            if (at >= 0 && low != at) {
                const T weight = given / T(count), behind = low == at + 1 ? T(0) : next / T(count);
                if (weight != T(0)) body(at, weight);
                if (behind != T(0)) body(at + 1, behind);
                given = low == at + 1 ? next : T(0), next = T(0);
            }
            if (low < 0) break;
            at = low, given = given + (T(1) - beyond), next = next + beyond;
        }
    }
    // No fewer than for_taps gives.
    MMK_MEMBER int64_t most_taps(int64_t p) const {
        int64_t first, end, low = 0, high = 0;
        if (windows) {
            window(p, first, end);
            return end - first;
        }
        samples_inside(p, first, end);
        if (end - first <= 4) return end > first ? 2 * (end - first) : 0;
        T beyond;
        if (!place(sample(p, first), low, beyond)) low = 0;
        if (!place(sample(p, end - 1), high, beyond)) high = extent - 1;
        return high - low + 2;
    }

  private:
    MMK_MEMBER int64_t inside(T position) const {
        return position > T(0) ? (position < T(extent) ? int64_t(position) : extent) : 0;
    }
};

// The four elements around a sample, in the order (low, low), (low, next), (next, low), (next, next); those without a
// weight take no part. -1: no element.
template <class T> struct Corners {
    int64_t rows[2], columns[2];
    T row_weights[2], column_weights[2];
    bool inside;

    // On a map of `height` x `width`, by axes of these extents.
    MMK_MEMBER Corners(const RegionAxis<T>& y_axis, const RegionAxis<T>& x_axis, T y, T x) {
        T below = T(0), beside = T(0);
        rows[0] = columns[0] = 0;
        inside = y_axis.place(y, rows[0], below) && x_axis.place(x, columns[0], beside);
        rows[1] = rows[0] + 1, columns[1] = columns[0] + 1;
        row_weights[0] = T(1) - below, row_weights[1] = below;
        column_weights[0] = T(1) - beside, column_weights[1] = beside;
    }
    // Chosen, not indexed: a thread of a GPU would keep an array that it indexes in memory.
    MMK_MEMBER T weight(int k) const {
        const T of_row = k & 2 ? row_weights[1] : row_weights[0];
        return inside ? of_row * (k & 1 ? column_weights[1] : column_weights[0]) : T(0);
    }
    MMK_MEMBER int64_t row(int k) const { return k & 2 ? rows[1] : rows[0]; }
    MMK_MEMBER int64_t column(int k) const { return k & 1 ? columns[1] : columns[0]; }
};

} // namespace mmk::MMK_ISA
