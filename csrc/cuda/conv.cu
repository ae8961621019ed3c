#include <numeric>
#include <utility>

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
    return reach(c.channels, c.source.c) + reach(c.D + c.T * reach(1, c.dilation[0]), c.source.d) +
                   reach(c.H, c.source.h) + reach(c.W, c.source.w) <
               most &&
           reach(c.O, c.stride[0]) + reach(c.T, c.dilation[0]) + c.before[0] + c.D < most &&
           reach(c.P, c.stride[1]) + reach(c.R, c.dilation[1]) + c.before[1] + c.H < most &&
           reach(c.Q, c.stride[2]) + reach(c.S, c.dilation[2]) + c.before[2] + c.W < most;
}

template <class T, int outputs, int pixels>
void launch_pixels(Context& context, const Correlation& c, const Operands<T>& o, bool skips) {
    const int64_t blocks = ceil_div(c.pixels(), pixels * pixel_threads), panels = ceil_div(c.outputs, outputs);
    MMK_LAUNCH(context, (correlate_pixels<T, outputs, pixels>), grid_of(c.groups * panels * blocks), pixel_threads, 0,
               c, o, skips);
}

// What products do not cover.
template <class T, bool skips> void correlate_few(Context& context, const Correlation& c, const Operands<T>& o) {
    if constexpr (sizeof(T) < 8) {
        if (correlate_depthwise<T, skips>(context, c, o)) return;
        if (c.outputs * c.channels == 1 && offsets_fit(c) && c.O * c.P * c.Q < int64_t(1) << 30)
            return correlate_single<T>(context, c, o, skips);
    }
    if (c.outputs * c.channels > 1 && c.taps() <= chunk_products && offsets_fit(c)) {
        context.chose("lanes along pixels", "a group has few outputs or products");
        if (c.outputs <= 4)
            launch_pixels<T, 4, 4>(context, c, o, skips);
        else
            launch_pixels<T, sizeof(T) < 8 ? 16 : 8, 2>(context, c, o, skips);
        return;
    }
    context.chose("direct", "a window or a type that no other way covers");
    MMK_LAUNCH(context, correlate_directly<T>, grid_of(ceil_div(c.results(), direct_threads)), direct_threads, 0, c, o,
               skips, c.result.c == 1 && c.groups * c.outputs > 1);
}

