#include "../ops/resample.h"

#include <cmath>

#include "places4.cuh"
#include "resample.linear.h"

namespace mmk::cuda {
namespace {

// Which element of an axis each output reads: a rule in float32, whatever the operands' type.
struct Source {
    int64_t outputs, inputs;
    float step;

    __device__ int64_t of(int64_t i) const {
        const float position = floorf(float(i) * step);
        // beyond 2^62 a float is no index any more
        const int64_t source = position < float(inputs) && position < 0x1p62f ? int64_t(position) : inputs - 1;
        return source < inputs - 1 ? source : inputs - 1;
    }
    // The first output that reads element h or one behind it: sources never fall.
    __device__ int64_t first_of(int64_t h) const {
        if (h >= inputs) return outputs;
        int64_t low = 0, high = outputs;
        while (low < high) {
            const int64_t middle = low + (high - low) / 2;
            if (of(middle) < h)
                low = middle + 1;
            else
                high = middle;
        }
        return low;
    }
};

template <class T> struct Nearest {
    Source rows, columns;
    Order4 order;
    Strides4 x_strides, y_strides;
    const T* x;
    T* y;
};
// V outputs at once: the channels of a pixel, or neighbours of a line.
template <class T, int V, bool channels> __global__ void __launch_bounds__(place_threads) read_nearest(Nearest<T> r) {
    for_places(r.order, [&](const Place4& at) {
        const T* const line = r.x + r.x_strides.at(at.n, at.c, r.rows.of(at.h), 0);
        Pack<T, V> y;
        if constexpr (channels)
            y = pack_at<T, V>(line + r.columns.of(at.w) * r.x_strides.w);
        else
#pragma unroll
            for (int k = 0; k < V; ++k)
                y.at[k] = line[r.columns.of(at.w + k + (MMK_DEFECT(resample_next_column) ? 1 : 0)) * r.x_strides.w];
        store_pack(r.y + r.y_strides.at(at.n, at.c, at.h, at.w), y);
    });
}

// Element h of an axis is read by outputs first[h] .. first[h + 1] - 1: found once per axis, not once per element.
constexpr int table_threads = 128;
__global__ void __launch_bounds__(table_threads)
    fill_tables(Source rows, Source columns, int64_t* rows_first, int64_t* columns_first) {
    for (int64_t i = int64_t(blockIdx.x) * table_threads + threadIdx.x; i < rows.inputs + columns.inputs + 2;
         i += int64_t(gridDim.x) * table_threads) {
        if (i <= rows.inputs)
            rows_first[i] = rows.first_of(i);
        else
            columns_first[i - rows.inputs - 1] = columns.first_of(i - rows.inputs - 1);
    }
}

template <class T> struct NearestGrad {
    const int64_t *rows_first, *columns_first;
    Order4 order;
    Strides4 gy_strides, gx_strides;
    const T* gy;
    T* gx;
};
template <class T, int V> __global__ void __launch_bounds__(place_threads) add_nearest(NearestGrad<T> g) {
    for_places(g.order, [&](const Place4& at) {
        const T* const base = g.gy + g.gy_strides.at(at.n, at.c, 0, 0);
        const int64_t p_end = g.rows_first[at.h + 1], q_first = g.columns_first[at.w],
                      q_end = g.columns_first[at.w + 1] + (MMK_DEFECT(resample_last_column) ? 1 : 0);
        Sums<Compute<T>, V> sum;
        for (int64_t p = g.rows_first[at.h]; p < p_end; ++p)
#pragma unroll 2
            for (int64_t q = q_first; q < q_end; ++q)
                sum.add(pack_at<T, V>(base + p * g.gy_strides.h + q * g.gy_strides.w));
        sum.store(g.gx + g.gx_strides.at(at.n, at.c, at.h, at.w));
    });
}

} // namespace

void interpolate(const Interpolate& op, Context& context) {
    if (op.mode == Interpolation::bilinear) return interpolate_linear(op, context);
    visit_storage(op.y.dtype, [&](auto type) {
        using T = typename decltype(type)::type;
        constexpr int V = wide_pack<T>;
        const bool channels = has_channels_last(op.x) && has_channels_last(op.y);
        const bool pixels = channels && has_packs_of_channels<T>(op.x) && has_packs_of_channels<T>(op.y);
        const bool lines = !channels && has_packs_of_columns<T>(op.y);
        const Nearest<T> r{{op.y.extent[2], op.x.extent[2], float(op.scale[0])},
                           {op.y.extent[3], op.x.extent[3], float(op.scale[1])},
                           Order4(op.y, channels, pixels || lines ? V : 1),
                           Strides4(op.x),
                           Strides4(op.y),
                           static_cast<const T*>(op.x.data),
                           static_cast<T*>(op.y.data)};
        const dim3 grid = grid_of_places(r.order);
        if (pixels) {
            context.chose("pixels", "channels-last, 16 bytes of channels at a time");
            MMK_LAUNCH(context, (read_nearest<T, V, true>), grid, place_threads, 0, r);
        } else if (lines) {
            context.chose("lines", "16 bytes of a line at a time");
            MMK_LAUNCH(context, (read_nearest<T, V, false>), grid, place_threads, 0, r);
        } else {
            context.chose("elements", "y's strides are not those of whole packs");
            MMK_LAUNCH(context, (read_nearest<T, 1, false>), grid, place_threads, 0, r);
        }
    });
}

void interpolate_grad(const InterpolateGrad& op, Context& context) {
    if (op.mode == Interpolation::bilinear) return interpolate_linear_grad(op, context);
    visit_storage(op.gx.dtype, [&](auto type) {
        using T = typename decltype(type)::type;
        constexpr int V = wide_pack<T>;
        const Source rows{op.gy.extent[2], op.gx.extent[2], float(op.scale[0])},
            columns{op.gy.extent[3], op.gx.extent[3], float(op.scale[1])};
        int64_t* const rows_first = context.scratch<int64_t>(rows.inputs + columns.inputs + 2);
        int64_t* const columns_first = rows_first + rows.inputs + 1;
        MMK_LAUNCH(context, fill_tables, grid_of(ceil_div(rows.inputs + columns.inputs + 2, table_threads)),
                   table_threads, 0, rows, columns, rows_first, columns_first);
        const bool channels = has_channels_last(op.gy) && has_channels_last(op.gx);
        const bool pixels = channels && has_packs_of_channels<T>(op.gy) && has_packs_of_channels<T>(op.gx);
        const NearestGrad<T> g{rows_first,
                               columns_first,
                               Order4(op.gx, channels, pixels ? V : 1),
                               Strides4(op.gy),
                               Strides4(op.gx),
                               static_cast<const T*>(op.gy.data),
                               static_cast<T*>(op.gx.data)};
        if (pixels) {
            context.chose("pixels", "channels-last, 16 bytes of channels at a time");
            MMK_LAUNCH(context, (add_nearest<T, V>), grid_of_places(g.order), place_threads, 0, g);
        } else {
            context.chose("elements", "an element per thread");
            MMK_LAUNCH(context, (add_nearest<T, 1>), grid_of_places(g.order), place_threads, 0, g);
        }
    });
}

} // namespace mmk::cuda
