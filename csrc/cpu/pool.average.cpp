#include "../ops/pool.h"

#include "pool.kernels.h"

namespace mmk::cpu::MMK_ISA {
namespace {

constexpr int64_t grain = 16384; // taps for which a second thread pays

// The windows of either direction: x's and y's extents, gx's and gy's.
struct Windows {
    int64_t planes, channels;
    Axis rows, columns;
    bool count_include_pad;
    int64_t divisor_override;

    // What a window counts for along one axis.
    MMK_MEMBER int64_t counted(const Axis& axis, int64_t i) const {
        const int64_t start = axis.start(i), end = start + axis.kernel;
        if (count_include_pad) return smaller(end, axis.extent + axis.padding) - start;
        return larger(0, smaller(end, axis.extent) - larger(start, 0));
    }
    // A window that counts for nothing has the sum 0: any divisor will do.
    template <class T> MMK_MEMBER T divisor(int64_t rows_counted, int64_t columns_counted) const {
        const int64_t d = divisor_override ? divisor_override : rows_counted * columns_counted;
        return d ? T(d) : T(1);
    }
};
template <class Op> Windows windows_of(const Op& op, const Tensor& x, const Tensor& y) {
    const auto axis = [&](int i) {
        return Axis{x.extent[2 + i], y.extent[2 + i], op.kernel[i], op.stride[i], op.padding[i], 1};
    };
    return {x.extent[0] * x.extent[1], x.extent[1], axis(0), axis(1), op.count_include_pad != 0, op.divisor_override};
}
int64_t rows_per_task(const Windows& w, int64_t row) {
    return 1 + grain / (1 + row * w.columns.outputs * w.rows.most_taps() * w.columns.most_taps());
}

// The divisors of one row of windows; rows differ at the borders only.
template <class T> struct Divisors {
    const Windows& w;
    T* row;
    int64_t rows_counted = -1;
    MMK_MEMBER void of_row(int64_t p) {
        const int64_t counted = w.counted(w.rows, p);
        if (counted == rows_counted) return;
        rows_counted = counted;
        for (int64_t q = 0; q < w.columns.outputs; ++q) row[q] = w.divisor<T>(counted, w.counted(w.columns, q));
        for (int64_t q = w.columns.outputs; q < up_to_lanes(w.columns.outputs); ++q) row[q] = T(1);
    }
};

// ---- rows
// ----------------------------------------------------------------------------------------------------------------

template <int Rows, int Taps, class T>
MMK_INLINE void average_row(const T* const* lines, int64_t rows, const int64_t* offsets, int64_t taps,
                            const T* divisors, int64_t outputs, T* y, const T* end) {
    for (int64_t q = 0; q < outputs; q += lanes) {
        Vec<T> sum = Vec<T>::zero();
        if constexpr (Taps != 0) {
#pragma GCC unroll 4
            for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 4
                for (int s = 0; s < Taps; ++s) sum = sum + Vec<T>::load(lines[r] + offsets[s] + q);
        } else
            for (int64_t r = 0; r < rows; ++r)
                for (int64_t s = 0; s < taps; ++s) sum = sum + Vec<T>::load(lines[r] + offsets[s] + q);
        store_block(sum / Vec<T>::load(divisors + q), y + q, end);
    }
}

template <class T> struct AverageRows {
    const Windows w;
    const Lines<T> lines;
    const int64_t* offsets;
    int64_t slots; // lines kept: neighbouring rows of outputs share them
    const T* x;
    T* y;

    struct Scratch {
        T *ring, *divisors;
        int64_t* kept;     // which line of input a slot holds
        const T** sources; // of a row's taps
    };
    Scratch take(Context& context) const {
        return {context.scratch<T>(slots * lines.size()), context.scratch<T>(up_to_lanes(w.columns.outputs)),
                context.scratch<int64_t>(slots), context.scratch<const T*>(w.rows.most_taps())};
    }

    void run(int64_t begin, int64_t end, const Scratch& scratch) const {
        const int64_t outputs = w.columns.outputs, taps = w.columns.kernel;
        for (int64_t i = 0; i < slots; ++i) {
            lines.clear(scratch.ring + i * lines.size(), T(0));
            scratch.kept[i] = -1;
        }
        Divisors<T> divisors{w, scratch.divisors};
        const T* const y_end = y + end * outputs;
        for (int64_t row = begin; row < end; ++row) {
            const int64_t plane = row / w.rows.outputs, p = row % w.rows.outputs;
            const int64_t first = w.rows.first(p), count = w.rows.end(p) - first;
            for (int64_t r = 0; r < count; ++r) {
                const int64_t h = w.rows.start(p) + first + r, source = plane * w.rows.extent + h;
                T* const line = scratch.ring + h % slots * lines.size();
                if (scratch.kept[h % slots] != source) {
                    lines.fill(line, x + source * w.columns.extent);
                    scratch.kept[h % slots] = source;
                }
                scratch.sources[r] = line;
            }
            divisors.of_row(p);
            T* const to = y + row * outputs;
            if (count == 2 && taps == 2)
                average_row<2, 2>(scratch.sources, count, offsets, taps, divisors.row, outputs, to, y_end);
            else if (count == 3 && taps == 3)
                average_row<3, 3>(scratch.sources, count, offsets, taps, divisors.row, outputs, to, y_end);
            else
                average_row<0, 0>(scratch.sources, count, offsets, taps, divisors.row, outputs, to, y_end);
        }
    }
};

// ---- channels last
// -------------------------------------------------------------------------------------------------------

template <class T> struct AverageChannels {
    const Windows w;
    const T* x;
    T* y;

    void run(int64_t begin, int64_t end) const {
        const int64_t channels = w.channels, width = w.columns.extent;
        for (int64_t row = begin; row < end; ++row) {
            const int64_t sample = row / w.rows.outputs, p = row % w.rows.outputs;
            const int64_t r_first = w.rows.first(p), r_end = w.rows.end(p), counted = w.counted(w.rows, p);
            const T* const plane = x + sample * w.rows.extent * width * channels;
            for (int64_t q = 0; q < w.columns.outputs; ++q) {
                const int64_t s_first = w.columns.first(q), s_end = w.columns.end(q);
                const Vec<T> divisor(w.divisor<T>(counted, w.counted(w.columns, q)));
                T* const to = y + (row * w.columns.outputs + q) * channels;
                for_wide_channel_blocks(channels, [&]<int wide>(int64_t c, int64_t n) {
                    Vec<T> sum[wide];
#pragma GCC unroll 8
                    for (int k = 0; k < wide; ++k) sum[k] = Vec<T>::zero();
                    for (int64_t r = r_first; r < r_end; ++r) {
                        const T* const line = plane + (w.rows.start(p) + r) * width * channels + c;
                        for (int64_t s = s_first; s < s_end; ++s)
#pragma GCC unroll 8
                            for (int k = 0; k < wide; ++k)
                                sum[k] =
                                    sum[k] + Vec<T>::load(line + (w.columns.start(q) + s) * channels + k * lanes, n);
                    }
#pragma GCC unroll 8
                    for (int k = 0; k < wide; ++k) (sum[k] / divisor).store(to + c + k * lanes, n);
                });
            }
        }
    }
};

// ---- gradient
// ------------------------------------------------------------------------------------------------------------

// Which windows see position i of an axis: [first, end).
struct Seen {
    int64_t first, end;
};
MMK_INLINE Seen windows_at(const Axis& axis, int64_t i) {
    const int64_t from = i + axis.padding - axis.kernel + 1;
    const int64_t first = from <= 0 ? 0 : (from + axis.stride - 1) / axis.stride;
    return {first, larger(first, smaller(axis.outputs, (i + axis.padding) / axis.stride + 1))};
}

// Element (position i * stride + f) of a padded line is seen by windows i - reach(f) .. i, from the first to the last.
// The quotients gy / divisor stand between zeros, so that no window need be asked for.
template <class T> struct AverageGradRows {
    const Windows w;
    int64_t before, pitch; // zeros in front of a row of quotients; from one row to the next
    T* quotients;
    const T* gy;
    T* gx;

    static int64_t blocks(const Axis& columns) { return (columns.extent + columns.padding) / columns.stride + 1; }
    // Phases beyond the line's end have no element.
    static int64_t phases(const Axis& columns) { return smaller(columns.stride, columns.extent + columns.padding); }
    static int64_t zeros(const Axis& columns) { return (columns.kernel - 1) / columns.stride; }
    static int64_t row_size(const Axis& columns) {
        return up_to_lanes(zeros(columns) + larger(columns.outputs, up_to_lanes(blocks(columns))));
    }

    void divide(int64_t begin, int64_t end, T* divisor_row) const {
        const int64_t outputs = w.columns.outputs;
        Divisors<T> divisors{w, divisor_row};
        for (int64_t row = begin; row < end; ++row) {
            divisors.of_row(row % w.rows.outputs);
            T* const to = quotients + row * pitch;
            for (int64_t i = 0; i < before; ++i) to[i] = 0;
            for (int64_t q = 0; q < outputs; ++q) to[before + q] = gy[row * outputs + q] / divisors.row[q];
            for (int64_t i = before + outputs; i < pitch; ++i) to[i] = 0;
        }
    }
    // Rows [begin, end) of all planes' gradients; line holds the phases of one.
    void run(int64_t begin, int64_t end, T* line) const {
        const int64_t stride = w.columns.stride, width = w.columns.extent, padding = w.columns.padding;
        const int64_t length = up_to_lanes(blocks(w.columns));
        for (int64_t row = begin; row < end; ++row) {
            const int64_t plane = row / w.rows.extent, h = row % w.rows.extent;
            const Seen seen = windows_at(w.rows, h);
            const T* const from = quotients + plane * w.rows.outputs * pitch + before;
            for (int64_t f = 0; f < phases(w.columns); ++f) {
                const int64_t reach = f < w.columns.kernel ? (w.columns.kernel - 1 - f) / stride : -1;
                for (int64_t i = 0; i < length; i += lanes) {
                    Vec<T> sum = Vec<T>::zero();
                    for (int64_t p = seen.first; p < seen.end; ++p)
                        for (int64_t j = reach; j >= 0; --j) sum = sum + Vec<T>::load(from + p * pitch + i - j);
                    sum.store(line + f * length + i);
                }
            }
            T* const to = gx + row * width;
            if (stride == 1)
                std::memcpy(to, line + padding, size_t(width) * sizeof(T));
            else if (stride == 2 && phases(w.columns) == 2) {
                const T* const even = line + (padding & 1) * length + padding / 2;
                const T* const odd = line + (1 - (padding & 1)) * length + (padding + 1) / 2;
                for (int64_t i = 0; i < width / 2; ++i) to[2 * i] = even[i], to[2 * i + 1] = odd[i];
                if (width & 1) to[width - 1] = even[width / 2];
            } else
                for (int64_t f = 0; f < phases(w.columns); ++f) {
                    const int64_t shift = f - padding, first = shift >= 0 ? 0 : (stride - 1 - shift) / stride;
                    for (int64_t i = first; i * stride + shift < width; ++i)
                        to[i * stride + shift] = line[f * length + i];
                }
        }
    }
};

template <class T> struct AverageGradChannels {
    const Windows w;
    T* quotients;
    const T* gy;
    T* gx;

    void divide(int64_t begin, int64_t end) const {
        const int64_t channels = w.channels;
        for (int64_t row = begin; row < end; ++row) {
            const int64_t counted = w.counted(w.rows, row % w.rows.outputs);
            for (int64_t q = 0; q < w.columns.outputs; ++q) {
                const T divisor = w.divisor<T>(counted, w.counted(w.columns, q));
                const int64_t at = (row * w.columns.outputs + q) * channels;
                for (int64_t c = 0; c < channels; ++c) quotients[at + c] = gy[at + c] / divisor;
            }
        }
    }
    void run(int64_t begin, int64_t end) const {
        const int64_t channels = w.channels, outputs = w.columns.outputs;
        for (int64_t row = begin; row < end; ++row) {
            const int64_t sample = row / w.rows.extent;
            const Seen rows = windows_at(w.rows, row % w.rows.extent);
            for (int64_t column = 0; column < w.columns.extent; ++column) {
                const Seen columns = windows_at(w.columns, column);
                T* const to = gx + (row * w.columns.extent + column) * channels;
                for_channel_blocks(channels, [&](int64_t c, int64_t n) {
                    Vec<T> sum = Vec<T>::zero();
                    for (int64_t p = rows.first; p < rows.end; ++p)
                        for (int64_t q = columns.first; q < columns.end; ++q)
                            sum = sum +
                                  Vec<T>::load(quotients + ((sample * w.rows.outputs + p) * outputs + q) * channels + c,
                                               n);
                    sum.store(to + c, n);
                });
            }
        }
    }
};

} // namespace

void avg_pool2d_of_any_windows(const AvgPool2d& op, Context& context); // pool.volumes.cpp

void avg_pool2d(const AvgPool2d& op, Context& context) {
    for (int i = 0; i < 2; ++i)
        if (op.dilation[i] != 1 || op.padding_after[i] != op.padding[i]) return avg_pool2d_of_any_windows(op, context);
    visit_float(op.y.dtype, [&](auto zero) {
        using T = decltype(zero);
        const Windows w = windows_of(op, op.x, op.y);
        if (has_channels_last(op.x) || !w.columns.holds_padding()) {
            context.chose("channels", "x is channels-last, or its padding is too wide to hold");
            const Tensor x_view = channels_last_view(op.x), y_view = channels_last_view(op.y);
            const Dense<T> x(context, x_view);
            const DenseOut<T> y(context, y_view);
            const AverageChannels<T> kernel{w, x, y};
            parallel_ranges(context, op.x.extent[0] * w.rows.outputs, rows_per_task(w, w.channels),
                            [&](int64_t begin, int64_t end, int) { kernel.run(begin, end); });
            return;
        }
        if (op.y.size(2, 4) == 1 && w.rows.padding == 0 && w.columns.padding == 0 && w.rows.kernel >= w.rows.extent &&
            w.columns.kernel >= w.columns.extent && op.x.contiguous() && op.y.contiguous()) {
            context.chose("whole planes", "one window of contiguous planes");
            const T divisor = w.divisor<T>(w.counted(w.rows, 0), w.counted(w.columns, 0));
            return mean_of_planes(context, static_cast<const T*>(op.x.data), static_cast<T*>(op.y.data), w.planes,
                                  op.x.size(2, 4), up_to_lanes(op.x.size(2, 4)), divisor);
        }
        context.chose("rows", "x is not channels-last");
        using Rows = AverageRows<T>;
        const Dense<T> x(context, op.x);
        const DenseOut<T> y(context, op.y);
        const Lines<T> lines(w.columns);
        int64_t* const offsets = context.scratch<int64_t>(w.columns.kernel);
        for (int64_t s = 0; s < w.columns.kernel; ++s) offsets[s] = lines.offset(s);
        const int64_t slots = larger(1, smaller(w.rows.extent, w.rows.kernel));
        const Rows rows{w, lines, offsets, slots, x, y};
        auto* const scratch = context.scratch<typename Rows::Scratch>(context.threads);
        for (int i = 0; i < context.threads; ++i) scratch[i] = rows.take(context);
        parallel_ranges(context, w.planes * w.rows.outputs, rows_per_task(w, 1),
                        [&](int64_t begin, int64_t end, int worker) { rows.run(begin, end, scratch[worker]); });
    });
}

void avg_pool2d_grad(const AvgPool2dGrad& op, Context& context) {
    visit_float(op.gx.dtype, [&](auto zero) {
        using T = decltype(zero);
        const Windows w = windows_of(op, op.gx, op.gy);
        const int64_t samples = op.gx.extent[0];
        if (has_channels_last(op.gy) || !w.columns.holds_padding()) {
            context.chose("channels", "gy is channels-last, or the padding is too wide to hold");
            const Tensor gy_view = channels_last_view(op.gy), gx_view = channels_last_view(op.gx);
            const Dense<T> gy(context, gy_view);
            const DenseOut<T> gx(context, gx_view);
            const AverageGradChannels<T> kernel{w, context.scratch<T>(op.gy.size()), gy, gx};
            parallel_ranges(context, samples * w.rows.outputs, rows_per_task(w, w.channels),
                            [&](int64_t begin, int64_t end, int) { kernel.divide(begin, end); });
            parallel_ranges(context, samples * w.rows.extent, rows_per_task(w, w.channels),
                            [&](int64_t begin, int64_t end, int) { kernel.run(begin, end); });
            return;
        }
        context.chose("rows", "gy is not channels-last");
        using Rows = AverageGradRows<T>;
        const Dense<T> gy(context, op.gy);
        const DenseOut<T> gx(context, op.gx);
        const int64_t pitch = Rows::row_size(w.columns), rows = w.planes * w.rows.outputs;
        const Rows kernel{w, Rows::zeros(w.columns), pitch, context.scratch<T>(rows * pitch), gy, gx};
        const int64_t divisors = up_to_lanes(w.columns.outputs),
                      line = Rows::phases(w.columns) * up_to_lanes(Rows::blocks(w.columns)),
                      each = larger(divisors, line);
        T* const scratch = context.scratch<T>(each * context.threads);
        parallel_ranges(context, rows, rows_per_task(w, 1), [&](int64_t begin, int64_t end, int worker) {
            kernel.divide(begin, end, scratch + worker * each);
        });
        parallel_ranges(
            context, w.planes * w.rows.extent, rows_per_task(w, 1),
            [&](int64_t begin, int64_t end, int worker) { kernel.run(begin, end, scratch + worker * each); });
    });
}

} // namespace mmk::cpu::MMK_ISA
