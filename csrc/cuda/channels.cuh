// Tensors N C *S whose channels have numbers: functions of each element and its channel's numbers, and sums over all
// planes of a channel. Both lie as rows of `size` elements of one channel after another: planes, or, where the channels
// are inside, single elements.
#pragma once

#include "../core/orders.h"
#include "divide.cuh"
#include "layout.cuh"
#include "packs.cuh"
#include "rows.cuh"

namespace mmk::cuda {

// A parameter of each channel, of x's type or of the one that x is computed in.
template <class T> struct Parameter {
    const void* data = nullptr;
    bool wide = false;

    Parameter() = default;
    Parameter(Context& context, const Tensor& t, DType narrow_type)
        : data(t && !t.contiguous() ? pack(context, t).data : t.data), wide(t.dtype != narrow_type) {}
    __device__ Compute<T> operator[](int64_t c) const {
        return wide ? static_cast<const Compute<T>*>(data)[c] : widen(static_cast<const T*>(data)[c]);
    }
    __device__ Compute<T> or_else(Compute<T> value, int64_t c) const { return data ? (*this)[c] : value; }
};
template <class T> __device__ inline void store_parameter(void* to, bool wide, int64_t c, Compute<T> value) {
    if (wide)
        static_cast<Compute<T>*>(to)[c] = value;
    else
        static_cast<T*>(to)[c] = narrow<T>(value);
}

// ---- functions of elements ----------------------------------------------------------------------------------------

inline constexpr int channel_threads = 256;

// F: numbers(channel), and operator()(numbers, x...) of widened values.
template <int N, class F, class T, class... X> __global__ void __launch_bounds__(channel_threads)
    map_channels(F f, int64_t count, Divisor size, Divisor channels, T* y, const X*... x) {
    for (int64_t i = (int64_t(blockIdx.x) * channel_threads + threadIdx.x) * N; i < count;
         i += int64_t(gridDim.x) * channel_threads * N) {
        int64_t row = i;
        int64_t left = size.by() - size.take(row); // of this channel's row
        int64_t c = channels.take(row);
        auto numbers = f.numbers(c);
        Pack<T, N> result;
        [&](const auto&... in) {
#pragma unroll
            for (int k = 0; k < N; ++k) {
                if (k > 0 && left == 0) {
                    left = size.by(), c = c + 1 < channels.by() ? c + 1 : 0;
                    if (!MMK_DEFECT(norm_next_channel)) numbers = f.numbers(c);
                }
                result.at[k] = narrow<T>(f(numbers, widen(in.at[k])...));
                --left;
            }
        }(pack_at<X, N>(x + i)...);
        store_pack(y + i, result);
    }
}

// How operands lie: as they are if their channels are inside, else as contiguous planes.
template <class... Tensors> bool channels_inside(const Tensors&... t) { return (has_channels_inside(t) && ...); }
template <class T> const T* laid_out(Context& context, bool inside, const Tensor& t) {
    return inside ? static_cast<const T*>(t.data) : Dense<T>(context, t).get();
}

// y = f(the channel's numbers, x...), element by element.
template <class T, class F, class... Tensors>
void launch_map_channels(Context& context, const F& f, const Tensor& y, const Tensors&... x) {
    const int64_t count = y.size();
    if (count == 0) return;
    const bool inside = channels_inside(y, x...);
    context.chose(inside ? "pixels" : "planes",
                  inside ? "channels are neighbours in memory" : "pixels of a channel are neighbours in memory");
    const Divisor size(inside ? 1 : y.size(2, y.rank)), channels(y.extent[1]);
    const auto launch = [&](T* to, const auto*... from) {
        constexpr int wide = wide_pack<T>;
        if (count % wide == 0 && aligned(to, 16) && (aligned(from, 16) && ...))
            MMK_LAUNCH(context,
                       (map_channels<wide, F, T, std::remove_const_t<std::remove_pointer_t<decltype(from)>>...>),
                       grid_of(ceil_div(count, wide * channel_threads)), channel_threads, 0, f, count, size, channels,
                       to, from...);
        else
            MMK_LAUNCH(context, (map_channels<1, F, T, std::remove_const_t<std::remove_pointer_t<decltype(from)>>...>),
                       grid_of(ceil_div(count, channel_threads)), channel_threads, 0, f, count, size, channels, to,
                       from...);
    };
    if (inside) return launch(static_cast<T*>(y.data), static_cast<const T*>(x.data)...);
    DenseOut<T> to(context, y);
    launch(to.get(), Dense<T>(context, x).get()...);
    to.finish();
}

// ---- sums over the planes of a channel ------------------------------------------------------------------------------

inline constexpr int64_t segment = 512, rows_a_chunk = 64;

// Planes cut into segments, the last of which may be shorter. Segment s of plane n is row n * count + s of a table with a
// column for each channel.
struct Segments {
    int64_t samples, channels, size, count;
    Divisor by_count, by_channels;
    bool inside;

