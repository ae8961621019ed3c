#include "../ops/embed.h"

#include "divide.cuh"
#include "embed.waves.cuh"
#include "layout.cuh"
#include "packs.cuh"

namespace mmk::cuda {
namespace {

constexpr int threads = 256, warps = threads / 32;

// ---- rows of a table ------------------------------------------------------------------------------------------------

// A row moves as bits, N numbers of a type of its size at once.
template <class Bits> struct Rows {
    const Bits* weight;
    Bits* y;
    int64_t rows, row_stride, column_stride, tokens;
    Divisor packs; // of a row
};
template <class Bits, int N, class I> __global__ void __launch_bounds__(threads)
    look_up(Rows<Bits> r, const I* indices, int64_t count) {
    for (int64_t i = int64_t(blockIdx.x) * threads + threadIdx.x; i < count; i += int64_t(gridDim.x) * threads) {
        int64_t token = i;
        const int64_t column = r.packs.take(token) * N, row = indices[token];
        Pack<Bits, N> values{};
        if (uint64_t(row) < uint64_t(r.rows))
            values = pack_at<Bits, N>(r.weight + row * r.row_stride + column * r.column_stride);
        store_pack(r.y + i * N, values);
    }
}

// ---- their gradient: tokens in order, without atomics ---------------------------------------------------------------

// First the tokens of every 128 rows of the table are listed in their order; then a warp for a row (and for some of its
// columns) picks its own from the list. A table of 50000 rows scans the tokens 400 times, from the cache.
constexpr int bucket_bits = 7, bucket = 1 << bucket_bits, tokens_each = 4;
struct Bucket {
    int64_t begin, count; // of its list
};

__device__ inline int64_t warp_sum(int64_t n) {
    for (int half = 16; half >= 1; half /= 2) n += __shfl_xor_sync(0xffffffffu, n, half);
    return n;
}

template <class I> __global__ void __launch_bounds__(threads)
    list_tokens(const I* indices, int64_t tokens, int64_t rows, Bucket* buckets, int64_t* list, int64_t bucket_count) {
    SHARED(int64_t, parts, [2][warps]);
    const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
    for (int64_t b = blockIdx.x; b < bucket_count; b += gridDim.x) {
        const int64_t low = b * bucket, high = low + bucket < rows ? low + bucket : rows;
        int64_t below = 0, inside = 0; // lists stand behind each other as their rows do
        for (int64_t i = threadIdx.x; i < tokens; i += threads) {
            const int64_t row = indices[i];
            below += row >= 0 && row < low, inside += row >= low && row < high;
        }
        below = warp_sum(below), inside = warp_sum(inside);
        if (lane == 0) parts[0][warp] = below, parts[1][warp] = inside;
        __syncthreads();
        int64_t begin = 0, count = 0;
        for (int w = 0; w < warps; ++w) begin += parts[0][w], count += parts[1][w];
        if (threadIdx.x == 0) buckets[b] = {begin, count};
        int64_t next = begin;
        for (int64_t base = 0; base < tokens && next < begin + count; base += threads * tokens_each) {
            unsigned votes[tokens_each];
            int64_t row[tokens_each], found = 0;
            const int64_t first = base + warp * 32 * tokens_each + lane;
#pragma unroll
            for (int k = 0; k < tokens_each; ++k) {
                const int64_t i = first + k * 32;
                row[k] = i < tokens ? int64_t(indices[i]) : -1;
                votes[k] = __ballot_sync(0xffffffffu, row[k] >= low && row[k] < high);
                found += __popc(votes[k]);
            }
            __syncthreads(); // the parts have been read
            if (lane == 0) parts[0][warp] = found;
            if (!MMK_DEFECT(embed_missing_barrier)) __syncthreads();
            int64_t place = next;
            for (int w = 0; w < warps; ++w) {
                if (w < warp) place += parts[0][w];
                next += parts[0][w];
            }
#pragma unroll
            for (int k = 0; k < tokens_each; ++k) {
                const unsigned lower = (1u << (MMK_DEFECT(embed_lower_lanes) ? lane + 1 : lane)) - 1;
                if (votes[k] >> lane & 1)
                    list[place + __popc(votes[k] & lower)] = (first + k * 32) << bucket_bits | (row[k] - low);
                place += __popc(votes[k]);
            }
        }
        __syncthreads();
    }
}

// N columns a lane.
template <class T, int N> __global__ void __launch_bounds__(threads)
    add_tokens(const Bucket* buckets, const int64_t* list, const T* gy, T* gweight, int64_t rows, int64_t width,
               Divisor parts) {
    const int lane = int(threadIdx.x) % 32;
    for (int64_t task = int64_t(blockIdx.x) * warps + threadIdx.x / 32; task < rows * parts.by();
         task += int64_t(gridDim.x) * warps) {
        int64_t row = task;
        const int64_t column = (parts.take(row) * 32 + lane) * N;
        const Bucket of = buckets[row / bucket];
        Sums<Compute<T>, N> sum;
        for (int64_t base = 0; base < of.count; base += 32) {
            const int64_t entry = base + lane < of.count ? list[of.begin + base + lane] : -1;
            unsigned mine = __ballot_sync(0xffffffffu, entry >= 0 && (entry & (bucket - 1)) == row % bucket);
            while (mine) {
                constexpr int at_once = 4; // rows that are on their way
                Pack<T, N> gradients[at_once];
                const int count = __popc(mine) < at_once ? __popc(mine) : at_once;
#pragma unroll
                for (int k = 0; k < at_once; ++k) {
                    if (k >= count) continue;
                    const int64_t token = __shfl_sync(0xffffffffu, entry, __ffs(int(mine)) - 1) >> bucket_bits;
                    mine &= mine - 1;
                    if (column < width) gradients[k] = pack_at<T, N>(gy + token * width + column);
                }
#pragma unroll
                for (int k = 0; k < at_once; ++k)
                    if (k < count && column < width) sum.add(gradients[k]);
            }
        }
        if (column < width + (MMK_DEFECT(embed_ragged_columns) ? N : 0)) sum.store(gweight + row * width + column);
    }
}

template <class T, int N> void launch_add(Context& context, const Bucket* buckets, const int64_t* list, const T* gy,
                                          T* gweight, int64_t rows, int64_t width) {
    const int64_t parts = ceil_div(width, 32 * N);
    MMK_LAUNCH(context, (add_tokens<T, N>), grid_of(ceil_div(rows * parts, warps)), threads, 0, buckets, list, gy,
               gweight, rows, width, Divisor(parts));
}

// ---- waves ----------------------------------------------------------------------------------------------------------

constexpr int wave_threads = 128;

// The frequencies of one feature, made where it is used: in quarter turns per unit of t.
struct Frequencies {
    double log_period, log_period_low, shift;
    int64_t half;

