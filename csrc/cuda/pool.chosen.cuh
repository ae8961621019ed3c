// What windows chose of a plane, for kernels of which a warp owns a band of elements, in shared memory, and meets the
// windows in their order. So that it need not read all of them, it is told the lowest and the highest index of every 128:
// those of a pooling lie within a few lines, and the bands together read them about twice.
#pragma once

#include "pool.windows.cuh"

namespace mmk::cuda {

inline constexpr int band_warps = 4, band = 512, run = 128;

struct Range {
    int64_t low, high;
};
struct Chosen {
    const int64_t* indices; // [planes][windows]
    Range* ranges;          // [planes][runs]
    int64_t planes, windows, size;
    Divisor runs, bands; // of a plane
    int64_t count_of_runs, count_of_bands;
};

// The ranges are made here; pool.scatter.cu.
Chosen find_chosen(Context& context, const int64_t* indices, int64_t planes, int64_t windows, int64_t size);
inline dim3 grid_of_bands(const Chosen& s) { return grid_of(ceil_div(s.planes * s.count_of_bands, band_warps)); }

// Whether this lane's run of a group of 32 meets the band.
__device__ inline bool meets_band(const Chosen& s, int64_t plane, int64_t run_of_lane, int64_t low, int64_t count) {
    if (run_of_lane >= s.count_of_runs) return false;
    const Range range = s.ranges[plane * s.count_of_runs + run_of_lane];
    return range.high >= low && range.low < low + count;
}

} // namespace mmk::cuda
