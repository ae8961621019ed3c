// Lanes along pixels, for groups with few channels or few outputs: a thread makes `outputs` results for each of its
// pixels, the weights of one chunk lie in shared memory, where all threads of a warp read the same ones.
//
// 2 pixels x 16 outputs: per tap two loads of the source, which the first cache serves, and 16 weights in 4 shared
// loads feed 32 fma. A tile of a matrix product would be mostly padding here.
#pragma once

#include "conv.geometry.cuh"

namespace mmk::cuda::conv {

inline constexpr int pixel_threads = 128;

template <class T, int outputs, int pixels> __global__ void __launch_bounds__(pixel_threads, 3)
    correlate_pixels(Correlation c, Operands<T> o, bool skips) {
    using C = Compute<T>;
    // Rows are 16 bytes longer than needed: they are written down the columns.
    SHARED(C, panel, [chunk_products][outputs + 16 / sizeof(C)]);
    const int taps = int(c.taps()), R = int(c.R), S = int(c.S);
    const int64_t image = c.P * c.Q, volume = c.O * image, all = c.samples * volume,
                  blocks = ceil_div(all, pixels * pixel_threads);
    const int64_t panels = ceil_div(c.outputs, outputs);
    for (int64_t item = blockIdx.x; item < c.groups * panels * blocks; item += gridDim.x) {
        const int64_t group = item / blocks / panels, k0 = item / blocks % panels * outputs;
        const int64_t first = item % blocks * pixels * pixel_threads + threadIdx.x;
        const T* source[pixels];
        int d0[pixels], h0[pixels], w0[pixels];
#pragma unroll
        for (int j = 0; j < pixels; ++j) { // a pixel behind the last computes the last one's results, and stores none
            const int64_t at = first + j * pixel_threads < all ? first + j * pixel_threads : all - 1;
            source[j] = o.source + at / volume * c.source.n + group * c.channels * c.source.c;
            d0[j] = int(at % volume / image * c.stride[0] - c.before[0]);
            h0[j] = int(at % image / c.Q * c.stride[1] - c.before[1]);
            w0[j] = int(at % c.Q * c.stride[2] - c.before[2]);
        }
        C total[pixels][outputs];
        for (int64_t c0 = 0; c0 == 0 || c0 < c.channels; c0 += c.chunk) {
            const int channels = int(c.channels - c0 < c.chunk ? c.channels - c0 : c.chunk), depth = channels * taps;
            __syncthreads(); // nobody reads the chunk before any more
            for (int i = int(threadIdx.x); i < depth * outputs; i += pixel_threads) {
                const int k = i / depth, t = i - k * depth, channel = t / taps, tap = t - channel * taps;
                panel[t][k] =
                    k0 + k < c.outputs
                        ? widen(o.weight[group * c.weight_group +
                                         c.weight.at(k0 + k, c0 + channel, tap / S / R, tap / S % R, tap % S)])
                        : C(0);
            }
            if (!MMK_DEFECT(conv_missing_barrier)) __syncthreads();
            C sum[pixels][outputs] = {};
            const C* weights = panel[0];
            int t = 0, r = 0; // the taps' rows, channel by channel
            for (int row = 0, channel = 0; row < depth; row += S) {
                const int place = int(c0 + channel) * int(c.source.c) + t * int(c.dilation[0]) * int(c.source.d);
                for (int s = 0; s < S; ++s, weights += outputs + 16 / sizeof(C)) {
                    C weight[outputs];
#pragma unroll
                    for (int k = 0; k < outputs; ++k) weight[k] = weights[k];
#pragma unroll
                    for (int j = 0; j < pixels; ++j) {
                        const int d = d0[j] + t * int(c.dilation[0]), h = h0[j] + r * int(c.dilation[1]),
                                  w = w0[j] + s * int(c.dilation[2]);
                        const bool slice = unsigned(d) < unsigned(c.D + (MMK_DEFECT(conv_pixel_slices) ? 1 : 0));
                        const bool inside = slice && unsigned(h) < unsigned(c.H) && unsigned(w) < unsigned(c.W);
                        if (skips && !inside) continue;
                        const C value = inside ? widen(source[j][place + d0[j] * int(c.source.d) + h * int(c.source.h) +
                                                                 w * int(c.source.w)])
                                               : C(0);
#pragma unroll
                        for (int k = 0; k < outputs; ++k) sum[j][k] = fma_scalar(value, weight[k], sum[j][k]);
                    }
                }
                if (++r == R) {
                    r = 0;
                    if (++t == int(c.T)) t = 0, ++channel;
                }
            }
#pragma unroll
            for (int j = 0; j < pixels; ++j)
#pragma unroll
                for (int k = 0; k < outputs; ++k) total[j][k] = c0 == 0 ? sum[j][k] : total[j][k] + sum[j][k];
        }
#pragma unroll
        for (int j = 0; j < pixels; ++j) {
            const int64_t at = first + j * pixel_threads, n = at / volume, slice = at % volume / image,
                          p = at % image / c.Q, q = at % c.Q;
            if (at >= all) continue;
            const int64_t channel = group * c.outputs + k0;
#pragma unroll
            for (int k = 0; k < outputs; ++k)
                if (k0 + k < c.outputs) total[j][k] = o.ending.added(total[j][k], n, channel + k, slice, p, q);
            o.ending.activate_all(total[j]);
#pragma unroll
            for (int k = 0; k < outputs; ++k)
                if (k0 + k < c.outputs) o.result[c.result.at(n, channel + k, slice, p, q)] = narrow<T>(total[j][k]);
        }
    }
}

} // namespace mmk::cuda::conv
