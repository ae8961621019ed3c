#include "../ops/resample.h"

#include "../core/simd.h"
#include "layouts4.h"
#include "resample.linear.h"

namespace mmk::cpu::MMK_ISA {
namespace {

constexpr int64_t grain = 16384; // output elements for which a second thread pays

// Which element of an axis each output reads, and which outputs read each element: they are neighbours, as sources
// never fall.
struct Sources {
    int64_t count, extent;
    int64_t* of;    // [count]
    int64_t* first; // [extent + 1]: element h is read by outputs first[h] .. first[h + 1] - 1
    bool doubled;   // of[i] = i / 2, and nothing is left over

    Sources(Context& context, int64_t outputs, int64_t inputs, double step)
        : count(outputs), extent(inputs), of(context.scratch<int64_t>(outputs)),
          first(context.scratch<int64_t>(inputs + 1)), doubled(outputs == 2 * inputs) {
        int64_t element = 0;
        for (int64_t i = 0; i < outputs; ++i) {
            const float position = __builtin_floorf(float(i) * float(step));
            // beyond 2^62 a float is no index any more
            of[i] = position < float(inputs) && position < 0x1p62f ? int64_t(position) : inputs - 1;
            if (of[i] > inputs - 1) of[i] = inputs - 1;
            doubled = doubled && of[i] == i / 2;
            while (element <= of[i]) first[element++] = i;
        }
        while (element <= inputs) first[element++] = outputs;
    }
};

template <class T> void read_row(const T* x, const Sources& columns, T* y) {
    if (columns.doubled)
        for (int64_t w = 0; w < columns.extent; ++w) y[2 * w] = y[2 * w + 1] = x[w];
    else
        for (int64_t q = 0; q < columns.count; ++q) y[q] = x[columns.of[q]];
}

// Rows [begin, end) of all planes' outputs.
template <class T>
void read_rows(const T* x, const Sources& rows, const Sources& columns, T* y, int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
        const int64_t plane = row / rows.count, p = row % rows.count;
        T* const to = y + row * columns.count;
        if (row > begin && p > 0 && rows.of[p] == rows.of[p - 1])
            std::memcpy(to, to - columns.count, size_t(columns.count) * sizeof(T));
        else
            read_row(x + (plane * rows.extent + rows.of[p]) * columns.extent, columns, to);
    }
}
template <class T> void read_pixels(const T* x, const Sources& rows, const Sources& columns, int64_t channels, T* y,
                                    int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
        const int64_t sample = row / rows.count, p = row % rows.count;
        const T* const from = x + (sample * rows.extent + rows.of[p]) * columns.extent * channels;
        for (int64_t q = 0; q < columns.count; ++q)
            std::memcpy(y + (row * columns.count + q) * channels, from + columns.of[q] * channels,
                        size_t(channels) * sizeof(T));
    }
}

// Rows [begin, end) of all planes' gradients.
template <class T>
void add_rows(const T* gy, const Sources& rows, const Sources& columns, T* gx, int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
        const int64_t plane = row / rows.extent, h = row % rows.extent;
        T* const to = gx + row * columns.extent;
        for (int64_t w = 0; w < columns.extent; ++w) to[w] = 0;
        for (int64_t p = rows.first[h]; p < rows.first[h + 1]; ++p) {
            const T* const from = gy + (plane * rows.count + p) * columns.count;
            if (columns.doubled)
                for (int64_t w = 0; w < columns.extent; ++w) to[w] = (to[w] + from[2 * w]) + from[2 * w + 1];
            else
                for (int64_t q = 0; q < columns.count; ++q) to[columns.of[q]] = to[columns.of[q]] + from[q];
        }
    }
}
template <class T> void add_pixels(const T* gy, const Sources& rows, const Sources& columns, int64_t channels, T* gx,
                                   int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
        const int64_t sample = row / rows.extent, h = row % rows.extent;
        for (int64_t w = 0; w < columns.extent; ++w)
            for_channel_blocks(channels, [&](int64_t c, int64_t n) {
                Vec<T> sum = Vec<T>::zero();
                for (int64_t p = rows.first[h]; p < rows.first[h + 1]; ++p)
                    for (int64_t q = columns.first[w]; q < columns.first[w + 1]; ++q)
                        sum =
                            sum + Vec<T>::load(gy + ((sample * rows.count + p) * columns.count + q) * channels + c, n);
                sum.store(gx + (row * columns.extent + w) * channels + c, n);
            });
    }
}

} // namespace

void interpolate(const Interpolate& op, Context& context) {
    if (op.mode == Interpolation::bilinear) return interpolate_linear(op, context);
    visit_float(op.y.dtype, [&](auto zero) {
        using T = decltype(zero);
        const Sources rows(context, op.y.extent[2], op.x.extent[2], op.scale[0]);
        const Sources columns(context, op.y.extent[3], op.x.extent[3], op.scale[1]);
        const int64_t channels = op.x.extent[1];
        if (has_channels_last(op.x)) {
            context.chose("channels", "x is channels-last");
            const Tensor x_view = channels_last_view(op.x), y_view = channels_last_view(op.y);
            const Dense<T> x(context, x_view);
            const DenseOut<T> y(context, y_view);
            parallel_ranges(
                context, op.x.extent[0] * rows.count, 1 + grain / (1 + columns.count * channels),
                [&](int64_t begin, int64_t end, int) { read_pixels<T>(x, rows, columns, channels, y, begin, end); });
            return;
        }
        context.chose("rows", "x is not channels-last");
        const Dense<T> x(context, op.x);
        const DenseOut<T> y(context, op.y);
        parallel_ranges(context, op.x.size(0, 2) * rows.count, 1 + grain / (1 + columns.count),
                        [&](int64_t begin, int64_t end, int) { read_rows<T>(x, rows, columns, y, begin, end); });
    });
}

void interpolate_grad(const InterpolateGrad& op, Context& context) {
    if (op.mode == Interpolation::bilinear) return interpolate_linear_grad(op, context);
    visit_float(op.gx.dtype, [&](auto zero) {
        using T = decltype(zero);
        const Sources rows(context, op.gy.extent[2], op.gx.extent[2], op.scale[0]);
        const Sources columns(context, op.gy.extent[3], op.gx.extent[3], op.scale[1]);
        const int64_t channels = op.gx.extent[1];
        if (has_channels_last(op.gy)) {
            context.chose("channels", "gy is channels-last");
            const Tensor gy_view = channels_last_view(op.gy), gx_view = channels_last_view(op.gx);
            const Dense<T> gy(context, gy_view);
            const DenseOut<T> gx(context, gx_view);
            parallel_ranges(
                context, op.gx.extent[0] * rows.extent, 1 + grain / (1 + columns.count * channels),
                [&](int64_t begin, int64_t end, int) { add_pixels<T>(gy, rows, columns, channels, gx, begin, end); });
            return;
        }
        context.chose("rows", "gy is not channels-last");
        const Dense<T> gy(context, op.gy);
        const DenseOut<T> gx(context, op.gx);
        parallel_ranges(context, op.gx.size(0, 2) * rows.extent, 1 + grain / (1 + columns.count),
                        [&](int64_t begin, int64_t end, int) { add_rows<T>(gy, rows, columns, gx, begin, end); });
    });
}

} // namespace mmk::cpu::MMK_ISA
