#include "../ops/deform.h"

#include <cmath>

#include "divide.cuh"
#include "layout.cuh"

namespace mmk::cuda {
namespace {

constexpr int threads = 256;

MMK_INLINE float round_down(float x) { return floorf(x); }
MMK_INLINE double round_down(double x) { return floor(x); }

struct OffsetSteps {
    Divisor columns, rows, axes, taps_across, taps_down; // of an offset's number, the fastest first
    int64_t stride[2], dilation[2], before[2], axis, step;
};
template <class T> __global__ void __launch_bounds__(threads)
    snap_offsets(const __grid_constant__ OffsetSteps s, const T* offset, T* y, int64_t count) {
    using C = Compute<T>;
    for (int64_t i = int64_t(blockIdx.x) * threads + threadIdx.x; i < count; i += int64_t(gridDim.x) * threads) {
        int64_t left = i;
        const int64_t q = s.columns.take(left), p = s.rows.take(left), along = s.axes.take(left);
        const int64_t across = s.taps_across.take(left), down = s.taps_down.take(left);
        const C moved = widen(offset[i]);
        const C from = along ? C(q * s.stride[1] + across * s.dilation[1] - s.before[1])
                             : C(p * s.stride[0] + down * s.dilation[0] - s.before[0]);
        const bool moves = MMK_DEFECT(deform_other_axis) ? along != s.axis : along == s.axis;
        y[i] = narrow<T>(moves ? round_down(from + moved) + C(s.step) - from : moved);
    }
}

struct LevelSteps {
    Divisor numbers, levels; // of a location's number; numbers of a level's points
    int64_t extent[max_levels], axis, step;
};
template <class T> __global__ void __launch_bounds__(threads)
    snap_locations(const __grid_constant__ LevelSteps s, const T* locations, T* y, int64_t count) {
    using C = Compute<T>;
    for (int64_t i = int64_t(blockIdx.x) * threads + threadIdx.x; i < count; i += int64_t(gridDim.x) * threads) {
        int64_t left = i;
        const int64_t number = s.numbers.take(left), level = s.levels.take(left);
        const C at = widen(locations[i]), extent = C(s.extent[MMK_DEFECT(deform_first_level) ? 0 : level]);
        const C below = round_down(fma_scalar(at, extent, C(-0.5)));
        const bool empty = !(extent > C(0)) && !MMK_DEFECT(deform_empty_level);
        const C moved = empty ? C(0) : (below + (C(s.step) + C(0.5))) / extent;
        y[i] = narrow<T>(number % 2 == s.axis ? moved : at);
    }
}

} // namespace

void deform_conv2d_snap(const DeformConv2dSnap& op, Context& context) {
    visit_storage(op.y.dtype, [&](auto type) {
        using T = typename decltype(type)::type;
        const Dense<T> offset(context, op.offset);
        DenseOut<T> y(context, op.y);
        const OffsetSteps s{Divisor(op.y.extent[3]),
                            Divisor(op.y.extent[2]),
                            Divisor(2),
                            Divisor(op.kernel[1]),
                            Divisor(op.kernel[0]),
                            {op.stride[0], op.stride[1]},
                            {op.dilation[0], op.dilation[1]},
                            {op.padding[0], op.padding[2]},
                            op.axis,
                            op.step};
        const int64_t count = op.y.size();
        MMK_LAUNCH(context, (snap_offsets<T>), grid_of(ceil_div(count, threads)), threads, 0, s, offset.get(), y.get(),
                   count);
        y.finish();
    });
}

void ms_deform_attention_snap(const MsDeformAttentionSnap& op, Context& context) {
    visit_storage(op.y.dtype, [&](auto type) {
        using T = typename decltype(type)::type;
        const Dense<T> locations(context, op.sampling_locations);
        DenseOut<T> y(context, op.y);
        LevelSteps s{Divisor(op.y.size(4, 6)), Divisor(op.y.extent[3]), {}, op.axis, op.step};
        for (int level = 0; level < op.y.extent[3]; ++level)
            s.extent[level] = op.spatial_shapes[2 * level + 1 - op.axis];
        const int64_t count = op.y.size();
        MMK_LAUNCH(context, (snap_locations<T>), grid_of(ceil_div(count, threads)), threads, 0, s, locations.get(),
                   y.get(), count);
        y.finish();
    });
}

} // namespace mmk::cuda
