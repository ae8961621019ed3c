#include "../ops/deform.h"

#include "../core/layout.h"
#include "../core/simd.h"

namespace mmk::cpu::MMK_ISA {

using namespace mmk::MMK_ISA;

namespace {

constexpr int64_t grain = 16384; // elements for which a second thread pays

MMK_INLINE float round_down(float x) { return __builtin_floorf(x); }
MMK_INLINE double round_down(double x) { return __builtin_floor(x); }

} // namespace

void deform_conv2d_snap(const DeformConv2dSnap& op, Context& context) {
    visit_float(op.y.dtype, [&](auto zero) {
        using T = decltype(zero);
        const Dense<T> offset(context, op.offset);
        const DenseOut<T> y(context, op.y);
        const int64_t Q = op.y.extent[3], pixels = op.y.extent[2] * Q, taps = op.kernel[0] * op.kernel[1];
        parallel_ranges(context, op.y.size(0, 2), 1 + grain / (1 + pixels), [&](int64_t begin, int64_t end, int) {
            for (int64_t plane = begin; plane < end; ++plane) {
                const int64_t along = plane % op.y.extent[1] % 2, tap = plane % op.y.extent[1] / 2 % taps;
                const int64_t nth = along ? tap % op.kernel[1] : tap / op.kernel[1];
                const int64_t first = nth * op.dilation[along] - op.padding[2 * along];
                for (int64_t i = 0; i < pixels; ++i) {
                    const T moved = offset[plane * pixels + i];
                    const T from = T((along ? i % Q : i / Q) * op.stride[along] + first);
                    y[plane * pixels + i] = along == op.axis ? round_down(from + moved) + T(op.step) - from : moved;
                }
            }
        });
    });
}

void ms_deform_attention_snap(const MsDeformAttentionSnap& op, Context& context) {
    visit_float(op.y.dtype, [&](auto zero) {
        using T = decltype(zero);
        const Dense<T> locations(context, op.sampling_locations);
        const DenseOut<T> y(context, op.y);
        const int64_t levels = op.y.extent[3], numbers = op.y.size(4, 6);
        parallel_ranges(context, op.y.size(0, 4), 1 + grain / (1 + numbers), [&](int64_t begin, int64_t end, int) {
            for (int64_t row = begin; row < end; ++row) {
                const T extent = T(op.spatial_shapes[2 * (row % levels) + 1 - op.axis]);
                for (int64_t i = row * numbers; i < (row + 1) * numbers; ++i) {
                    const T below = round_down(fma_scalar(locations[i], extent, T(-0.5)));
                    const T moved = extent > T(0) ? (below + (T(op.step) + T(0.5))) / extent : T(0);
                    y[i] = i % 2 == op.axis ? moved : locations[i];
                }
            }
        });
    });
}

} // namespace mmk::cpu::MMK_ISA
