// Maximum unpooling: each element from the last window that chose it, and back.
#include "../ops/pool.h"

#include "pool.chosen.cuh"

namespace mmk::cuda {
namespace {

// A warp meets the windows of its band 32 at a time: what a later group writes stays, and of one group the last lane's.
// Forward: to[element] = from[its last window], 0 where there is none. Backward: to[last window] = from[element]; the
// other windows are zero already.
template <class T, bool backward> __global__ void __launch_bounds__(32 * band_warps)
    unpool_bands(Chosen s, const T* from, T* to) {
    SHARED(int64_t, all_last, [band_warps][band]);
    SHARED(int, all_claims, [band_warps][band]);
    const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
    int64_t* const last = all_last[warp];
    int* const claims = all_claims[warp];
    const int64_t tasks = s.planes * s.count_of_bands;
    for (int64_t task = int64_t(blockIdx.x) * band_warps + warp; task < tasks;
         task += int64_t(gridDim.x) * band_warps) {
        int64_t plane = task;
        const int64_t low = s.bands.take(plane) * band, count = smaller(band, s.size - low);
        for (int i = lane; i < band; i += 32) last[i] = -1, claims[i] = -1;
        __syncwarp();
        for (int64_t group = 0; group < s.count_of_runs; group += 32) {
            const bool meets = meets_band(s, plane, group + lane, low, count);
            for (unsigned left = __ballot_sync(0xffffffffu, meets); left; left &= left - 1) {
                const int64_t first = (group + __ffs(int(left)) - 1) * run;
                for (int k = 0; k < run; k += 32) {
                    const int64_t window = first + k + lane;
                    const int64_t place = window < s.windows ? s.indices[plane * s.windows + window] - low : -1;
                    const bool chose = uint64_t(place) < uint64_t(count);
                    if (chose) atomicMax(&claims[place], lane);
                    if (!MMK_DEFECT(pool_unpool_claims)) __syncwarp();
                    const bool wins = chose && (claims[place] == lane || MMK_DEFECT(pool_unpool_any_lane));
                    __syncwarp();
                    if (wins) last[place] = window, claims[place] = -1;
                    __syncwarp();
                }
            }
        }
        for (int i = lane; i < count; i += 32) {
            const int64_t window = last[i], element = plane * s.size + low + i;
            if constexpr (backward) {
                if (window >= 0) to[plane * s.windows + window] = from[element];
            } else
                to[element] = window >= 0 ? from[plane * s.windows + window] : narrow<T>(0);
        }
        __syncwarp();
    }
}

void max_unpool(const MaxUnpool& op, Context& context) {
    visit_storage(op.y.dtype, [&](auto type) {
        using T = typename decltype(type)::type;
        const Dense<T> x(context, op.x);
        const Dense<int64_t> indices(context, op.indices);
        DenseOut<T> y(context, op.y);
        const Chosen s =
            find_chosen(context, indices, op.y.size(0, 2), op.x.size(2, op.x.rank), op.y.size(2, op.y.rank));
        MMK_LAUNCH(context, (unpool_bands<T, false>), grid_of_bands(s), 32 * band_warps, 0, s, x.get(), y.get());
        y.finish();
    });
}

} // namespace

void max_unpool1d(const MaxUnpool& op, Context& context) { max_unpool(op, context); }
void max_unpool2d(const MaxUnpool& op, Context& context) { max_unpool(op, context); }
void max_unpool3d(const MaxUnpool& op, Context& context) { max_unpool(op, context); }

void max_unpool_grad(const MaxUnpoolGrad& op, Context& context) {
    visit_storage(op.gx.dtype, [&](auto type) {
        using T = typename decltype(type)::type;
        const Dense<T> gy(context, op.gy);
        const Dense<int64_t> indices(context, op.indices);
        DenseOut<T> gx(context, op.gx);
        if (!MMK_DEFECT(pool_unpool_unfilled)) fill_zero(context, gx.get(), op.gx.size() * int64_t(sizeof(T)));
        if (op.gy.size() != 0) {
            const Chosen s =
                find_chosen(context, indices, op.gx.size(0, 2), op.gx.size(2, op.gx.rank), op.gy.size(2, op.gy.rank));
            MMK_LAUNCH(context, (unpool_bands<T, true>), grid_of_bands(s), 32 * band_warps, 0, s, gy.get(), gx.get());
        }
        gx.finish();
    });
}

} // namespace mmk::cuda
