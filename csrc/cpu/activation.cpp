#include "../ops/activation.h"

#include "../core/arith.h"
#include "../core/philox.h"
#include "../core/reduce.h"
#include "elementwise.h"

namespace mmk::cpu::MMK_ISA {
namespace {

// ---- softmax: rows of the axis, which is brought to the end
// ----------------------------------------------------------

Tensor with_axis_last(Tensor t, int64_t axis) {
    const int64_t extent = t.extent[axis], stride = t.stride[axis];
    for (int i = int(axis); i + 1 < t.rank; ++i) t.extent[i] = t.extent[i + 1], t.stride[i] = t.stride[i + 1];
    t.extent[t.rank - 1] = extent, t.stride[t.rank - 1] = stride;
    return t;
}

// The largest element. A NaN may be lost: its own exponential makes the row's sum NaN.
template <class T> MMK_INLINE T row_max(const T* x, int64_t n) {
    T s[lanes];
    for (T& lane : s) lane = -T(__builtin_inff());
    if (n < lanes) {
        for (int64_t i = 0; i < n; ++i) s[i] = x[i];
    } else {
        Vec<T> m = Vec<T>::load(x);
        for (int64_t i = lanes; i + lanes <= n; i += lanes) m = at_least(Vec<T>::load(x + i), m);
        at_least(Vec<T>::load(x + n - lanes), m).store(s);
    }
    for (int half = lanes / 2; half >= 1; half /= 2)
        for (int k = 0; k < half; ++k) s[k] = s[k + half] > s[k] ? s[k + half] : s[k];
    return s[0];
}

// The sum of the exponentials, which are left in y.
template <class T> MMK_INLINE T exponentials(const T* x, T* y, int64_t n, T max) {
    const Vec<T> shift(max);
    return long_sum<T>(n, [&](int64_t i, int64_t count) {
        exp(Vec<T>::load(x + i, count) - shift).store(y + i, count);
        return Vec<T>::load(y + i, count);
    });
}

template <class T> MMK_FLATTEN void softmax_row(const T* x, T* y, int64_t n) {
    const T sum = exponentials(x, y, n, row_max(x, n));
    const Vec<T> factor(T(1) / sum);
    elementwise_kernel(y, n, [=](Vec<T> e) { return e * factor; }, static_cast<const T*>(y));
}
template <class T> MMK_FLATTEN void log_softmax_row(const T* x, T* y, int64_t n) {
    const T max = row_max(x, n);
    const Vec<T> shift(max), log_sum(mmk::MMK_ISA::log(exponentials(x, y, n, max)));
    elementwise_kernel(y, n, [=](Vec<T> v) { return (v - shift) - log_sum; }, x);
}
template <class T> MMK_FLATTEN void softmax_grad_row(const T* y, const T* gy, T* gx, int64_t n) {
    const Vec<T> sum(long_sum<T>(
        n, [=](int64_t i, int64_t count) { return Vec<T>::load(gy + i, count) * Vec<T>::load(y + i, count); }));
    elementwise_kernel(gx, n, [=](Vec<T> v, Vec<T> g) { return v * (g - sum); }, y, gy);
}
template <class T> MMK_FLATTEN void log_softmax_grad_row(const T* y, const T* gy, T* gx, int64_t n) {
    const Vec<T> sum(long_sum(gy, n));
    elementwise_kernel(gx, n, [=](Vec<T> v, Vec<T> g) { return g - exp(v) * sum; }, y, gy);
}

// kernel(rows of the operands..., row of the result, their extent)
template <class Kernel, class... In>
void rows(Context& context, int64_t dim, Kernel kernel, const Tensor& y, const In&... x) {
    visit_float(y.dtype, [&](auto zero) {
        using T = decltype(zero);
        const Tensor last = with_axis_last(y, dim);
        const int64_t n = y.extent[dim], count = y.size() / n;
        const auto run = [&](T* to, const auto*... from) {
            parallel_ranges(context, count, 1 + grain / n, [&](int64_t begin, int64_t end, int) {
                for (int64_t row = begin; row < end; ++row) kernel(from + row * n..., to + row * n, n);
            });
        };
        run(DenseOut<T>(context, last).get(), Dense<T>(context, with_axis_last(x, dim)).get()...);
    });
}

// ---- dropout
// ---------------------------------------------------------------------------------------------------------

template <class T>
MMK_FLATTEN void dropout_kernel(const PhiloxKey& key, const T* x, T* y, int64_t begin, int64_t end, double p) {
    const F32x16 threshold{float(p)};
    const Vec<T> divisor(T(1 - p));
    for (int64_t i = begin; i < end; i += philox_block) {
        F32x16 uniform[4];
        philox_uniform(key, uint64_t(i) / 4, uniform);
        for (int k = 0; k < 4 && i + k * lanes < end; ++k) {
            const int64_t at = i + k * lanes, n = end - at;
            const Mask<T> kept = convert<T>(uniform[k]) >= convert<T>(threshold);
            select(kept, Vec<T>::load(x + at, n) / divisor, Vec<T>::zero()).store(y + at, n);
        }
    }
}

} // namespace

void relu(const Unary& op, Context& context) {
    elementwise(context, [](auto x) { return relu(x); }, op.y, op.x);
}
void sigmoid(const Unary& op, Context& context) {
    elementwise(context, [](auto x) { return sigmoid(x); }, op.y, op.x);
}
void tanh(const Unary& op, Context& context) {
    elementwise(context, [](auto x) { return tanh(x); }, op.y, op.x);
}
void silu(const Unary& op, Context& context) {
    elementwise(context, [](auto x) { return silu(x); }, op.y, op.x);
}
void exp(const Unary& op, Context& context) {
    elementwise(context, [](auto x) { return exp(x); }, op.y, op.x);
}
void log(const Unary& op, Context& context) {
    elementwise(context, [](auto x) { return log(x); }, op.y, op.x);
}
void sqrt(const Unary& op, Context& context) {
    elementwise(context, [](auto x) { return sqrt(x); }, op.y, op.x);
}
void erf(const Unary& op, Context& context) {
    elementwise(context, [](auto x) { return erf(x); }, op.y, op.x);
}
void leaky_relu(const LeakyRelu& op, Context& context) {
    elementwise(context, [&op]<class T>(Vec<T> x) { return leaky_relu(x, Vec<T>(T(op.negative_slope))); }, op.y, op.x);
}
void gelu(const Gelu& op, Context& context) {
    if (op.approximate == GeluForm::tanh)
        elementwise(context, [](auto x) { return gelu_tanh(x); }, op.y, op.x);
    else
        elementwise(context, [](auto x) { return gelu(x); }, op.y, op.x);
}

void relu_grad(const UnaryGrad& op, Context& context) {
    elementwise(
        context,
        []<class T>(Vec<T> x, Vec<T> gy) { return select((x > Vec<T>::zero()) | (x != x), gy, Vec<T>::zero()); }, op.gx,
        op.x, op.gy);
}
void leaky_relu_grad(const LeakyReluGrad& op, Context& context) {
    elementwise(
        context,
        [&op]<class T>(Vec<T> x, Vec<T> gy) {
            return select(x > Vec<T>::zero(), gy, gy * Vec<T>(T(op.negative_slope)));
        },
        op.gx, op.x, op.gy);
}
void silu_grad(const UnaryGrad& op, Context& context) {
    elementwise(context, [](auto x, auto gy) { return gy * silu_grad(x); }, op.gx, op.x, op.gy);
}
void gelu_grad(const GeluGrad& op, Context& context) {
    if (op.approximate == GeluForm::tanh)
        elementwise(context, [](auto x, auto gy) { return gy * gelu_tanh_grad(x); }, op.gx, op.x, op.gy);
    else
        elementwise(context, [](auto x, auto gy) { return gy * gelu_grad(x); }, op.gx, op.x, op.gy);
}
void sigmoid_grad(const ResultGrad& op, Context& context) {
    elementwise(
        context, []<class T>(Vec<T> y, Vec<T> gy) { return gy * (y * (Vec<T>(T(1)) - y)); }, op.gx, op.y, op.gy);
}
void tanh_grad(const ResultGrad& op, Context& context) {
    elementwise(
        context, []<class T>(Vec<T> y, Vec<T> gy) { return gy * ((Vec<T>(T(1)) - y) * (Vec<T>(T(1)) + y)); }, op.gx,
        op.y, op.gy);
}

void softmax(const AlongAxis& op, Context& context) {
    rows(context, op.dim, [](auto... row) { softmax_row(row...); }, op.y, op.x);
}
void log_softmax(const AlongAxis& op, Context& context) {
    // the row of the operand before that of the result
    rows(context, op.dim, [](auto... row) { log_softmax_row(row...); }, op.y, op.x);
}
void softmax_grad(const AlongAxisGrad& op, Context& context) {
    rows(context, op.dim, [](auto... row) { softmax_grad_row(row...); }, op.gx, op.y, op.gy);
}
void log_softmax_grad(const AlongAxisGrad& op, Context& context) {
    rows(context, op.dim, [](auto... row) { log_softmax_grad_row(row...); }, op.gx, op.y, op.gy);
}

void dropout(const Dropout& op, Context& context) {
    if (op.p == 0) {
        context.chose("copy", "p is 0");
        return elementwise(context, [](auto x) { return x; }, op.y, op.x);
    }
    visit_float(op.y.dtype, [&](auto zero) {
        using T = decltype(zero);
        const Dense<T> x(context, op.x);
        const Dense<uint64_t> keys(context, op.keys);
        const DenseOut<T> y(context, op.y);
        const int64_t samples = op.y.extent[0], size = op.y.size() / samples;
        const int64_t blocks = (size + philox_block - 1) / philox_block;
        parallel_ranges(context, samples * blocks, 1 + grain / philox_block, [&](int64_t begin, int64_t end, int) {
            while (begin < end) {
                const int64_t n = begin / blocks, stop = end < (n + 1) * blocks ? end : (n + 1) * blocks;
                const int64_t first = (begin - n * blocks) * philox_block, last = (stop - n * blocks) * philox_block;
                dropout_kernel(PhiloxKey(keys[n]), x + n * size, y + n * size, first, last < size ? last : size, op.p);
                begin = stop;
            }
        });
    });
}

} // namespace mmk::cpu::MMK_ISA
