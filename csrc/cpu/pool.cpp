#include "../ops/pool.h"

#include "pool.lines.h"

namespace mmk::cpu::MMK_ISA {
namespace {

constexpr int64_t grain = 16384; // taps for which a second thread pays

template <class T> constexpr T lowest = T(-__builtin_inf());

struct Windows {
    int64_t planes, channels;
    Axis rows, columns;
};
Windows windows_of(const MaxPool2d& op) {
    const auto axis = [&](int i) {
        return Axis{op.x.extent[2 + i], op.y.extent[2 + i], op.kernel[i], op.stride[i], op.padding[i], op.dilation[i]};
    };
    return {op.x.extent[0] * op.x.extent[1], op.x.extent[1], axis(0), axis(1)};
}
int64_t rows_per_task(const Windows& w, int64_t row) {
    return 1 + grain / (1 + row * w.columns.outputs * w.rows.most_taps() * w.columns.most_taps());
}

// ---- the maximum alone: down the columns, then along the line
// ------------------------------------------------------------

// The maximum of `count` lines, `pitch` apart. The last block may read on, to `end`.
template <int Count, class T>
MMK_INLINE void max_of_lines(const T* x, int64_t pitch, int64_t count, int64_t width, const T* end, T* to) {
    if constexpr (Count != 0) count = Count;
    const bool may_read_on = x + (count - 1) * pitch + up_to_lanes(width) <= end;
    for (int64_t i = 0; i < width; i += lanes) {
        const int64_t n = may_read_on ? int64_t(lanes) : width - i;
        Vec<T> best = Vec<T>::load(x + i, n);
        if constexpr (Count != 0) {
#pragma GCC unroll 4
            for (int64_t r = 1; r < Count; ++r) best = max(best, Vec<T>::load(x + r * pitch + i, n));
        } else
            for (int64_t r = 1; r < count; ++r) best = max(best, Vec<T>::load(x + r * pitch + i, n));
        best.store(to + i);
    }
}

template <int Taps, class T> MMK_INLINE void max_along_line(const T* line, const int64_t* offsets, int64_t taps,
                                                            int64_t outputs, T* y, const T* end) {
    for (int64_t q = 0; q < outputs; q += lanes) {
        Vec<T> best = Vec<T>::load(line + offsets[0] + q);
        if constexpr (Taps != 0) {
#pragma GCC unroll 4
            for (int s = 1; s < Taps; ++s) best = max(best, Vec<T>::load(line + offsets[s] + q));
        } else
            for (int64_t s = 1; s < taps; ++s) best = max(best, Vec<T>::load(line + offsets[s] + q));
        store_block(best + Vec<T>::zero(), y + q, end);
    }
}

template <class T> struct MaxRows {
    const Windows w;
    const Lines<T> lines;
    const int64_t* offsets;
    const T* x;
    T* y;

    // Rows [begin, end) of all planes' outputs; column holds a line, line a split line.
    void run(int64_t begin, int64_t end, T* column, T* line) const {
        const int64_t height = w.rows.extent, width = w.columns.extent, outputs = w.columns.outputs;
        const T *const x_end = x + w.planes * height * width, *const y_end = y + end * outputs;
        lines.clear(line, lowest<T>);
        for (int64_t row = begin; row < end; ++row) {
            const int64_t plane = row / w.rows.outputs, p = row % w.rows.outputs;
            const int64_t first = w.rows.first(p), count = w.rows.end(p) - first;
            T* const to = y + row * outputs;
            if (count == 0) {
                for (int64_t q = 0; q < outputs; ++q) to[q] = lowest<T>;
                continue;
            }
            const T* from = x + (plane * height + w.rows.start(p) + first * w.rows.dilation) * width;
            const int64_t pitch = w.rows.dilation * width;
            if (count == 2)
                max_of_lines<2>(from, pitch, count, width, x_end, column);
            else if (count == 3)
                max_of_lines<3>(from, pitch, count, width, x_end, column);
            else if (count > 1)
                max_of_lines<0>(from, pitch, count, width, x_end, column);
            lines.fill(line, count > 1 ? column : from);
            if (w.columns.kernel == 2)
                max_along_line<2>(line, offsets, 2, outputs, to, y_end);
            else if (w.columns.kernel == 3)
                max_along_line<3>(line, offsets, 3, outputs, to, y_end);
            else
                max_along_line<0>(line, offsets, w.columns.kernel, outputs, to, y_end);
        }
    }
};

// ---- with indices: taps in scan order
// ------------------------------------------------------------------------------------

// What is chosen so far, and where. A tap is better if it is greater, or the first NaN.
template <class T, class I> struct Choice {
    Vec<T> value;
    Vec<I> place;
    MMK_MEMBER void consider(Vec<T> candidate, Vec<I> at) {
        const Mask<T> better = (candidate > value) | ((candidate != candidate) & (value == value));
        value = select(better, candidate, value);
        place = select(convert<typename detail::Integer<I>::type>(better), at, place);
    }
};

template <class T, class I> struct IndexedRows {
    const Windows w;
    const Lines<T> lines;
    const int64_t* offsets;
    const I* first_tap; // per output column: what its first tap inside adds to an index; -1 if it has none
    int64_t slots;      // lines kept: neighbouring rows of outputs share them
    bool columns_without_tap;
    const T* x;
    T* y;
    int64_t* indices;

    struct Scratch {
        T* ring;
        int64_t* kept;     // which line of input a slot holds
        const T** sources; // of a row's taps
        I* places;
    };
    static Scratch take(Context& context, const Windows& w, const Lines<T>& lines, int64_t slots) {
        return {context.scratch<T>(slots * lines.size()), context.scratch<int64_t>(slots),
                context.scratch<const T*>(w.rows.most_taps()), context.scratch<I>(up_to_lanes(w.columns.outputs))};
    }

    void run(int64_t begin, int64_t end, const Scratch& scratch) const {
        const int64_t outputs = w.columns.outputs, width = w.columns.extent;
        for (int64_t i = 0; i < slots; ++i) {
            lines.clear(scratch.ring + i * lines.size(), lowest<T>);
            scratch.kept[i] = -1;
        }
        const T* const y_end = y + end * outputs;
        for (int64_t row = begin; row < end; ++row) {
            const int64_t plane = row / w.rows.outputs, p = row % w.rows.outputs;
            const int64_t first = w.rows.first(p), last = w.rows.end(p);
            for (int64_t r = first; r < last; ++r) {
                const int64_t h = w.rows.start(p) + r * w.rows.dilation, source = plane * w.rows.extent + h;
                T* const line = scratch.ring + h % slots * lines.size();
                if (scratch.kept[h % slots] != source) {
                    lines.fill(line, x + source * width);
                    scratch.kept[h % slots] = source;
                }
                scratch.sources[r - first] = line;
            }
            const int64_t corner = w.rows.start(p) * width - w.columns.padding;
            for (int64_t q = 0; q < outputs; q += lanes) {
                Choice<T, I> best{Vec<T>(lowest<T>), Vec<I>::load(first_tap + q)};
                best.place = best.place + Vec<I>(I(first * w.rows.dilation * width));
                for (int64_t r = first; r < last; ++r)
                    for (int64_t s = 0; s < w.columns.kernel; ++s)
                        best.consider(Vec<T>::load(scratch.sources[r - first] + offsets[s] + q),
                                      Vec<I>(I(r * w.rows.dilation * width + s * w.columns.dilation)));
                store_block(best.value + Vec<T>::zero(), y + row * outputs + q, y_end);
                const Vec<I> window =
                    Vec<I>(I(corner + q * w.columns.stride)) + Vec<I>::iota() * Vec<I>(I(w.columns.stride));
                (best.place + window).store(scratch.places + q);
            }
            int64_t* const to = indices + row * outputs;
            for (int64_t q = 0; q < outputs; ++q) to[q] = scratch.places[q];
            if (columns_without_tap || first == last)
                for (int64_t q = 0; q < outputs; ++q)
                    if (first == last || first_tap[q] < 0) to[q] = -1;
        }
    }
};

// ---- channels last
// -------------------------------------------------------------------------------------------------------

template <class T, class I> struct MaxChannels {
    const Windows w;
    const T* x;
    T* y;
    int64_t* indices; // may be null

    void run(int64_t begin, int64_t end) const {
        const int64_t channels = w.channels, width = w.columns.extent;
        for (int64_t row = begin; row < end; ++row) {
            const int64_t sample = row / w.rows.outputs, p = row % w.rows.outputs;
            const int64_t r_first = w.rows.first(p), r_end = w.rows.end(p);
            const T* const plane = x + sample * w.rows.extent * width * channels;
            for (int64_t q = 0; q < w.columns.outputs; ++q) {
                const int64_t s_first = w.columns.first(q), s_end = w.columns.end(q);
                const int64_t at = (row * w.columns.outputs + q) * channels;
                const auto place = [&](int64_t r, int64_t s) {
                    return (w.rows.start(p) + r * w.rows.dilation) * width + w.columns.start(q) +
                           s * w.columns.dilation;
                };
                const bool none = r_first == r_end || s_first == s_end;
                if (!indices) {
                    for_wide_channel_blocks(channels, [&]<int wide>(int64_t c, int64_t n) {
                        Vec<T> best[wide];
#pragma GCC unroll 8
                        for (int k = 0; k < wide; ++k) best[k] = Vec<T>(lowest<T>);
                        for (int64_t r = r_first; r < r_end; ++r)
                            for (int64_t s = s_first; s < s_end; ++s) {
                                const T* const pixel = plane + place(r, s) * channels + c;
#pragma GCC unroll 8
                                for (int k = 0; k < wide; ++k)
                                    best[k] = max(best[k], Vec<T>::load(pixel + k * lanes, n));
                            }
#pragma GCC unroll 8
                        for (int k = 0; k < wide; ++k) (best[k] + Vec<T>::zero()).store(y + at + c + k * lanes, n);
                    });
                    continue;
                }
                for_channel_blocks(channels, [&](int64_t c, int64_t n) {
                    Choice<T, I> best{Vec<T>(lowest<T>), Vec<I>(none ? I(-1) : I(place(r_first, s_first)))};
                    for (int64_t r = r_first; r < r_end; ++r)
                        for (int64_t s = s_first; s < s_end; ++s)
                            best.consider(Vec<T>::load(plane + place(r, s) * channels + c, n), Vec<I>(I(place(r, s))));
                    (best.value + Vec<T>::zero()).store(y + at + c, n);
                    I places[lanes];
                    best.place.store(places);
                    for (int64_t i = 0; i < n; ++i) indices[at + c + i] = places[i];
                });
            }
        }
    }
};

template <class T> int64_t* tap_offsets(Context& context, const Lines<T>& lines, int64_t taps) {
    int64_t* const offsets = context.scratch<int64_t>(taps);
    for (int64_t s = 0; s < taps; ++s) offsets[s] = lines.offset(s);
    return offsets;
}

template <class T> void max_rows(const MaxPool2d& op, Context& context) {
    context.chose("rows", "contiguous planes, no indices");
    const Windows w = windows_of(op);
    const Dense<T> x(context, op.x);
    const DenseOut<T> y(context, op.y);
    const Lines<T> lines(w.columns);
    const MaxRows<T> rows{w, lines, tap_offsets(context, lines, w.columns.kernel), x, y};
    const int64_t column = up_to_lanes(w.columns.extent), each = column + lines.size();
    T* const scratch = context.scratch<T>(each * context.threads);
    parallel_ranges(context, w.planes * w.rows.outputs, rows_per_task(w, 1),
                    [&](int64_t begin, int64_t end, int worker) {
                        rows.run(begin, end, scratch + worker * each, scratch + worker * each + column);
                    });
}

template <class T, class I> void indexed_rows(const MaxPool2d& op, Context& context) {
    context.chose("rows with indices", "contiguous planes");
    using Rows = IndexedRows<T, I>;
    const Windows w = windows_of(op);
    const Dense<T> x(context, op.x);
    const DenseOut<T> y(context, op.y);
    const DenseOut<int64_t> indices(context, op.indices);
    const Lines<T> lines(w.columns);
    I* const first_tap = context.scratch<I>(up_to_lanes(w.columns.outputs));
    bool without = false;
    for (int64_t q = 0; q < up_to_lanes(w.columns.outputs); ++q) {
        const bool none = q < w.columns.outputs && w.columns.first(q) == w.columns.end(q);
        first_tap[q] = none ? I(-1) : I(w.columns.first(q) * w.columns.dilation);
        without |= none;
    }
    const int64_t slots = larger(1, smaller(w.rows.extent, w.rows.span() + 1));
    const Rows rows{w, lines, tap_offsets(context, lines, w.columns.kernel), first_tap, slots, without, x, y, indices};
    auto* const scratch = context.scratch<typename Rows::Scratch>(context.threads);
    for (int i = 0; i < context.threads; ++i) scratch[i] = Rows::take(context, w, lines, slots);
    parallel_ranges(context, w.planes * w.rows.outputs, rows_per_task(w, 1),
                    [&](int64_t begin, int64_t end, int worker) { rows.run(begin, end, scratch[worker]); });
}

template <class T, class I> void max_channels(const MaxPool2d& op, Context& context) {
    context.chose("channels", "x is channels-last, or its padding is too wide to hold");
    const Windows w = windows_of(op);
    const Tensor x_view = channels_last_view(op.x), y_view = channels_last_view(op.y),
                 indices_view = op.indices ? channels_last_view(op.indices) : Tensor();
    const Dense<T> x(context, x_view);
    const DenseOut<T> y(context, y_view);
    const DenseOut<int64_t> indices(context, indices_view);
    const MaxChannels<T, I> kernel{w, x, y, indices};
    parallel_ranges(context, op.x.extent[0] * w.rows.outputs, rows_per_task(w, w.channels),
                    [&](int64_t begin, int64_t end, int) { kernel.run(begin, end); });
}

// ---- gradients
// -----------------------------------------------------------------------------------------------------------

template <class T> void scatter_plane(const T* gy, const int64_t* indices, int64_t windows, T* gx, int64_t size) {
    for (int64_t i = 0; i < size; ++i) gx[i] = 0;
    for (int64_t i = 0; i < windows; ++i)
        if (uint64_t(indices[i]) < uint64_t(size)) gx[indices[i]] = gx[indices[i]] + gy[i];
}
// Channels [c, c + n) of one sample, channels last.
template <class T> void scatter_channels(const T* gy, const int64_t* indices, int64_t windows, T* gx, int64_t size,
                                         int64_t channels, int64_t n) {
    for (int64_t i = 0; i < size; ++i)
        for (int64_t c = 0; c < n; ++c) gx[i * channels + c] = 0;
    for (int64_t i = 0; i < windows; ++i)
        for (int64_t c = 0; c < n; ++c) {
            const int64_t at = i * channels + c;
            if (uint64_t(indices[at]) >= uint64_t(size)) continue;
            T& sum = gx[indices[at] * channels + c];
            sum = sum + gy[at];
        }
}
template <class T> void gather_plane(const T* ggx, const int64_t* indices, int64_t windows, T* y, int64_t size) {
    for (int64_t i = 0; i < windows; ++i) y[i] = uint64_t(indices[i]) < uint64_t(size) ? ggx[indices[i]] : T(0);
}

} // namespace

void max_pool2d(const MaxPool2d& op, Context& context) {
    const Windows w = windows_of(op);
    const double padded = double(w.rows.extent + 2 * w.rows.padding) * double(w.columns.extent + 2 * w.columns.padding);
    const bool short_places = padded < 0x1p31; // an index fits int32
    visit_float(op.y.dtype, [&](auto zero) {
        using T = decltype(zero);
        const bool wide = sizeof(T) == 8 || !short_places;
        if (has_channels_last(op.x) || !w.columns.holds_padding())
            return wide ? max_channels<T, int64_t>(op, context) : max_channels<T, int32_t>(op, context);
        if (!op.indices) return max_rows<T>(op, context);
        return wide ? indexed_rows<T, int64_t>(op, context) : indexed_rows<T, int32_t>(op, context);
    });
}

void max_pool2d_grad(const MaxPool2dGrad& op, Context& context) {
    visit_float(op.gx.dtype, [&](auto zero) {
        using T = decltype(zero);
        const int64_t planes = op.gx.size(0, 2), size = op.gx.size(2, 4), windows = op.gy.size(2, 4);
        if (has_channels_last(op.gy) && channels_last_view(op.indices).contiguous()) {
            context.chose("channels", "gy and indices are channels-last");
            const int64_t channels = op.gx.extent[1], blocks = (channels + lanes - 1) / lanes;
            const Tensor gy_view = channels_last_view(op.gy), indices_view = channels_last_view(op.indices),
                         gx_view = channels_last_view(op.gx);
            const Dense<T> gy(context, gy_view);
            const Dense<int64_t> indices(context, indices_view);
            const DenseOut<T> gx(context, gx_view);
            parallel_for(context, op.gx.extent[0] * blocks, [&](int64_t task, int) {
                const int64_t sample = task / blocks, c = task % blocks * lanes, from = sample * windows * channels + c;
                scatter_channels(gy + from, indices + from, windows, gx + (sample * size * channels + c), size,
                                 channels, smaller(lanes, channels - c));
            });
            return;
        }
        context.chose("plane", "windows may choose any element");
        const Dense<T> gy(context, op.gy);
        const Dense<int64_t> indices(context, op.indices);
        const DenseOut<T> gx(context, op.gx);
        parallel_ranges(context, planes, 1 + grain / (1 + size + windows), [&](int64_t begin, int64_t end, int) {
            for (int64_t i = begin; i < end; ++i)
                scatter_plane(gy + i * windows, indices + i * windows, windows, gx + i * size, size);
        });
    });
}

void max_pool2d_gather(const MaxPool2dGather& op, Context& context) {
    visit_float(op.y.dtype, [&](auto zero) {
        using T = decltype(zero);
        const Dense<T> ggx(context, op.ggx);
        const Dense<int64_t> indices(context, op.indices);
        const DenseOut<T> y(context, op.y);
        const int64_t planes = op.y.size(0, 2), size = op.ggx.size(2, 4), windows = op.y.size(2, 4);
        parallel_ranges(context, planes, 1 + grain / (1 + windows), [&](int64_t begin, int64_t end, int) {
            for (int64_t i = begin; i < end; ++i)
                gather_plane(ggx + i * size, indices + i * windows, windows, y + i * windows, size);
        });
    });
}

} // namespace mmk::cpu::MMK_ISA
