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
    bool channels_last;
    int64_t tiles_y, tiles_x, parts, part; // of a region: tiles of bins, parts of `part` channels

    MMK_MEMBER int64_t plane(int64_t c, int64_t p, int64_t q) const {
        return regions.rules.sensitive ? (c * regions.bins_y + p) * regions.bins_x + q : c;
    }
    MMK_MEMBER bool short_bins(int64_t r) const {
        const bool counted = regions.rules.sampling <= 0;
        return fits(regions.rows(r), counted) && fits(regions.columns(r), counted);
    }
};

// A block's task: bins of a region from (y, x) on, and its channels from `channel` on.
struct BinTile {
    int64_t region, image, y, x, channel;
    int rows, columns;
};
template <class T> MMK_PTX BinTile tile_of(const Means<T>& m, int64_t task) {
    const int64_t channel = task % m.parts * m.part, tiles = task / m.parts, region = tiles / m.tiles_x / m.tiles_y;
    const int64_t y = tiles / m.tiles_x % m.tiles_y * tile, x = tiles % m.tiles_x * tile;
    return {region,
            m.regions.image(region),
            y,
            x,
            channel,
            int(smaller(tile, m.regions.bins_y - y)),
            int(smaller(tile, m.regions.bins_x - x))};
}

// Which elements a tile's rows of bins take, then its columns, and with what weights.
template <class C> struct TileTables {
    int counts[2 * tile], places[2 * tile][most_taps];
    C weights[2 * tile][most_taps];

    // A thread a line; none of its bins if the region's image is not there.
    MMK_PTX void fill(const Regions<C>& regions, const BinTile& at) {
        const int line = int(threadIdx.x), k = line % tile;
        if (line >= 2 * tile) return;
        const bool row = line < tile;
        int n = 0;
        if (at.image >= 0 && k < (row ? at.rows : at.columns)) {
            const RegionAxis<C> axis = row ? regions.rows(at.region) : regions.columns(at.region);
            axis.for_taps((row ? at.y : at.x) + k, [&](int64_t place, C weight) {
                if (n < most_taps) places[line][n] = int(place), weights[line][n] = weight;
                ++n;
            });
        }
        counts[line] = n < most_taps ? n : most_taps;
    }
    // The mean of a row's and a column's bin: for each row that is taken, its columns are added first.
    template <class T, int V>
    MMK_PTX Pack<T, V> mean(const T* map, const Strides4& strides, int row, int column) const {
        C sum[V];
#pragma unroll
        for (int v = 0; v < V; ++v) sum[v] = C(0);
        for (int j = 0; j < counts[row]; ++j) {
            const T* const line = map + places[row][j] * strides.h;
            C part[V];
#pragma unroll
            for (int v = 0; v < V; ++v) part[v] = C(0);
            for (int k = 0; k < counts[column]; ++k) {
                const auto& taken = pack_at<T, V>(line + places[column][k] * strides.w);
                const C weight = weights[column][k];
#pragma unroll
                for (int v = 0; v < V; ++v) part[v] = fma_scalar(weight, widen(taken.at[v]), part[v]);
            }
            if (counts[column] == 0) continue;
            const C weight = weights[row][j];
#pragma unroll
            for (int v = 0; v < V; ++v) sum[v] = fma_scalar(weight, part[v], sum[v]);
        }
        Pack<T, V> rounded;
#pragma unroll
        for (int v = 0; v < V; ++v) rounded.at[v] = narrow<T>(sum[v]);
        return rounded;
    }
};

// A block makes a tile of bins for some channels of a region; who takes what stands in tables on chip.
template <class T, int V> __global__ void __launch_bounds__(threads, V == 1 && sizeof(T) < 8 ? 4 : 2)
    mean_of_bins(Means<T> m, int64_t tasks) {
    using C = Compute<T>;
    SHARED(TileTables<C>, tables, [1]);
    for (int64_t task = blockIdx.x; task < tasks; task += gridDim.x) {
        const BinTile at = tile_of(m, task);
        if (!m.regions.taken(at.region) || (at.image >= 0 && !m.short_bins(at.region))) continue;
        __syncthreads(); // the tables of the task before have been read
        tables[0].fill(m.regions, at);
        if (!MMK_DEFECT(roi_tables_unfinished)) __syncthreads();
        const int packs = int(smaller(m.part, m.channels - at.channel) / V) - (MMK_DEFECT(roi_last_channels) ? 1 : 0);
        const int bins = at.rows * at.columns;
        for (int i = threadIdx.x; i < packs * bins; i += threads) {
            const int bin = m.channels_last ? i / packs : i % bins, pack = m.channels_last ? i % packs : i / bins;
            const int p = bin / at.columns, q = bin % at.columns;
            const int column = tile + (MMK_DEFECT(roi_row_for_column) ? p : q);
            const int64_t c = at.channel + pack * V, plane = m.plane(c, at.y + p, at.x + q);
            const T* const map = m.x + m.x_strides.at(at.image < 0 ? 0 : at.image, plane, 0, 0);
            store_pack(m.y + m.y_strides.at(at.region, c, at.y + p, at.x + q),
                       tables[0].template mean<T, V>(map, m.x_strides, p, column));
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
                                        const Tensor& boxes_operand, const Tensor& y) {
    constexpr int V = wide_pack<T>;
    const Dense<Compute<T>> boxes(context, boxes_operand);
    Means<T> m{regions_of<T>(rules, boxes, x, y),
               static_cast<const T*>(x.data),
               static_cast<T*>(y.data),
               Strides4(x),
               Strides4(y),
               y.extent[1],
               has_channels_last(y),
               0,
               0,
               0,
               0};
    const bool packed =
        !rules.sensitive && has_channels_last(x) && has_packs_of_channels<T>(x) && has_packs_of_channels<T>(y);
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

template <class Op> void mean_of_map(const Op& op, Context& context, const RegionRules& rules) {
    visit_storage(op.y.dtype, [&](auto type) {
        mean_of_regions<typename decltype(type)::type>(context, rules, op.x, op.boxes, op.y);
    });
}

} // namespace

void roi_align(const RoiAlign& op, Context& context) { mean_of_map(op, context, sampling_rules(op)); }
void ps_roi_align(const PsRoiAlign& op, Context& context) { mean_of_map(op, context, sensitive_sampling_rules(op)); }
void ps_roi_pool(const PsRoiPool& op, Context& context) {
    mean_of_map(op, context, window_rules(op.spatial_scale, true));
}
// Every level writes the regions that are its own.
void multi_scale_roi_align(const MultiScaleRoiAlign& op, Context& context) {
    const Tensor* const maps[] = {&op.x0, &op.x1, &op.x2, &op.x3, &op.x4};
    visit_storage(op.y.dtype, [&](auto type) {
        using T = typename decltype(type)::type;
        for (int64_t k = 0; k < op.levels; ++k)
            mean_of_regions<T>(context, level_rules(op, k), *maps[k], op.boxes, op.y);
    });
}

} // namespace mmk::cuda
