// Adaptive pooling.
#include "../ops/pool.h"

#include "pool.kernels.h"

namespace mmk::cpu::MMK_ISA {
namespace {

// A window of each lane: many planes, or windows of less than a chunk.
template <class T> struct MeanOfChunks {
    Divisors3 divisors;
    template <bool neighbours> MMK_FLATTEN void operator()(const Window<T, neighbours>& w, T* to, int64_t*) const {
        Vec<T> sum = Vec<T>::zero(), chunk = Vec<T>::zero();
        int64_t left = chunk_taps;
        w.each([&](int64_t i, int64_t, int64_t, int64_t) {
            if (left == 0) sum = sum + chunk, chunk = Vec<T>::zero(), left = chunk_taps;
            chunk = chunk + w.load(i);
            --left;
        });
        ((sum + chunk) / divisors.of(w)).store(to, w.lanes_used);
    }
};

// Chunks of windows, `each` per window: a window that has fewer ends with sums of +0, which change nothing.
struct Chunks {
    const Grid& grid;
    int64_t each;

    MMK_MEMBER static int64_t most_taps(const Grid& grid) {
        int64_t product = 1;
        for (int i = 0; i < 3; ++i) {
            int64_t most = 0;
            for (int64_t k = 0; k < grid.outputs[i]; ++k) most = larger(most, grid.reach[i][k].count);
            product *= most;
        }
        return product;
    }
    struct Chunk {
        Reach reach[3];
        int64_t begin, end; // taps of the window

