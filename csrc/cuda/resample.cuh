// What both ways to interpolate share: a call's operands, how its results are dealt out to threads, and which outputs
// read an element. An Axis has `outputs`, `inputs` and source(i): the element that output i reads, or the first of two;
// sources never fall.
#pragma once

#include "../ops/resample.h"
#include "places4.cuh"

namespace mmk::cuda {

template <class T, class Axis> struct Resampled {
    Axis rows, columns;
    Order4 order;
    Strides4 x_strides, y_strides;
    const T* x;
    T* y;
};
template <class T, class Axis> struct ResampledGrad {
    Axis rows, columns;
    const int64_t *rows_first, *columns_first; // of each element; and behind the last
    Order4 order;
    Strides4 gy_strides, gx_strides;
    const T* gy;
    T* gx;
};

// The first output whose source is h or behind it.
template <class Axis> __device__ inline int64_t first_output(const Axis& axis, int64_t h) {
    int64_t low = 0, high = axis.outputs;
    while (low < high) {
        const int64_t middle = low + (high - low) / 2;
        if (axis.source(middle) < h)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}
// Outputs first[h] .. first[h + 1] - 1 have source h: found once per axis, not once per element.
inline constexpr int table_threads = 128;
template <class Axis> __global__ void __launch_bounds__(table_threads)
    fill_firsts(Axis rows, Axis columns, int64_t* rows_first, int64_t* columns_first) {
    for (int64_t i = int64_t(blockIdx.x) * table_threads + threadIdx.x; i < rows.inputs + columns.inputs + 2;
         i += int64_t(gridDim.x) * table_threads) {
        if (i <= rows.inputs)
            rows_first[i] = first_output(rows, i);
        else
            columns_first[i - rows.inputs - 1] = first_output(columns, i - rows.inputs - 1);
    }
}

// What mmk.plan calls the ways to deal out results.
struct DealNames {
    const char *pixels, *lines, *elements;
};
template <int V> using PackOf = std::integral_constant<int, V>;

// launch(PackOf<V>, whether packs are of channels, Resampled): V outputs a thread.
template <class T, class Axis, class Launch> void resample(Context& context, const Interpolate& op, Axis rows,
                                                           Axis columns, const DealNames& names, Launch&& launch) {
    constexpr int V = wide_pack<T>;
    const bool channels = has_channels_last(op.x) && has_channels_last(op.y);
    const bool pixels = channels && has_packs_of_channels<T>(op.x) && has_packs_of_channels<T>(op.y);
    const bool lines = !channels && has_packs_of_columns<T>(op.y);
    const Resampled<T, Axis> r{rows,
                               columns,
                               Order4(op.y, channels, pixels || lines ? V : 1),
                               Strides4(op.x),
                               Strides4(op.y),
                               static_cast<const T*>(op.x.data),
                               static_cast<T*>(op.y.data)};
    if (pixels) {
        context.chose(names.pixels, "channels-last, 16 bytes of channels at a time");
        launch(PackOf<V>(), std::true_type(), r);
    } else if (lines) {
        context.chose(names.lines, "16 bytes of a line at a time");
        launch(PackOf<V>(), std::false_type(), r);
    } else {
        context.chose(names.elements, "y's strides are not those of whole packs");
        launch(PackOf<1>(), std::false_type(), r);
    }
}

// launch(PackOf<V>, ResampledGrad): V elements a thread.
template <class T, class Axis, class Launch> void resample_grad(Context& context, const InterpolateGrad& op, Axis rows,
                                                                Axis columns, const DealNames& names, Launch&& launch) {
    constexpr int V = wide_pack<T>;
    const int64_t entries = rows.inputs + columns.inputs + 2;
    int64_t* const rows_first = context.scratch<int64_t>(entries);
    int64_t* const columns_first = rows_first + rows.inputs + 1;
    MMK_LAUNCH(context, (fill_firsts<Axis>), grid_of(ceil_div(entries, table_threads)), table_threads, 0, rows, columns,
               rows_first, columns_first);
    const bool channels = has_channels_last(op.gy) && has_channels_last(op.gx);
    const bool pixels = channels && has_packs_of_channels<T>(op.gy) && has_packs_of_channels<T>(op.gx);
    const ResampledGrad<T, Axis> g{rows,
                                   columns,
                                   rows_first,
                                   columns_first,
                                   Order4(op.gx, channels, pixels ? V : 1),
                                   Strides4(op.gy),
                                   Strides4(op.gx),
                                   static_cast<const T*>(op.gy.data),
                                   static_cast<T*>(op.gx.data)};
    if (pixels) {
        context.chose(names.pixels, "channels-last, 16 bytes of channels at a time");
        launch(PackOf<V>(), g);
    } else {
        context.chose(names.elements, "an element per thread");
        launch(PackOf<1>(), g);
    }
}

} // namespace mmk::cuda
