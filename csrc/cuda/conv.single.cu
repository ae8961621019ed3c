// One channel and one output a group, windows of any extents: of sequences and volumes, and images whose windows
// conv.depthwise.cuh does not know. A thread makes four results, so that places are found, and weights read, once for
// four; the first cache serves what neighbours share. With four taps that is some 60 instructions a result, where the
// definition takes 250, most of them divisions of 64 bits.
#include "conv.h"

namespace mmk::cuda::conv {
namespace {

constexpr int single_threads = 128, single_pixels = 4;

// Lanes along pixels of one channel, neighbours 128 apart for one thread; or along channels, where those are neighbours
// in memory, a thread's pixels being neighbours.
struct SinglePlaces {
    bool last;
    int pixels;            // of one sample
    int64_t tiles, slices; // of pixels, of channels
    ShortDivisor by_row, by_column;

    SinglePlaces(const Correlation& c)
        : last(c.result.c == 1 && c.groups >= 32), pixels(int(c.O * c.P * c.Q)),
          tiles(ceil_div(int64_t(pixels), single_pixels * (last ? 1 : single_threads))),
          slices(last ? ceil_div(c.groups, single_threads) : c.groups), by_row(c.Q), by_column(c.P) {}
    MMK_MEMBER int pixel(int64_t tile, int j) const {
        return last ? int(tile) * single_pixels + j
                    : int(tile) * single_pixels * single_threads + j * single_threads + int(threadIdx.x);
    }
};

template <class T> __global__ void __launch_bounds__(single_threads, 6)
    correlate_single_channels(Correlation c, Operands<T> o, bool skips, SinglePlaces places) {
    using C = Compute<T>;
    for (int64_t item = blockIdx.x; item < c.samples * places.slices * places.tiles; item += gridDim.x) {
        // slices are counted fastest where they are neighbours in memory
        const int64_t n = item / places.slices / places.tiles, rest = item - n * places.slices * places.tiles;
        const int64_t slice = places.last ? rest % places.slices : rest / places.tiles;
        const int64_t tile = places.last ? rest / places.slices : rest % places.tiles;
        const int64_t channel = places.last ? slice * single_threads + threadIdx.x : slice;
        if (channel >= c.groups) continue;
        const T* const source = o.source + n * c.source.n + channel * c.source.c;
        const T* const weight = o.weight + (MMK_DEFECT(conv_single_filter) ? 0 : channel * c.weight_group);
        int d0[single_pixels], h0[single_pixels], w0[single_pixels];
#pragma unroll
        for (int j = 0; j < single_pixels; ++j) { // behind the last: the last one's result, which is not stored
            int at = places.pixel(tile, j) < places.pixels ? places.pixel(tile, j) : places.pixels - 1;
            const int q = places.by_row.take(at), p = places.by_column.take(at);
            d0[j] = at * int(c.stride[0]) - int(c.before[0]), h0[j] = p * int(c.stride[1]) - int(c.before[1]);
            w0[j] = q * int(c.stride[2]) - int(c.before[2]);
        }
        C sum[single_pixels] = {};
        for (int t = 0; t < int(c.T); ++t)
            for (int r = 0; r < int(c.R); ++r)
                for (int s = 0; s < int(c.S); ++s) {
                    const C factor = widen(weight[c.weight.at(0, 0, t, r, s)]);
#pragma unroll
                    for (int j = 0; j < single_pixels; ++j) {
                        const int d = d0[j] + t * int(c.dilation[0]), h = h0[j] + r * int(c.dilation[1]);
                        const int w = w0[j] + s * int(c.dilation[2]);
                        const bool image = unsigned(d) < unsigned(c.D) && unsigned(h) < unsigned(c.H);
                        const bool inside =
                            image && unsigned(w) < unsigned(c.W + (MMK_DEFECT(conv_single_border) ? 1 : 0));
                        if (skips && !inside) continue;
                        const C value =
                            inside ? widen(source[d * int(c.source.d) + h * int(c.source.h) + w * int(c.source.w)])
                                   : C(0);
                        sum[j] = fma_scalar(value, factor, sum[j]);
                    }
                }
#pragma unroll
        for (int j = 0; j < single_pixels; ++j) {
            int at = places.pixel(tile, j);
            const bool stored = at < places.pixels + (MMK_DEFECT(conv_single_end) ? 1 : 0);
            const int q = places.by_row.take(at), p = places.by_column.take(at);
            C value[1] = {stored ? o.ending.added(sum[j], n, channel, at, p, q) : C(0)};
            o.ending.activate_all(value);
            if (stored) o.result[c.result.at(n, channel, at, p, q)] = narrow<T>(value[0]);
        }
    }
}

} // namespace

template <class T> void correlate_single(Context& context, const Correlation& c, const Operands<T>& o, bool skips) {
    const SinglePlaces places(c);
    context.chose(places.last ? "a channel a group, lanes along channels" : "a channel a group, lanes along pixels",
                  "a group is one channel");
    MMK_LAUNCH(context, correlate_single_channels<T>, grid_of(c.samples * places.slices * places.tiles), single_threads,
               0, c, o, skips, places);
}
template void correlate_single(Context&, const Correlation&, const Operands<float>&, bool);
template void correlate_single(Context&, const Correlation&, const Operands<float16>&, bool);
template void correlate_single(Context&, const Correlation&, const Operands<bfloat16>&, bool);

} // namespace mmk::cuda::conv
