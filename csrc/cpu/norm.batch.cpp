// batch_norm: statistics of a channel over all samples.
#include "../ops/norm.h"

#include "../core/activate.h"
#include "segments.h"

namespace mmk::cpu::MMK_ISA {
namespace {

template <class T> T* filled(Context& context, int64_t count, T value) {
    T* const all = context.scratch<T>(count);
    for (int64_t i = 0; i < count; ++i) all[i] = value;
    return all;
}
template <class T> const T* dense_or(Context& context, const Tensor& t, int64_t count, T value) {
    if (t) return Dense<T>(context, t);
    return filled(context, count, value);
}

// body(channel, n) for sixteen channels at a time.
template <class Body> MMK_INLINE void each_channel(int64_t channels, const Body& body) {
    for (int64_t c = 0; c < channels; c += lanes) body(c, channels - c < lanes ? channels - c : int64_t(lanes));
}

// sum and squares of a segment's n channels, of one if it is of a plane; the squares about the segment's own mean.
template <class T>
void segment_moments(const Segments& all, int64_t n, const T* x, int64_t length, T* sum, T* squares) {
    T mean[wide_pixel * lanes];
    const T* const means[1] = {mean};
    const auto value = [](const Vec<T>*, Vec<T>* terms, Vec<T> v) { terms[0] = v; };
    const auto square = [](const Vec<T>* number, Vec<T>* terms, Vec<T> v) {
        const Vec<T> d = v - number[0];
        terms[0] = d * d;
    };
    const auto sums = [&](T* to, auto term) {
        if (all.inside)
            pixel_segment<1, 1>(means, n, to, 0, length, all.channels, term, x);
        else
            plane_segment<1, 1>(means, 0, to, 0, length, term, x);
    };
    for (int64_t c = 0; c < n; ++c) mean[c] = 0;
    sums(sum, value);
    for (int64_t c = 0; c < n; ++c) mean[c] = sum[c] / T(length);
    sums(squares, square);
}

// sum[c] and squares[c], those about the channel's mean.
template <class T> void channel_moments(Context& context, const Segments& all, const T* x, T* mean, T* squares) {
    const int64_t channels = all.channels, step = all.rows() * channels;
    const T* sums = x; // segments of one element: their sums are the elements, their squares are 0
    T* parts = nullptr;
    if (all.size != 1) {
        T* const table = context.scratch<T>(2 * step);
        each_segment(context, all, [&](int64_t entry, int64_t, int64_t n, int64_t first, int64_t length) {
            segment_moments(all, n, x + first, length, table + entry, table + step + entry);
        });
        sums = table, parts = table + step;
    }
    column_sums(context, all.rows(), channels, mean,
                [=](int64_t row, int64_t c, int64_t n) { return Vec<T>::load(sums + row * channels + c, n); });
    const Vec<T> count(T(all.samples * all.size));
    each_channel(channels, [&](int64_t c, int64_t n) { (Vec<T>::load(mean + c, n) / count).store(mean + c, n); });
    column_sums(context, all.rows(), channels, squares, [=](int64_t row, int64_t c, int64_t n) {
        const Vec<T> length(T(all.length(row % all.count)));
        const Vec<T> d = Vec<T>::load(sums + row * channels + c, n) / length - Vec<T>::load(mean + c, n);
        const Vec<T> between = length * (d * d);
        return parts ? Vec<T>::load(parts + row * channels + c, n) + between : between;
    });
}

// y = activation(fma(x - mean, factor, bias))
template <class T> void normalise(Context& context, const Tensor& x, const Tensor& y, const T* mean, const T* factor,
                                  const T* bias, Activation activation) {
    const T* const numbers[3] = {mean, factor, bias};
    visit_activation(activation, [&](auto f) {
        map_channels(
            context, numbers,
            [f](const Vec<T>* number, Vec<T> v) { return f(fma(v - number[0], number[1], number[2])); }, y, x);
    });
}

template <class T> MMK_INLINE Vec<T> reciprocal_deviation(Vec<T> variance, T eps) {
    return Vec<T>(T(1)) / sqrt(variance + Vec<T>(eps));
}

} // namespace

void batch_norm(const BatchNorm& op, Context& context) {
    visit_float(op.y.dtype, [&](auto zero) {
        using T = decltype(zero);
        const int64_t channels = op.x.extent[1];
        const Dense<T> mean(context, op.running_mean), variance(context, op.running_var);
        const T* const weight = dense_or(context, op.weight, channels, T(1));
        const T* const bias = dense_or(context, op.bias, channels, -T(0));
        T* const factor = context.scratch<T>(channels);
        each_channel(channels, [&](int64_t c, int64_t n) {
            (reciprocal_deviation(Vec<T>::load(variance + c, n), T(op.eps)) * Vec<T>::load(weight + c, n))
                .store(factor + c, n);
        });
        normalise<T>(context, op.x, op.y, mean, factor, bias, op.activation);
    });
}

void batch_norm_training(const BatchNormTraining& op, Context& context) {
    visit_float(op.y.dtype, [&](auto zero) {
        using T = decltype(zero);
        const Segments all(op.x, channels_inside(op.x));
        const int64_t channels = all.channels;
        const T* const x = laid_out<T>(context, all.inside, op.x);
        const Dense<T> old_mean(context, op.running_mean), old_variance(context, op.running_var);
        const T* const weight = dense_or(context, op.weight, channels, T(1));
        const T* const bias = dense_or(context, op.bias, channels, -T(0));
        const DenseOut<T> new_mean(context, op.new_mean), new_variance(context, op.new_var), mean(context, op.mean),
            rstd(context, op.rstd);
        const bool empty = all.samples * all.size == 0;
        T* const squares = context.scratch<T>(channels);
        if (!empty) channel_moments<T>(context, all, x, mean, squares);
        const Vec<T> count(T(all.samples * all.size)), fewer(T(all.samples * all.size - 1));
        const Vec<T> share(T(op.momentum)), rest(T(1) - T(op.momentum)), none = Vec<T>::zero();
        T* const factor = context.scratch<T>(channels);
        each_channel(channels, [&](int64_t c, int64_t n) {
            const Vec<T> m = empty ? none : Vec<T>::load(mean + c, n);
            const Vec<T> q = empty ? none : Vec<T>::load(squares + c, n);
            const Vec<T> r = empty ? none : reciprocal_deviation(q / count, T(op.eps));
            const auto follow = [&](const T* old, Vec<T> batch) {
                if (empty) return old ? Vec<T>::load(old + c, n) : none;
                return old ? rest * Vec<T>::load(old + c, n) + share * batch : batch;
            };
            follow(old_mean, m).store(new_mean + c, n);
            follow(old_variance, q / fewer).store(new_variance + c, n);
            m.store(mean + c, n), r.store(rstd + c, n);
            (r * Vec<T>::load(weight + c, n)).store(factor + c, n);
        });
        normalise<T>(context, op.x, op.y, mean, factor, bias, op.activation);
    });
}

void batch_norm_grad(const BatchNormGrad& op, Context& context) {
    visit_float(op.gx.dtype, [&](auto zero) {
        using T = decltype(zero);
        const Segments all(op.x, channels_inside(op.x, op.gy));
        const int64_t channels = all.channels;
        const Dense<T> mean(context, op.mean), rstd(context, op.rstd);
        const T* const weight = dense_or(context, op.weight, channels, T(1));
        const T* const gmean = dense_or(context, op.gmean, channels, T(0));
        const T* const grstd = dense_or(context, op.grstd, channels, T(0));
        const DenseOut<T> gweight(context, op.gweight), gbias(context, op.gbias);
        T *const sum_gy_d = context.scratch<T>(channels), *const factor = context.scratch<T>(channels);
        T *const k1 = context.scratch<T>(channels), *const k2 = context.scratch<T>(channels);
        const T* const means[1] = {mean};
        T* const sums[2] = {gbias, sum_gy_d};
        channel_sums(
            context, all, means, sums,
            [](const Vec<T>* number, Vec<T>* terms, Vec<T> x, Vec<T> gy) {
                terms[0] = gy, terms[1] = gy * (x - number[0]);
            },
            laid_out<T>(context, all.inside, op.x), laid_out<T>(context, all.inside, op.gy));
        const Vec<T> count(T(all.samples * all.size));
        each_channel(channels, [&](int64_t c, int64_t n) {
            const Vec<T> r = Vec<T>::load(rstd + c, n), w = Vec<T>::load(weight + c, n);
            const Vec<T> g = Vec<T>::load(gbias + c, n) * w, g_d = Vec<T>::load(sum_gy_d + c, n);
            (g_d * r).store(gweight + c, n), (r * w).store(factor + c, n);
            ((g * r - Vec<T>::load(gmean + c, n)) / count).store(k1 + c, n);
            const Vec<T> all_g_d = g_d * w + Vec<T>::load(grstd + c, n);
            ((((all_g_d * r) / count) * r) * r).store(k2 + c, n);
        });
        if (op.frozen) { // gy * factor
            const T *const zero = filled(context, channels, T(0)), *const nothing = filled(context, channels, -T(0));
            return normalise(context, op.gy, op.gx, zero, factor, nothing, Activation::none);
        }
        const T* const numbers[4] = {mean, k2, factor, k1};
        map_channels(
            context, numbers,
            [](const Vec<T>* number, Vec<T> x, Vec<T> gy) {
                return fma(x - number[0], -number[1], fma(gy, number[2], -number[3]));
            },
            op.gx, op.x, op.gy);
    });
}

} // namespace mmk::cpu::MMK_ISA
