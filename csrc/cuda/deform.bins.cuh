// Samples listed by the cell between four elements that they fall into: what makes a scatter to the elements a gather
// from the lists of their four cells. Cells are counted and filled by atomics on integers, in whatever order; then each
// list is sorted, so that nothing of that order is left. An element adds its samples in the order of their keys.
//
// Source: int64_t samples;  bool find(int64_t sample, int64_t& cell, int64_t& key) const, false for a sample that falls
// outside. Keys of one cell differ.
#pragma once

#include "layout.cuh"

namespace mmk::cuda::deform {

using Count = unsigned long long; // what CUDA's 64-bit atomics take

struct Bins { // of cell i: list[begin[i]] .. list[end[i] - 1]
    const Count *begin, *end;
    const int64_t* list;
};

inline constexpr int bin_threads = 256;

template <class Source> __global__ void __launch_bounds__(bin_threads) count_samples(Source source, Count* counts) {
    for (int64_t i = int64_t(blockIdx.x) * bin_threads + threadIdx.x; i < source.samples;
         i += int64_t(gridDim.x) * bin_threads) {
        int64_t cell, key;
        if (source.find(i, cell, key)) atomicAdd(&counts[cell], Count(1));
    }
}
template <class Source> __global__ void __launch_bounds__(bin_threads)
    list_samples(Source source, Count* end, int64_t* list) {
    for (int64_t i = int64_t(blockIdx.x) * bin_threads + threadIdx.x; i < source.samples;
         i += int64_t(gridDim.x) * bin_threads) {
        int64_t cell, key;
        if (source.find(i, cell, key)) list[atomicAdd(&end[cell], Count(1))] = key;
    }
}
void place_bins(Context& context, Count* begin, Count* end,
                int64_t cells); // from counts in `end`; `end` = `begin` then
void sort_bins(Context& context, const Count* begin, const Count* end, int64_t* list, int64_t cells);

template <class Source> Bins make_bins(Context& context, const Source& source, int64_t cells) {
    Count* const begin = context.scratch<Count>(cells + 1); // behind the cells: where the next list begins
    Count* const end = context.scratch<Count>(cells);
    int64_t* const list = context.scratch<int64_t>(source.samples);
    const dim3 grid = grid_of(ceil_div(source.samples, bin_threads));
    fill_zero(context, end, cells * int64_t(sizeof(Count)));
    fill_zero(context, begin + cells, sizeof(Count));
    if (source.samples) MMK_LAUNCH(context, (count_samples<Source>), grid, bin_threads, 0, source, end);
    place_bins(context, begin, end, cells);
    if (source.samples) MMK_LAUNCH(context, (list_samples<Source>), grid, bin_threads, 0, source, end, list);
    sort_bins(context, begin, end, list, cells);
    return {begin, end, list};
}

// The samples of an element's four cells in the order of their keys: body(key, corner), corner 2 a + b where the element
// is (a, b) of the cell. first: the cell whose corner (1, 1) it is; `row` cells to a row.
template <class Body>
__device__ __forceinline__ void for_samples_of(const Bins& bins, int64_t first, int64_t row, const Body& body) {
    Count at[4], end[4];
    int64_t key[4];
#pragma unroll
    for (int corner = 0; corner < 4; ++corner) {
        const int64_t cell = first + (1 - corner / 2) * row + (1 - corner % 2);
        at[corner] = bins.begin[cell], end[corner] = bins.end[cell];
        key[corner] = at[corner] < end[corner] ? bins.list[at[corner]] : INT64_MAX;
    }
    for (;;) {
        int best = 0;
        int64_t smallest = key[0];
#pragma unroll
        for (int corner = 1; corner < 4; ++corner)
            if (MMK_DEFECT(deform_merge_order) ? key[corner] != INT64_MAX && smallest == INT64_MAX
                                               : key[corner] < smallest)
                smallest = key[corner], best = corner;
        if (smallest == INT64_MAX) return;
        body(smallest, best);
#pragma unroll
        for (int corner = 0; corner < 4; ++corner)
            if (corner == best) {
                ++at[corner];
                key[corner] = at[corner] < end[corner] ? bins.list[at[corner]] : INT64_MAX;
            }
    }
}

} // namespace mmk::cuda::deform
