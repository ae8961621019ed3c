#include "../ops/embed.h"

#include "../core/layout.h"
#include "../core/waves.h"

namespace mmk::cpu::MMK_ISA {

using namespace mmk::MMK_ISA;

namespace {

constexpr int64_t grain = 16384; // elements moved for which a second thread pays
constexpr int64_t waves_grain = 2048;

template <class T, class I>
void look_up(const I* indices, const T* weight, int64_t rows, int64_t width, T* y, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
        T* const to = y + i * width;
        if (uint64_t(indices[i]) < uint64_t(rows))
            std::memcpy(to, weight + int64_t(indices[i]) * width, size_t(width) * sizeof(T));
        else
            std::memset(to, 0, size_t(width) * sizeof(T));
    }
}

// Rows [begin, end) of the table: every thread reads all tokens, so that each row is added to in their order.
template <class T, class I>
void add_tokens(const I* indices, const T* gy, int64_t tokens, int64_t width, T* gweight, int64_t begin, int64_t end) {
    for (int64_t i = begin * width; i < end * width; ++i) gweight[i] = 0;
    for (int64_t i = 0; i < tokens; ++i) {
        const int64_t row = indices[i];
        if (row < begin || row >= end) continue;
        T* const to = gweight + row * width;
        const T* const from = gy + i * width;
        for (int64_t d = 0; d < width; ++d) to[d] = to[d] + from[d];
    }
}

int64_t part_count(int64_t threads, int64_t rows, int64_t work) {
    const int64_t most = rows < threads ? rows : threads, worth = 1 + work / grain;
    return most < worth ? most : worth;
}

// ---- waves
// ---------------------------------------------------------------------------------------------------------------

// One sample: z(i) quarter turns for sixteen features from i on, of which `half` exist.
template <class Z> MMK_INLINE void wave_row(int64_t half, float* sines, float* cosines, Z&& z) {
    for (int64_t i = 0; i < half; i += lanes) {
        F32x16 sine, cosine;
        wave(z(i), sine, cosine);
        sine.store(sines + i, half - i), cosine.store(cosines + i, half - i);
    }
}

constexpr long double two_pi = 6.283185307179586476925286766559005768L;

void sinusoidal(const SinusoidalFeatures& op, Context& context, const float* t, float* y) {
    const int64_t dim = op.y.extent[1], half = dim / 2, padded = (half + lanes - 1) / lanes * lanes;
    const bool sine_first = op.order == WaveOrder::sin_cos;
    double* const steps = context.scratch<double>(padded); // quarter turns per unit of t
    const double log_period = table_log(op.max_period);
    for (int64_t i = 0; i < padded; ++i)
        steps[i] =
            i < half ? table_exp(-(log_period * double(i)) / (double(half) - op.shift)) * 0x1.45f306dc9c883p-1 : 0;
    parallel_ranges(context, op.y.extent[0], 1 + waves_grain / (1 + dim), [&](int64_t begin, int64_t end, int) {
        for (int64_t n = begin; n < end; ++n) {
            const F64x16 time{double(t[n])};
            float *const first = y + n * dim, *const second = first + half;
            wave_row(half, sine_first ? first : second, sine_first ? second : first,
                     [&](int64_t i) { return time * F64x16::load(steps + i); });
            if (dim % 2) y[n * dim + dim - 1] = 0;
        }
    });
}
void sinusoidal(const SinusoidalFeatures& op, Context& context, const double* t, double* y) {
    const int64_t dim = op.y.extent[1], half = dim / 2;
    const bool sine_first = op.order == WaveOrder::sin_cos;
    parallel_ranges(context, op.y.extent[0], 1 + waves_grain / (1 + dim), [&](int64_t begin, int64_t end, int) {
        for (int64_t n = begin; n < end; ++n) {
            double *const first = y + n * dim, *const second = first + half;
            for (int64_t i = 0; i < half; ++i) {
                const long double angle =
                    t[n] * __builtin_powl(op.max_period, -(long double)i / (half - (long double)op.shift));
                (sine_first ? first : second)[i] = double(__builtin_sinl(angle));
                (sine_first ? second : first)[i] = double(__builtin_cosl(angle));
            }
            if (dim % 2) y[n * dim + dim - 1] = 0;
        }
    });
}

void fourier(const FourierFeatures& op, Context& context, const float* t, const float* frequencies, float* y) {
    const int64_t features = op.frequencies.extent[0];
    parallel_ranges(context, op.t.extent[0], 1 + waves_grain / (1 + features), [&](int64_t begin, int64_t end, int) {
        for (int64_t n = begin; n < end; ++n) {
            const F64x16 quarters(4.0 * double(t[n])); // both products are exact
            wave_row(features, y + 2 * n * features, y + (2 * n + 1) * features, [&](int64_t i) {
                return quarters * convert<double>(F32x16::load(frequencies + i, features - i));
            });
        }
    });
}
void fourier(const FourierFeatures& op, Context& context, const double* t, const double* frequencies, double* y) {
    const int64_t features = op.frequencies.extent[0];
    parallel_ranges(context, op.t.extent[0], 1 + waves_grain / (1 + features), [&](int64_t begin, int64_t end, int) {
        for (int64_t n = begin; n < end; ++n)
            for (int64_t i = 0; i < features; ++i) {
                const long double angle = two_pi * ((long double)t[n] * frequencies[i]);
                y[2 * n * features + i] = double(__builtin_sinl(angle));
                y[(2 * n + 1) * features + i] = double(__builtin_cosl(angle));
            }
    });
}

} // namespace

