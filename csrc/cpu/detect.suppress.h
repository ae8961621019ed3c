// Greedy suppression among the boxes of one class.
#pragma once

#include "../core/boxes.h"
#include "detect.bits.h"
#include "detect.sort.h"

namespace mmk::cpu::MMK_ISA {

// What one worker needs for up to `size` boxes; size is a multiple of the lanes.
template <class T> struct Room {
    static constexpr int64_t bins = 2048;
    T *x1, *y1, *x2, *y2, *area; // by place
    uint16_t* removed;           // a bit for each place
    int32_t* place;              // of the i-th best box
    int32_t* first;              // place of each bin
    uint16_t* bin;

    static Room take(Context& context, int64_t size) {
        T* const numbers = context.scratch<T>(5 * size);
        return {numbers,
                numbers + size,
                numbers + 2 * size,
                numbers + 3 * size,
                numbers + 4 * size,
                context.scratch<uint16_t>(size / lanes + 1),
                context.scratch<int32_t>(size),
                context.scratch<int32_t>(bins + 2),
                context.scratch<uint16_t>(size)};
    }
};

template <class T> struct Suppression {
    const T* boxes;
    const int32_t* index; // of the box of each rank
    T threshold;
    int64_t most; // to be kept

    // Boxes that meet nobody lie in the first bin. Products of sides outside [1e-15, 1e15] could underflow or overflow,
    // and the window's inequality with them.
    MMK_MEMBER static bool meets(const T* b, T area) {
        return area > T(0) && area < T(__builtin_inf()) && b[0] == b[0];
    }
    MMK_MEMBER static bool in_range(T x) { return x >= T(1e-15) && x <= T(1e15); }

    // Places by bins of x1; false where the window could miss a box.
    bool place_by_x(const int32_t* ranks, int64_t n, const Room<T>& room, T& low, T& scale) const {
        if (!(threshold > T(0.05)) || n < 256) return false;
        T least = T(0), greatest = T(0);
        bool any_meets = false;
        for (int64_t i = 0; i < n; ++i) {
            const T* const b = boxes + 4 * int64_t(index[ranks[i]]);
            if (!meets(b, one_area(b))) continue;
            if (!in_range(b[2] - b[0]) || !in_range(b[3] - b[1]) || !(b[0] > T(-1e30) && b[0] < T(1e30))) return false;
            if (!any_meets || b[0] < least) least = b[0];
            if (!any_meets || b[0] > greatest) greatest = b[0];
            any_meets = true;
        }
        low = least;
        scale = greatest > least ? T(Room<T>::bins - 1) / (greatest - least) : T(0);
        if (!(scale < T(1e30))) return false;
        int32_t* const first = room.first;
        std::memset(first, 0, size_t(Room<T>::bins + 2) * sizeof(int32_t));
        for (int64_t i = 0; i < n; ++i) {
            const T* const b = boxes + 4 * int64_t(index[ranks[i]]);
            room.bin[i] = uint16_t(meets(b, one_area(b)) ? bin_of(b[0], low, scale) : 0);
            ++first[room.bin[i] + 2];
        }
        for (int64_t k = 2; k < Room<T>::bins + 2; ++k) first[k] += first[k - 1];
        // first[k + 1] is where bin k begins, and ends up where it ends: where bin k + 1 begins
        for (int64_t i = 0; i < n; ++i) room.place[i] = first[room.bin[i] + 1]++;
        return true;
    }
    MMK_MEMBER static int64_t bin_of(T x, T low, T scale) {
        const T at = (x - low) * scale;
        return at > T(0) ? at < T(Room<T>::bins - 1) ? int64_t(at) : Room<T>::bins - 1 : 0;
    }
    MMK_MEMBER static T one_area(const T* b) {
        const T width = b[2] - b[0], height = b[3] - b[1];
        return (width < T(0) ? T(0) : width) * (height < T(0) ? T(0) : height);
    }
    void lay_out(const int32_t* ranks, int64_t n, int64_t size, const Room<T>& room) const {
        for (int64_t i = n; i < size; ++i) room.x1[i] = room.y1[i] = room.x2[i] = room.y2[i] = room.area[i] = T(0);
        for (int64_t i = 0; i < n; ++i) {
            const T* const b = boxes + 4 * int64_t(index[ranks[i]]);
            const int64_t at = room.place[i];
            room.x1[at] = b[0], room.y1[at] = b[1], room.x2[at] = b[2], room.y2[at] = b[3];
            room.area[at] = one_area(b);
        }
        std::memset(room.removed, 0, size_t(size / lanes) * sizeof(uint16_t));
    }

    // The box at a place strikes out whom it overlaps in blocks [from, to). The relation is symmetric to the bit, so
    // that striking out boxes which have been decided, itself among them, does no harm.
    MMK_MEMBER void strike(const Room<T>& room, int64_t at, int64_t from, int64_t to) const {
        const Vec<T> x1(room.x1[at]), y1(room.y1[at]), x2(room.x2[at]), y2(room.y2[at]), area(room.area[at]);
        const Vec<T> limit(threshold);
        for (int64_t block = from; block < to; ++block) {
            const int64_t k = block * lanes;
            const Vec<T> common = box_intersection(x1, y1, x2, y2, Vec<T>::load(room.x1 + k), Vec<T>::load(room.y1 + k),
                                                   Vec<T>::load(room.x2 + k), Vec<T>::load(room.y2 + k));
            const auto struck = overlap_exceeds(common, area, Vec<T>::load(room.area + k), limit);
            room.removed[block] = uint16_t(room.removed[block] | bits_of(struck));
        }
    }

    // Sets kept[rank] for the boxes of these rising ranks that stay.
    void run(const int32_t* ranks, int64_t n, const Room<T>& room, uint8_t* kept) const {
        const int64_t size = (n + lanes - 1) / lanes * lanes;
        T low = 0, scale = 0;
        const bool windows = place_by_x(ranks, n, room, low, scale);
        if (!windows)
            for (int64_t i = 0; i < n; ++i) room.place[i] = int32_t(i);
        lay_out(ranks, n, size, room);
        int64_t count = 0;
        for (int64_t i = 0; i < n && count < most; ++i) {
            const int64_t at = room.place[i];
            if (room.removed[at / lanes] >> at % lanes & 1) continue;
            kept[ranks[i]] = 1;
            ++count;
            if (!windows) {
                strike(room, at, at / lanes, size / lanes);
                continue;
            }
            // roundings move the window by less than 2e-5 of the width and 2^-23 of x1
            const T x = room.x1[at], width = room.x2[at] - x;
            if (!(room.area[at] > T(0) && room.area[at] < T(__builtin_inf()))) continue;
            const T slack = width * T(1e-4) + (x < T(0) ? -x : x) * T(1e-6);
            const int64_t left = bin_of(x - width * ((T(1) - threshold) / threshold) - slack, low, scale);
            const int64_t right = bin_of(x + width * (T(1) - threshold) + slack, low, scale);
            strike(room, at, room.first[left] / lanes, (room.first[right + 1] + lanes - 1) / lanes);
        }
    }
};

} // namespace mmk::cpu::MMK_ISA