// `prepared`: as prepare_products() made it where products cover the whole convolution, else null.
template <class T, bool skips>
void correlate(Context& context, const Correlation& c, const Operands<T>& o, const Prepared<T>* prepared) {
    if (c.results() == 0) return;
    if (prepared) {
        context.chose(on_tensor_cores<T> ? "implicit product on tensor cores" : "implicit product",
                      "many outputs in a group");
        const int64_t at_once =
            larger(1, ((int64_t(1) << 31) - 1) / larger(1, c.O * c.P * c.Q)); // samples, by 32-bit numbers
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
    if constexpr (!is_tf32<T>) correlate_few<T, skips>(context, c, o); // TF32 comes here by products alone
}

// The slices that taps meet.
void set_reach(Correlation& c) {
    const int64_t along = c.T ? (c.T - 1) * c.dilation[0] : 0;
    c.first_slice = smaller(0, along) - c.before[0];
    c.last_slice = (c.O - 1) * c.stride[0] + larger(0, along) - c.before[0];
    if (c.T == 0 || c.O == 0) c.first_slice = 0, c.last_slice = -1;
}

// Where a window is one pixel high and wide and images are dense, depth may stand for rows and an image for columns, so
// that the border in depth need not be written down.
bool has_lines(const Tensor& t) { return !t || t.extent[3] == 1 || t.stride[3] == t.extent[4] * t.stride[4]; }
Tensor with_lines(Tensor t) {
    t.extent[4] *= t.extent[3], t.extent[3] = t.extent[2], t.extent[2] = 1;
    t.stride[3] = t.stride[2], t.stride[2] = t.extent[3] * t.stride[3];
    return t;
}
template <class Op> bool lines(Op& op, const Tensor& weight, std::initializer_list<Tensor*> images,
                               std::initializer_list<Tensor*> filters) {
    if (weight.extent[2] == 1 || weight.extent[3] * weight.extent[4] != 1) return false;
    const Tensor& first = **images.begin();
    for (int axis = 1; axis < 3; ++axis) {
        if (op.stride[axis] != 1 || op.padding[2 * axis] || op.padding[2 * axis + 1]) return false;
        for (const Tensor* t : images)
            if (*t && t->extent[2 + axis] != first.extent[2 + axis]) return false;
    }
    for (const Tensor* t : images)
        if (!has_lines(*t)) return false;
    for (Tensor* t : images) *t = with_lines(*t);
    for (Tensor* t : filters) *t = with_lines(*t);
    op.stride[1] = op.stride[0], op.dilation[1] = op.dilation[0];
    op.padding[2] = op.padding[0], op.padding[3] = op.padding[1];
    op.stride[0] = op.dilation[0] = 1, op.padding[0] = op.padding[1] = 0;
    return true;
}

template <class Op> Correlation correlation_of(const Op& op, const Tensor& x, const Tensor& weight, const Tensor& y) {
    Correlation c;
    c.samples = y.extent[0], c.groups = op.groups, c.channels = weight.extent[1], c.outputs = y.extent[1] / op.groups;
    c.D = x.extent[2], c.H = x.extent[3], c.W = x.extent[4];
    c.O = y.extent[2], c.P = y.extent[3], c.Q = y.extent[4];
    c.T = weight.extent[2], c.R = weight.extent[3], c.S = weight.extent[4];
    for (int i = 0; i < 3; ++i)
        c.stride[i] = op.stride[i], c.dilation[i] = op.dilation[i], c.before[i] = op.padding[2 * i];
    c.chunk = chunk_channels(c.taps());
    c.source = strides_of(x), c.weight = strides_of(weight), c.result = strides_of(y);
    c.weight_group = c.outputs * weight.stride[0];
    set_reach(c);
    return c;
}

template <class T> void forward(Conv3d op, Context& context) {
    Correlation c = correlation_of(op, op.x, op.weight, op.y);
    const bool by_products = products_cover<T>(c);
    if (by_products) {
        Conv3d flat = op;
        if (lines(flat, op.weight, {&flat.x, &flat.y, &flat.residual}, {&flat.weight})) {
            const Correlation images = correlation_of(flat, flat.x, flat.weight, flat.y);
            if (products_cover<T>(images)) op = flat, c = images;
        }
    } else if constexpr (is_tf32<T>) {
        op.x = rounded_to_tf32(context, op.x), op.weight = rounded_to_tf32(context, op.weight);
        return forward<float>(op, context);
    }
    const Dense<T> bias(context, op.bias);
    const Operands<T> o{static_cast<const T*>(op.x.data),
                        static_cast<const T*>(op.weight.data),
                        static_cast<T*>(op.y.data),
                        {bias, static_cast<const T*>(op.residual.data), strides_of(op.residual), op.activation}};
    const Prepared<T> prepared = by_products ? prepare_products(context, c, o) : Prepared<T>{};
    correlate<T, false>(context, c, o, by_products ? &prepared : nullptr);
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
template <class T> Correlation of_residue(Correlation c, const Residue (&axis)[3], int64_t front, const T*& weight) {
    weight += axis[0].first * c.weight.d + axis[1].first * c.weight.h + axis[2].first * c.weight.w;
    c.O = axis[0].results, c.P = axis[1].results, c.Q = axis[2].results;
    c.T = axis[0].taps, c.R = axis[1].taps, c.S = axis[2].taps;
    for (int i = 0; i < 3; ++i) c.dilation[i] = axis[i].dilation, c.before[i] = axis[i].before;
    c.before[0] -= front;
    c.weight.d *= axis[0].step, c.weight.h *= axis[1].step, c.weight.w *= axis[2].step;
    set_reach(c);
    return c;
}

// All residues as one, with the results' and the taps' extents: what all have in common.
Correlation of_all_residues(const ConvTranspose3d& op) {
    Correlation c = correlation_of(op, op.x, op.weight, op.y);
    c.channels = op.x.extent[1] / op.groups, c.outputs = op.weight.extent[1];
    c.weight_group = c.channels * c.weight.n;
    std::swap(c.weight.n, c.weight.c);
    c.result.d *= op.stride[0], c.result.h *= op.stride[1], c.result.w *= op.stride[2];
    c.first_slice = 0, c.last_slice = -1;
    for (int64_t a = 0; a < op.stride[0] && a < c.O; ++a) {
        const Residue depth(a, c.O, c.T, op.stride[0], op.dilation[0], op.padding[0]);
        Correlation part = c;
        part.O = depth.results, part.T = depth.taps, part.stride[0] = 1;
        part.dilation[0] = depth.dilation, part.before[0] = depth.before;
        set_reach(part);
        c.first_slice = smaller(c.first_slice, part.first_slice), c.last_slice = larger(c.last_slice, part.last_slice);
    }
    for (int64_t& s : c.stride) s = 1;
    return c;
}

template <class T> void transposed(ConvTranspose3d op, Context& context) {
    Correlation whole = of_all_residues(op);
    const bool by_products = products_cover<T>(whole);
    if (by_products) {
        ConvTranspose3d flat = op;
        if (lines(flat, op.weight, {&flat.x, &flat.y}, {&flat.weight})) {
            const Correlation images = of_all_residues(flat);
            if (products_cover<T>(images)) op = flat, whole = images;
        }
    } else if constexpr (is_tf32<T>) {
        op.x = rounded_to_tf32(context, op.x), op.weight = rounded_to_tf32(context, op.weight);
        return transposed<float>(op, context);
    }
    const Dense<T> bias(context, op.bias);
    const Operands<T> all{static_cast<const T*>(op.x.data),
                          static_cast<const T*>(op.weight.data),
                          static_cast<T*>(op.y.data),
                          {bias, nullptr, {}, op.activation}};
    const Prepared<T> prepared = by_products ? prepare_products(context, whole, all) : Prepared<T>{};
    const Strides5 ys = strides_of(op.y);
    int64_t count[3]; // residues
    for (int i = 0; i < 3; ++i) count[i] = smaller(op.stride[i], op.y.extent[2 + i]);
    for (int64_t index = 0; index < count[0] * count[1] * count[2]; ++index) {
        const int64_t at[3] = {index / count[2] / count[1], index / count[2] % count[1], index % count[2]};
        const auto residue = [&](int i) {
            return Residue(at[i], op.y.extent[2 + i], op.weight.extent[2 + i], op.stride[i], op.dilation[i],
                           op.padding[2 * i]);
        };
        const Residue axis[3] = {residue(0), residue(1), residue(2)};
        Operands<T> o = all;
        if (!MMK_DEFECT(conv_first_residue)) o.result += ys.at(0, 0, at[0], at[1], at[2]);
        const Correlation c = of_residue(whole, axis, 0, o.weight);
        Prepared<T> p = prepared;
        if (by_products) p.c = of_residue(p.c, axis, whole.front(), p.weight);
        correlate<T, true>(context, c, o, by_products ? &p : nullptr);
    }
}

template <class T> void weight_gradient(ConvWeightGrad<3> op, Context& context) {
    const auto correlation = [](const ConvWeightGrad<3>& of) { return correlation_of(of, of.x, of.gweight, of.gy); };
    Correlation c = correlation(op);
    if (products_cover<T>(c)) {
        ConvWeightGrad<3> flat = op;
        if (lines(flat, op.gweight, {&flat.x, &flat.gy}, {&flat.gweight}) && products_cover<T>(correlation(flat)))
            op = flat, c = correlation(flat);
    }
    if constexpr (is_tf32<T>)
        if (const int64_t pixels = c.pixels(); !products_cover<T>(c) || pixels == 0 || pixels >> 31) {
            op.x = rounded_to_tf32(context, op.x), op.gy = rounded_to_tf32(context, op.gy);
            return weight_gradient<float>(op, context);
        }
    conv::weight_gradient(context, c, static_cast<const T*>(op.x.data), static_cast<const T*>(op.gy.data),
                          static_cast<T*>(op.gweight.data));
}

} // namespace

void conv1d(const Conv1d& op, Context& context) {
    visit_factors(op.y.dtype, op.algorithm,
                  [&](auto type) { forward<typename decltype(type)::type>(in_volumes(op), context); });
}
void conv_transpose1d(const ConvTranspose1d& op, Context& context) {
    visit_factors(op.y.dtype, op.algorithm,
                  [&](auto type) { transposed<typename decltype(type)::type>(in_volumes(op), context); });
}
void conv1d_input_grad(const Conv1dInputGrad& op, Context& context) {
    visit_factors(op.gx.dtype, op.algorithm,
                  [&](auto type) { transposed<typename decltype(type)::type>(in_volumes(op), context); });
}
void conv1d_weight_grad(const Conv1dWeightGrad& op, Context& context) {
    visit_factors(op.gweight.dtype, op.algorithm,
                  [&](auto type) { weight_gradient<typename decltype(type)::type>(in_volumes(op), context); });
}
void conv2d(const Conv2d& op, Context& context) {
    visit_factors(op.y.dtype, op.algorithm,
                  [&](auto type) { forward<typename decltype(type)::type>(in_volumes(op), context); });
}
void conv_transpose2d(const ConvTranspose2d& op, Context& context) {
    visit_factors(op.y.dtype, op.algorithm,
                  [&](auto type) { transposed<typename decltype(type)::type>(in_volumes(op), context); });
}
void conv2d_input_grad(const Conv2dInputGrad& op, Context& context) {
    visit_factors(op.gx.dtype, op.algorithm,
                  [&](auto type) { transposed<typename decltype(type)::type>(in_volumes(op), context); });
}
void conv2d_weight_grad(const Conv2dWeightGrad& op, Context& context) {
    visit_factors(op.gweight.dtype, op.algorithm,
                  [&](auto type) { weight_gradient<typename decltype(type)::type>(in_volumes(op), context); });
}
void conv3d(const Conv3d& op, Context& context) {
    visit_factors(op.y.dtype, op.algorithm,
                  [&](auto type) { forward<typename decltype(type)::type>(in_volumes(op), context); });
}
void conv_transpose3d(const ConvTranspose3d& op, Context& context) {
    visit_factors(op.y.dtype, op.algorithm,
                  [&](auto type) { transposed<typename decltype(type)::type>(in_volumes(op), context); });
}
void conv3d_input_grad(const Conv3dInputGrad& op, Context& context) {
    visit_factors(op.gx.dtype, op.algorithm,
                  [&](auto type) { transposed<typename decltype(type)::type>(in_volumes(op), context); });
}
void conv3d_weight_grad(const Conv3dWeightGrad& op, Context& context) {
    visit_factors(op.gweight.dtype, op.algorithm,
                  [&](auto type) { weight_gradient<typename decltype(type)::type>(in_volumes(op), context); });
}

} // namespace mmk::cuda
