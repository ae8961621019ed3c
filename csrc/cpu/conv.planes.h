// A convolution's input with its border, taken apart by the strides: what every kernel of the family reads.
#pragma once

#include "../core/layout.h"
#include "../core/products.h"
#include "../ops/conv.h"

#include "tf32.h"

namespace mmk::cpu::MMK_ISA {

using namespace mmk::MMK_ISA;

MMK_INLINE int64_t floor_divide(int64_t a, int64_t b) { return a / b - (a % b < 0); }
MMK_INLINE int64_t ceil_divide(int64_t a, int64_t b) { return -floor_divide(-a, b); }
MMK_INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
MMK_INLINE int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

// One axis of a bordered image, taken apart by the stride: phase f holds the elements at start(f), start(f) + step, ...
// of the image, zeros where it has none. A window's taps, at whatever stride, are then neighbours in their phases.
struct Axis {
    int64_t extent; // of the image
    int64_t before; // border before the image; negative: elements that no window meets
    int64_t step;   // stride of the windows
    int64_t dilation, taps;
    int64_t phases, count; // count: elements of each phase

    MMK_MEMBER Axis(int64_t extent_, int64_t before_, int64_t windows, int64_t step_, int64_t dilation_, int64_t taps_)
        : extent(extent_), before(before_), step(step_), dilation(dilation_), taps(taps_), phases(smaller(step, taps)),
          count(windows + (taps - 1) * dilation / step) {}
    // A window with fewer taps than strides needs only their phases.
    MMK_MEMBER int64_t start(int64_t phase) const { return (step <= taps ? phase : phase * dilation % step) - before; }
    MMK_MEMBER int64_t phase(int64_t tap) const { return step <= taps ? tap * dilation % step : tap; }
    MMK_MEMBER int64_t offset(int64_t tap) const { return tap * dilation / step; }
};

// Planes in scratch memory: [phase of depth][depth][phase of rows][phase of columns][rows][columns].
struct Planes {
    Axis depth, rows, columns;
    MMK_MEMBER int64_t pitch() const { return columns.count; }
    MMK_MEMBER int64_t image() const { return rows.count * columns.count; }
    MMK_MEMBER int64_t slice() const { return rows.phases * columns.phases * image(); } // one of depth
    MMK_MEMBER int64_t size() const { return depth.phases * depth.count * slice(); }
    // Of tap (t, r, s), counted through all three.
    MMK_MEMBER int64_t tap(int64_t index) const {
        const int64_t s = index % columns.taps, r = index / columns.taps % rows.taps;
        const int64_t t = index / columns.taps / rows.taps;
        return (depth.phase(t) * depth.count + depth.offset(t)) * slice() +
               (rows.phase(r) * columns.phases + columns.phase(s)) * image() + rows.offset(r) * pitch() +
               columns.offset(s);
    }
};

template <class T> void fill_plane(const Planes& planes, const T* x, T* to) {
    const Axis &rows = planes.rows, &columns = planes.columns;
    const int64_t pitch = planes.pitch(), step = columns.step;
    for (int64_t a = 0; a < rows.phases; ++a)
        for (int64_t b = 0; b < columns.phases; ++b) {
            const int64_t start = columns.start(b);
            // elements [low, high) of a row exist
            const int64_t low = smaller(pitch, start >= 0 ? 0 : ceil_divide(-start, step));
            const int64_t high = larger(low, smaller(pitch, ceil_divide(columns.extent - start, step)));
            for (int64_t i = 0; i < rows.count; ++i, to += pitch) {
                const int64_t h = rows.start(a) + i * rows.step;
                const bool inside = h >= 0 && h < rows.extent;
                const int64_t from = inside ? low : pitch, until = inside ? high : pitch;
                for (int64_t j = 0; j < from; j += lanes) Vec<T>::zero().store(to + j, smaller(lanes, from - j));
                for (int64_t j = until; j < pitch; j += lanes) Vec<T>::zero().store(to + j, smaller(lanes, pitch - j));
                if (!inside) continue;
                const T* const row = x + h * columns.extent + start;
                if (step == 1)
                    for (int64_t j = low; j < high; j += lanes) Vec<T>::load(row + j, high - j).store(to + j, high - j);
                else
                    for (int64_t j = low; j < high; ++j) to[j] = row[j * step];
            }
        }
}
template <class T> void fill_planes(const Planes& planes, const T* x, T* to) {
    const Axis& depth = planes.depth;
    for (int64_t phase = 0; phase < depth.phases; ++phase)
        for (int64_t i = 0; i < depth.count; ++i, to += planes.slice()) {
            const int64_t d = depth.start(phase) + i * depth.step;
            if (d >= 0 && d < depth.extent)
                fill_plane(planes, x + d * planes.rows.extent * planes.columns.extent, to);
            else
                for (int64_t j = 0; j < planes.slice(); j += lanes)
                    Vec<T>::zero().store(to + j, smaller(lanes, planes.slice() - j));
        }
}
// Every channel of a tensor [N C D H W], and zeros behind the last for kernels that read whole vectors.
template <class T> const T* bordered(Context& context, const Tensor& x, const Planes& planes) {
    const Dense<T> dense(context, x);
    const int64_t count = x.extent[0] * x.extent[1], size = planes.size(), volume = x.size(2, 5);
    const int64_t slack = lanes * ProductShape<T>::pixel_vectors;
    T* const to = context.scratch<T>(count * size + slack);
    for (int64_t i = 0; i < slack; ++i) to[count * size + i] = T(0);
    parallel_ranges(context, count, 1 + 16384 / (1 + size), [&](int64_t begin, int64_t end, int) {
        for (int64_t i = begin; i < end; ++i) fill_planes(planes, dense + i * volume, to + i * size);
    });
    return to;
}

} // namespace mmk::cpu::MMK_ISA
