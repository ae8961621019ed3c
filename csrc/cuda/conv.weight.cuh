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
    Strides5 strides;
    int64_t outputs, channels, filters, tap_slices, R, S; // outputs and channels of a group
    int64_t columns;                                      // channels in memory, with what pads them
    WeightOrder order;

    WeightFinish(const Correlation& c, T* gweight_, int64_t columns_, WeightOrder order_)
        : gweight(gweight_), strides(c.weight), outputs(c.outputs), channels(c.channels), filters(c.groups * c.outputs),
          tap_slices(c.T), R(c.R), S(c.S), columns(columns_), order(order_) {}
    // As n c h w: filter, channel, tap, whose slices and rows are counted as one.
    MMK_MEMBER Place4 place(int64_t index) const {
        if (order != WeightOrder::filters)
            return place_of(index, columns, tap_slices * R, S, order == WeightOrder::channels);
        const int64_t tap = index / (filters * columns), rest = index % (filters * columns);
        return {rest / columns, rest % columns, tap / S, tap % S};
    }
    MMK_MEMBER int64_t slice(Place4 at) const { return tap_slices > 1 ? at.h / R : 0; }
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
                gweight[strides.at(batch * outputs + row + at.n, at.c, slice(at), at.h - slice(at) * R, at.w)] =
                    narrow<T>(value + C(0));
        }
    }
};

// The definition: every chunk of 256 products over n, o, p, q by a thread of its own, for one weight:
// sums[slice][weight].
// x has the strides c.source, gy c.result.
inline constexpr int weight_threads = 128;
template <class T> __global__ void __launch_bounds__(weight_threads, 4)
    sum_weight_chunks(Correlation c, WeightFinish<T> to, const T* x, const T* gy, ProductSlices slices,
                      Compute<T>* sums) {
    using C = Compute<T>;
    const int64_t weights = to.filters * c.channels * c.taps(), products = c.pixels();
    for (int64_t index = int64_t(blockIdx.x) * weight_threads + threadIdx.x; index < weights * slices.count;
         index += int64_t(gridDim.x) * weight_threads) {
        const Place4 tap = to.place(index % weights);
        const int64_t begin = (slices.first + index / weights) * chunk_products;
        const int64_t end = begin + chunk_products < products ? begin + chunk_products : products;
        const T* const x0 = x + (tap.n / c.outputs * c.channels + tap.c) * c.source.c;
        const int64_t d0 = to.slice(tap) * c.dilation[0] - c.before[0];
        const int64_t h0 = (tap.h - to.slice(tap) * c.R) * c.dilation[1] - c.before[1];
        const int64_t w0 = tap.w * c.dilation[2] - c.before[2];
        int64_t o = begin / (c.P * c.Q), p = begin / c.Q % c.P, q = begin % c.Q;
        int64_t n = o / c.O;
        o -= n * c.O;
        C sum = C(0);
        for (int64_t t = begin; t < end; ++t) {
            const int64_t d = o * c.stride[0] + d0, h = p * c.stride[1] + h0, w = q * c.stride[2] + w0;
            const bool inside = d >= 0 && d < c.D && h >= 0 && h < c.H && w >= 0 && w < c.W;
            const C value = inside ? widen(x0[c.source.at(n, 0, d, h, w)]) : C(0);
            sum = fma_scalar(value, widen(gy[c.result.at(n, tap.n, o, p, q)]), sum);
            if (++q < c.Q) continue;
            q = 0;
            if (++p < c.P) continue;
            p = 0;
            if (++o == c.O) o = 0, ++n;
        }
        sums[index] = sum;
    }
}

} // namespace mmk::cuda::conv
