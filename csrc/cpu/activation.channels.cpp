// prelu, whose slope is a channel's own, and local_response_norm, whose divisor is made of neighbouring channels.
#include "../ops/activation.h"

#include "../core/response.h"
#include "segments.h"

namespace mmk::cpu::MMK_ISA {
namespace {

template <class T> struct Response {
    int64_t size;
    T alpha, beta, k;
    T factor; // -2 alpha beta / size
    Power power;

    template <class Op> explicit Response(const Op& op)
        : size(op.size), alpha(T(op.alpha)), beta(T(op.beta)), k(T(op.k)),
          factor(-T(2 * op.alpha * op.beta / double(op.size))), power(power_of(op.beta)) {}

    // Of channel c of sixteen pixels, which are `step` from channel to channel.
    MMK_MEMBER Vec<T> base(const T* x, int64_t channels, int64_t c, int64_t step, int64_t n) const {
        const int64_t first = c - size / 2 > 0 ? c - size / 2 : 0, end = c + (size + 1) / 2;
        Vec<T> sum = Vec<T>::zero();
        for (int64_t j = first; j < end && j < channels; ++j) {
            const Vec<T> v = Vec<T>::load(x + j * step, n);
            sum = sum + v * v;
        }
        return fma(sum / Vec<T>(T(size)), Vec<T>(alpha), Vec<T>(k));
    }
};

template <class T>
MMK_FLATTEN void response_kernel(Response<T> r, const T* x, T* y, int64_t channels, int64_t step, int64_t n) {
    for (int64_t c = 0; c < channels; ++c) {
        const Vec<T> b = r.base(x, channels, c, step, n);
        (Vec<T>::load(x + c * step, n) / response_power(b, r.power, r.beta)).store(y + c * step, n);
    }
}
// terms: 2 * channels * 16 values of its own, for each channel's t and gy / p
template <class T> MMK_FLATTEN void response_grad_kernel(Response<T> r, const T* x, const T* gy, T* gx, T* terms,
                                                         int64_t channels, int64_t step, int64_t n) {
    T* const direct = terms + channels * lanes;
    for (int64_t c = 0; c < channels; ++c) {
        const Vec<T> b = r.base(x, channels, c, step, n), p = response_power(b, r.power, r.beta);
        const Vec<T> g = Vec<T>::load(gy + c * step, n);
        (((g * Vec<T>::load(x + c * step, n)) / p) / b).store(terms + c * lanes);
        (g / p).store(direct + c * lanes);
    }
    const Vec<T> factor(r.factor);
    for (int64_t c = 0; c < channels; ++c) {
        const int64_t before = (r.size - 1) / 2, first = c > before ? c - before : 0, end = c + r.size / 2 + 1;
        Vec<T> sum = Vec<T>::zero();
        for (int64_t j = first; j < end && j < channels; ++j) sum = sum + Vec<T>::load(terms + j * lanes);
        fma(Vec<T>::load(x + c * step, n) * factor, sum, Vec<T>::load(direct + c * lanes)).store(gx + c * step, n);
    }
}

// body(offset of a sample's first pixel of sixteen, how many there are, worker)
template <class Body> void each_sixteen_pixels(Context& context, const Tensor& x, const Body& body) {
    const int64_t size = x.size(2, x.rank), blocks = (size + lanes - 1) / lanes;
    parallel_ranges(context, x.extent[0] * blocks, 1 + 256 / (1 + x.extent[1]),
                    [&](int64_t begin, int64_t end, int worker) {
                        for (int64_t i = begin; i < end; ++i) {
                            const int64_t n = i / blocks, p = (i - n * blocks) * lanes;
                            body(n * x.extent[1] * size + p, size - p < lanes ? size - p : int64_t(lanes), worker);
                        }
                    });
}

} // namespace

void prelu(const Prelu& op, Context& context) {
    visit_float(op.y.dtype, [&](auto zero) {
        using T = decltype(zero);
        const T* const weight[1] = {Dense<T>(context, op.weight)};
        map_channels(
            context, weight, [](const Vec<T>* slope, Vec<T> x) { return select(x > Vec<T>::zero(), x, x * slope[0]); },
            op.y, op.x);
    });
}

void prelu_grad(const PreluGrad& op, Context& context) {
    visit_float(op.gx.dtype, [&](auto zero) {
        using T = decltype(zero);
        const T* const weight[1] = {Dense<T>(context, op.weight)};
        const DenseOut<T> gweight(context, op.gweight);
        T* const sums[1] = {gweight};
        const Segments all(op.x, channels_inside(op.x, op.gy));
        channel_sums(
            context, all, weight, sums,
            [](const Vec<T>*, Vec<T>* terms, Vec<T> x, Vec<T> gy) {
                terms[0] = select(x > Vec<T>::zero(), Vec<T>::zero(), x * gy);
            },
            laid_out<T>(context, all.inside, op.x), laid_out<T>(context, all.inside, op.gy));
        map_channels(
            context, weight,
            [](const Vec<T>* slope, Vec<T> x, Vec<T> gy) { return select(x > Vec<T>::zero(), gy, gy * slope[0]); },
            op.gx, op.x, op.gy);
    });
}

void local_response_norm(const LocalResponseNorm& op, Context& context) {
    visit_float(op.y.dtype, [&](auto zero) {
        using T = decltype(zero);
        const Dense<T> x(context, op.x);
        const DenseOut<T> y(context, op.y);
        const Response<T> response(op);
        const int64_t channels = op.x.extent[1], step = op.x.size(2, op.x.rank);
        each_sixteen_pixels(context, op.x, [&](int64_t at, int64_t n, int) {
            response_kernel<T>(response, x + at, y + at, channels, step, n);
        });
    });
}

void local_response_norm_grad(const LocalResponseNormGrad& op, Context& context) {
    visit_float(op.gx.dtype, [&](auto zero) {
        using T = decltype(zero);
        const Dense<T> x(context, op.x), gy(context, op.gy);
        const DenseOut<T> gx(context, op.gx);
        const Response<T> response(op);
        const int64_t channels = op.x.extent[1], step = op.x.size(2, op.x.rank), share = 2 * channels * lanes;
        T* const terms = context.scratch<T>(share * context.threads);
        each_sixteen_pixels(context, op.x, [&](int64_t at, int64_t n, int worker) {
            response_grad_kernel<T>(response, x + at, gy + at, gx + at, terms + share * worker, channels, step, n);
        });
    });
}

} // namespace mmk::cpu::MMK_ISA
