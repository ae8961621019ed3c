#include "deform.bins.cuh"
#include "deform.cuh"
#include "packs.cuh"

namespace mmk::cuda {
namespace {

using namespace deform;

// Levels, and where points lie: T is what memory holds, all operands are dense.
template <class T> struct Points {
    using C = Compute<T>;
    int64_t queries, heads, levels, points, channels, pixels; // points of a level, pixels of all
    int64_t height[max_levels], width[max_levels], first[max_levels], first_cell[max_levels], cells;
    const T *locations, *weights; // of row = (sample * queries + query) * heads + head, each level and point

    Points(const Tensor& of_locations, const int64_t* shapes, int64_t channels_, const T* locations_, const T* weights_)
        : queries(of_locations.extent[1]), heads(of_locations.extent[2]), levels(of_locations.extent[3]),
          points(of_locations.extent[4]), channels(channels_), pixels(0), cells(0), locations(locations_),
          weights(weights_) {
        for (int64_t level = 0; level < levels; ++level) {
            height[level] = shapes[2 * level], width[level] = shapes[2 * level + 1];
            first[level] = pixels, first_cell[level] = cells;
            pixels += height[level] * width[level];
            cells += (height[level] + 1) * (width[level] + 1);
        }
    }
    // Of the point's number: level * points + point.
    MMK_MEMBER BilinearPlace<C> place(int64_t row, int64_t level, int64_t point) const {
        const T* const at = locations + (row * levels * points + point) * 2;
        const Vec<C> H(sampled_extent<C>(height[level])), W(sampled_extent<C>(width[level])), half(C(-0.5));
        return {fma(Vec<C>(widen(at[1])), H, half), fma(Vec<C>(widen(at[0])), W, half), H, W};
    }
    MMK_MEMBER C weight(int64_t row, int64_t point) const { return widen(weights[row * levels * points + point]); }
};

// ---- forward -------------------------------------------------------------------------------------------------------

// A thread has V neighbouring channels of one row.
template <class T, int V> __global__ void __launch_bounds__(threads)
    attend(Points<T> a, const T* value, T* y, Divisor by_pack, Divisor by_head, Divisor by_query, int64_t work) {
    using C = Compute<T>;
    for (int64_t i = int64_t(blockIdx.x) * threads + threadIdx.x; i < work; i += int64_t(gridDim.x) * threads) {
        int64_t row = i;
        const int64_t d = by_pack.take(row) * V;
        int64_t b = row;
        const int64_t head = by_head.take(b);
        by_query.take(b);
        const T* const from = value + (b * a.pixels * a.heads + head) * a.channels + d;
        const int64_t pixel = a.heads * a.channels;
        C total[V] = {}, chain[V] = {};
        int64_t point = 0, left = chunk_products;
        bool begun = false;
        const auto end_chunk = [&] {
#pragma unroll
            for (int k = 0; k < V; ++k) total[k] = begun ? total[k] + chain[k] : chain[k], chain[k] = C(0);
            begun = true, left = chunk_products;
        };
        for (int64_t level = 0; level < a.levels; ++level) {
            const T* const plane = from + a.first[level] * pixel;
            for (int64_t p = 0; p < a.points; ++p, ++point) {
                const BilinearPlace<C> at = a.place(row, level, point);
                const CornerOffsets corners(at, a.height[level], a.width[level], a.width[level] * pixel, pixel);
                const C weight = a.weight(row, point);
                const Vec<C> w[4] = {at.top * at.left, at.top * at.right, at.bottom * at.left, at.bottom * at.right};
                Pack<T, V> v[4];
#pragma unroll
                for (int corner = 0; corner < 4; ++corner) {
                    v[corner] = Pack<T, V>{};
                    if (corners.exists[corner]) v[corner] = pack_at<T, V>(plane + corners.at[corner]);
                }
#pragma unroll
                for (int k = 0; k < V; ++k)
                    chain[k] = fma_scalar(weight,
                                          bilinear_sample(w[0], w[1], w[2], w[3], Vec<C>(widen(v[0].at[k])),
                                                          Vec<C>(widen(v[1].at[k])), Vec<C>(widen(v[2].at[k])),
                                                          Vec<C>(widen(v[3].at[k])))
                                              .v,
                                          chain[k]);
                if (--left == 0 && !MMK_DEFECT(deform_one_chunk)) end_chunk();
            }
        }
        if (left < chunk_products || !begun) end_chunk();
        Pack<T, V> result;
#pragma unroll
        for (int k = 0; k < V; ++k) result.at[k] = narrow<T>(total[k] + C(0));
        store_pack(y + row * a.channels + d, result);
    }
}

template <class T, int V>
void launch_forward(Context& context, const Points<T>& a, const T* value, T* y, int64_t rows) {
    const int64_t work = rows * a.channels / V;
    MMK_LAUNCH(context, (attend<T, V>), grid_of(ceil_div(work, threads)), threads, 0, a, value, y,
               Divisor(a.channels / V), Divisor(a.heads), Divisor(a.queries), work);
}
template <class T> void forward(const MsDeformAttention& op, Context& context) {
    const Dense<T> value(context, op.value), locations(context, op.sampling_locations),
        weights(context, op.attention_weights);
    DenseOut<T> y(context, op.y);
    const Points<T> a(op.sampling_locations, op.spatial_shapes, op.value.extent[3], locations, weights);
    const int64_t rows = op.value.extent[0] * a.queries * a.heads;
    if (a.channels % wide_pack<T> == 0 && aligned(value.get(), 16) && aligned(y.get(), 16)) {
        context.chose("packs", "16 bytes of channels at a time");
        launch_forward<T, wide_pack<T>>(context, a, value.get(), y.get(), rows);
    } else {
        context.chose("elements", "channels that do not fill packs");
        launch_forward<T, 1>(context, a, value.get(), y.get(), rows);
    }
    y.finish();
}

// ---- the gradient of the values ------------------------------------------------------------------------------------

// Cells of [sample][head][level][-1 .. H - 1][-1 .. W - 1]; a point's key is its number in the order q, p.
template <class T> struct PointCells {
    Points<T> a;
    int64_t samples;
    Divisor by_point, by_level, by_head, by_query;

    MMK_MEMBER bool find(int64_t i, int64_t& cell, int64_t& key) const {
        int64_t row = i;
        const int64_t p = by_point.take(row), level = by_level.take(row);
        int64_t b = row;
        const int64_t head = by_head.take(b), q = by_query.take(b);
        const auto at = a.place(row, level, level * a.points + p);
        if (at.row.v == a.height[level]) return false;
        key = q * a.points + p;
        cell = (b * a.heads + head) * a.cells + a.first_cell[level] + (at.row.v + 1) * (a.width[level] + 1) +
               at.column.v + 1;
        return true;
    }
};

template <class T, int V> __global__ void __launch_bounds__(threads)
    gather_points(Points<T> a, Bins bins, const T* gy, T* gvalue, Divisor by_pack, Divisor by_head, Divisor by_pixel,
                  Divisor by_point, int64_t work) {
    using C = Compute<T>;
    for (int64_t i = int64_t(blockIdx.x) * threads + threadIdx.x; i < work; i += int64_t(gridDim.x) * threads) {
        int64_t b = i;
        const int64_t d = by_pack.take(b) * V, head = by_head.take(b), pixel = by_pixel.take(b);
        int64_t level = 0;
        while (level + 1 < a.levels && pixel >= a.first[level + 1] + (MMK_DEFECT(deform_level_start) ? 1 : 0)) ++level;
        // levels without pixels begin where the next one does
        const int64_t within = pixel - a.first[level], h = within / a.width[level], w = within % a.width[level];
        const int64_t row = a.width[level] + 1;
        const int64_t cell = (b * a.heads + head) * a.cells + a.first_cell[level] + h * row + w;
        C sum[V] = {};
        for_samples_of(bins, cell, row, [&](int64_t key, int corner) {
            int64_t q = key;
            const int64_t point = level * a.points + by_point.take(q);
            const int64_t query_row = (b * a.queries + q) * a.heads + head;
            const BilinearPlace<C> p = a.place(query_row, level, point);
            const C weight =
                ((corner / 2 ? p.bottom : p.top) * (corner % 2 ? p.right : p.left)).v * a.weight(query_row, point);
            const Pack<T, V> g = pack_at<T, V>(gy + query_row * a.channels + d);
#pragma unroll
            for (int k = 0; k < V; ++k) sum[k] = fma_scalar(weight, widen(g.at[k]), sum[k]);
        });
        Pack<T, V> result;
#pragma unroll
        for (int k = 0; k < V; ++k) result.at[k] = narrow<T>(sum[k] + C(0));
        store_pack(gvalue + ((b * a.pixels + pixel) * a.heads + head) * a.channels + d, result);
    }
}

template <class T, int V>
void launch_gather(Context& context, const Points<T>& a, const Bins& bins, const T* gy, T* gvalue, int64_t batch) {
    const int64_t work = batch * a.pixels * a.heads * a.channels / V;
    MMK_LAUNCH(context, (gather_points<T, V>), grid_of(ceil_div(work, threads)), threads, 0, a, bins, gy, gvalue,
               Divisor(a.channels / V), Divisor(a.heads), Divisor(a.pixels), Divisor(a.points > 0 ? a.points : 1),
               work);
}
template <class T> void value_gradient(const MsDeformAttentionValueGrad& op, Context& context) {
    const int64_t batch = op.gvalue.extent[0];
    const Dense<T> gy(context, op.gy), locations(context, op.sampling_locations),
        weights(context, op.attention_weights);
    DenseOut<T> gvalue(context, op.gvalue);
    const Points<T> a(op.sampling_locations, op.spatial_shapes, op.gvalue.extent[3], locations, weights);
    const int64_t samples = batch * a.queries * a.heads * a.levels * a.points;
    const auto by = [](int64_t n) { return Divisor(n > 0 ? n : 1); };
    const PointCells<T> cells{a, samples, by(a.points), by(a.levels), by(a.heads), by(a.queries)};
    const Bins bins = make_bins(context, cells, batch * a.heads * a.cells);
    context.chose("points listed by cell, pixels gather", "the only one");
    if (a.channels % wide_pack<T> == 0 && aligned(gy.get(), 16) && aligned(gvalue.get(), 16))
        launch_gather<T, wide_pack<T>>(context, a, bins, gy.get(), gvalue.get(), batch);
    else
        launch_gather<T, 1>(context, a, bins, gy.get(), gvalue.get(), batch);
    gvalue.finish();
}

// ---- the gradients of the points -----------------------------------------------------------------------------------

// Half a warp has a point: its lanes are those of the long sum over channels.
template <class T, bool few> __global__ void __launch_bounds__(threads)
    sum_points(Points<T> a, const T* value, const T* gy, T* glocations, T* gweights, Divisor by_point, Divisor by_level,
               Divisor by_head, Divisor by_query, int64_t work) {
    using C = Compute<T>;
    const int lane = int(threadIdx.x) % sum_lanes;
    const int64_t rounded = (work + 1) / 2 * 2; // whole warps join lanes
    for (int64_t i = (int64_t(blockIdx.x) * threads + threadIdx.x) / sum_lanes; i < rounded;
         i += int64_t(gridDim.x) * (threads / sum_lanes)) {
        const int64_t index = i < work ? i : work - 1;
        int64_t row = index;
        const int64_t p = by_point.take(row), level = by_level.take(row);
        int64_t b = row;
        const int64_t head = by_head.take(b), point = level * a.points + p;
        by_query.take(b);
        const BilinearPlace<C> at = a.place(row, level, point);
        const int64_t pixel = a.heads * a.channels;
        const CornerOffsets corners(at, a.height[level], a.width[level], a.width[level] * pixel, pixel);
        const T* const plane = value + ((b * a.pixels + a.first[level]) * a.heads + head) * a.channels;
        const T* const g = gy + row * a.channels;
        const Several<C, 3> sums = sum_channels<few, C>(
            lane, a.channels, [&](int64_t d) { return sample_terms(at, corners, plane + d, widen(g[d])); });
        if (i >= work || lane != 0) continue;
        gweights[index] = narrow<T>(sums.at[MMK_DEFECT(deform_wrong_sum) ? 1 : 2]);
        if (!glocations) continue;
        const C weight = a.weight(row, point);
        glocations[2 * index] = narrow<T>(weight * sums.at[1] * sampled_extent<C>(a.width[level]));
        glocations[2 * index + 1] = narrow<T>(weight * sums.at[0] * sampled_extent<C>(a.height[level]));
    }
}

template <class T> void points_gradient(const MsDeformAttentionPointsGrad& op, Context& context) {
    const Dense<T> value(context, op.value), locations(context, op.sampling_locations),
        weights(context, op.attention_weights), gy(context, op.gy);
    DenseOut<T> glocations(context, op.glocations), gweights(context, op.gweights);
    const Points<T> a(op.sampling_locations, op.spatial_shapes, op.value.extent[3], locations, weights);
    const int64_t work = op.gweights.size();
    const dim3 grid = grid_of(ceil_div(work, threads / sum_lanes));
    context.chose("half a warp for each point", "the only one");
    if (a.channels <= few_channels)
        MMK_LAUNCH(context, (sum_points<T, true>), grid, threads, 0, a, value.get(), gy.get(), glocations.get(),
                   gweights.get(), Divisor(a.points), Divisor(a.levels), Divisor(a.heads), Divisor(a.queries), work);
    else
        MMK_LAUNCH(context, (sum_points<T, false>), grid, threads, 0, a, value.get(), gy.get(), glocations.get(),
                   gweights.get(), Divisor(a.points), Divisor(a.levels), Divisor(a.heads), Divisor(a.queries), work);
    if (op.glocations) glocations.finish();
    gweights.finish();
}

} // namespace

void ms_deform_attention(const MsDeformAttention& op, Context& context) {
    visit_storage(op.y.dtype, [&](auto type) { forward<typename decltype(type)::type>(op, context); });
}
void ms_deform_attention_value_grad(const MsDeformAttentionValueGrad& op, Context& context) {
    visit_storage(op.gvalue.dtype, [&](auto type) { value_gradient<typename decltype(type)::type>(op, context); });
}
void ms_deform_attention_points_grad(const MsDeformAttentionPointsGrad& op, Context& context) {
    visit_storage(op.gweights.dtype, [&](auto type) { points_gradient<typename decltype(type)::type>(op, context); });
}

void ms_deform_attention_weights_grad(const MsDeformAttentionWeightsGrad& op, Context& context) {
    MsDeformAttentionPointsGrad both;
    both.value = op.value, both.sampling_locations = op.sampling_locations, both.gy = op.gy;
    both.gweights = op.gweights;
    for (int i = 0; i < 2 * max_levels; ++i) both.spatial_shapes[i] = op.spatial_shapes[i];
    visit_storage(op.gweights.dtype, [&](auto type) { points_gradient<typename decltype(type)::type>(both, context); });
}

} // namespace mmk::cuda