    __device__ double single(int64_t i) const {
        return table_exp(-(log_period * double(i)) / (double(half) - shift)) * 0x1.45f306dc9c883p-1;
    }
    __device__ Twofold twice(int64_t i) const {
        const Twofold exponent =
            quotient(product(Twofold{log_period, log_period_low}, -double(i)), double(half) - shift);
        return product(exp(exponent), two_over_pi);
    }
};

// A thread makes one feature of `samples_each` samples; the last column of an odd dim has a thread too.
template <class T> __global__ void __launch_bounds__(wave_threads)
    make_waves(const T* t, int64_t t_stride, T* y, int64_t samples, int64_t dim, Frequencies frequencies,
               bool sine_first, int64_t samples_each, Divisor tiles, int64_t tasks) {
    const int64_t half = frequencies.half;
    for (int64_t task = blockIdx.x; task < tasks; task += gridDim.x) {
        int64_t group = task;
        const int64_t i = tiles.take(group) * wave_threads + threadIdx.x;
        const int64_t end = (group + 1) * samples_each < samples ? (group + 1) * samples_each : samples;
        if (i >= half + dim % 2) continue;
        T* const sines = y + (sine_first ? 0 : half) + i;
        T* const cosines = y + (sine_first ? half : 0) + i;
        if (i == half) {
            for (int64_t n = group * samples_each; n < end; ++n) y[n * dim + dim - 1] = narrow<T>(0);
        } else if constexpr (std::is_same_v<T, double>) {
            const Twofold step = frequencies.twice(i);
            for (int64_t n = group * samples_each; n < end; ++n)
                wave(product(step, t[n * t_stride]), sines[n * dim], cosines[n * dim]);
        } else {
            const double step = frequencies.single(i);
            for (int64_t n = group * samples_each; n < end; ++n) {
                F32x16 sine, cosine;
                wave(F64x16(double(widen(t[n * t_stride])) * step), sine, cosine);
                sines[n * dim] = narrow<T>(sine.v), cosines[n * dim] = narrow<T>(cosine.v);
            }
        }
    }
}

template <class T> __global__ void __launch_bounds__(threads)
    make_fourier(const T* t, int64_t t_stride, const T* frequencies, int64_t frequency_stride, T* y, Divisor features,
                 int64_t count) {
    for (int64_t i = int64_t(blockIdx.x) * threads + threadIdx.x; i < count; i += int64_t(gridDim.x) * threads) {
        int64_t sample = i;
        const int64_t feature = features.take(sample);
        T* const to = y + 2 * sample * features.by() + feature;
        const T time = t[sample * t_stride], frequency = frequencies[feature * frequency_stride];
        if constexpr (std::is_same_v<T, double>)
            wave(product(4.0 * time, frequency), to[0], to[features.by()]);
        else {
            F32x16 sine, cosine; // both products are exact
            wave(F64x16(4.0 * double(widen(time)) * double(widen(frequency))), sine, cosine);
            to[0] = narrow<T>(sine.v), to[features.by()] = narrow<T>(cosine.v);
        }
    }
}

template <class Bits, class I> void look_up_rows(const Embedding& op, Context& context) {
    constexpr int N = wide_pack<Bits>;
    const Dense<I> indices(context, op.indices);
    DenseOut<Bits> y(context, op.y);
    const int64_t width = op.weight.extent[1], count = op.y.size();
    Rows<Bits> r{static_cast<const Bits*>(op.weight.data),
                 y,
                 op.weight.extent[0],
                 op.weight.stride[0],
                 op.weight.stride[1],
                 op.indices.size(),
                 Divisor(width)};
    const bool packed =
        width % N == 0 && r.column_stride == 1 && r.row_stride % N == 0 && aligned(r.weight, 16) && aligned(y, 16);
    if (packed) {
        context.chose("packed", "16 bytes of a row at a time");
        r.packs = Divisor(width / N);
        MMK_LAUNCH(context, (look_up<Bits, N, I>), grid_of(ceil_div(count / N, threads)), threads, 0, r, indices.get(),
                   count / N);
    } else {
        context.chose("elements", "rows are not whole packs of 16 bytes");
        MMK_LAUNCH(context, (look_up<Bits, 1, I>), grid_of(ceil_div(count, threads)), threads, 0, r, indices.get(),
                   count);
    }
    y.finish();
}

} // namespace

void embedding(const Embedding& op, Context& context) {
    visit_index(op.indices.dtype, [&](auto type) {
        using I = typename decltype(type)::type;
        switch (itemsize(op.y.dtype)) {
        case 2: return look_up_rows<uint16_t, I>(op, context);
        case 4: return look_up_rows<uint32_t, I>(op, context);
        case 8: return look_up_rows<uint64_t, I>(op, context);
        }
    });
}

void embedding_grad(const EmbeddingGrad& op, Context& context) {
    const int64_t rows = op.gweight.extent[0], width = op.gweight.extent[1], tokens = op.indices.size();
    const int64_t buckets = ceil_div(rows, bucket);
    Bucket* const lists = context.scratch<Bucket>(buckets);
    int64_t* const list = context.scratch<int64_t>(tokens);
    visit_index(op.indices.dtype, [&](auto type) {
        using I = typename decltype(type)::type;
        const Dense<I> indices(context, op.indices);
        MMK_LAUNCH(context, (list_tokens<I>), grid_of(buckets), threads, 0, indices.get(), tokens, rows, lists, list,
                   buckets);
    });
    visit_storage(op.gweight.dtype, [&](auto type) {
        using T = typename decltype(type)::type;
        constexpr int N = wide_pack<T>;
        const Dense<T> gy(context, op.gy);
        DenseOut<T> gweight(context, op.gweight);
        if (width % N == 0 && aligned(gy, 16) && aligned(gweight, 16)) {
            context.chose("packed", "16 bytes of a row at a time");
            launch_add<T, N>(context, lists, list, gy, gweight, rows, width);
        } else {
            context.chose("elements", "rows are not whole packs of 16 bytes");
            launch_add<T, 1>(context, lists, list, gy, gweight, rows, width);
        }
        gweight.finish();
    });
}

void sinusoidal_features(const SinusoidalFeatures& op, Context& context) {
    visit_storage(op.y.dtype, [&](auto type) {
        using T = typename decltype(type)::type;
        DenseOut<T> y(context, op.y);
        const int64_t samples = op.y.extent[0], dim = op.y.extent[1], half = dim / 2;
        Frequencies frequencies{table_log(op.max_period), 0, op.shift, half};
        if constexpr (std::is_same_v<T, double>) {
            const long double log_period = std::log((long double)(op.max_period));
            frequencies.log_period = double(log_period);
            frequencies.log_period_low = double(log_period - (long double)(frequencies.log_period));
        }
        const int64_t tiles = ceil_div(half + dim % 2, wave_threads);
        const int64_t each = samples / 64 < 4 ? 4 : samples / 64 < 64 ? samples / 64 : 64;
        const int64_t tasks = tiles * ceil_div(samples, each);
        MMK_LAUNCH(context, (make_waves<T>), grid_of(tasks), wave_threads, 0, static_cast<const T*>(op.t.data),
                   op.t.stride[0], y.get(), samples, dim, frequencies, op.order == WaveOrder::sin_cos, each,
                   Divisor(tiles), tasks);
        y.finish();
    });
}

void fourier_features(const FourierFeatures& op, Context& context) {
    visit_storage(op.y.dtype, [&](auto type) {
        using T = typename decltype(type)::type;
        DenseOut<T> y(context, op.y);
        const int64_t features = op.frequencies.extent[0], count = op.t.extent[0] * features;
        MMK_LAUNCH(context, (make_fourier<T>), grid_of(ceil_div(count, threads)), threads, 0,
                   static_cast<const T*>(op.t.data), op.t.stride[0], static_cast<const T*>(op.frequencies.data),
                   op.frequencies.stride[0], y.get(), Divisor(features), count);
        y.finish();
    });
}

} // namespace mmk::cuda
