// What regions give to elements, entry by entry in their order, without atomic additions: a warp owns a band of a
// plane, in shared memory, and takes the regions that reach it; of 32 entries each element takes the first, then the
// next.
#pragma once

#include "roi.cuh"

namespace mmk::cuda {

inline constexpr int scatter_warps = 4, scatter_band = 512;

// The lowest and the highest element of a plane that entries may reach; nothing if high < low.
struct PlaceRange {
    int64_t low, high;
};

// One warp adds 32 entries: `at` is the place in the band, -1 for none of it.
template <class C> __device__ inline void add_entries(C* sums, int* claims, int at, C weight, C gradient) {
    const int lane = int(threadIdx.x) % 32;
    while (__any_sync(0xffffffffu, at >= 0)) {
        if (at >= 0) atomicMin(&claims[at], lane);
        __syncwarp();
        const bool first = at >= 0 && claims[at] == lane;
        if (!MMK_DEFECT(roi_claim_order)) __syncwarp();
        if (first) {
            sums[at] = fma_scalar(weight, gradient, sums[at]);
            claims[at] = 32;
            at = -1;
        }
        __syncwarp();
    }
}

__device__ inline PlaceRange range_of_warp(PlaceRange range) {
    for (int half = 16; half >= 1; half /= 2) {
        range.low = smaller(range.low, __shfl_xor_sync(0xffffffffu, range.low, half));
        range.high = larger(range.high, __shfl_xor_sync(0xffffffffu, range.high, half));
    }
    return range;
}

// Entries knows a call: entries of region r for channel c are numbered in their order from 0 on;
//   int64_t count(r); bool entry(r, c, number, C& weight, C& gradient, int64_t& place)
// ranges: [regions][range_channels], range_channels being 1 where all channels share them.
template <class T, class Entries> struct EntryScatter {
    Entries entries;
    const PlaceRange* ranges;
    const int* images; // of each region; -1: none
    T* gx;             // contiguous
    int64_t regions, channels, range_channels, planes, size, bands;
};

template <class T, class Entries> __global__ void __launch_bounds__(32 * scatter_warps, 5)
    scatter_entries(EntryScatter<T, Entries> s) {
    using C = Compute<T>;
    SHARED(C, all_sums, [scatter_warps][scatter_band]);
    SHARED(int, all_claims, [scatter_warps][scatter_band]); // the lane that may add to an element; 32: none
    const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
    C* const sums = all_sums[warp];
    int* const claims = all_claims[warp];
    const int64_t tasks = s.planes * s.bands;
    for (int64_t task = int64_t(blockIdx.x) * scatter_warps + warp; task < tasks;
         task += int64_t(gridDim.x) * scatter_warps) {
        const int64_t plane = task / s.bands, n = plane / s.channels, c = plane % s.channels;
        const int64_t low = task % s.bands * scatter_band, count = smaller(scatter_band, s.size - low);
        for (int i = lane; i < scatter_band; i += 32) sums[i] = C(0), claims[i] = 32;
        if (!MMK_DEFECT(roi_band_uncleared)) __syncwarp();
        for (int64_t base = 0; base < s.regions; base += 32) {
            const int64_t mine = base + lane;
            bool meets = mine < s.regions && s.images[mine] == n;
            if (meets) {
                const PlaceRange range = s.ranges[mine * s.range_channels + (s.range_channels > 1 ? c : 0)];
                meets = range.high >= low && range.low < low + count;
            }
            for (unsigned left = __ballot_sync(0xffffffffu, meets); left; left &= left - 1) {
                const int64_t r = base + __ffs(int(left)) - 1, entries = s.entries.count(r);
                for (int64_t first = 0; first < entries; first += 32) {
                    int at = -1;
                    C weight = C(0), gradient = C(0);
                    int64_t place = -1;
                    if (first + lane < entries && s.entries.entry(r, c, first + lane, weight, gradient, place)) {
                        place -= low;
                        if (uint64_t(place) < uint64_t(count)) at = int(place);
                    }
                    add_entries(sums, claims, at, weight, gradient);
                }
            }
        }
        __syncwarp();
        for (int i = lane; i < count; i += 32) s.gx[plane * s.size + low + i] = narrow<T>(sums[i]);
        __syncwarp();
    }
}

// A warp for a region and a channel (or for all): where its entries go, and the region's image.
template <class T, class Entries, class B> __global__ void __launch_bounds__(32 * scatter_warps, 5)
    find_places(EntryScatter<T, Entries> s, const B* boxes, int numbers, int64_t image_count, PlaceRange* ranges,
                int* images) {
    using C = Compute<T>;
    const int lane = int(threadIdx.x) % 32;
    for (int64_t task = int64_t(blockIdx.x) * scatter_warps + threadIdx.x / 32; task < s.regions * s.range_channels;
         task += int64_t(gridDim.x) * scatter_warps) {
        const int64_t r = task / s.range_channels, c = task % s.range_channels;
        const int64_t image = index_of(boxes[r * numbers], image_count);
        PlaceRange range{s.size, -1};
        for (int64_t i = lane; image >= 0 && i < s.entries.count(r); i += 32) {
            C weight, gradient;
            int64_t place;
            if (!s.entries.entry(r, c, i, weight, gradient, place)) continue;
            range.low = smaller(range.low, place), range.high = larger(range.high, place);
        }
        range = range_of_warp(range);
        if (lane != 0) continue;
        ranges[task] = range;
        if (c == 0) images[r] = int(image);
    }
}

template <class T, class Entries> void scatter_of(Context& context, const Entries& entries, const Compute<T>* boxes,
                                                  int numbers, int64_t regions, bool shared_ranges,
                                                  const Tensor& result) {
    using C = Compute<T>;
    DenseOut<T> gx(context, result);
    const int64_t channels = result.extent[1], range_channels = shared_ranges ? 1 : channels;
    PlaceRange* const ranges = context.scratch<PlaceRange>(larger(regions * range_channels, 1));
    int* const images = context.scratch<int>(larger(regions, 1));
    const int64_t planes = result.size(0, 2), size = result.size(2, 4), bands = ceil_div(size, scatter_band);
    const EntryScatter<T, Entries> s{entries,  ranges,         images, gx,   regions,
                                     channels, range_channels, planes, size, bands};
    if (regions)
        MMK_LAUNCH(context, (find_places<T, Entries, C>), grid_of(ceil_div(regions * range_channels, scatter_warps)),
                   32 * scatter_warps, 0, s, boxes, numbers, result.extent[0], ranges, images);
    MMK_LAUNCH(context, (scatter_entries<T, Entries>), grid_of(ceil_div(planes * bands, scatter_warps)),
               32 * scatter_warps, 0, s);
    gx.finish();
}

} // namespace mmk::cuda
