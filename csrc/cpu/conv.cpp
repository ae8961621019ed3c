#include "conv.correlation.h"

namespace mmk::cpu::MMK_ISA {

namespace {

template <class T> void forward(const Conv3d& op, Context& context) {
    const Tensor x = factors(context, op.x, op.algorithm), w = factors(context, op.weight, op.algorithm);
    const Tensor& y = op.y;
    const int64_t C = w.extent[1], taps = w.size(2, 5);
    const int64_t image = y.size(3, 5), volume = y.size(2, 5);
    const Planes planes{{x.extent[2], op.padding[0], y.extent[2], op.stride[0], op.dilation[0], w.extent[2]},
                        {x.extent[3], op.padding[2], y.extent[3], op.stride[1], op.dilation[1], w.extent[3]},
                        {x.extent[4], op.padding[4], y.extent[4], op.stride[2], op.dilation[2], w.extent[4]}};
    const Dense<T> weight(context, w), bias(context, op.bias), residual(context, op.residual);
    const DenseOut<T> out(context, y);

    Correlation<T> c;
    c.samples = y.extent[0], c.groups = op.groups, c.outputs = y.extent[1] / op.groups;
    c.slices = y.extent[2], c.rows = y.extent[3], c.columns = y.extent[4];
    c.depth = C * taps, c.chunk = chunk_channels(taps) * taps;
    c.lines = C * w.extent[2];
    c.source = bordered<T>(context, x, planes);
    c.sample = x.extent[1] * planes.size(), c.group = C * planes.size();
    c.slice = planes.slice(), c.pitch = planes.pitch();
    int64_t* const offset = context.scratch<int64_t>(c.depth);
    for (int64_t k = 0; k < C; ++k)
        for (int64_t tap = 0; tap < taps; ++tap) offset[k * taps + tap] = k * planes.size() + planes.tap(tap);
    c.offset = offset;
    c.finish = {out, bias, residual, volume, op.activation};
    c.y_sample = y.extent[1] * volume, c.y_slice = image, c.y_row = c.columns, c.y_column = 1, c.y_origin = 0;
    if (c.outputs <= few_outputs) {
        context.chose("direct, lanes along pixels", "a group has few output channels");
        correlate_pixels<T>(context, c, weight);
    } else {
        context.chose("direct, lanes along output channels", "a group has many output channels");
        correlate_outputs<T>(context, c, pack_filters<T>(context, c, weight));
    }
}

} // namespace

#define MMK_CONVOLUTION(dims)                                                                                          \
    void conv##dims##d(const Conv##dims##d& op, Context& context) {                                                    \
        visit_float(op.y.dtype, [&](auto zero) { forward<decltype(zero)>(in_volumes(op), context); });                 \
    }
MMK_CONVOLUTION(1)
MMK_CONVOLUTION(2)
MMK_CONVOLUTION(3)

} // namespace mmk::cpu::MMK_ISA