        // Whether the window's elements follow each other in memory, whole lines of them.
        MMK_MEMBER bool dense(const Grid& g) const {
            return reach[2].count == g.inputs[2] && (reach[1].count == g.inputs[1] || reach[0].count == 1);
        }
    };
    // Chunk i of the windows of a plane.
    MMK_MEMBER Chunk at(int64_t i) const {
        const int64_t o = i / each, line = o / grid.outputs[2];
        Chunk c{{grid.reach[0][line / grid.outputs[1]], grid.reach[1][line % grid.outputs[1]],
                 grid.reach[2][o % grid.outputs[2]]},
                i % each * chunk_taps,
                0};
        c.end = smaller(c.begin + chunk_taps, c.reach[0].count * c.reach[1].count * c.reach[2].count);
        return c;
    }
    MMK_MEMBER int64_t number(int64_t d, int64_t h, int64_t w) const {
        return (d * grid.inputs[1] + h) * grid.inputs[2] + w;
    }
};

// Sums of the chunks of contiguous planes, sixteen abreast: in place where a chunk's elements follow each other, else
// copied to follow each other.
template <class T> void sum_chunks(Context& context, const Chunks& chunks, const T* x, int64_t planes, T* sums) {
    constexpr int64_t pitch = chunk_taps + lanes; // a run is copied in whole vectors
    const int64_t of_plane = chunks.grid.size() * chunks.each, count = planes * of_plane;
    T* const scratch = context.scratch<T>(context.threads * lanes * pitch);
    const auto find = [&](int64_t i, T* copy) -> const T* {
        const Chunks::Chunk c = chunks.at(i % of_plane);
        const T* const plane = x + i / of_plane * chunks.grid.input_size();
        if (c.dense(chunks.grid) && c.end - c.begin == chunk_taps)
            return plane + chunks.number(c.reach[0].begin, c.reach[1].begin, 0) + c.begin;
        const T* run = nullptr;
        int64_t done = 0;
        each_run(c.reach, c.begin, c.end, [&](int64_t d, int64_t h, int64_t w, int64_t n) {
            const T* const from = plane + chunks.number(d, h, w);
            if (done == 0) run = from;
            if (run + done != from) run = copy;
            done += n;
        });
        if (done == chunk_taps && run != copy) return run;
        done = 0;
        each_run(c.reach, c.begin, c.end, [&](int64_t d, int64_t h, int64_t w, int64_t n) {
            const T* const from = plane + chunks.number(d, h, w);
            for (int64_t m = 0; m < n; m += lanes) Vec<T>::load(from + m, smaller(lanes, n - m)).store(copy + done + m);
            done += n;
        });
        for (; done < chunk_taps; ++done) copy[done] = T(0);
        return copy;
    };
    parallel_ranges(context, (count + lanes - 1) / lanes, volume_grain / (lanes * chunk_taps),
                    [&](int64_t begin, int64_t end, int worker) {
                        T* const copies = scratch + worker * lanes * pitch;
                        for (int64_t block = begin; block < end; ++block) {
                            const int64_t first = block * lanes, n = smaller(lanes, count - first);
                            const T* source[lanes];
                            for (int64_t k = 0; k < lanes; ++k)
                                source[k] = k < n ? find(first + k, copies + k * pitch) : source[0];
                            Vec<T> sum = Vec<T>::zero();
                            for (int64_t i = 0; i < chunk_taps; i += lanes) {
                                Vec<T> v[lanes];
                                for (int k = 0; k < lanes; ++k) v[k] = Vec<T>::load(source[k] + i);
                                transpose(v);
                                for (int k = 0; k < lanes; ++k) sum = sum + v[k];
                            }
                            sum.store(sums + first, n);
                        }
                    });
}
// The same of channels-last samples, all channels of a chunk at a time.
template <class T> void sum_chunks_of_channels(Context& context, const Chunks& chunks, const T* x, int64_t samples,
                                               int64_t channels, T* sums) {
    const int64_t of_sample = chunks.grid.size() * chunks.each;
    parallel_ranges(context, samples * of_sample, 1 + volume_grain / (1 + chunk_taps * channels),
                    [&](int64_t begin, int64_t end, int) {
                        for (int64_t i = begin; i < end; ++i) {
                            const Chunks::Chunk chunk = chunks.at(i % of_sample);
                            const T* const sample = x + i / of_sample * chunks.grid.input_size() * channels;
                            for_wide_channel_blocks(channels, [&]<int wide>(int64_t c, int64_t some) {
                                Vec<T> sum[wide];
#pragma GCC unroll 8
                                for (int k = 0; k < wide; ++k) sum[k] = Vec<T>::zero();
                                each_run(chunk.reach, chunk.begin, chunk.end,
                                         [&](int64_t d, int64_t h, int64_t w, int64_t n) {
                                             const T* from = sample + chunks.number(d, h, w) * channels + c;
                                             for (int64_t m = 0; m < n; ++m, from += channels)
#pragma GCC unroll 8
                                                 for (int k = 0; k < wide; ++k)
                                                     sum[k] = sum[k] + Vec<T>::load(from + k * lanes, some);
                                         });
#pragma GCC unroll 8
                                for (int k = 0; k < wide; ++k) sum[k].store(sums + i * channels + c + k * lanes, some);
                            });
                        }
                    });
}
// A mean of `channels` neighbours each, from the sums of its chunks in order.
template <class T> void add_chunks(Context& context, const Chunks& chunks, const Divisors3& divisors, const T* sums,
                                   int64_t results, int64_t channels, T* y) {
    const Grid& grid = chunks.grid;
    parallel_ranges(context, results, 1 + volume_grain / (1 + chunks.each * channels),
                    [&](int64_t begin, int64_t end, int) {
                        for (int64_t r = begin; r < end; ++r) {
                            const int64_t o = r % grid.size(), line = o / grid.outputs[2];
                            const Vec<T> divisor =
                                divisors.at<T>(line / grid.outputs[1], line % grid.outputs[1], o % grid.outputs[2]);
                            for (int64_t c = 0; c < channels; c += lanes) {
                                const int64_t n = smaller(lanes, channels - c);
                                const T* const from = sums + r * chunks.each * channels + c;
                                Vec<T> sum = Vec<T>::load(from, n);
                                for (int64_t k = 1; k < chunks.each; ++k)
                                    sum = sum + Vec<T>::load(from + k * channels, n);
                                (sum / divisor).store(y + r * channels + c, n);
                            }
                        }
                    });
}
template <class T> void mean_of_chunks(Context& context, const Axis3& axes, const Pooled& p, const Chunks& chunks) {
    const Tensor& x = p.sources[0];
    const Divisors3 divisors = Divisors3::of(context, axes, false, 0);
    const Tensor pixels = volume_channels_last(x);
    const bool channels_last = !x.contiguous() && pixels.contiguous();
    context.chose(channels_last ? "chunks of channels" : "chunks abreast", "windows of more than 256 elements");
    const Tensor results_view = channels_last ? volume_channels_last(p.y) : p.y; // DenseOut refers to it
    const Dense<T> from(context, channels_last ? pixels : x);
    const DenseOut<T> y(context, results_view);
    T* const sums = context.scratch<T>(p.y.size() * chunks.each);
    const int64_t channels = channels_last ? x.extent[1] : 1, results = p.y.size() / larger(channels, 1);
    if (channels_last)
        sum_chunks_of_channels<T>(context, chunks, from, x.extent[0], channels, sums);
    else
        sum_chunks<T>(context, chunks, from, x.size(0, 2), sums);
    add_chunks<T>(context, chunks, divisors, sums, results, channels, y);
}

// Bytes of sixteen planes that one row of windows reads, beyond which chunks are read as they lie.
constexpr int64_t most_abreast = int64_t(1) << 20;

void average(const AdaptiveAvgPool& op, Context& context) {
    visit_float(op.y.dtype, [&](auto zero) {
        using T = decltype(zero);
        const int64_t size = op.x.size(2, op.x.rank), planes = op.x.size(0, 2);
        const bool many = planes >= lanes * context.threads; // so that each lane of each thread has a plane
        if (op.y.size(2, op.y.rank) == 1 && (many || size <= chunk_taps) && op.x.contiguous() && op.y.contiguous()) {
            context.chose("whole planes", "one window of many contiguous planes, or of small ones");
            return mean_of_planes(context, static_cast<const T*>(op.x.data), static_cast<T*>(op.y.data), planes, size,
                                  chunk_taps, T(size));
        }
        Axis3 axes;
        adaptive_axes(op.x, op.y, axes);
        const Pooled p{{as_volume(op.x), Tensor()}, Tensor(), as_volume(op.y), Tensor()};
        const Grid grid = grid_of(context, axes, false);
        const int64_t taps = Chunks::most_taps(grid);
        const bool abreast = many && held_for(grid, 1) * int64_t(sizeof(T)) <= most_abreast &&
                             (op.x.contiguous() || !volume_channels_last(p.sources[0]).contiguous());
        if (taps > chunk_taps && !abreast)
            return mean_of_chunks<T>(context, axes, p, Chunks{grid, (taps + chunk_taps - 1) / chunk_taps});
        pool_forward<T>(context, axes, p, MeanOfChunks<T>{Divisors3::of(context, axes, false, 0)});
    });
}
void maximum(const AdaptiveMaxPool& op, Context& context) {
    visit_float(op.y.dtype, [&](auto zero) {
        Axis3 axes;
        adaptive_axes(op.x, op.y, axes);
        const Pooled p{
            {as_volume(op.x), Tensor()}, Tensor(), as_volume(op.y), op.indices ? as_volume(op.indices) : Tensor()};
        max_of_volumes<decltype(zero)>(context, axes, p);
    });
}

} // namespace

void adaptive_avg_pool1d(const AdaptiveAvgPool& op, Context& context) { average(op, context); }
void adaptive_avg_pool2d(const AdaptiveAvgPool& op, Context& context) { average(op, context); }
void adaptive_avg_pool3d(const AdaptiveAvgPool& op, Context& context) { average(op, context); }
void adaptive_max_pool1d(const AdaptiveMaxPool& op, Context& context) { maximum(op, context); }
void adaptive_max_pool2d(const AdaptiveMaxPool& op, Context& context) { maximum(op, context); }
void adaptive_max_pool3d(const AdaptiveMaxPool& op, Context& context) { maximum(op, context); }

void adaptive_avg_pool_grad(const AdaptiveAvgPoolGrad& op, Context& context) {
    visit_float(op.gx.dtype, [&](auto zero) {
        using T = decltype(zero);
        Axis3 axes;
        adaptive_axes(op.gx, op.gy, axes);
        const Pooled p{{as_volume(op.gy), Tensor()}, Tensor(), as_volume(op.gx), Tensor()};
        pool_backward<T>(context, axes, p, MeanGradient<T>{Divisors3::of(context, axes, false, 0)});
    });
}

} // namespace mmk::cpu::MMK_ISA
