#include "../ops/activation.h"

#include "../core/philox.h"
#include "elementwise.cuh"

namespace mmk::cuda {
namespace {

// ---- each element by itself: function objects for map() --------------------------------------------------------

#define MMK_OF_X(Name, value)                                                                                          \
    template <class T> struct Name {                                                                                   \
        __device__ T operator()(T in) const {                                                                          \
            const Compute<T> x = widen(in);                                                                            \
            return narrow<T>(value);                                                                                   \
        }                                                                                                              \
    };
MMK_OF_X(Relu, relu(x))
MMK_OF_X(Sigmoid, sigmoid(x))
MMK_OF_X(Tanh, tanh(x))
MMK_OF_X(Silu, silu(x))
MMK_OF_X(Exp, exp(x))
MMK_OF_X(Log, log(x))
MMK_OF_X(Sqrt, sqrt(Vec<Compute<T>>(x)).v)
MMK_OF_X(Erf, erf(x))
MMK_OF_X(Gelu, gelu(x))
MMK_OF_X(GeluTanh, gelu_tanh(x))
#undef MMK_OF_X

template <class T> struct LeakyRelu_ {
    Compute<T> negative_slope;
    __device__ T operator()(T x) const { return narrow<T>(leaky_relu(widen(x), negative_slope)); }
};

// at: the operand, or the result where the gradient is a function of that.
#define MMK_OF_AT_AND_GY(Name, value)                                                                                  \
    template <class T> struct Name {                                                                                   \
        __device__ T operator()(T in, T gradient) const {                                                              \
            using C = Compute<T>;                                                                                      \
            const C at = widen(in), gy = widen(gradient);                                                              \
            return narrow<T>(value);                                                                                   \
        }                                                                                                              \
    };
MMK_OF_AT_AND_GY(ReluGrad, at > 0 || at != at ? gy : C(0))
MMK_OF_AT_AND_GY(SiluGrad, gy* silu_grad(at))
MMK_OF_AT_AND_GY(GeluSlope, gy* gelu_grad(at))
MMK_OF_AT_AND_GY(GeluTanhSlope, gy* gelu_tanh_grad(at))
MMK_OF_AT_AND_GY(SigmoidGrad, gy*(at*(C(1) - at)))
MMK_OF_AT_AND_GY(TanhGrad, gy*((C(1) - at) * (C(1) + at)))
#undef MMK_OF_AT_AND_GY

template <class T> struct LeakyReluSlope {
    Compute<T> negative_slope;
    __device__ T operator()(T x, T gy) const { return widen(x) > 0 ? gy : narrow<T>(widen(gy) * negative_slope); }
};

template <template <class> class Function> void elementwise(Context& context, const Tensor& y, const Tensor& x) {
    visit_storage(y.dtype, [&](auto type) {
        using T = typename decltype(type)::type;
        map<T, T>(context, Function<T>(), y, x);
    });
}
template <template <class> class Function>
void elementwise(Context& context, const Tensor& gx, const Tensor& at, const Tensor& gy) {
    visit_storage(gx.dtype, [&](auto type) {
        using T = typename decltype(type)::type;
        map<T, T, T>(context, Function<T>(), gx, at, gy);
    });
}

// ---- dropout ---------------------------------------------------------------------------------------------------

constexpr int threads = 256;
constexpr int drawn = 4; // elements that one counter draws: a thread's share

// A block stays within one sample, so that the sample's key is fetched, and the division done, once for 1024 elements.
template <class T> __global__ void __launch_bounds__(threads)
    drop(const uint64_t* keys, const T* x, T* y, int64_t samples, int64_t size, float p, Compute<T> divisor,
         bool whole) {
    using C = Compute<T>;
    const int64_t blocks = ceil_div(size, drawn * threads); // of a sample
    for (int64_t block = blockIdx.x; block < samples * blocks; block += gridDim.x) {
        const int64_t sample = block / blocks;
        const int64_t first = ((block - sample * blocks) * threads + threadIdx.x) * drawn;
        if (first >= size) continue;
        float uniform[drawn];
        philox_uniform(keys[sample], uint64_t(first) / drawn, uniform);
        const auto kept = [&](T value, int k) {
            return narrow<T>(C(uniform[k]) >= C(p) ? widen(value) / divisor : C(0));
        };
        const T* const from = x + sample * size + first;
        T* const to = y + sample * size + first;
        if (whole) {
            Pack<T, drawn> values = *reinterpret_cast<const Pack<T, drawn>*>(from);
            for (int k = 0; k < drawn; ++k) values.at[k] = kept(values.at[k], k);
            *reinterpret_cast<Pack<T, drawn>*>(to) = values;
        } else {
            const int64_t left = size - first;
            for (int k = 0; k < drawn; ++k)
                if (k < left || MMK_DEFECT(activation_drop_past_end)) to[k] = kept(from[k], k);
        }
    }
}

} // namespace

void relu(const Unary& op, Context& context) { elementwise<Relu>(context, op.y, op.x); }
void sigmoid(const Unary& op, Context& context) { elementwise<Sigmoid>(context, op.y, op.x); }
void tanh(const Unary& op, Context& context) { elementwise<Tanh>(context, op.y, op.x); }
void silu(const Unary& op, Context& context) { elementwise<Silu>(context, op.y, op.x); }
void exp(const Unary& op, Context& context) { elementwise<Exp>(context, op.y, op.x); }
void log(const Unary& op, Context& context) { elementwise<Log>(context, op.y, op.x); }
void sqrt(const Unary& op, Context& context) { elementwise<Sqrt>(context, op.y, op.x); }
void erf(const Unary& op, Context& context) { elementwise<Erf>(context, op.y, op.x); }
void gelu(const ::mmk::Gelu& op, Context& context) {
    if (op.approximate == GeluForm::tanh)
        elementwise<GeluTanh>(context, op.y, op.x);
    else
        elementwise<Gelu>(context, op.y, op.x);
}
void leaky_relu(const LeakyRelu& op, Context& context) {
    visit_storage(op.y.dtype, [&](auto type) {
        using T = typename decltype(type)::type;
        map<T, T>(context, LeakyRelu_<T>{Compute<T>(op.negative_slope)}, op.y, op.x);
    });
}

void relu_grad(const UnaryGrad& op, Context& context) { elementwise<ReluGrad>(context, op.gx, op.x, op.gy); }
void silu_grad(const UnaryGrad& op, Context& context) { elementwise<SiluGrad>(context, op.gx, op.x, op.gy); }
void sigmoid_grad(const ResultGrad& op, Context& context) { elementwise<SigmoidGrad>(context, op.gx, op.y, op.gy); }
void tanh_grad(const ResultGrad& op, Context& context) { elementwise<TanhGrad>(context, op.gx, op.y, op.gy); }
void gelu_grad(const GeluGrad& op, Context& context) {
    if (op.approximate == GeluForm::tanh)
        elementwise<GeluTanhSlope>(context, op.gx, op.x, op.gy);
    else
        elementwise<GeluSlope>(context, op.gx, op.x, op.gy);
}
void leaky_relu_grad(const LeakyReluGrad& op, Context& context) {
    visit_storage(op.gx.dtype, [&](auto type) {
        using T = typename decltype(type)::type;
        map<T, T, T>(context, LeakyReluSlope<T>{Compute<T>(op.negative_slope)}, op.gx, op.x, op.gy);
    });
}

void dropout(const Dropout& op, Context& context) {
    if (op.p == 0) {
        context.chose("copy", "p is 0");
        return copy_strided(context, op.y, op.x);
    }
    visit_storage(op.y.dtype, [&](auto type) {
        using T = typename decltype(type)::type;
        const Dense<T> x(context, op.x);
        const Dense<uint64_t> keys(context, op.keys);
        DenseOut<T> y(context, op.y);
        const int64_t samples = op.y.extent[0], size = op.y.size() / samples;
        const bool whole =
            size % drawn == 0 && aligned(x.get(), alignof(Pack<T, drawn>)) && aligned(y.get(), alignof(Pack<T, drawn>));
        MMK_LAUNCH(context, (drop<T>), grid_of(samples * ceil_div(size, drawn * threads)), threads, 0, keys.get(),
                   x.get(), y.get(), samples, size, float(op.p), Compute<T>(1 - op.p), whole);
        y.finish();
    });
}

} // namespace mmk::cuda
