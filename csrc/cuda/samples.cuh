// The elements of samples dealt out to threads. A thread takes N neighbouring elements of one sample, some times over;
// a block's threads stand on threads / span samples, `span` (a power of two) on each, so that points of two
// numbers fill a warp as well as images do.
#pragma once

#include "divide.cuh"
#include "packs.cuh"

namespace mmk::cuda {

inline constexpr int deal_bits = 8, deal_threads = 1 << deal_bits;

struct Deal {
    int64_t samples, size; // of elements of a sample
    int span_bits;
    int repeat;    // what a thread reads once per sample (keys, coefficients) serves so many packs
    Divisor tiles; // of a sample: span * repeat packs
    int64_t blocks;
};

inline Deal deal_out(const Context& context, int64_t samples, int64_t size, int pack) {
    const int64_t packs = ceil_div(size, pack), resident = int64_t(context.multiprocessors) * 2048;
    Deal deal{samples, size, 0, 1, Divisor(), 0};
    while (deal.span_bits < deal_bits && int64_t(1) << deal.span_bits < packs) ++deal.span_bits;
    while (deal.repeat < 4 && samples * packs >= 4 * resident * deal.repeat) deal.repeat *= 2;
    const int64_t tiles = ceil_div(packs, int64_t(deal.repeat) << deal.span_bits);
    deal.tiles = Divisor(tiles);
    deal.blocks = ceil_div(samples, int64_t(1) << (deal_bits - deal.span_bits)) * tiles;
    return deal;
}

// body(sample, first, step, end): this thread's packs begin at elements first, first + step, ... below end.
template <int N, class Body> __device__ inline void for_dealt(const Deal& deal, const Body& body) {
    for (int64_t block = blockIdx.x; block < deal.blocks; block += gridDim.x) {
        int64_t group = block;
        const int64_t tile = deal.tiles.take(group);
        const int64_t sample = (group << (deal_bits - deal.span_bits)) + (int(threadIdx.x) >> deal.span_bits);
        if (sample >= deal.samples) continue;
        const int64_t step = int64_t(N) << deal.span_bits, begin = tile * deal.repeat * step;
        const int64_t end = begin + deal.repeat * step < deal.size ? begin + deal.repeat * step : deal.size;
        body(sample, begin + int64_t(threadIdx.x & ((1 << deal.span_bits) - 1)) * N, step, end);
    }
}

} // namespace mmk::cuda
