// The definition, one thread a result: every extent, stride and type. The other kernels of the family are measured by
// it, and it stays for what they do not cover.
#pragma once

#include "conv.geometry.cuh"

namespace mmk::cuda::conv {

inline constexpr int direct_threads = 128;

// skips (the input gradient): a tap outside the source takes no part. Otherwise it is the product with +0, which must
// be made, as the weight may be infinite.
template <class T> __device__ inline Compute<T> correlation_sum(const Correlation& c, const T* source, const T* weight,
                                                                bool skips, int64_t n, int64_t group, int64_t k,
                                                                int64_t o, int64_t p, int64_t q) {
    using C = Compute<T>;
    source += n * c.source.n + group * c.channels * c.source.c;
    weight += group * c.weight_group + k * c.weight.n;
    C total = C(0);
    for (int64_t c0 = 0; c0 < c.channels; c0 += c.chunk) {
        C sum = C(0);
        for (int64_t channel = c0; channel < c.channels && channel < c0 + c.chunk; ++channel)
            for (int64_t t = 0; t < c.T; ++t)
                for (int64_t r = 0; r < c.R; ++r)
                    for (int64_t s = 0; s < c.S; ++s) {
                        const int64_t d = o * c.stride[0] + t * c.dilation[0] - c.before[0];
                        const int64_t h = p * c.stride[1] + r * c.dilation[1] - c.before[1];
                        const int64_t w = q * c.stride[2] + s * c.dilation[2] - c.before[2];
                        const bool inside = d >= 0 && d < c.D && h >= 0 && h < c.H && w >= 0 &&
                                            (w < c.W || MMK_DEFECT(conv_right_border));
                        if (skips && !inside) continue;
                        const C value = inside ? factor(source[c.source.at(0, channel, d, h, w)]) : C(0);
                        sum = fma_scalar(value, factor(weight[c.weight.at(0, channel, t, r, s)]), sum);
                    }
        total = c0 == 0 ? sum : total + sum;
    }
    return total;
}

template <class T> __global__ void __launch_bounds__(direct_threads, 4)
    correlate_directly(Correlation c, Operands<T> o, bool skips, bool last) {
    const int64_t K = c.groups * c.outputs, count = c.pixels() * K;
    for (int64_t index = int64_t(blockIdx.x) * direct_threads + threadIdx.x; index < count;
         index += int64_t(gridDim.x) * direct_threads) {
        const Place4 y = place_of(index, K, c.O * c.P, c.Q, last);
        const int64_t slice = y.h / c.P, p = y.h - slice * c.P;
        const Compute<T> sum =
            correlation_sum(c, o.source, o.weight, skips, y.n, y.c / c.outputs, y.c % c.outputs, slice, p, y.w);
        Compute<T> value[1] = {o.ending.added(sum, y.n, y.c, slice, p, y.w)};
        o.ending.activate_all(value);
        o.result[c.result.at(y.n, y.c, slice, p, y.w)] = narrow<T>(value[0]);
    }
}

} // namespace mmk::cuda::conv
