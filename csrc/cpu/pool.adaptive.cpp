// Adaptive pooling.
#include "../ops/pool.h"

#include "pool.kernels.h"

namespace mmk::cpu::MMK_ISA {
namespace {

void average(const AdaptiveAvgPool& op, Context& context) {
    visit_float(op.y.dtype, [&](auto zero) {
        using T = decltype(zero);
        if (op.y.size(2, op.y.rank) == 1 && op.x.contiguous() && op.y.contiguous()) {
            context.chose("whole planes", "one window of contiguous planes");
            const int64_t size = op.x.size(2, op.x.rank);
            return mean_of_planes(context, static_cast<const T*>(op.x.data), static_cast<T*>(op.y.data),
                                  op.x.size(0, 2), size, T(size));
        }
        Axis3 axes;
        adaptive_axes(op.x, op.y, axes);
        const Pooled p{{as_volume(op.x), Tensor()}, Tensor(), as_volume(op.y), Tensor()};
        pool_forward<T>(context, axes, p, MeanOf<T>{Divisors3::of(context, axes, false, 0)});
    });
}
void maximum(const AdaptiveMaxPool& op, Context& context) {
    visit_float(op.y.dtype, [&](auto zero) {
        Axis3 axes;
        adaptive_axes(op.x, op.y, axes);
        const Pooled p{
            {as_volume(op.x), Tensor()}, Tensor(), as_volume(op.y), op.indices ? as_volume(op.indices) : Tensor()};
        max_of_volumes<decltype(zero)>(context, axes, p);
    });
}

} // namespace

void adaptive_avg_pool1d(const AdaptiveAvgPool& op, Context& context) { average(op, context); }
void adaptive_avg_pool2d(const AdaptiveAvgPool& op, Context& context) { average(op, context); }
void adaptive_avg_pool3d(const AdaptiveAvgPool& op, Context& context) { average(op, context); }
void adaptive_max_pool1d(const AdaptiveMaxPool& op, Context& context) { maximum(op, context); }
void adaptive_max_pool2d(const AdaptiveMaxPool& op, Context& context) { maximum(op, context); }
void adaptive_max_pool3d(const AdaptiveMaxPool& op, Context& context) { maximum(op, context); }

void adaptive_avg_pool_grad(const AdaptiveAvgPoolGrad& op, Context& context) {
    visit_float(op.gx.dtype, [&](auto zero) {
        using T = decltype(zero);
        Axis3 axes;
        adaptive_axes(op.gx, op.gy, axes);
        const Pooled p{{as_volume(op.gy), Tensor()}, Tensor(), as_volume(op.gx), Tensor()};
        pool_backward<T>(context, axes, p, MeanGradient<T>{Divisors3::of(context, axes, false, 0)});
    });
}

} // namespace mmk::cpu::MMK_ISA
