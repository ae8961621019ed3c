// Sums over all planes of a channel. A plane is cut into segments of 512 elements, each a long sum; the segments of a
// channel, n slowest, are the rows of a sum over rows. Planes are contiguous, or the channels are inside (channels.h).
#pragma once

#include "channels.h"
#include "column_sums.h"

namespace mmk::cpu::MMK_ISA {

inline constexpr int64_t segment = 512;
inline constexpr int wide_pixel = 4; // vectors of a pixel's channels that are read together

// Segment s of plane n is row n * count + s of a table with a column for each channel; the last may be shorter.
struct Segments {
    int64_t samples, channels, size, count;
    bool inside;
    Segments(const Tensor& x, bool inside_)
        : samples(x.extent[0]), channels(x.extent[1]), size(x.size(2, x.rank)), count((size + segment - 1) / segment),
          inside(inside_) {}
    int64_t rows() const { return samples * count; }
    int64_t length(int64_t s) const { return s + 1 < count ? segment : size - s * segment; }
};

template <class... Tensors> MMK_INLINE bool channels_inside(const Tensors&... t) {
    return (has_channels_inside(t) && ...);
}
// How operands lie: as they are if their channels are inside, else as contiguous planes.
template <class T> const T* laid_out(Context& context, bool inside, const Tensor& t) {
    return inside ? static_cast<const T*>(t.data) : Dense<T>(context, t).get();
}

// One segment of a plane: to[k * step] becomes the long sum of f's k-th term.
template <int K, int N, class T, class F, class... In> MMK_FLATTEN void
plane_segment(const T* const* numbers, int64_t channel, T* to, int64_t step, int64_t length, F f, const In*... x) {
    Vec<T> number[N];
    for (int k = 0; k < N; ++k) number[k] = Vec<T>(numbers[k][channel]);
    ChunkTree<T> tree[K];
    for (int64_t begin = 0; begin < length; begin += sum_chunk) {
        const int64_t end = begin + sum_chunk < length ? begin + sum_chunk : length;
        Vec<T> sum[K], terms[K];
        for (int k = 0; k < K; ++k) sum[k] = Vec<T>::zero();
        int64_t i = begin;
        for (; i + lanes <= end; i += lanes) {
            f(number, terms, Vec<T>::load(x + i)...);
            for (int k = 0; k < K; ++k) sum[k] = sum[k] + terms[k];
        }
        if (i < end) {
            f(number, terms, Vec<T>::load(x + i, end - i)...);
            for (int k = 0; k < K; ++k) sum[k] = sum[k] + first_lanes(terms[k], end - i);
        }
        for (int k = 0; k < K; ++k) tree[k].add(sum[k]);
    }
    for (int k = 0; k < K; ++k) to[k * step] = sum_lanes(tree[k].total());
}

// The same of `n` channels, 64 at most, whose pixels are `stride` apart: a lane of the long sum is a vector of channels.
template <int K, int N, class T, class F, class... In>
MMK_FLATTEN void pixel_segment(const T* const* numbers, int64_t n, T* to, int64_t step, int64_t length, int64_t stride,
                               F f, const In*... x) {
    Vec<T> number[wide_pixel][N], sum[2][K][lanes][wide_pixel]; // of chunks 0 and 1, of 2 and 3
    const int vectors = int((n + lanes - 1) / lanes);
    for (int v = 0; v < vectors; ++v)
        for (int k = 0; k < N; ++k) number[v][k] = Vec<T>::load(numbers[k] + v * lanes, n - v * lanes);
    for (int64_t begin = 0; begin < length; begin += sum_chunk) {
        const int64_t end = begin + sum_chunk < length ? begin + sum_chunk : length;
        Vec<T> chunk[K][lanes][wide_pixel], terms[K];
        for (int k = 0; k < K; ++k)
            for (int lane = 0; lane < lanes; ++lane)
                for (int v = 0; v < wide_pixel; ++v) chunk[k][lane][v] = Vec<T>::zero();
        const auto step_of = [&](int64_t i, int v, int64_t here) {
            f(number[v], terms, Vec<T>::load(x + i * stride + v * lanes, here)...);
            for (int k = 0; k < K; ++k) chunk[k][i % lanes][v] = chunk[k][i % lanes][v] + terms[k];
        };
        if (n == wide_pixel * lanes)
            for (int64_t i = begin; i < end; ++i)
#pragma GCC unroll 4
                for (int v = 0; v < wide_pixel; ++v) step_of(i, v, int64_t(lanes));
        else
            for (int64_t i = begin; i < end; ++i)
                for (int v = 0; v < vectors; ++v) step_of(i, v, n - v * lanes);
        const int64_t index = begin / sum_chunk;
        for (int k = 0; k < K; ++k)
            for (int lane = 0; lane < lanes; ++lane)
                for (int v = 0; v < vectors; ++v) {
                    Vec<T>& all = sum[index / 2][k][lane][v];
                    all = index % 2 ? all + chunk[k][lane][v] : chunk[k][lane][v];
                }
    }
    for (int k = 0; k < K; ++k)
        for (int v = 0; v < vectors; ++v) {
            Vec<T> s[lanes];
            for (int lane = 0; lane < lanes; ++lane)
                s[lane] = length > 2 * sum_chunk ? sum[0][k][lane][v] + sum[1][k][lane][v] : sum[0][k][lane][v];
            for (int half = lanes / 2; half >= 1; half /= 2)
                for (int lane = 0; lane < half; ++lane) s[lane] = s[lane] + s[lane + half];
            s[0].store(to + k * step + v * lanes, n - v * lanes);
        }
}
static_assert(segment == 4 * sum_chunk, "pixel_segment joins four chunks");

// body(element of the table, channel, how many channels, first element in memory, length) for every segment: of one
// channel, or of up to 64.
template <class Body> void each_segment(Context& context, const Segments& all, const Body& body) {
    const int64_t width = all.inside ? wide_pixel * lanes : 1, blocks = (all.channels + width - 1) / width;
    const int64_t each = width * (all.size < segment ? all.size : segment);
    parallel_ranges(context, all.rows() * blocks, 1 + 4096 / (1 + each), [&](int64_t begin, int64_t end, int) {
        for (int64_t item = begin; item < end; ++item) {
            // segments of a plane one after another, or blocks of a pixel's channels
            const int64_t inner = all.inside ? blocks : all.count, outer = item / inner;
            const int64_t c = all.inside ? item % inner * width : outer % all.channels;
            const int64_t row = all.inside ? outer : outer / all.channels * all.count + item % inner;
            const int64_t n = row / all.count, s = row % all.count;
            const int64_t first = all.inside ? (n * all.size + s * segment) * all.channels + c
                                             : (n * all.channels + c) * all.size + s * segment;
            body(row * all.channels + c, c, all.channels - c < width ? all.channels - c : width, first, all.length(s));
        }
    });
}

// table[k * step + element] = the long sum of f's k-th term over the element's segment.
template <int K, int N, class T, class F, class... In> void segment_table(Context& context, const Segments& all,
                                                                          const T* const* numbers, T* table,
                                                                          int64_t step, F f, const In*... x) {
    each_segment(context, all, [&](int64_t entry, int64_t c, int64_t n, int64_t first, int64_t length) {
        if (!all.inside) return plane_segment<K, N>(numbers, c, table + entry, step, length, f, x + first...);
        const T* here[N];
        for (int k = 0; k < N; ++k) here[k] = numbers[k] + c;
        pixel_segment<K, N>(here, n, table + entry, step, length, all.channels, f, x + first...);
    });
}

// out[k][c] = the sum over all elements of channel c of the k-th term of f(the channel's numbers, terms, x...). x lie as
// `all` says.
template <int K, int N, class T, class F, class... In> void channel_sums(Context& context, const Segments& all,
                                                                         const T* const (&numbers)[N],
                                                                         T* const (&out)[K], F f, const In*... x) {
    const int64_t step = all.rows() * all.channels;
    const T* const* const at = numbers;
    if (all.size == 1) { // segments of one element each: the table is the operands themselves
        for (int k = 0; k < K; ++k)
            column_sums(context, all.samples, all.channels, out[k], [=](int64_t row, int64_t c, int64_t n) {
                Vec<T> number[N], terms[K];
                for (int j = 0; j < N; ++j) number[j] = Vec<T>::load(at[j] + c, n);
                f(number, terms, Vec<T>::load(x + row * all.channels + c, n)...);
                return terms[k];
            });
        return;
    }
    T* const table = context.scratch<T>(K * step);
    segment_table<K, N>(context, all, at, table, step, f, x...);
    for (int k = 0; k < K; ++k)
        column_sums(context, all.rows(), all.channels, out[k], [=](int64_t row, int64_t c, int64_t n) {
            return Vec<T>::load(table + k * step + row * all.channels + c, n);
        });
}

} // namespace mmk::cpu::MMK_ISA
