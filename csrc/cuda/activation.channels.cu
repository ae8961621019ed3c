// prelu, whose slope is a channel's own, and local_response_norm, whose divisor is made of neighbouring channels: these are
// read from memory once and from the caches `size` times.
#include "../ops/activation.h"

#include "../core/response.h"
#include "channels.cuh"

namespace mmk::cuda {
namespace {

// ---- prelu --------------------------------------------------------------------------------------------------------

template <class T> struct Slope {
    using C = Compute<T>;
    const T* weight;
    __device__ C numbers(int64_t c) const { return widen(weight[c]); }
    __device__ C operator()(C slope, C x) const { return x > C(0) ? x : x * slope; }
};
template <class T> struct SlopeGradient {
    using C = Compute<T>;
    const T* weight;
    __device__ C numbers(int64_t c) const { return widen(weight[c]); }
    __device__ C operator()(C slope, C x, C gy) const { return x > C(0) ? gy : gy * slope; }
};
template <class T> struct SlopeTerms {
    using C = Compute<T>;
    static constexpr int count = 1;
    __device__ int numbers(int64_t) const { return 0; }
    __device__ Several<C, 1> terms(int, C x, C gy) const { return Several<C, 1>(x > C(0) ? C(0) : x * gy); }
};
template <class T> struct SlopeFinish {
    T* gweight;
    __device__ void operator()(int64_t c, const Several<Compute<T>, 1>& sums) const {
        gweight[c] = narrow<T>(sums.at[0]);
    }
};

// ---- local_response_norm ------------------------------------------------------------------------------------------

constexpr int threads = 256;

template <class T> struct Response {
    using C = Compute<T>;
    Divisor size, channels; // elements of a channel's row: 1 where the channels are inside
    int64_t step, count;    // from channel to channel
    int64_t before, after;  // channels of the window
    C extent, alpha, beta, k, factor;
    Power power;

    __device__ int64_t channel(int64_t i) const {
        size.take(i);
        return channels.take(i);
    }
    // value(element) summed over channels c - low .. c + high of element i's place.
    template <class Value>
    __device__ C window(int64_t i, int64_t c, int64_t low, int64_t high, const Value& value) const {
        const int64_t first = c > low || MMK_DEFECT(activation_first_channel) ? c - low : 0;
        const int64_t last = c + high < channels.by() ? c + high : channels.by() - 1;
        C sum(0);
#pragma unroll 4
        for (int64_t j = first; j <= last; ++j) sum = sum + value(i + (j - c) * step);
        return sum;
    }
    __device__ Vec<C> base(const T* x, int64_t i, int64_t c) const {
        const C sum = window(i, c, before, after, [&](int64_t at) {
            const C v = widen(x[at]);
            return v * v;
        });
        return Vec<C>(fma_scalar(sum / extent, alpha, k));
    }
};
template <class T> __global__ void __launch_bounds__(threads) respond(Response<T> r, const T* x, T* y) {
    for (int64_t i = int64_t(blockIdx.x) * threads + threadIdx.x; i < r.count; i += int64_t(gridDim.x) * threads)
        y[i] = narrow<T>(widen(x[i]) / response_power(r.base(x, i, r.channel(i)), r.power, r.beta).v);
}
// terms[i] = (gy x / p) / b, direct[i] = gy / p
template <class T> __global__ void __launch_bounds__(threads)
    response_terms(Response<T> r, const T* x, const T* gy, Compute<T>* terms, Compute<T>* direct) {
    using C = Compute<T>;
    for (int64_t i = int64_t(blockIdx.x) * threads + threadIdx.x; i < r.count; i += int64_t(gridDim.x) * threads) {
        const Vec<C> b = r.base(x, i, r.channel(i));
        const C p = response_power(b, r.power, r.beta).v, g = widen(gy[i]);
        terms[i] = ((g * widen(x[i])) / p) / b.v;
        direct[i] = g / p;
    }
}
template <class T> __global__ void __launch_bounds__(threads)
    response_gradient(Response<T> r, const T* x, const Compute<T>* terms, const Compute<T>* direct, T* gx) {
    for (int64_t i = int64_t(blockIdx.x) * threads + threadIdx.x; i < r.count; i += int64_t(gridDim.x) * threads) {
        const auto sum = r.window(i, r.channel(i), r.after, r.before, [&](int64_t at) { return terms[at]; });
        gx[i] = narrow<T>(fma_scalar(widen(x[i]) * r.factor, sum, direct[i]));
    }
}

template <class T, class Op> Response<T> response_of(const Op& op, bool inside) {
    using C = Compute<T>;
    const int64_t size = op.x.size(2, op.x.rank), channels = op.x.extent[1];
    return {Divisor(inside ? 1 : size),
            Divisor(channels),
            inside ? 1 : size,
            op.x.size(),
            op.size / 2,
            (op.size - 1) / 2,
            C(op.size),
            C(op.alpha),
            C(op.beta),
            C(op.k),
            -C(2 * op.alpha * op.beta / double(op.size)),
            power_of(op.beta)};
}

} // namespace

void prelu(const Prelu& op, Context& context) {
    visit_storage(op.y.dtype, [&](auto type) {
        using T = typename decltype(type)::type;
        launch_map_channels<T>(context, Slope<T>{Dense<T>(context, op.weight)}, op.y, op.x);
    });
}

void prelu_grad(const PreluGrad& op, Context& context) {
    visit_storage(op.gx.dtype, [&](auto type) {
        using T = typename decltype(type)::type;
        const Segments all(op.x, channels_inside(op.x, op.gy));
        DenseOut<T> gweight(context, op.gweight);
        channel_sums(context, all, SlopeTerms<T>(), laid_out<T>(context, all.inside, op.x),
                     laid_out<T>(context, all.inside, op.gy), SlopeFinish<T>{gweight});
        launch_map_channels<T>(context, SlopeGradient<T>{Dense<T>(context, op.weight)}, op.gx, op.x, op.gy);
        gweight.finish();
    });
}

void local_response_norm(const LocalResponseNorm& op, Context& context) {
    visit_storage(op.y.dtype, [&](auto type) {
        using T = typename decltype(type)::type;
        const bool inside = channels_inside(op.x, op.y);
        const T* const x = laid_out<T>(context, inside, op.x);
        const Tensor none;
        DenseOut<T> y(context, inside ? none : op.y);
        const Response<T> response = response_of<T>(op, inside);
        MMK_LAUNCH(context, (respond<T>), grid_of(ceil_div(response.count, threads)), threads, 0, response, x,
                   inside ? static_cast<T*>(op.y.data) : y.get());
        y.finish();
    });
}

void local_response_norm_grad(const LocalResponseNormGrad& op, Context& context) {
    visit_storage(op.gx.dtype, [&](auto type) {
        using T = typename decltype(type)::type;
        using C = Compute<T>;
        const bool inside = channels_inside(op.x, op.gy, op.gx);
        const T *const x = laid_out<T>(context, inside, op.x), *const gy = laid_out<T>(context, inside, op.gy);
        const Tensor none;
        DenseOut<T> gx(context, inside ? none : op.gx);
        const Response<T> response = response_of<T>(op, inside);
        C *const terms = context.scratch<C>(response.count), *const direct = context.scratch<C>(response.count);
        const dim3 grid = grid_of(ceil_div(response.count, threads));
        MMK_LAUNCH(context, (response_terms<T>), grid, threads, 0, response, x, gy, terms, direct);
        MMK_LAUNCH(context, (response_gradient<T>), grid, threads, 0, response, x, terms, direct,
                   inside ? static_cast<T*>(op.gx.data) : gx.get());
        gx.finish();
    });
}

} // namespace mmk::cuda
