#include "../ops/norm.h"

#include "../core/activate.h"
#include "../core/layout.h"
#include "column_sums.h"

namespace mmk::cpu::MMK_ISA {
namespace {

constexpr int64_t grain = 4096; // elements for which a second thread pays

template <class T> struct Moments {
    T mean, rstd;
};

// Of a group, which is `planes` rows of `size` elements; rms: about 0, which stands for the mean.
template <class T> MMK_FLATTEN Moments<T> moments(const T* x, int64_t planes, int64_t size, T eps, bool rms = false) {
    const T count = T(planes * size);
    T sum = 0, squares = 0;
    if (!rms)
        for (int64_t p = 0; p < planes; ++p) sum = sum + long_sum(x + p * size, size);
    const T mean = rms ? T(0) : sum / count;
    const Vec<T> shift(mean);
    for (int64_t p = 0; p < planes; ++p)
        squares = squares + long_sum<T>(size, [=](int64_t i, int64_t n) {
                      const Vec<T> d = Vec<T>::load(x + p * size + i, n) - shift;
                      return first_lanes(d * d, n);
                  });
    const T deviation = sqrt(Vec<T>(squares / count + eps)).lane(0);
    return {mean, T(1) / deviation};
}

// What a backward pass needs of a row or plane: sums of gy, gy d, g and g d.
template <class T> struct GradientSums {
    T gy, gy_d, g, g_d;
};

// weight(i, n): the weights of elements i .. i+15.
template <class T, class Weight>
MMK_INLINE GradientSums<T> gradient_sums(const T* x, const T* gy, int64_t size, T mean, Weight weight) {
    ChunkTree<T> tree[4];
    const Vec<T> shift(mean);
    for (int64_t begin = 0; begin < size; begin += sum_chunk) {
        const int64_t end = begin + sum_chunk < size ? begin + sum_chunk : size;
        Vec<T> sum[4] = {Vec<T>::zero(), Vec<T>::zero(), Vec<T>::zero(), Vec<T>::zero()};
        const auto step = [&](int64_t i, int64_t n) {
            const Vec<T> d = Vec<T>::load(x + i, n) - shift, v = Vec<T>::load(gy + i, n), g = v * weight(i, n);
            sum[0] = sum[0] + v;
            sum[1] = sum[1] + first_lanes(v * d, n);
            sum[2] = sum[2] + first_lanes(g, n);
            sum[3] = sum[3] + first_lanes(g * d, n);
        };
        int64_t i = begin;
        for (; i + lanes <= end; i += lanes) step(i, lanes);
        if (i < end) step(i, end - i);
        for (int k = 0; k < 4; ++k) tree[k].add(sum[k]);
    }
    return {sum_lanes(tree[0].total()), sum_lanes(tree[1].total()), sum_lanes(tree[2].total()),
            sum_lanes(tree[3].total())};
}

// The part of gx that a group's elements share.
template <class T> struct Shared {
    T k1, k2;
};
template <class T> MMK_INLINE Shared<T> shared_part(T sum_g, T sum_g_d, T count, T rstd) {
    return {(sum_g / count) * rstd, (((sum_g_d * rstd) / count) * rstd) * rstd};
}

template <class T, class Weight>
MMK_INLINE void gradient_row(const T* x, const T* gy, T* gx, int64_t size, Moments<T> m, Shared<T> s, Weight weight) {
    const Vec<T> mean(m.mean), rstd(m.rstd), k1(s.k1), k2(s.k2);
    const auto step = [&](int64_t i, int64_t n) {
        const Vec<T> d = Vec<T>::load(x + i, n) - mean;
        fma(d, -k2, fma(Vec<T>::load(gy + i, n), rstd * weight(i, n), -k1)).store(gx + i, n);
    };
    int64_t i = 0;
    for (; i + lanes <= size; i += lanes) step(i, lanes);
    if (i < size) step(i, size - i);
}

// A channel of a group: y = f(fma(x - mean, factor, bias) * scale + shift).
template <class T, class F> struct Plane {
    T mean, factor, bias, scale, shift;
    F f;
    MMK_FLATTEN void run(const T* x, T* y, int64_t size) const {
        const Vec<T> m(mean), a(factor), b(bias), c(scale), e(shift);
        const auto step = [&](int64_t i, int64_t n) {
            f(fma(Vec<T>::load(x + i, n) - m, a, b) * c + e).store(y + i, n);
        };
        int64_t i = 0;
        for (; i + lanes <= size; i += lanes) step(i, lanes);
        if (i < size) step(i, size - i);
    }
};

template <class T> const T* dense_or(Context& context, const Tensor& t, int64_t count, T value) {
    if (t) return Dense<T>(context, t);
    T* const filled = context.scratch<T>(count);
    for (int64_t i = 0; i < count; ++i) filled[i] = value;
    return filled;
}

// ---- rows: layer_norm, and rms_norm, whose mean is 0 --------------------------------------------------------------

void norm_rows(Context& context, const Tensor& x_, const Tensor& weight_, const Tensor& bias_, const Tensor& y_,
               int64_t axes, double eps, bool rms) {
    visit_float(y_.dtype, [&](auto zero) {
        using T = decltype(zero);
        const int first = x_.rank - int(axes);
        const int64_t rows = x_.size(0, first), size = x_.size(first, x_.rank);
        const Dense<T> x(context, x_);
        const T* const weight = dense_or(context, weight_, size, T(1));
        const T* const bias = dense_or(context, bias_, size, -T(0));
        const DenseOut<T> y(context, y_);
        parallel_ranges(context, rows, 1 + grain / size, [&](int64_t begin, int64_t end, int) {
            for (int64_t row = begin; row < end; ++row) {
                const T* const from = x + row * size;
                T* const to = y + row * size;
                const Moments<T> m = moments(from, 1, size, T(eps), rms);
                const Vec<T> mean(m.mean), rstd(m.rstd);
                const auto step = [&](int64_t i, int64_t n) {
                    fma(Vec<T>::load(from + i, n) - mean, rstd * Vec<T>::load(weight + i, n), Vec<T>::load(bias + i, n))
                        .store(to + i, n);
                };
                int64_t i = 0;
                for (; i + lanes <= size; i += lanes) step(i, lanes);
                if (i < size) step(i, size - i);
            }
        });
    });
}

void norm_rows_grad(Context& context, const Tensor& x_, const Tensor& gy_, const Tensor& weight_, const Tensor& gx_,
                    const Tensor& gweight_, const Tensor& gbias_, int64_t axes, double eps, bool rms) {
    visit_float(gx_.dtype, [&](auto zero) {
        using T = decltype(zero);
        const int first = x_.rank - int(axes);
        const int64_t rows = x_.size(0, first), size = x_.size(first, x_.rank);
        const Dense<T> x(context, x_), gy(context, gy_);
        const T* const weight = dense_or(context, weight_, size, T(1));
        const DenseOut<T> gx(context, gx_), gweight(context, gweight_), gbias(context, gbias_);
        Moments<T>* const all = context.scratch<Moments<T>>(rows);
        parallel_ranges(context, rows, 1 + grain / (1 + size), [&](int64_t begin, int64_t end, int) {
            for (int64_t row = begin; row < end; ++row) {
                const T *const from = x + row * size, *const g = gy + row * size;
                const auto weights = [weight](int64_t i, int64_t n) { return Vec<T>::load(weight + i, n); };
                const Moments<T> m = all[row] = moments(from, 1, size, T(eps), rms);
                const GradientSums<T> s = gradient_sums(from, g, size, m.mean, weights);
                Shared<T> shared = shared_part(s.g, s.g_d, T(size), m.rstd);
                if (rms) shared.k1 = 0; // no mean that an element could move
                gradient_row(from, g, gx + row * size, size, m, shared, weights);
            }
        });
        if (gbias_)
            column_sums(context, rows, size, gbias.get(), [=, g = gy.get()](int64_t row, int64_t i, int64_t n) {
                return Vec<T>::load(g + row * size + i, n);
            });
        column_sums(context, rows, size, gweight.get(),
                    [=, g = gy.get(), from = x.get()](int64_t row, int64_t i, int64_t n) {
                        const Moments<T> m = all[row];
                        const Vec<T> d = Vec<T>::load(from + row * size + i, n) - Vec<T>(m.mean);
                        return Vec<T>::load(g + row * size + i, n) * (d * Vec<T>(m.rstd));
                    });
    });
}

} // namespace

void group_norm(const GroupNorm& op, Context& context) {
    visit_float(op.y.dtype, [&](auto zero) {
        using T = decltype(zero);
        const Dense<T> x(context, op.x), weight(context, op.weight), bias(context, op.bias);
        const Dense<T> scale(context, op.scale), shift(context, op.shift);
        const DenseOut<T> y(context, op.y);
        const int64_t channels = op.x.extent[1], planes = channels / op.num_groups, size = op.x.size(2, op.x.rank);
        visit_activation(op.activation, [&](auto f) {
            const auto group = [&](int64_t index, int) {
                const Moments<T> m = moments(x + index * planes * size, planes, size, T(op.eps));
                for (int64_t p = index * planes; p < (index + 1) * planes; ++p) { // p = n C + c
                    const int64_t c = p % channels;
                    const Plane<T, decltype(f)> plane{m.mean,
                                                      weight ? m.rstd * weight[c] : m.rstd,
                                                      bias ? bias[c] : -T(0),
                                                      scale ? T(1) + scale[p] : T(1),
                                                      shift ? shift[p] : -T(0),
                                                      f};
                    plane.run(x + p * size, y + p * size, size);
                }
            };
            parallel_for(context, op.x.extent[0] * op.num_groups, group);
        });
    });
}

void group_norm_grad(const GroupNormGrad& op, Context& context) {
    visit_float(op.gx.dtype, [&](auto zero) {
        using T = decltype(zero);
        const Dense<T> x(context, op.x), gy(context, op.gy), weight(context, op.weight);
        const DenseOut<T> gx(context, op.gx), gweight(context, op.gweight), gbias(context, op.gbias);
        const int64_t samples = op.x.extent[0], channels = op.x.extent[1], planes = channels / op.num_groups;
        const int64_t size = op.x.size(2, op.x.rank);
        T* const part_weight = context.scratch<T>(samples * channels);
        T* const part_bias = context.scratch<T>(samples * channels);
        const auto group = [&](int64_t index, int) {
            const int64_t first = index * planes, last = first + planes;
            if (size == 0) {
                for (int64_t p = first; p < last; ++p) part_weight[p] = part_bias[p] = 0;
                return;
            }
            const Moments<T> m = moments(x + first * size, planes, size, T(op.eps));
            T sum_g = 0, sum_g_d = 0;
            for (int64_t p = first; p < last; ++p) {
                const Vec<T> w(weight ? weight[p % channels] : T(1));
                const GradientSums<T> s =
                    gradient_sums(x + p * size, gy + p * size, size, m.mean, [w](int64_t, int64_t) { return w; });
                part_weight[p] = m.rstd * s.gy_d, part_bias[p] = s.gy;
                sum_g = sum_g + s.g, sum_g_d = sum_g_d + s.g_d;
            }
            const Shared<T> shared = shared_part(sum_g, sum_g_d, T(planes * size), m.rstd);
            for (int64_t p = first; p < last; ++p) {
                const Vec<T> w(weight ? weight[p % channels] : T(1));
                gradient_row(x + p * size, gy + p * size, gx + p * size, size, m, shared,
                             [w](int64_t, int64_t) { return w; });
            }
        };
        parallel_for(context, samples * op.num_groups, group);
        const auto over_samples = [&](const T* part, T* out) {
            column_sums(context, samples, channels, out, [=](int64_t n, int64_t c, int64_t count) {
                return Vec<T>::load(part + n * channels + c, count);
            });
        };
        over_samples(part_weight, gweight);
        over_samples(part_bias, gbias);
    });
}

void layer_norm(const LayerNorm& op, Context& context) {
    norm_rows(context, op.x, op.weight, op.bias, op.y, op.axes, op.eps, false);
}
void rms_norm(const RmsNorm& op, Context& context) {
    norm_rows(context, op.x, op.weight, Tensor(), op.y, op.axes, op.eps, true);
}
void layer_norm_grad(const LayerNormGrad& op, Context& context) {
    norm_rows_grad(context, op.x, op.gy, op.weight, op.gx, op.gweight, op.gbias, op.axes, op.eps, false);
}
void rms_norm_grad(const RmsNormGrad& op, Context& context) {
    norm_rows_grad(context, op.x, op.gy, op.weight, op.gx, op.gweight, Tensor(), op.axes, op.eps, true);
}
void instance_norm(const InstanceNorm& op, Context& context) {
    GroupNorm grouped;
    grouped.x = op.x, grouped.weight = op.weight, grouped.bias = op.bias, grouped.y = op.y;
    grouped.num_groups = op.x.extent[1], grouped.eps = op.eps, grouped.activation = op.activation;
    group_norm(grouped, context);
}

} // namespace mmk::cpu::MMK_ISA
