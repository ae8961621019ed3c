// interpolate to the nearest element; between elements it is resample.linear.cu's.
#include "resample.cuh"

#include <cmath>

#include "resample.linear.h"

namespace mmk::cuda {
namespace {

// Which element of an axis each output reads: a rule in float32, whatever the operands' type.
struct Nearest {
    int64_t outputs, inputs;
    float step;

    __device__ int64_t source(int64_t i) const {
        const float position = floorf(float(i) * step);
        // beyond 2^62 a float is no index any more
        const int64_t element = position < float(inputs) && position < 0x1p62f ? int64_t(position) : inputs - 1;
        return element < inputs - 1 ? element : inputs - 1;
    }
};

constexpr DealNames names{"pixels", "lines", "elements"};

// V outputs at once: the channels of a pixel, or neighbours of a line.
template <class T, int V, bool channels> __global__ void __launch_bounds__(place_threads)
    read_nearest(Resampled<T, Nearest> r) {
    for_places(r.order, [&](const Place4& at) {
        const T* const line = r.x + r.x_strides.at(at.n, at.c, r.rows.source(at.h), 0);
        Pack<T, V> y;
        if constexpr (channels)
            y = pack_at<T, V>(line + r.columns.source(at.w) * r.x_strides.w);
        else
#pragma unroll
            for (int k = 0; k < V; ++k)
                y.at[k] = line[r.columns.source(at.w + k + (MMK_DEFECT(resample_next_column) ? 1 : 0)) * r.x_strides.w];
        store_pack(r.y + r.y_strides.at(at.n, at.c, at.h, at.w), y);
    });
}

template <class T, int V> __global__ void __launch_bounds__(place_threads) add_nearest(ResampledGrad<T, Nearest> g) {
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
    const Nearest rows{op.y.extent[2], op.x.extent[2], float(op.scale[0])},
        columns{op.y.extent[3], op.x.extent[3], float(op.scale[1])};
    visit_storage(op.y.dtype, [&](auto type) {
        using T = typename decltype(type)::type;
        resample<T>(context, op, rows, columns, names, [&](auto pack, auto channels, const auto& r) {
            MMK_LAUNCH(context, (read_nearest<T, pack(), channels()>), grid_of_places(r.order), place_threads, 0, r);
        });
    });
}

void interpolate_grad(const InterpolateGrad& op, Context& context) {
    if (op.mode == Interpolation::bilinear) return interpolate_linear_grad(op, context);
    const Nearest rows{op.gy.extent[2], op.gx.extent[2], float(op.scale[0])},
        columns{op.gy.extent[3], op.gx.extent[3], float(op.scale[1])};
    visit_storage(op.gx.dtype, [&](auto type) {
        using T = typename decltype(type)::type;
        resample_grad<T>(context, op, rows, columns, names, [&](auto pack, const auto& g) {
            MMK_LAUNCH(context, (add_nearest<T, pack()>), grid_of_places(g.order), place_threads, 0, g);
        });
    });
}

} // namespace mmk::cuda
