#include "resample.linear.h"

#include "layouts4.h"

namespace mmk::cpu::MMK_ISA {
namespace {

constexpr int64_t grain = 16384; // output elements for which a second thread pays

// For each output of an axis the element on its left, and the share of the next one, which exists if the share is not 0.
template <class T> struct Taps {
    int64_t count, extent;
    int64_t* left;  // [count]
    T* share;       // [count]
    int64_t* first; // [extent + 1]: the first output whose left is h or behind it: lefts never fall

    Taps(Context& context, int64_t outputs, int64_t inputs, double step, bool align_corners)
        : count(outputs), extent(inputs), left(context.scratch<int64_t>(outputs)), share(context.scratch<T>(outputs)),
          first(context.scratch<int64_t>(inputs + 1)) {
        int64_t element = 0;
        for (int64_t i = 0; i < outputs; ++i) {
            T position = align_corners ? T(i) * T(step) : (T(i) + T(0.5)) * T(step) - T(0.5);
            if (!(position > 0)) position = 0;
            // beyond 2^62 a number is no index any more
            left[i] = position < T(inputs) && position < T(0x1p62) ? int64_t(position) : inputs - 1;
            const bool last = left[i] >= inputs - 1;
            if (last) left[i] = inputs - 1;
            share[i] = last ? T(0) : position - T(left[i]);
            while (element <= left[i]) first[element++] = i;
        }
        while (element <= inputs) first[element++] = outputs;
    }
    // The outputs that read element h: those whose left is h - 1 or h.
    int64_t begin(int64_t h) const { return first[h > 0 ? h - 1 : 0]; }
    int64_t end(int64_t h) const { return first[h + 1]; }
    // The share of element h in output i; 0: it is not read.
    T of(int64_t i, int64_t h) const { return left[i] == h ? T(1) - share[i] : left[i] + 1 == h ? share[i] : T(0); }
};

// y = fma(b, share, a * (1 - share))
template <class T> MMK_FLATTEN void mix(const T* a, const T* b, T share, T* y, int64_t n) {
    const Vec<T> right(share), left(T(1) - share);
    int64_t i = 0;
    for (; i + lanes <= n; i += lanes) fma(Vec<T>::load(b + i), right, Vec<T>::load(a + i) * left).store(y + i);
    if (i < n) fma(Vec<T>::load(b + i, n - i), right, Vec<T>::load(a + i, n - i) * left).store(y + i, n - i);
}
// sum = fma(x, factor, sum)
template <class T> MMK_FLATTEN void accumulate(const T* x, T factor, T* sum, int64_t n) {
    const Vec<T> f(factor);
    int64_t i = 0;
    for (; i + lanes <= n; i += lanes) fma(Vec<T>::load(x + i), f, Vec<T>::load(sum + i)).store(sum + i);
    if (i < n) fma(Vec<T>::load(x + i, n - i), f, Vec<T>::load(sum + i, n - i)).store(sum + i, n - i);
}

// ---- lines ------------------------------------------------------------------------------------------------------

template <class T> void along_columns(const T* x, const Taps<T>& columns, T* y) {
    for (int64_t q = 0; q < columns.count; ++q) {
        const T* const from = x + columns.left[q];
        const T share = columns.share[q];
        y[q] = share == 0 ? from[0] : fma_scalar(from[1], share, from[0] * (T(1) - share));
    }
}

// Two rows of a plane, interpolated along the columns, and which they are.
template <class T> struct RowPair {
    T* row[2];
    int64_t of[2] = {-1, -1};

    // The place of row h of the plane that starts at x: the odd and the even take turns.
    const T* get(const T* x, int64_t h, const Taps<T>& columns) {
        const int place = int(h & 1);
        if (of[place] != h) along_columns(x + h * columns.extent, columns, row[place]);
        of[place] = h;
        return row[place];
    }
};
// Rows [begin, end) of all planes' outputs.
template <class T>
void mix_rows(const T* x, const Taps<T>& rows, const Taps<T>& columns, T* y, T* scratch, int64_t begin, int64_t end) {
    RowPair<T> pair{{scratch, scratch + columns.count}};
    for (int64_t row = begin; row < end; ++row) {
        const int64_t plane = row / rows.count, p = row % rows.count, h = rows.left[p];
        if (p == 0) pair.of[0] = pair.of[1] = -1;
        const T* const from = x + plane * rows.extent * columns.extent;
        const T* const above = pair.get(from, h, columns);
        T* const to = y + row * columns.count;
        if (rows.share[p] == 0)
            std::memcpy(to, above, size_t(columns.count) * sizeof(T));
        else
            mix(above, pair.get(from, h + 1, columns), rows.share[p], to, columns.count);
    }
}

// gx of a plane; line: scratch of a row.
template <class T> void spread_plane(const T* gy, const Taps<T>& rows, const Taps<T>& columns, T* gx, T* line) {
    const int64_t width = columns.extent;
    for (int64_t i = 0; i < rows.extent * width; ++i) gx[i] = 0;
    for (int64_t p = 0; p < rows.count; ++p) {
        for (int64_t w = 0; w < width; ++w) line[w] = 0;
        for (int64_t q = 0; q < columns.count; ++q) {
            const T g = gy[p * columns.count + q], share = columns.share[q];
            T* const to = line + columns.left[q];
            to[0] = fma_scalar(g, T(1) - share, to[0]);
            if (share != 0) to[1] = fma_scalar(g, share, to[1]);
        }
        T* const to = gx + rows.left[p] * width;
        accumulate(line, T(1) - rows.share[p], to, width);
        if (rows.share[p] != 0) accumulate(line, rows.share[p], to + width, width);
    }
}

// ---- pixels, whose channels are neighbours ------------------------------------------------------------------------

template <class T>
MMK_FLATTEN void mix_pixel(const T* a, const T* b, int64_t channels, T row_share, T column_share, T* y) {
    const Vec<T> right(column_share), left(T(1) - column_share), below(row_share), above(T(1) - row_share);
    const auto along = [&](const T* x, int64_t c, int64_t n) {
        if (column_share == 0) return Vec<T>::load(x + c, n);
        return fma(Vec<T>::load(x + channels + c, n), right, Vec<T>::load(x + c, n) * left);
    };
    for_channel_blocks(channels, [&](int64_t c, int64_t n) {
        Vec<T> v = along(a, c, n);
        if (row_share != 0) v = fma(along(b, c, n), below, v * above);
        v.store(y + c, n);
    });
}
template <class T> void mix_pixels(const T* x, const Taps<T>& rows, const Taps<T>& columns, int64_t channels, T* y,
                                   int64_t begin, int64_t end) {
    const int64_t line = columns.extent * channels;
    for (int64_t row = begin; row < end; ++row) {
        const int64_t sample = row / rows.count, p = row % rows.count;
        const T* const from = x + (sample * rows.extent + rows.left[p]) * line;
        for (int64_t q = 0; q < columns.count; ++q) {
            const T* const a = from + columns.left[q] * channels;
            mix_pixel(a, a + line, channels, rows.share[p], columns.share[q], y + (row * columns.count + q) * channels);
        }
    }
}
// Rows [begin, end) of all samples' gradients; line: scratch of a row of pixels.
template <class T> void spread_pixels(const T* gy, const Taps<T>& rows, const Taps<T>& columns, int64_t channels, T* gx,
                                      T* line, int64_t begin, int64_t end) {
    const int64_t length = columns.extent * channels;
    for (int64_t row = begin; row < end; ++row) {
        const int64_t sample = row / rows.extent, h = row % rows.extent;
        T* const to = gx + row * length;
        for (int64_t i = 0; i < length; ++i) to[i] = 0;
        for (int64_t p = rows.begin(h); p < rows.end(h); ++p) {
            const T factor = rows.of(p, h);
            if (factor == 0) continue;
            for (int64_t i = 0; i < length; ++i) line[i] = 0;
            for (int64_t q = 0; q < columns.count; ++q) {
                const T* const g = gy + ((sample * rows.count + p) * columns.count + q) * channels;
                T* const pixel = line + columns.left[q] * channels;
                accumulate(g, T(1) - columns.share[q], pixel, channels);
                if (columns.share[q] != 0) accumulate(g, columns.share[q], pixel + channels, channels);
            }
            accumulate(line, factor, to, length);
        }
    }
}

} // namespace

void interpolate_linear(const Interpolate& op, Context& context) {
    visit_float(op.y.dtype, [&](auto zero) {
        using T = decltype(zero);
        const bool align = op.align_corners != 0;
        const Taps<T> rows(context, op.y.extent[2], op.x.extent[2], op.scale[0], align);
        const Taps<T> columns(context, op.y.extent[3], op.x.extent[3], op.scale[1], align);
        const int64_t channels = op.x.extent[1];
        if (has_channels_last(op.x)) {
            context.chose("mixed channels", "x is channels-last");
            const Tensor x_view = channels_last_view(op.x), y_view = channels_last_view(op.y);
            const Dense<T> x(context, x_view);
            const DenseOut<T> y(context, y_view);
            parallel_ranges(
                context, op.x.extent[0] * rows.count, 1 + grain / (1 + columns.count * channels),
                [&](int64_t begin, int64_t end, int) { mix_pixels<T>(x, rows, columns, channels, y, begin, end); });
            return;
        }
        context.chose("mixed rows", "x is not channels-last");
        const Dense<T> x(context, op.x);
        const DenseOut<T> y(context, op.y);
        T* const scratch = context.scratch<T>(2 * columns.count * context.threads);
        parallel_ranges(context, op.x.size(0, 2) * rows.count, 1 + grain / (1 + columns.count),
                        [&](int64_t begin, int64_t end, int worker) {
                            mix_rows<T>(x, rows, columns, y, scratch + 2 * columns.count * worker, begin, end);
                        });
    });
}

void interpolate_linear_grad(const InterpolateGrad& op, Context& context) {
    visit_float(op.gx.dtype, [&](auto zero) {
        using T = decltype(zero);
        const bool align = op.align_corners != 0;
        const Taps<T> rows(context, op.gy.extent[2], op.gx.extent[2], op.scale[0], align);
        const Taps<T> columns(context, op.gy.extent[3], op.gx.extent[3], op.scale[1], align);
        const int64_t channels = op.gx.extent[1];
        if (has_channels_last(op.gy)) {
            context.chose("mixed channels", "gy is channels-last");
            const Tensor gy_view = channels_last_view(op.gy), gx_view = channels_last_view(op.gx);
            const Dense<T> gy(context, gy_view);
            const DenseOut<T> gx(context, gx_view);
            const int64_t length = columns.extent * channels;
            T* const lines = context.scratch<T>(length * context.threads);
            parallel_ranges(context, op.gx.extent[0] * rows.extent, 1 + grain / (1 + columns.count * channels),
                            [&](int64_t begin, int64_t end, int worker) {
                                spread_pixels<T>(gy, rows, columns, channels, gx, lines + length * worker, begin, end);
                            });
            return;
        }
        context.chose("mixed rows", "gy is not channels-last");
        const Dense<T> gy(context, op.gy);
        const DenseOut<T> gx(context, op.gx);
        const int64_t from = rows.count * columns.count, to = rows.extent * columns.extent;
        T* const lines = context.scratch<T>(columns.extent * context.threads);
        parallel_ranges(
            context, op.gx.size(0, 2), 1 + grain / (1 + from + to), [&](int64_t begin, int64_t end, int worker) {
                for (int64_t plane = begin; plane < end; ++plane)
                    spread_plane<T>(gy + plane * from, rows, columns, gx + plane * to, lines + columns.extent * worker);
            });
    });
}

} // namespace mmk::cpu::MMK_ISA
