// Sums of a weight gradient that are no product of matrices, and where finished sums go.
#pragma once

#include "conv.geometry.cuh"

namespace mmk::cuda::conv {

// How weights are counted: taps innermost (as they lie themselves), channels innermost, or all filters innermost.
enum class WeightOrder { taps, channels, filters };

// A Finish (products.cuh): rows are filters of the batch, a group; columns are weights of one filter, with `columns`
// channels in memory. Or all weights are the columns of one row.
template <class T> struct WeightFinish {
    using C = Compute<T>;
    static constexpr bool along_rows = false;
    static constexpr int width = sizeof(T) == 8 ? 2 : 4;

    T* gweight;
    Strides4 strides;
    int64_t outputs, channels, filters, R, S; // outputs and channels of a group
    int64_t columns;                          // channels in memory, with what pads them
    WeightOrder order;

    WeightFinish(const Correlation& c, T* gweight_, int64_t columns_, WeightOrder order_)
        : gweight(gweight_), strides(c.weight), outputs(c.outputs), channels(c.channels), filters(c.groups * c.outputs),
          R(c.R), S(c.S), columns(columns_), order(order_) {}
    // As n c h w: filter, channel, tap.
    MMK_MEMBER Place4 place(int64_t index) const {
        if (order != WeightOrder::filters) return place_of(index, columns, R, S, order == WeightOrder::channels);
        const int64_t tap = index / (filters * columns), rest = index % (filters * columns);
        return {rest / columns, rest % columns, tap / S, tap % S};
    }
    MMK_MEMBER void operator()(int64_t batch, int64_t row, int64_t column, const C (&sum)[width], int count) const {
        if (row >= outputs) return;
#pragma unroll 1
        for (int i = 0; i < count; ++i) {
            C value = sum[0];
#pragma unroll
            for (int j = 1; j < width; ++j)
                if (j == i) value = sum[j];
            const Place4 at = place(column + i);
            if (at.c < channels || MMK_DEFECT(conv_padded_weights))
                gweight[strides.at(batch * outputs + row + at.n, at.c, at.h, at.w)] = narrow<T>(value + C(0));
        }
    }
};

// The definition: every chunk of 256 products over n, p, q by a thread of its own, for one weight. sums[slice][weight].
// x has the strides c.source, gy c.result.
inline constexpr int weight_threads = 128;
template <class T> __global__ void __launch_bounds__(weight_threads, 4)
    sum_weight_chunks(Correlation c, WeightFinish<T> to, const T* x, const T* gy, ProductSlices slices,
                      Compute<T>* sums) {
    using C = Compute<T>;
    const int64_t weights = to.filters * c.channels * c.R * c.S, products = c.samples * c.P * c.Q;
    for (int64_t index = int64_t(blockIdx.x) * weight_threads + threadIdx.x; index < weights * slices.count;
         index += int64_t(gridDim.x) * weight_threads) {
        const Place4 tap = to.place(index % weights);
        const int64_t begin = (slices.first + index / weights) * chunk_products;
        const int64_t end = begin + chunk_products < products ? begin + chunk_products : products;
        const T* const x0 = x + (tap.n / c.outputs * c.channels + tap.c) * c.source.c;
        const int64_t h0 = tap.h * c.dilation[0] - c.before[0], w0 = tap.w * c.dilation[1] - c.before[1];
        int64_t n = begin / (c.P * c.Q), p = begin / c.Q % c.P, q = begin % c.Q;
        C sum = C(0);
        for (int64_t t = begin; t < end; ++t) {
            const int64_t h = p * c.stride[0] + h0, w = q * c.stride[1] + w0;
            const bool inside = h >= 0 && h < c.H && w >= 0 && w < c.W;
            const C value = inside ? widen(x0[c.source.at(n, 0, h, w)]) : C(0);
            sum = fma_scalar(value, widen(gy[c.result.at(n, tap.n, p, q)]), sum);
            if (++q == c.Q) {
                q = 0;
                if (++p == c.P) p = 0, ++n;
            }
        }
        sums[index] = sum;
    }
}

} // namespace mmk::cuda::conv
