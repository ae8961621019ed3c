// Stochastic pooling.
#include "../ops/pool.h"

#include "../core/philox.h"
#include "pool.volumes.cuh"

namespace mmk::cuda {
namespace {

struct Draw {
    const uint64_t* keys;
    int64_t key_stride, outputs[3], channels;
    int64_t* indices; // null: not wanted
    Strides5 index_strides;

    // u in (0, 1] of channel c's result at this place.
    __device__ float uniform(const Place5& place, int64_t c) const {
        const int64_t i = ((c * outputs[0] + place.at[0]) * outputs[1] + place.at[1]) * outputs[2] + place.at[2];
        float four[4];
        philox_uniform(keys[MMK_DEFECT(pool_draw_first_key) ? 0 : place.n * key_stride], uint64_t(i) / 4, four);
        const int k = MMK_DEFECT(pool_draw_first_word) ? 0 : int(i % 4); // by selection: indexed registers are memory
        return 1.0f - (k == 0 ? four[0] : k == 1 ? four[1] : k == 2 ? four[2] : four[3]);
    }
};

template <class T, int V> __global__ void __launch_bounds__(place_threads) draw_elements(Volume<T> v, Draw draw) {
    using C = Compute<T>;
    for_results(v, [&](const Place5& place, const Reach(&reach)[3]) {
        Sums<C, V> threshold;
        each_read(place, reach, v.from_strides, [&](int64_t at, int64_t, int64_t, int64_t) {
            const Pack<T, V>& taps = pack_at<T, V>(v.from + at);
#pragma unroll
            for (int k = 0; k < V; ++k) threshold.at[k] = threshold.at[k] + relu(C(widen(taps.at[k])));
        });
#pragma unroll
        for (int k = 0; k < V; ++k) threshold.at[k] = C(draw.uniform(place, place.c + k)) * threshold.at[k];
        Sums<C, V> running, drawn;
        int64_t chosen[V];
#pragma unroll
        for (int k = 0; k < V; ++k) chosen[k] = -1;
        each_read(place, reach, v.from_strides, [&](int64_t at, int64_t d, int64_t h, int64_t w) {
            const Pack<T, V>& taps = pack_at<T, V>(v.from + at);
            const int64_t i = (d * v.tables.height + h) * v.tables.width + w;
#pragma unroll
            for (int k = 0; k < V; ++k) {
                const C tap = widen(taps.at[k]), weight = relu(tap);
                running.at[k] = running.at[k] + weight;
                const bool takes = (weight > C(0) && running.at[k] >= threshold.at[k]) || tap != tap;
                if ((chosen[k] < 0 || MMK_DEFECT(pool_draw_last)) && takes) chosen[k] = i, drawn.at[k] = tap;
            }
        });
        drawn.store(v.to + place.in(v.to_strides));
        if (draw.indices)
#pragma unroll
            for (int k = 0; k < V; ++k)
                draw.indices[place.in(draw.index_strides) + k * draw.index_strides.c] = chosen[k];
    });
}

template <class T, int V> __global__ void __launch_bounds__(place_threads) expect_elements(Volume<T> v) {
    using C = Compute<T>;
    for_results(v, [&](const Place5& place, const Reach(&reach)[3]) {
        Sums<C, V> squares, sum;
        each_read(place, reach, v.from_strides, [&](int64_t at, int64_t, int64_t, int64_t) {
            const Pack<T, V>& taps = pack_at<T, V>(v.from + at);
#pragma unroll
            for (int k = 0; k < V; ++k) {
                const C weight = relu(C(widen(taps.at[k])));
                squares.at[k] = squares.at[k] + weight * weight, sum.at[k] = sum.at[k] + weight;
            }
        });
#pragma unroll
        for (int k = 0; k < V; ++k) squares.at[k] = sum.at[k] == C(0) ? C(0) : squares.at[k] / sum.at[k];
        squares.store(v.to + place.in(v.to_strides));
    });
}

void stochastic_pool(const StochasticPool& op, Context& context) {
    PoolAxis axes[3];
    window_axes(op, op.x, op.y, axes);
    const Tables tables = make_tables(context, axes, false);
    const Tensor x = as_volume(op.x), y = as_volume(op.y);
    const Draw draw{static_cast<const uint64_t*>(op.keys.data),
                    op.keys.stride[0],
                    {axes[0].outputs, axes[1].outputs, axes[2].outputs},
                    y.extent[1],
                    static_cast<int64_t*>(op.indices.data),
                    op.indices ? Strides5(as_volume(op.indices)) : Strides5()};
    visit_storage(y.dtype, [&](auto type) {
        using T = typename decltype(type)::type;
        const bool packs = in_packs<T>(context, x, y);
        const Volume<T> v = volume_of<T>(tables, x, y, packs);
        launch_packs<T>(packs, [&](auto pack) {
            constexpr int V = decltype(pack)::value;
            if (op.training)
                MMK_LAUNCH(context, (draw_elements<T, V>), grid_of_results(v.order), place_threads, 0, v, draw);
            else
                MMK_LAUNCH(context, (expect_elements<T, V>), grid_of_results(v.order), place_threads, 0, v);
        });
    });
}

} // namespace

void stochastic_pool1d(const StochasticPool& op, Context& context) { stochastic_pool(op, context); }
void stochastic_pool2d(const StochasticPool& op, Context& context) { stochastic_pool(op, context); }
void stochastic_pool3d(const StochasticPool& op, Context& context) { stochastic_pool(op, context); }

} // namespace mmk::cuda