void embedding(const Embedding& op, Context& context) {
    visit_float(op.y.dtype, [&](auto zero) {
        using T = decltype(zero);
        visit_integer(op.indices.dtype, [&](auto integer) {
            using I = decltype(integer);
            const Dense<I> indices(context, op.indices);
            const Dense<T> weight(context, op.weight);
            const DenseOut<T> y(context, op.y);
            const int64_t rows = op.weight.extent[0], width = op.weight.extent[1];
            parallel_ranges(context, op.indices.size(), 1 + grain / (1 + width), [&](int64_t begin, int64_t end, int) {
                look_up<T, I>(indices, weight, rows, width, y, begin, end);
            });
        });
    });
}

void embedding_grad(const EmbeddingGrad& op, Context& context) {
    visit_float(op.gweight.dtype, [&](auto zero) {
        using T = decltype(zero);
        visit_integer(op.indices.dtype, [&](auto integer) {
            using I = decltype(integer);
            const Dense<I> indices(context, op.indices);
            const Dense<T> gy(context, op.gy);
            const DenseOut<T> gweight(context, op.gweight);
            const int64_t rows = op.gweight.extent[0], width = op.gweight.extent[1], tokens = op.indices.size();
            const int64_t work = width * (tokens + rows), parts = part_count(context.threads, rows, work);
            parallel_for(context, parts, [&](int64_t part, int) {
                add_tokens<T, I>(indices, gy, tokens, width, gweight, rows * part / parts, rows * (part + 1) / parts);
            });
        });
    });
}

void sinusoidal_features(const SinusoidalFeatures& op, Context& context) {
    visit_float(op.y.dtype, [&](auto zero) {
        using T = decltype(zero);
        const Dense<T> t(context, op.t);
        const DenseOut<T> y(context, op.y);
        sinusoidal(op, context, t.get(), y.get());
    });
}

void fourier_features(const FourierFeatures& op, Context& context) {
    visit_float(op.y.dtype, [&](auto zero) {
        using T = decltype(zero);
        const Dense<T> t(context, op.t), frequencies(context, op.frequencies);
        const DenseOut<T> y(context, op.y);
        fourier(op, context, t.get(), frequencies.get(), y.get());
    });
}

} // namespace mmk::cpu::MMK_ISA
