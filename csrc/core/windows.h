// Windows of pooling along one axis, regular or adaptive, as both floors see them: what window i reads, and which windows
// read position i.
#pragma once

#include "tensor.h"

namespace mmk {

// Indices begin, begin + step, ..., count of them.
struct Reach {
    int64_t begin, count, step;
};

// Regular: window i has taps i * stride - padding + tap * dilation. Adaptive: it is [i * extent / outputs, rounded down,
// (i + 1) * extent / outputs, rounded up).
struct PoolAxis {
    int64_t extent, outputs, kernel, stride, padding, padding_after, dilation;
    bool adaptive;

    MMK_MEMBER int64_t start(int64_t i) const { return i * stride - padding; }
    // The elements that window i reads.
    MMK_MEMBER Reach reads(int64_t i) const {
        if (adaptive) {
            const int64_t begin = i * extent / outputs;
            return {begin, ((i + 1) * extent + outputs - 1) / outputs - begin, 1};
        }
        const int64_t from = start(i), step = dilation, room = extent - from;
        const int64_t first = from >= 0 ? 0 : (step - 1 - from) / step;
        int64_t end = room <= 0 ? 0 : (room + step - 1) / step;
        end = end < kernel ? end : kernel;
        return {from + first * step, end > first ? end - first : 0, step};
    }
    // The windows that read element i, in their order.
    MMK_MEMBER Reach read_by(int64_t i) const {
        if (adaptive) {
            const int64_t begin = i * outputs / extent;
            return {begin, ((i + 1) * outputs + extent - 1) / extent - begin, 1};
        }
        const int64_t step = dilation, from = i + padding - (kernel - 1) * step;
        int64_t first = from <= 0 ? 0 : (from + stride - 1) / stride, last = (i + padding) / stride;
        if (last >= outputs) last = outputs - 1;
        if (step == 1) return {first, last >= first ? last - first + 1 : 0, 1};
        // Window first + k reads i if i - start(first + k) is a multiple of the dilation: every `apart`-th does, if any.
        int64_t apart = 1;
        while (first + apart <= last && apart * stride % step != 0) ++apart;
        for (int64_t k = 0; k < apart && first <= last; ++k, ++first) {
            if ((i - start(first)) % step == 0) return {first, (last - first) / apart + 1, apart};
        }
        return {0, 0, 1};
    }
    // What window i counts for in the divisor of a mean: taps inside, or inside the padded extent.
    MMK_MEMBER int64_t counted(int64_t i, bool count_include_pad) const {
        if (adaptive || !count_include_pad) return reads(i).count;
        const int64_t room = extent + padding_after - start(i), taps = room <= 0 ? 0 : (room + dilation - 1) / dilation;
        return taps < kernel ? taps : kernel;
    }
};

// The sum of an adaptive window is that of its chunks, so many elements in scan order each: a chain for each, then one
// through the chunks.
inline constexpr int64_t chunk_taps = 256;
// body(d, h, w, n) for the runs of n neighbours along a line that elements [begin, end) of a window are, in scan order.
// Windows without dilation that are not empty.
template <class Body> MMK_INLINE void each_run(const Reach (&reach)[3], int64_t begin, int64_t end, const Body& body) {
    int64_t m = begin % reach[2].count, l = begin / reach[2].count % reach[1].count,
            k = begin / reach[2].count / reach[1].count;
    while (begin < end) {
        const int64_t room = reach[2].count - m, n = room < end - begin ? room : end - begin;
        body(reach[0].begin + k, reach[1].begin + l, reach[2].begin + m, n);
        begin += n, m = 0;
        if (++l == reach[1].count) l = 0, ++k;
    }
}

// Axis 0, 1 or 2 of a volume, of which lines and planes are the last one or two: its number among an operator's own
// `rank` axes, or -1.
MMK_INLINE int own_axis(int axis, int rank) { return axis - (3 - rank); }
MMK_INLINE Tensor as_volume(const Tensor& x) {
    Tensor t = x;
    const int rank = x.rank - 2;
    t.rank = 5;
    for (int axis = 0; axis < 3; ++axis) {
        const int own = own_axis(axis, rank);
        t.extent[2 + axis] = own < 0 ? 1 : x.extent[2 + own];
        t.stride[2 + axis] = own < 0 ? 0 : x.stride[2 + own];
    }
    return t;
}
// The axes of an operator over windows of `inputs` with results `outputs`, operands of its own rank; and of an adaptive
// one.
template <class Op>
MMK_INLINE void window_axes(const Op& op, const Tensor& inputs, const Tensor& outputs, PoolAxis (&axes)[3]) {
    const Tensor x = as_volume(inputs), y = as_volume(outputs);
    for (int i = 0; i < 3; ++i) {
        const int own = own_axis(i, inputs.rank - 2);
        axes[i] = {x.extent[2 + i], y.extent[2 + i], 1, 1, 0, 0, 1, false};
        if (own < 0) continue;
        axes[i].kernel = op.kernel[own], axes[i].stride = op.stride[own], axes[i].dilation = op.dilation[own];
        axes[i].padding = op.padding[own], axes[i].padding_after = op.padding_after[own];
    }
}
MMK_INLINE void adaptive_axes(const Tensor& inputs, const Tensor& outputs, PoolAxis (&axes)[3]) {
    const Tensor x = as_volume(inputs), y = as_volume(outputs);
    for (int i = 0; i < 3; ++i) axes[i] = {x.extent[2 + i], y.extent[2 + i], 1, 1, 0, 0, 1, true};
}
// A line as a plane of one row.
MMK_INLINE Tensor as_plane(const Tensor& line) {
    Tensor t = line;
    t.rank = 4, t.extent[2] = 1, t.stride[2] = 0, t.extent[3] = line.extent[2], t.stride[3] = line.stride[2];
    return t;
}

} // namespace mmk
