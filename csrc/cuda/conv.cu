#include <numeric>

#include "conv.direct.cuh"
#include "conv.h"
#include "conv.pixels.cuh"

namespace mmk::cuda {
namespace {

using namespace conv;

// Whether kernels that count in 32 bits find every element of one sample of the source.
bool offsets_fit(const Correlation& c) {
    const auto reach = [](int64_t extent, int64_t step) { return extent * (step < 0 ? -step : step); };
    constexpr int64_t most = int64_t(1) << 30;
    return reach(c.channels, c.source.c) + reach(c.H, c.source.h) + reach(c.W, c.source.w) < most &&
           reach(c.P, c.stride[0]) + reach(c.R, c.dilation[0]) + c.before[0] + c.H < most &&
           reach(c.Q, c.stride[1]) + reach(c.S, c.dilation[1]) + c.before[1] + c.W < most;
}

template <class T, int outputs, int pixels, bool skips>
void launch_pixels(Context& context, const Correlation& c, const Operands<T>& o) {
    const int64_t blocks = ceil_div(c.samples * c.P * c.Q, pixels * pixel_threads),
                  panels = ceil_div(c.outputs, outputs);
    MMK_LAUNCH(context, (correlate_pixels<T, outputs, pixels, skips>), grid_of(c.groups * panels * blocks),
               pixel_threads, 0, c, o);
}

// `prepared`: as prepare_products() made it where products cover the whole convolution, else null.
template <class T, bool skips>
void correlate(Context& context, const Correlation& c, const Operands<T>& o, const Prepared<T>* prepared) {
    if (c.results() == 0) return;
    if (prepared) {
        context.chose(sizeof(T) == 2 ? "implicit product on tensor cores" : "implicit product",
                      "many outputs in a group");
        const int64_t at_once =
            larger(1, ((int64_t(1) << 31) - 1) / larger(1, c.P * c.Q)); // samples, by 32-bit numbers
        for (int64_t n = 0; n < c.samples; n += at_once) {
            Prepared<T> p = *prepared;
            Operands<T> part = o;
            Correlation some = c;
            some.samples = p.c.samples = smaller(at_once, c.samples - n);
            p.source += n * p.c.source.n, part.source += n * c.source.n, part.result += n * c.result.n;
            if (part.ending.residual) part.ending.residual += n * part.ending.residual_strides.n;
            correlate_products(context, p, some, part, skips);
        }
        return;
    }
    if constexpr (sizeof(T) < 8)
        if (correlate_depthwise<T, skips>(context, c, o)) return;
    if (c.outputs * c.channels > 1 && c.R * c.S <= chunk_products && offsets_fit(c)) {
        context.chose("lanes along pixels", "a group has few outputs or products");
        if (c.outputs <= 4)
            launch_pixels<T, 4, 4, skips>(context, c, o);
        else
            launch_pixels<T, sizeof(T) < 8 ? 16 : 8, 2, skips>(context, c, o);
        return;
    }
    context.chose("direct", "one channel in a group, or a window that no other way covers");
    MMK_LAUNCH(context, (correlate_directly<T, skips>), grid_of(ceil_div(c.results(), direct_threads)), direct_threads,
               0, c, o, c.result.c == 1 && c.groups * c.outputs > 1);
}

template <class T> void forward(const Conv2d& op, Context& context) {
    const Tensor &x = op.x, &y = op.y, &weight = op.weight;
    const Correlation c{y.extent[0],
                        op.groups,
                        weight.extent[1],
                        y.extent[1] / op.groups,
                        x.extent[2],
                        x.extent[3],
                        y.extent[2],
                        y.extent[3],
                        weight.extent[2],
                        weight.extent[3],
                        {op.stride[0], op.stride[1]},
                        {op.dilation[0], op.dilation[1]},
                        {op.padding[0], op.padding[2]},
                        chunk_channels(weight.extent[2] * weight.extent[3]),
                        Strides4(x),
                        Strides4(weight),
                        Strides4(y),
                        y.extent[1] / op.groups * weight.stride[0]};
    const Dense<T> bias(context, op.bias);
    const Operands<T> o{static_cast<const T*>(x.data),
                        static_cast<const T*>(weight.data),
                        static_cast<T*>(y.data),
                        {bias, static_cast<const T*>(op.residual.data), Strides4(op.residual), op.activation}};
    if (products_cover<T>(c)) {
        const Prepared<T> prepared = prepare_products(context, c, o);
        correlate<T, false>(context, c, o, &prepared);
    } else
        correlate<T, false>(context, c, o, nullptr);
}

// One axis of the results of one residue modulo the stride: the taps that meet it are `first`, first + step, ...
struct Residue {
    int64_t results, taps, first, step, dilation, before;
    Residue(int64_t residue, int64_t extent, int64_t all_taps, int64_t stride, int64_t dilation_, int64_t border)
        : results((extent - residue - 1) / stride + 1), taps(0), first(0), step(stride / std::gcd(stride, dilation_)) {
        while (first < all_taps && first < stride && (residue + border - first * dilation_) % stride != 0) ++first;
        if (first < all_taps && first < stride) taps = (all_taps - first - 1) / step + 1;
        dilation = -(step * dilation_ / stride);
        before = taps ? -((residue + border - first * dilation_) / stride) : 0;
    }
};

// The taps that meet one residue; the weights begin at the first of them.
template <class T>
Correlation of_residue(Correlation c, const Residue& rows, const Residue& columns, const T*& weight) {
    weight += rows.first * c.weight.h + columns.first * c.weight.w;
    c.P = rows.results, c.Q = columns.results;
    c.R = rows.taps, c.S = columns.taps;
    c.dilation[0] = rows.dilation, c.dilation[1] = columns.dilation;
    c.before[0] = rows.before, c.before[1] = columns.before;
    c.weight.h *= rows.step, c.weight.w *= columns.step;
    return c;
}

template <class T> void input_gradient(const Conv2dInputGrad& op, Context& context) {
    const Tensor &gy = op.gy, &gx = op.gx, &weight = op.weight;
    const int64_t H = gx.extent[2], W = gx.extent[3], R = weight.extent[2], S = weight.extent[3];
    const int64_t outputs = gy.extent[1] / op.groups, sh = op.stride[0], sw = op.stride[1];
    const Strides4 ws = Strides4(weight), xs = Strides4(gx);
    const Correlation whole{gy.extent[0],
                            op.groups,
                            outputs,
                            weight.extent[1],
                            gy.extent[2],
                            gy.extent[3],
                            H,
                            W,
                            R,
                            S,
                            {1, 1},
                            {op.dilation[0], op.dilation[1]},
                            {op.padding[0], op.padding[2]},
                            chunk_channels(R * S),
                            Strides4(gy),
                            strides4(ws.c, ws.n, ws.h, ws.w),
                            strides4(xs.n, xs.c, xs.h * sh, xs.w * sw),
                            outputs * ws.n};
    const Operands<T> all{
        static_cast<const T*>(gy.data), static_cast<const T*>(weight.data), static_cast<T*>(gx.data), {}};
    const bool by_products = products_cover<T>(whole);
    const Prepared<T> prepared = by_products ? prepare_products(context, whole, all) : Prepared<T>{};
    for (int64_t a = 0; a < sh && a < H; ++a)
        for (int64_t b = 0; b < sw && b < W; ++b) {
            const Residue rows(a, H, R, sh, op.dilation[0], op.padding[0]);
            const Residue columns(b, W, S, sw, op.dilation[1], op.padding[2]);
            Operands<T> o = all;
            o.result += a * xs.h + b * xs.w;
            const Correlation c = of_residue(whole, rows, columns, o.weight);
            Prepared<T> p = prepared;
            if (by_products) p.c = of_residue(p.c, rows, columns, p.weight);
            correlate<T, true>(context, c, o, by_products ? &p : nullptr);
        }
}

template <class T> void weight_gradient(const Conv2dWeightGrad& op, Context& context) {
    const Tensor &x = op.x, &gy = op.gy, &gweight = op.gweight;
    const Correlation c{gy.extent[0],
                        op.groups,
                        gweight.extent[1],
                        gy.extent[1] / op.groups,
                        x.extent[2],
                        x.extent[3],
                        gy.extent[2],
                        gy.extent[3],
                        gweight.extent[2],
                        gweight.extent[3],
                        {op.stride[0], op.stride[1]},
                        {op.dilation[0], op.dilation[1]},
                        {op.padding[0], op.padding[2]},
                        0,
                        Strides4(x),
                        Strides4(gweight),
                        Strides4(gy),
                        0};
    conv::weight_gradient(context, c, static_cast<const T*>(x.data), static_cast<const T*>(gy.data),
                          static_cast<T*>(gweight.data));
}

} // namespace

void conv2d(const Conv2d& op, Context& context) {
    visit_storage(op.y.dtype, [&](auto type) { forward<typename decltype(type)::type>(op, context); });
}
void conv2d_input_grad(const Conv2dInputGrad& op, Context& context) {
    visit_storage(op.gx.dtype, [&](auto type) { input_gradient<typename decltype(type)::type>(op, context); });
}
void conv2d_weight_grad(const Conv2dWeightGrad& op, Context& context) {
    visit_storage(op.gweight.dtype, [&](auto type) { weight_gradient<typename decltype(type)::type>(op, context); });
}

} // namespace mmk::cuda
