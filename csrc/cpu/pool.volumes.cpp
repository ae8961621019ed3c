// Maximum and average pooling of lines and volumes, and the gradient of any average.
#include "../ops/pool.h"

#include "pool.kernels.h"

namespace mmk::cpu::MMK_ISA {
namespace {

template <class Op> void average(const Op& op, Context& context) {
    visit_float(op.y.dtype, [&](auto zero) {
        using T = decltype(zero);
        Axis3 axes;
        window_axes(op, op.x, op.y, axes);
        const Divisors3 divisors = Divisors3::of(context, axes, op.count_include_pad != 0, op.divisor_override);
        const Pooled p{{as_volume(op.x), Tensor()}, Tensor(), as_volume(op.y), Tensor()};
        pool_forward<T>(context, axes, p, MeanOf<T>{divisors});
    });
}

} // namespace

void max_pool1d(const MaxPool& op, Context& context) {
    const MaxPool2d plane{as_plane(op.x),     as_plane(op.y),    op.indices ? as_plane(op.indices) : Tensor(),
                          {1, op.kernel[0]},  {1, op.stride[0]}, {0, op.padding[0]},
                          {1, op.dilation[0]}};
    max_pool2d(plane, context);
}

void max_pool3d(const MaxPool& op, Context& context) {
    visit_float(op.y.dtype, [&](auto zero) {
        Axis3 axes;
        window_axes(op, op.x, op.y, axes);
        const Pooled p{
            {as_volume(op.x), Tensor()}, Tensor(), as_volume(op.y), op.indices ? as_volume(op.indices) : Tensor()};
        max_of_volumes<decltype(zero)>(context, axes, p);
    });
}

void avg_pool1d(const AvgPool& op, Context& context) {
    const AvgPool2d plane{as_plane(op.x),      as_plane(op.y),       {1, op.kernel[0]},
                          {1, op.stride[0]},   {0, op.padding[0]},   {0, op.padding_after[0]},
                          {1, op.dilation[0]}, op.count_include_pad, op.divisor_override};
    avg_pool2d(plane, context);
}

void avg_pool3d(const AvgPool& op, Context& context) { average(op, context); }
void avg_pool2d_of_any_windows(const AvgPool2d& op, Context& context) { average(op, context); }

void avg_pool_grad(const AvgPoolGrad& op, Context& context) {
    visit_float(op.gx.dtype, [&](auto zero) {
        using T = decltype(zero);
        Axis3 axes;
        window_axes(op, op.gx, op.gy, axes);
        const Divisors3 divisors = Divisors3::of(context, axes, op.count_include_pad != 0, op.divisor_override);
        const Pooled p{{as_volume(op.gy), Tensor()}, Tensor(), as_volume(op.gx), Tensor()};
        pool_backward<T>(context, axes, p, MeanGradient<T>{divisors});
    });
}

} // namespace mmk::cpu::MMK_ISA
