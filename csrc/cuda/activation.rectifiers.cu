// The functions of core/rectifiers.h. Which of them is a number that a launch carries: a comparison for each element, in
// place of as many kernels, each of which would be compiled a dozen times.
#include "../ops/activation.h"

#include "../core/rectifiers.h"
#include "elementwise.cuh"

namespace mmk::cuda {
namespace {

enum class Line { tanh, sigmoid, swish };
enum class Curve { mish, quick_gelu, softplus, elu };

template <class T> struct Clamped {
    using C = Compute<T>;
    Line line;
    C low, high;
    __device__ T operator()(T in) const {
        const Vec<C> x(widen(in));
        const Vec<C> y = line == Line::tanh      ? hardtanh(x, Vec<C>(low), Vec<C>(high))
                         : line == Line::sigmoid ? hardsigmoid(x)
                                                 : hardswish(x);
        return narrow<T>(y.v);
    }
};
template <class T> struct ClampedSlope {
    using C = Compute<T>;
    Line line;
    C low, high;
    __device__ T operator()(T in, T gradient) const {
        const Vec<C> x(widen(in)), gy(widen(gradient));
        const Vec<C> gx = line == Line::tanh      ? hardtanh_grad(x, gy, Vec<C>(low), Vec<C>(high))
                          : line == Line::sigmoid ? hardsigmoid_grad(x, gy)
                                                  : hardswish_grad(x, gy);
        return narrow<T>(gx.v);
    }
};

// a, b, c: beta and threshold; or positive, negative and inner.
template <class T> struct Curved {
    using C = Compute<T>;
    Curve curve;
    C a, b, c;
    __device__ T operator()(T in) const {
        const Vec<C> x(widen(in));
        switch (curve) {
        case Curve::mish: return narrow<T>(mish(x).v);
        case Curve::quick_gelu: return narrow<T>(quick_gelu(x).v);
        case Curve::softplus: return narrow<T>(softplus(x, Vec<C>(a), Vec<C>(b)).v);
        case Curve::elu: return narrow<T>(elu(x, Vec<C>(a), Vec<C>(b), Vec<C>(c)).v);
        }
        return in;
    }
};
template <class T> struct CurvedSlope {
    using C = Compute<T>;
    Curve curve;
    C a, b, c;
    __device__ T operator()(T in, T gradient) const {
        const Vec<C> x(widen(in)), gy(widen(gradient));
        switch (curve) {
        case Curve::mish: return narrow<T>(mish_grad(x, gy).v);
        case Curve::quick_gelu: return narrow<T>(quick_gelu_grad(x, gy).v);
        case Curve::softplus: return narrow<T>(softplus_grad(x, gy, Vec<C>(a), Vec<C>(b)).v);
        case Curve::elu: return narrow<T>(elu_grad(x, gy, Vec<C>(a), Vec<C>(b), Vec<C>(c)).v);
        }
        return in;
    }
};

template <template <class> class Function, class Kind, class... Numbers>
void apply(Context& context, const Tensor& y, const Tensor& x, Kind kind, Numbers... numbers) {
    visit_storage(y.dtype, [&](auto type) {
        using T = typename decltype(type)::type;
        map<T, T>(context, Function<T>{kind, Compute<T>(numbers)...}, y, x);
    });
}
template <template <class> class Slope, class Kind, class... Numbers>
void apply_slope(Context& context, const Tensor& gx, const Tensor& x, const Tensor& gy, Kind kind, Numbers... numbers) {
    visit_storage(gx.dtype, [&](auto type) {
        using T = typename decltype(type)::type;
        map<T, T, T>(context, Slope<T>{kind, Compute<T>(numbers)...}, gx, x, gy);
    });
}

} // namespace

void hardtanh(const Hardtanh& op, Context& context) {
    apply<Clamped>(context, op.y, op.x, Line::tanh, op.min_val, op.max_val);
}
void relu6(const Unary& op, Context& context) { apply<Clamped>(context, op.y, op.x, Line::tanh, 0.0, 6.0); }
void hardsigmoid(const Unary& op, Context& context) { apply<Clamped>(context, op.y, op.x, Line::sigmoid, 0.0, 0.0); }
void hardswish(const Unary& op, Context& context) { apply<Clamped>(context, op.y, op.x, Line::swish, 0.0, 0.0); }
void mish(const Unary& op, Context& context) { apply<Curved>(context, op.y, op.x, Curve::mish, 0.0, 0.0, 0.0); }
void quick_gelu(const Unary& op, Context& context) {
    apply<Curved>(context, op.y, op.x, Curve::quick_gelu, 0.0, 0.0, 0.0);
}
void softplus(const Softplus& op, Context& context) {
    apply<Curved>(context, op.y, op.x, Curve::softplus, op.beta, op.threshold, 0.0);
}
void elu(const Elu& op, Context& context) {
    apply<Curved>(context, op.y, op.x, Curve::elu, op.scale, op.alpha * op.scale, op.input_scale);
}

void hardtanh_grad(const HardtanhGrad& op, Context& context) {
    apply_slope<ClampedSlope>(context, op.gx, op.x, op.gy, Line::tanh, op.min_val, op.max_val);
}
void relu6_grad(const UnaryGrad& op, Context& context) {
    apply_slope<ClampedSlope>(context, op.gx, op.x, op.gy, Line::tanh, 0.0, 6.0);
}
void hardsigmoid_grad(const UnaryGrad& op, Context& context) {
    apply_slope<ClampedSlope>(context, op.gx, op.x, op.gy, Line::sigmoid, 0.0, 0.0);
}
void hardswish_grad(const UnaryGrad& op, Context& context) {
    apply_slope<ClampedSlope>(context, op.gx, op.x, op.gy, Line::swish, 0.0, 0.0);
}
void mish_grad(const UnaryGrad& op, Context& context) {
    apply_slope<CurvedSlope>(context, op.gx, op.x, op.gy, Curve::mish, 0.0, 0.0, 0.0);
}
void quick_gelu_grad(const UnaryGrad& op, Context& context) {
    apply_slope<CurvedSlope>(context, op.gx, op.x, op.gy, Curve::quick_gelu, 0.0, 0.0, 0.0);
}
void softplus_grad(const SoftplusGrad& op, Context& context) {
    apply_slope<CurvedSlope>(context, op.gx, op.x, op.gy, Curve::softplus, op.beta, op.threshold, 0.0);
}
void elu_grad(const EluGrad& op, Context& context) {
    apply_slope<CurvedSlope>(context, op.gx, op.x, op.gy, Curve::elu, op.scale, op.alpha * op.scale * op.input_scale,
                             op.input_scale);
}

} // namespace mmk::cuda