    Segments(const Tensor& x, bool inside_)
        : samples(x.extent[0]), channels(x.extent[1]), size(x.size(2, x.rank)), count(ceil_div(size, segment)),
          by_count(count ? count : 1), by_channels(channels ? channels : 1), inside(inside_) {}
    MMK_MEMBER int64_t rows() const { return samples * count; }
    MMK_MEMBER int length(int64_t s) const { return s + 1 < count ? int(segment) : int(size - s * segment); }
};

// What sixteen threads have of a segment is what they have of a row in rows.cuh: lane l has elements l, l + 16, ... Where
// planes are contiguous the sixteen are half a warp. Where the channels are inside, sixteen channels stand side by side
// and the lanes 16 threads apart, so that a half warp reads neighbours. A float64 segment needs twice as many threads.
template <class C> inline constexpr int segment_halves = int(segment) / half_warp_row<C>;
template <class C> inline constexpr int segment_threads = 256 * segment_halves<C>;
constexpr int segments_a_block = 16;

struct Share {
    int64_t channel, entry, at, step; // entry: of the table; at: of the first element in memory
    int length;                       // 0: a thread without a segment takes part in sums only
};
// Item: where the channels are inside, a row and sixteen channels; else sixteen segments in memory's order.
MMK_INLINE int64_t segment_items(const Segments& all) {
    return all.inside ? all.rows() * ceil_div(all.channels, sum_lanes)
                      : ceil_div(all.rows() * all.channels, segments_a_block);
}
template <class C, bool inside> __device__ inline Share share_of(const Segments& all, int64_t item) {
    Share share{0, 0, 0, inside ? all.channels : 1, 0};
    if constexpr (inside) {
        const int64_t tiles = ceil_div(all.channels, sum_lanes);
        int64_t row = item / tiles;
        share.channel = (item - row * tiles) * sum_lanes + threadIdx.x % sum_lanes;
        if (share.channel >= all.channels) return share;
        share.entry = row * all.channels + share.channel;
        const int64_t s = all.by_count.take(row); // row: now the sample
        share.at = (row * all.size + s * segment) * all.channels + share.channel;
        share.length = all.length(s);
    } else {
        int64_t plane = item * segments_a_block + threadIdx.x / (sum_lanes * segment_halves<C>);
        if (plane >= all.rows() * all.channels) return share;
        const int64_t s = all.by_count.take(plane);
        int64_t sample = plane;
        share.channel = all.by_channels.take(sample);
        share.entry = (sample * all.count + s) * all.channels + share.channel;
        share.at = plane * all.size + s * segment;
        share.length = MMK_DEFECT(norm_segment_past_end) ? int(segment) : all.length(s);
    }
    return share;
}
template <class C, bool inside> __device__ inline Slots<C> slots_of_segment(const Share& share) {
    if constexpr (inside) {
        const int lane = int(threadIdx.x) / sum_lanes;
        return Slots<C>(lane / sum_lanes * half_warp_row<C> + lane % sum_lanes, share.length);
    } else
        return slots_of_row<C, segment_halves<C>>(share.length);
}

// The sum over a segment's lanes, which all of its threads get; all threads of the block call.
template <class S, int lanes_apart> struct LaneTable {
    S at[lanes_apart][sum_lanes]; // lane, channel
};
template <int parts, int halves, class Table>
__device__ inline auto join_lanes_apart(const Table& table, int lane, int channel) {
    if constexpr (parts < sum_lanes)
        return join_lanes_apart<2 * parts, halves>(table, lane, channel) +
               join_lanes_apart<2 * parts, halves>(table, lane + parts, channel);
    else if constexpr (halves == 2)
        return table.at[lane][channel] + table.at[lane + sum_lanes][channel];
    else
        return table.at[lane][channel];
}
template <class C, bool inside, class S, class Table> __device__ inline S join_segment(Table& table, S mine) {
    if constexpr (!inside) {
        return row_sum<segment_halves<C>>(mine);
    } else {
        const int lane = int(threadIdx.x) / sum_lanes, channel = int(threadIdx.x) % sum_lanes;
        table.at[lane][channel] = mine;
        __syncthreads();
        const S sum = join_lanes_apart<1, segment_halves<C>>(table, 0, channel);
        __syncthreads(); // before the table is written again
        return sum;
    }
}

// F: two operands at most, `count` sums: terms(numbers(channel), values) of one element are Several of them.
template <class F, class T> struct SegmentSums {
    using C = Compute<T>;
    F f;
    const T *x, *gy;
    C* table; // null: segments of one element each, which are not put down
    int64_t step, channels;

    __device__ auto terms(int64_t c, int64_t at) const {
        return f.terms(f.numbers(c), widen(x[at]), gy ? widen(gy[at]) : C(0));
    }
    // Of a row of the table.
    __device__ Several<C, F::count> operator()(int64_t row, int64_t c) const {
        if (!table) return terms(c, row * channels + c);
        Several<C, F::count> sums;
#pragma unroll
        for (int k = 0; k < F::count; ++k) sums.at[k] = table[k * step + row * channels + c];
        return sums;
    }
};
template <class F, class T, bool inside> __global__ void __launch_bounds__(segment_threads<Compute<T>>)
    sum_segments(Segments all, SegmentSums<F, T> op) {
    using C = Compute<T>;
    using S = Several<C, F::count>;
    using Table = LaneTable<S, inside ? sum_lanes * segment_halves<C> : 1>;
    SHARED(Table, table, [1]);
    const int64_t items = segment_items(all);
    for (int64_t item = blockIdx.x; item < items; item += gridDim.x) {
        const Share share = share_of<C, inside>(all, item);
        const Slots<C> slots = slots_of_segment<C, inside>(share);
        const S sums = join_segment<C, inside>(table[0], slots.lane_sum([&](int k) {
            return op.terms(share.channel, share.at + (slots.first + k * sum_lanes) * share.step);
        }));
        if (slots.first != 0 || share.length == 0) continue;
#pragma unroll
        for (int k = 0; k < F::count; ++k) op.table[k * op.step + share.entry] = sums.at[k];
    }
}

// ---- sums over a table's rows: 64 in order from +0, such chunks in the long sum's tree ------------------------------

inline constexpr int join_columns = 8, join_workers = 32; // of a block: 32 bytes of a row, 32 chunks at once
inline constexpr int join_threads = join_columns * join_workers;
template <class S> struct JoinTable {
    S at[join_workers][join_columns];
};
// The sum over rows of term(row), by the threads of a block that have the same column; all call, and get it.
template <class S, class Term> __device__ inline S join_rows(int64_t rows, JoinTable<S>& table, const Term& term) {
    const int column = int(threadIdx.x) % join_columns, worker = int(threadIdx.x) / join_columns;
    const int64_t chunks = ceil_div(rows, rows_a_chunk);
    ChunkCounter<S, 20> counter;
    for (int64_t first = 0; first < chunks; first += join_workers) {
        const int64_t begin = (first + worker) * rows_a_chunk;
        const int64_t end = begin + rows_a_chunk < rows ? begin + rows_a_chunk : rows;
        S sum = S(0);
#pragma unroll 8
        for (int64_t row = begin; row < end; ++row) sum = sum + term(row);
        table.at[worker][column] = sum;
        if (!MMK_DEFECT(norm_missing_turn)) __syncthreads();
        const int here = chunks - first < join_workers ? int(chunks - first) : join_workers;
        if (worker == 0)
            for (int k = 0; k < here; ++k) counter.add(table.at[k][column]);
        __syncthreads();
    }
    if (worker == 0) table.at[0][column] = counter.total();
    __syncthreads();
    const S total = table.at[0][column];
    __syncthreads();
    return total;
}
// Finish: operator()(channel, sums), by one thread.
template <class F, class T, class Finish> __global__ void __launch_bounds__(join_threads)
    join_segments(int64_t rows, SegmentSums<F, T> op, Finish finish) {
    using S = Several<Compute<T>, F::count>;
    SHARED(JoinTable<S>, table, [1]);
    for (int64_t first = int64_t(blockIdx.x) * join_columns; first < op.channels;
         first += int64_t(gridDim.x) * join_columns) {
        const int64_t c = first + threadIdx.x % join_columns;
        const S sums = join_rows<S>(rows, table[0], [&](int64_t row) { return c < op.channels ? op(row, c) : S(0); });
        if (c < op.channels && threadIdx.x < join_columns) finish(c, sums);
    }
}

// finish(channel, the sums of F's terms over all elements of the channel). x and gy (which may be null) lie as `all` says.
template <class F, class T, class Finish>
void channel_sums(Context& context, const Segments& all, const F& f, const T* x, const T* gy, const Finish& finish) {
    using C = Compute<T>;
    const int64_t step = all.rows() * all.channels;
    if (all.channels == 0) return;
    const bool elements = all.size == 1; // then both layouts are one
    const SegmentSums<F, T> op{f, x, gy, elements ? nullptr : context.scratch<C>(F::count * step), step, all.channels};
    if (!elements && step > 0) {
        const dim3 grid = grid_of(segment_items(all));
        if (all.inside)
            MMK_LAUNCH(context, (sum_segments<F, T, true>), grid, segment_threads<C>, 0, all, op);
        else
            MMK_LAUNCH(context, (sum_segments<F, T, false>), grid, segment_threads<C>, 0, all, op);
    }
    MMK_LAUNCH(context, (join_segments<F, T, Finish>), grid_of(ceil_div(all.channels, join_columns)), join_threads, 0,
               all.rows(), op, finish);
}

} // namespace mmk::cuda
