// Means over the bins of regions: RoI align, position-sensitive RoI align and pooling.
#include "roi.cuh"

namespace mmk::cuda {
namespace {

constexpr int threads = 256;
constexpr int tile = 16;         // bins of a block along an axis
constexpr int most_taps = 32;    // of a bin that are kept on chip
constexpr int block_bins = 4096; // outputs of a block, about: what pays for its tables

// Whether the bins of a region along an axis take no more elements than tables hold: samples of a length are at most an
// element apart, so n of them lie between n + 2 elements.
template <class B> MMK_INLINE bool fits(const RegionAxis<B>& axis, bool counted) {
    if (axis.windows) return axis.bin <= B(most_taps - 2);
    return axis.count <= most_taps / 2 || (counted && axis.count <= most_taps - 2);
}

template <class T> struct Means {
    Regions<Compute<T>> regions;
    const T* x;
    T* y;
    Strides4 x_strides, y_strides;
    int64_t channels;
    bool sensitive, channels_last;
    int64_t tiles_y, tiles_x, parts, part; // of a region: tiles of bins, parts of `part` channels

    MMK_MEMBER int64_t plane(int64_t c, int64_t p, int64_t q) const {
        return sensitive ? (c * regions.bins_y + p) * regions.bins_x + q : c;
    }
    MMK_MEMBER bool short_bins(int64_t r) const {
        const bool counted = regions.rules.sampling <= 0;
        return fits(regions.rows(r), counted) && fits(regions.columns(r), counted);
    }
};

// A block makes a tile of bins for some channels of a region; who takes what stands in tables on chip.
template <class T, int V> __global__ void __launch_bounds__(threads, V == 1 && sizeof(T) < 8 ? 4 : 2)
    mean_of_bins(Means<T> m, int64_t tasks) {
    using C = Compute<T>;
    SHARED(int, counts, [2 * tile]);
    SHARED(int, places, [2 * tile][most_taps]);
    SHARED(C, weights, [2 * tile][most_taps]);
    const Regions<C>& regions = m.regions;
    for (int64_t task = blockIdx.x; task < tasks; task += gridDim.x) {
        int64_t rest = task / m.parts;
        const int64_t first = task % m.parts * m.part, tile_x = rest % m.tiles_x * tile;
        rest /= m.tiles_x;
        const int64_t r = rest / m.tiles_y, tile_y = rest % m.tiles_y * tile;
        if (!regions.taken(r)) continue;
        const int64_t image = regions.image(r);
        if (image >= 0 && !m.short_bins(r)) continue;
        const int rows = int(smaller(tile, regions.bins_y - tile_y)),
                  columns = int(smaller(tile, regions.bins_x - tile_x));
        __syncthreads(); // the tables of the task before have been read
        if (threadIdx.x < 2 * tile) {
            const int k = int(threadIdx.x) % tile;
            const bool row = int(threadIdx.x) < tile;
            int n = 0;
            if (image >= 0 && k < (row ? rows : columns)) {
                const RegionAxis<C> axis = row ? regions.rows(r) : regions.columns(r);
                axis.for_taps((row ? tile_y : tile_x) + k, [&](int64_t at, C weight) {
                    if (n < most_taps) places[threadIdx.x][n] = int(at), weights[threadIdx.x][n] = weight;
                    ++n;
                });
            }
            counts[threadIdx.x] = n < most_taps ? n : most_taps;
        }
        if (!MMK_DEFECT(roi_tables_unfinished)) __syncthreads();
        const int packs = int(smaller(m.part, m.channels - first) / V) - (MMK_DEFECT(roi_last_channels) ? 1 : 0);
        const int bins = rows * columns;
        for (int i = threadIdx.x; i < packs * bins; i += threads) {
            const int bin = m.channels_last ? i / packs : i % bins, pack = m.channels_last ? i % packs : i / bins;
            const int p = bin / columns, q = bin % columns, column = tile + (MMK_DEFECT(roi_row_for_column) ? p : q);
            const int64_t c = first + pack * V;
            const T* const map = m.x + m.x_strides.at(image < 0 ? 0 : image, m.plane(c, tile_y + p, tile_x + q), 0, 0);
            C sum[V];
#pragma unroll
            for (int v = 0; v < V; ++v) sum[v] = C(0);
            for (int j = 0; j < counts[p]; ++j) {
                const T* const line = map + places[p][j] * m.x_strides.h;
                C part[V];
#pragma unroll
                for (int v = 0; v < V; ++v) part[v] = C(0);
                for (int k = 0; k < counts[column]; ++k) {
                    const auto& taken = pack_at<T, V>(line + places[column][k] * m.x_strides.w);
                    const C weight = weights[column][k];
#pragma unroll
                    for (int v = 0; v < V; ++v) part[v] = fma_scalar(weight, widen(taken.at[v]), part[v]);
                }
                if (counts[column] == 0) continue;
                const C weight = weights[p][j];
#pragma unroll
                for (int v = 0; v < V; ++v) sum[v] = fma_scalar(weight, part[v], sum[v]);
            }
            Pack<T, V> rounded;
#pragma unroll
            for (int v = 0; v < V; ++v) rounded.at[v] = narrow<T>(sum[v]);
            store_pack(m.y + m.y_strides.at(r, c, tile_y + p, tile_x + q), rounded);
        }
    }
}

// Regions whose bins take more than tables hold: every thread walks the samples itself.
template <class T> __global__ void __launch_bounds__(threads, 2) mean_of_long_bins(Means<T> m, int64_t tasks) {
    using C = Compute<T>;
    const Regions<C>& regions = m.regions;
    const int64_t bins = regions.bins_y * regions.bins_x;
    for (int64_t task = blockIdx.x; task < tasks; task += gridDim.x) {
        const int64_t r = task / m.parts, first = task % m.parts * m.part, image = regions.image(r);
        if (image < 0 || !regions.taken(r) || m.short_bins(r)) continue;
        const RegionAxis<C> rows = regions.rows(r), columns = regions.columns(r);
        for (int64_t i = threadIdx.x; i < smaller(m.part, m.channels - first) * bins; i += threads) {
            const int64_t c = first + i / bins, p = i % bins / regions.bins_x, q = i % regions.bins_x;
            const T* const map = m.x + m.x_strides.at(image, m.plane(c, p, q), 0, 0);
            C sum = C(0);
            rows.for_taps(p, [&](int64_t h, C row_weight) {
                const T* const line = map + h * m.x_strides.h;
                C part = C(0);
                bool any = false;
                columns.for_taps(q, [&](int64_t w, C weight) {
                    part = fma_scalar(weight, widen(line[w * m.x_strides.w]), part);
                    any = true;
                });
                if (any) sum = fma_scalar(row_weight, part, sum);
            });
            m.y[m.y_strides.at(r, c, p, q)] = narrow<T>(sum);
        }
    }
}

template <class T> void mean_of_regions(Context& context, const RegionRules& rules, const Tensor& x,
                                        const Tensor& boxes_operand, const Tensor& y, bool sensitive) {
    constexpr int V = wide_pack<T>;
    const Dense<Compute<T>> boxes(context, boxes_operand);
    Means<T> m{regions_of<T>(rules, boxes, x, y),
               static_cast<const T*>(x.data),
               static_cast<T*>(y.data),
               Strides4(x),
               Strides4(y),
               y.extent[1],
               sensitive,
               has_channels_last(y),
               0,
               0,
               0,
               0};
    const bool packed =
        !sensitive && has_channels_last(x) && has_packs_of_channels<T>(x) && has_packs_of_channels<T>(y);
    m.channels_last = m.channels_last || packed;
    m.tiles_y = ceil_div(y.extent[2], tile), m.tiles_x = ceil_div(y.extent[3], tile);
    const int64_t bins = smaller(tile, y.extent[2]) * smaller(tile, y.extent[3]);
    m.part = ceil_div(larger(block_bins / bins, 1), V) * V;
    m.parts = ceil_div(m.channels, m.part);
    const int64_t tasks = y.extent[0] * m.tiles_y * m.tiles_x * m.parts;
    if (packed) {
        context.chose("packed", "x is channels-last, 16 bytes of channels at a time");
        MMK_LAUNCH(context, (mean_of_bins<T, V>), grid_of(tasks), threads, 0, m, tasks);
    } else {
        context.chose("elements", "a bin of a channel per thread");
        MMK_LAUNCH(context, (mean_of_bins<T, 1>), grid_of(tasks), threads, 0, m, tasks);
    }
    if (!rules.windows && rules.sampling > 0 && rules.sampling <= most_taps / 2) return;
    const int64_t far_tasks = y.extent[0] * m.parts;
    MMK_LAUNCH(context, (mean_of_long_bins<T>), grid_of(far_tasks), threads, 0, m, far_tasks);
}

} // namespace

void roi_align(const RoiAlign& op, Context& context) {
    visit_storage(op.y.dtype, [&](auto type) {
        using T = typename decltype(type)::type;
        mean_of_regions<T>(context, sampling_rules(op.spatial_scale, op.sampling_ratio, op.aligned != 0), op.x,
                           op.boxes, op.y, false);
    });
}
void ps_roi_align(const PsRoiAlign& op, Context& context) {
    visit_storage(op.y.dtype, [&](auto type) {
        using T = typename decltype(type)::type;
        mean_of_regions<T>(context, sampling_rules(op.spatial_scale, op.sampling_ratio, true), op.x, op.boxes, op.y,
                           true);
    });
}
void ps_roi_pool(const PsRoiPool& op, Context& context) {
    visit_storage(op.y.dtype, [&](auto type) {
        using T = typename decltype(type)::type;
        mean_of_regions<T>(context, window_rules(op.spatial_scale, true), op.x, op.boxes, op.y, true);
    });
}
// Every level writes the regions that are its own.
void multi_scale_roi_align(const MultiScaleRoiAlign& op, Context& context) {
    const Tensor* const maps[] = {&op.x0, &op.x1, &op.x2, &op.x3, &op.x4};
    visit_storage(op.y.dtype, [&](auto type) {
        using T = typename decltype(type)::type;
        for (int64_t k = 0; k < op.levels; ++k)
            mean_of_regions<T>(context, level_rules(op, k), *maps[k], op.boxes, op.y, false);
    });
}

} // namespace mmk::cuda
