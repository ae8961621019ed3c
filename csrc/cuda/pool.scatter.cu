// The gradient of maximum pooling and its transpose.
#include "../ops/pool.h"

#include "pool.chosen.cuh"

namespace mmk::cuda {
namespace {

__global__ void __launch_bounds__(32 * band_warps) find_ranges(Chosen s) {
    const int lane = int(threadIdx.x) % 32;
    const int64_t tasks = s.planes * s.count_of_runs;
    for (int64_t task = int64_t(blockIdx.x) * band_warps + threadIdx.x / 32; task < tasks;
         task += int64_t(gridDim.x) * band_warps) {
        int64_t plane = task;
        const int64_t first = s.runs.take(plane) * run;
        Range range{s.size, -1};
        for (int64_t i = first + lane; i < first + run && i < s.windows; i += 32) {
            const int64_t index = s.indices[plane * s.windows + i];
            if (uint64_t(index) >= uint64_t(s.size)) continue;
            range.low = smaller(range.low, index), range.high = larger(range.high, index);
        }
        for (int half = 16; half >= 1; half /= 2) {
            range.low = smaller(range.low, __shfl_xor_sync(0xffffffffu, range.low, half));
            range.high = larger(range.high, __shfl_xor_sync(0xffffffffu, range.high, half));
        }
        if (lane == 0) s.ranges[task] = range;
    }
}

// One warp adds 32 windows: `at` is the place in the band, -1 if the window did not choose from it. Each element takes
// the first of them, then the next: the rounds are as many as windows of the 32 that chose one element.
template <class C> __device__ inline void add_windows(C* sums, int* claims, int at, C gradient) {
    const int lane = int(threadIdx.x) % 32;
    while (__any_sync(0xffffffffu, at >= 0)) {
        if (at >= 0) atomicMin(&claims[at], lane);
        __syncwarp();
        const bool first = at >= 0 && claims[at] == lane;
        if (!MMK_DEFECT(pool_claim_order)) __syncwarp();
        if (first) {
            sums[at] = sums[at] + gradient;
            claims[at] = 32;
            at = -1;
        }
        __syncwarp();
    }
}

template <class T> __global__ void __launch_bounds__(32 * band_warps, 8) scatter_windows(Chosen s, const T* gy, T* gx) {
    using C = Compute<T>;
    SHARED(C, all_sums, [band_warps][band]);
    SHARED(int, all_claims, [band_warps][band]); // the lane that may add to an element; 32: none
    const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
    C* const sums = all_sums[warp];
    int* const claims = all_claims[warp];
    const int64_t tasks = s.planes * s.count_of_bands;
    for (int64_t task = int64_t(blockIdx.x) * band_warps + warp; task < tasks;
         task += int64_t(gridDim.x) * band_warps) {
        int64_t plane = task;
        const int64_t low = s.bands.take(plane) * band, count = smaller(band, s.size - low);
        for (int i = lane; i < band; i += 32) sums[i] = C(0), claims[i] = 32;
        __syncwarp();
        for (int64_t group = 0; group < s.count_of_runs; group += 32) {
            const bool meets = meets_band(s, plane, group + lane, low, count);
            for (unsigned left = __ballot_sync(0xffffffffu, meets); left; left &= left - 1) {
                const int64_t first = (group + __ffs(int(left)) - 1) * run;
                int at[run / 32];
                C gradient[run / 32];
#pragma unroll
                for (int k = 0; k < run / 32; ++k) {
                    const int64_t window = first + k * 32 + lane;
                    at[k] = -1;
                    if (window >= s.windows) continue;
                    const int64_t place = s.indices[plane * s.windows + window] - low;
                    if (uint64_t(place) >= uint64_t(count)) continue;
                    at[k] = int(place), gradient[k] = widen(gy[plane * s.windows + window]);
                }
#pragma unroll
                for (int k = 0; k < run / 32; ++k) add_windows(sums, claims, at[k], gradient[k]);
            }
        }
        __syncwarp();
        for (int i = lane; i < count; i += 32) gx[plane * s.size + low + i] = narrow<T>(sums[i]);
        __syncwarp();
    }
}

// An index outside the plane gives zero.
template <class T> struct Gather {
    Order4 order;
    Strides4 index_strides, y_strides;
    int64_t n, c, w; // strides of ggx, whose lines follow each other
    int64_t size;
    const T* ggx;
    const int64_t* indices;
    T* y;
};
template <class T> __global__ void __launch_bounds__(place_threads) gather_windows(Gather<T> g) {
    for_places(g.order, [&](const Place4& at) {
        const int64_t index = g.indices[g.index_strides.at(at.n, at.c, at.h, at.w)];
        T chosen = narrow<T>(0);
        if (uint64_t(index) < uint64_t(g.size)) chosen = g.ggx[at.n * g.n + at.c * g.c + index * g.w];
        g.y[g.y_strides.at(at.n, at.c, at.h, at.w)] = chosen;
    });
}

} // namespace

Chosen find_chosen(Context& context, const int64_t* indices, int64_t planes, int64_t windows, int64_t size) {
    const int64_t runs = ceil_div(windows, run), bands = ceil_div(size, band);
    const Chosen s{indices,
                   context.scratch<Range>(planes * runs),
                   planes,
                   windows,
                   size,
                   Divisor(larger(runs, 1)),
                   Divisor(larger(bands, 1)),
                   runs,
                   bands};
    if (runs) MMK_LAUNCH(context, find_ranges, grid_of(ceil_div(planes * runs, band_warps)), 32 * band_warps, 0, s);
    return s;
}

void max_pool2d_grad(const MaxPool2dGrad& op, Context& context) {
    visit_storage(op.gx.dtype, [&](auto type) {
        using T = typename decltype(type)::type;
        const int64_t planes = op.gx.size(0, 2), size = op.gx.size(2, 4), windows = op.gy.size(2, 4);
        const Dense<T> gy(context, op.gy);
        const Dense<int64_t> indices(context, op.indices);
        DenseOut<T> gx(context, op.gx);
        const Chosen s = find_chosen(context, indices, planes, windows, size);
        MMK_LAUNCH(context, (scatter_windows<T>), grid_of_bands(s), 32 * band_warps, 0, s, gy.get(), gx.get());
        gx.finish();
    });
}

void max_pool2d_gather(const MaxPool2dGather& op, Context& context) {
    visit_storage(op.y.dtype, [&](auto type) {
        using T = typename decltype(type)::type;
        // an index counts along lines: they have to follow each other
        const bool lines = op.ggx.extent[2] == 1 || op.ggx.stride[2] == op.ggx.stride[3] * op.ggx.extent[3];
        const Tensor ggx = lines ? op.ggx : pack(context, op.ggx);
        const int64_t w = ggx.extent[3] > 1 ? ggx.stride[3] : ggx.stride[2]; // of one column, lines are elements
        const Gather<T> g{Order4(op.y, has_channels_last(op.y), 1),
                          Strides4(op.indices),
                          Strides4(op.y),
                          ggx.stride[0],
                          ggx.stride[1],
                          w,
                          ggx.size(2, 4),
                          static_cast<const T*>(ggx.data),
                          static_cast<const int64_t*>(op.indices.data),
                          static_cast<T*>(op.y.data)};
        MMK_LAUNCH(context, (gather_windows<T>), grid_of_places(g.order), place_threads, 0, g);
    });
}

} // namespace mmk::cuda
