// One channel and one output a group: nothing is shared between channels, so memory is the limit. Windows of 3 x 3 and
// 5 x 5 without dilation, one image a sample; step 1 and 2 are strides, -1 walks the taps backwards (the input
// gradient of stride 1).
#pragma once

#include "conv.geometry.cuh"

namespace mmk::cuda::conv {

inline constexpr int depthwise_threads = 128;

// The taps of a window, one side of it, seen from `count` results that are neighbours: result i meets element j of
// the taps + (count - 1) * step that they all need in tap(i, j).
template <int taps, int step, int count> struct Sliding {
    static constexpr int stride = step < 0 ? -step : step;
    static constexpr int elements = taps + (count - 1) * stride;
    // Elements in an order in which every result's taps rise.
    MMK_MEMBER static constexpr int element(int turn) { return step < 0 ? elements - 1 - turn : turn; }
    MMK_MEMBER static constexpr int tap(int i, int j) { return step < 0 ? i + taps - 1 - j : j - i * stride; }
    MMK_MEMBER static int64_t start(int64_t result, int64_t before) {
        return result * stride - before - (step < 0 ? taps - 1 : 0);
    }
};

template <int taps> inline constexpr int depthwise_rows = taps == 3 ? 8 : 4;
// Lanes along the columns of planes, each making `rows` results, one below the other: the taps + (rows - 1) * step
// rows it needs are read once, 3.75 loads per result of 3 x 3 instead of 9, all but one from the first cache.
template <class T, int taps, int step, bool skips> __global__ void __launch_bounds__(depthwise_threads, 3)
    depthwise_planes(Correlation c, Operands<T> o) {
    using C = Compute<T>;
    constexpr int rows = depthwise_rows<taps>;
    using Rows = Sliding<taps, step, rows>;
    using Columns = Sliding<taps, step, 1>;
    const int64_t strips = ceil_div(c.P, rows), count = c.samples * c.groups * strips * c.Q;
    for (int64_t index = int64_t(blockIdx.x) * depthwise_threads + threadIdx.x; index < count;
         index += int64_t(gridDim.x) * depthwise_threads) {
        const int64_t q = index % c.Q, plane = index / c.Q / strips, p0 = index / c.Q % strips * rows;
        const int64_t n = plane / c.groups, channel = plane % c.groups;
        const int64_t h0 = Rows::start(p0, c.before[1]), w0 = Columns::start(q, c.before[2]);
        const T* const source = o.source + c.source.at(n, channel, h0, w0);
        C weight[taps][taps];
#pragma unroll
        for (int r = 0; r < taps; ++r)
#pragma unroll
            for (int s = 0; s < taps; ++s)
                weight[r][s] = widen(o.weight[channel * c.weight_group + c.weight.at(0, 0, r, s)]);
        bool column[taps];
#pragma unroll
        for (int s = 0; s < taps; ++s) column[s] = w0 + s >= 0 && w0 + s < c.W;
        C sum[rows] = {};
#pragma unroll
        for (int turn = 0; turn < Rows::elements; ++turn) {
            const int j = Rows::element(turn);
            const bool row = h0 + j >= 0 && (h0 + j < c.H || MMK_DEFECT(conv_depthwise_bottom));
            C value[taps];
#pragma unroll
            for (int s = 0; s < taps; ++s)
                value[s] = row && column[s] ? widen(source[j * c.source.h + s * c.source.w]) : C(0);
#pragma unroll
            for (int i = 0; i < rows; ++i) {
                const int r = Rows::tap(i, j);
                if (r < 0 || r >= taps) continue;
#pragma unroll
                for (int t = 0; t < taps; ++t) {
                    const int e = Columns::element(t);
                    if (!skips || (row && column[e])) sum[i] = fma_scalar(value[e], weight[r][t], sum[i]);
                }
            }
        }
#pragma unroll
        for (int i = 0; i < rows; ++i)
            if (p0 + i < c.P) sum[i] = o.ending.added(sum[i], n, channel, 0, p0 + i, q);
        o.ending.activate_all(sum);
#pragma unroll
        for (int i = 0; i < rows; ++i)
            if (p0 + i < c.P) o.result[c.result.at(n, channel, p0 + i, q)] = narrow<T>(sum[i]);
    }
}

// Lanes along channels, 16 bytes of them each, which make four results, one beside the other. A block keeps to
// depthwise_lanes of these vectors, so that it reads its weights once, into shared memory, and walks over pixels.
template <class T> inline constexpr int depthwise_vector = 16 / int(sizeof(T));
inline constexpr int depthwise_lanes = 16, depthwise_columns = 4;
template <class T, int taps, int step, bool skips> __global__ void __launch_bounds__(depthwise_threads, 3)
    depthwise_channels(Correlation c, Operands<T> o) {
    using C = Compute<T>;
    constexpr int vector = depthwise_vector<T>, columns = depthwise_columns;
    constexpr int channels = depthwise_lanes * vector, strips_at_once = depthwise_threads / depthwise_lanes;
    using Columns = Sliding<taps, step, columns>;
    using Rows = Sliding<taps, step, 1>;
    SHARED(C, weights, [taps * taps][channels]);
    const int lane = int(threadIdx.x) % depthwise_lanes * vector;
    const int64_t slices = ceil_div(c.groups, channels), strips = ceil_div(c.Q, columns);
    const int64_t channel0 = blockIdx.x % slices * channels, channel = channel0 + lane;
    for (int i = int(threadIdx.x); i < taps * taps * channels; i += depthwise_threads) {
        const int k = i / (taps * taps), tap = i % (taps * taps);
        weights[tap][k] =
            channel0 + k < c.groups
                ? widen(o.weight[(channel0 + k) * c.weight_group + c.weight.at(0, 0, tap / taps, tap % taps)])
                : C(0);
    }
    __syncthreads();
    if (channel >= c.groups) return;
    const int64_t at_once = gridDim.x / slices * strips_at_once; // the grid is a multiple of slices
    for (int64_t strip = blockIdx.x / slices * strips_at_once + threadIdx.x / depthwise_lanes;
         strip < c.samples * c.P * strips; strip += at_once) {
        const int64_t q0 = strip % strips * columns, p = strip / strips % c.P, n = strip / strips / c.P;
        const int64_t h0 = Rows::start(p, c.before[1]), w0 = Columns::start(q0, c.before[2]);
        const T* const source = o.source + c.source.at(n, channel, h0, w0);
        C sum[columns][vector] = {};
#pragma unroll 1
        for (int r = 0; r < taps; ++r) {
            const int e = Rows::element(r);
            const bool row = h0 + e >= 0 && h0 + e < c.H;
            C weight[taps][vector];
#pragma unroll
            for (int s = 0; s < taps; ++s)
#pragma unroll
                for (int v = 0; v < vector; ++v) weight[s][v] = weights[r * taps + s][lane + v];
#pragma unroll
            for (int turn = 0; turn < Columns::elements; ++turn) {
                const int j = Columns::element(turn);
                const bool inside = row && w0 + j >= 0 && w0 + j < c.W;
                Pack<T, vector> value = {};
                if (inside) value = *reinterpret_cast<const Pack<T, vector>*>(source + e * c.source.h + j * c.source.w);
#pragma unroll
                for (int i = 0; i < columns; ++i) {
                    const int s = Columns::tap(i, j);
                    if (s < 0 || s >= taps || (skips && !inside)) continue;
#pragma unroll
                    for (int v = 0; v < vector; ++v)
                        sum[i][v] = fma_scalar(widen(value.at[v]), weight[s][v], sum[i][v]);
                }
            }
        }
#pragma unroll
        for (int i = 0; i < columns; ++i) {
            if (q0 + i >= c.Q) continue;
            Pack<T, vector> result;
#pragma unroll
            for (int v = 0; v < vector; ++v) sum[i][v] = o.ending.added(sum[i][v], n, channel + v, 0, p, q0 + i);
            o.ending.activate_all(sum[i]);
#pragma unroll
            for (int v = 0; v < vector; ++v) result.at[v] = narrow<T>(sum[i][v]);
            *reinterpret_cast<Pack<T, vector>*>(o.result + c.result.at(n, channel, p, q0 + i)) = result;
        }
    }
}

} // namespace mmk::cuda::conv
