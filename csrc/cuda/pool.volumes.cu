// Maximum and average pooling of lines and volumes, adaptive pooling, and the gradient of any average.
#include "../ops/pool.h"

#include "pool.volumes.cuh"

namespace mmk::cuda {
namespace {

struct TableWork {
    PoolAxis axes[3];
    Reach* reach[3];
    int64_t* counted[3];
    int64_t results[3];
    bool backward, count_include_pad;
};
__global__ void __launch_bounds__(place_threads) fill_tables(TableWork t) {
    const int64_t first = int64_t(blockIdx.x) * place_threads + threadIdx.x, step = int64_t(gridDim.x) * place_threads;
    for (int k = 0; k < 3; ++k) {
        const PoolAxis axis = t.axes[k];
        for (int64_t i = first; i < t.results[k] - (MMK_DEFECT(pool_table_end) ? 1 : 0); i += step)
            t.reach[k][i] = t.backward ? axis.read_by(i) : axis.reads(i);
        for (int64_t i = first; i < axis.outputs; i += step) t.counted[k][i] = axis.counted(i, t.count_include_pad);
    }
}

// A window that counts for nothing has the sum 0: any divisor will do.
template <class C>
__device__ inline C divisor_of(const Tables& t, int64_t divisor_override, int64_t o, int64_t p, int64_t q) {
    const int64_t n = divisor_override ? divisor_override : t.counted[0][o] * t.counted[1][p] * t.counted[2][q];
    return n ? C(n) : C(1);
}

template <class T, int V> __global__ void __launch_bounds__(place_threads)
    average_volumes(Volume<T> v, int64_t divisor_override) {
    using C = Compute<T>;
    for_results(v, [&](const Place5& place, const Reach(&reach)[3]) {
        Sums<C, V> sum;
        each_read(place, reach, v.from_strides,
                  [&](int64_t at, int64_t, int64_t, int64_t) { sum.add(pack_at<T, V>(v.from + at)); });
        const C divisor = divisor_of<C>(v.tables, divisor_override, place.at[0], place.at[1], place.at[2]);
#pragma unroll
        for (int k = 0; k < V; ++k) sum.at[k] = sum.at[k] / divisor;
        sum.store(v.to + place.in(v.to_strides));
    });
}

// Adaptive windows of more than chunk_taps elements: a thread per chunk of each result, then a thread per result.
// Chunk k of all results follows chunk k - 1; windows that have fewer than `chunks` end with +0, which changes nothing.
template <class T, int V> __global__ void __launch_bounds__(place_threads)
    sum_chunks(Volume<T> v, int64_t chunks, Compute<T>* sums) {
    using C = Compute<T>;
    const Strides5& s = v.from_strides;
    const int64_t results = v.order.count;
    for (int64_t i = int64_t(blockIdx.x) * place_threads + threadIdx.x; i < results * chunks;
         i += int64_t(gridDim.x) * place_threads) {
        const Place5 place = v.order.place(i % results);
        const Reach reach[3] = {v.tables.reach[0][place.at[0]], v.tables.reach[1][place.at[1]],
                                v.tables.reach[2][place.at[2]]};
        const T* const base = v.from + place.n * s.n + place.c * s.c;
        const int64_t begin = i / results * chunk_taps, taps = reach[0].count * reach[1].count * reach[2].count;
        Sums<C, V> sum;
        each_run(reach, begin, smaller(begin + chunk_taps, taps), [&](int64_t d, int64_t h, int64_t w, int64_t n) {
            const T* const from = base + d * s.axis[0] + h * s.axis[1] + w * s.axis[2];
#pragma unroll 4
            for (int64_t m = 0; m < n; ++m) sum.add(pack_at<T, V>(from + m * s.axis[2]));
        });
#pragma unroll
        for (int k = 0; k < V; ++k) sums[i * V + k] = sum.at[k];
    }
}
template <class T, int V> __global__ void __launch_bounds__(place_threads)
    add_chunks(Volume<T> v, int64_t chunks, const Compute<T>* sums) {
    using C = Compute<T>;
    const int64_t results = v.order.count;
    for (int64_t i = int64_t(blockIdx.x) * place_threads + threadIdx.x; i < results;
         i += int64_t(gridDim.x) * place_threads) {
        Sums<C, V> sum;
#pragma unroll
        for (int k = 0; k < V; ++k) sum.at[k] = sums[i * V + k];
#pragma unroll 4
        for (int64_t chunk = 1; chunk < chunks - (MMK_DEFECT(pool_last_chunk) ? 1 : 0); ++chunk)
#pragma unroll
            for (int k = 0; k < V; ++k) sum.at[k] = sum.at[k] + sums[(chunk * results + i) * V + k];
        const Place5 place = v.order.place(i);
        const C divisor = divisor_of<C>(v.tables, 0, place.at[0], place.at[1], place.at[2]);
#pragma unroll
        for (int k = 0; k < V; ++k) sum.at[k] = sum.at[k] / divisor;
        sum.store(v.to + place.in(v.to_strides));
    }
}

// from: gy.
template <class T, int V> __global__ void __launch_bounds__(place_threads, 2)
    spread_averages(Volume<T> v, int64_t divisor_override) {
    using C = Compute<T>;
    for_results(v, [&](const Place5& place, const Reach(&reach)[3]) {
        Sums<C, V> sum;
        each_read<1>(place, reach, v.from_strides, [&](int64_t at, int64_t o, int64_t p, int64_t q) {
            if (MMK_DEFECT(pool_volume_last_window) && q > 1) return;
            sum.add_quotients(pack_at<T, V>(v.from + at), divisor_of<C>(v.tables, divisor_override, o, p, q));
        });
        sum.store(v.to + place.in(v.to_strides));
    });
}

// indices: null if they are not wanted.
template <class T, int V> __global__ void __launch_bounds__(place_threads)
    maximum_volumes(Volume<T> v, int64_t* indices, Strides5 index_strides) {
    using C = Compute<T>;
    for_results(v, [&](const Place5& place, const Reach(&reach)[3]) {
        C best[V];
        int64_t chosen[V];
        const bool none = reach[0].count == 0 || reach[1].count == 0 || reach[2].count == 0;
        const auto number = [&](int64_t d, int64_t h, int64_t w) {
            return (d * v.tables.height + h) * v.tables.width + w;
        };
#pragma unroll
        for (int k = 0; k < V; ++k) {
            best[k] = C(-__builtin_inf());
            chosen[k] = none ? -1 : number(reach[0].begin, reach[1].begin, reach[2].begin);
        }
        each_read(place, reach, v.from_strides, [&](int64_t at, int64_t d, int64_t h, int64_t w) {
            const Pack<T, V>& taps = pack_at<T, V>(v.from + at);
            const int64_t i = number(d, h, MMK_DEFECT(pool_volume_number) ? 0 : w);
#pragma unroll
            for (int k = 0; k < V; ++k) {
                const C tap = widen(taps.at[k]);
                if (tap > best[k] || (tap != tap && best[k] == best[k])) best[k] = tap, chosen[k] = i;
            }
        });
        Pack<T, V> result;
#pragma unroll
        for (int k = 0; k < V; ++k) result.at[k] = narrow<T>(best[k] + C(0));
        store_pack(v.to + place.in(v.to_strides), result);
        if (indices)
#pragma unroll
            for (int k = 0; k < V; ++k) indices[place.in(index_strides) + k * index_strides.c] = chosen[k];
    });
}

void launch_average(Context& context, const Tables& tables, const Tensor& inputs, const Tensor& outputs,
                    int64_t divisor) {
    const Tensor x = as_volume(inputs), y = as_volume(outputs);
    visit_storage(y.dtype, [&](auto type) {
        using T = typename decltype(type)::type;
        const bool packs = in_packs<T>(context, x, y);
        const Volume<T> v = volume_of<T>(tables, x, y, packs);
        launch_packs<T>(packs, [&](auto pack) {
            MMK_LAUNCH(context, (average_volumes<T, decltype(pack)::value>), grid_of_results(v.order), place_threads, 0,
                       v, divisor);
        });
    });
}
void launch_chunks(Context& context, const Tables& tables, const Tensor& inputs, const Tensor& outputs,
                   int64_t chunks) {
    const Tensor x = as_volume(inputs), y = as_volume(outputs);
    visit_storage(y.dtype, [&](auto type) {
        using T = typename decltype(type)::type;
        const bool packs = in_packs<T>(context, x, y);
        const Volume<T> v = volume_of<T>(tables, x, y, packs);
        Compute<T>* const sums = context.scratch<Compute<T>>(y.size() * chunks);
        const dim3 grid = grid_of(ceil_div(v.order.count * chunks, place_threads));
        launch_packs<T>(packs, [&](auto pack) {
            MMK_LAUNCH(context, (sum_chunks<T, decltype(pack)::value>), grid, place_threads, 0, v, chunks, sums);
            MMK_LAUNCH(context, (add_chunks<T, decltype(pack)::value>), grid_of_results(v.order), place_threads, 0, v,
                       chunks, static_cast<const Compute<T>*>(sums));
        });
    });
}
void launch_gradient(Context& context, const Tables& tables, const Tensor& gradients, const Tensor& result,
                     int64_t divisor) {
    const Tensor gy = as_volume(gradients), gx = as_volume(result);
    visit_storage(gx.dtype, [&](auto type) {
        using T = typename decltype(type)::type;
        const bool packs = in_packs<T>(context, gy, gx);
        const Volume<T> v = volume_of<T>(tables, gy, gx, packs);
        launch_packs<T>(packs, [&](auto pack) {
            MMK_LAUNCH(context, (spread_averages<T, decltype(pack)::value>), grid_of_results(v.order), place_threads, 0,
                       v, divisor);
        });
    });
}
void launch_maximum(Context& context, const Tables& tables, const Tensor& inputs, const Tensor& outputs,
                    const Tensor& chosen) {
    const Tensor x = as_volume(inputs), y = as_volume(outputs);
    visit_storage(y.dtype, [&](auto type) {
        using T = typename decltype(type)::type;
        const bool packs = in_packs<T>(context, x, y);
        const Volume<T> v = volume_of<T>(tables, x, y, packs);
        const Strides5 index_strides = chosen ? Strides5(as_volume(chosen)) : Strides5();
        launch_packs<T>(packs, [&](auto pack) {
            MMK_LAUNCH(context, (maximum_volumes<T, decltype(pack)::value>), grid_of_results(v.order), place_threads, 0,
                       v, static_cast<int64_t*>(chosen.data), index_strides);
        });
    });
}

template <class Op> void average(const Op& op, Context& context) {
    PoolAxis axes[3];
    window_axes(op, op.x, op.y, axes);
    const Tables tables = make_tables(context, axes, false, op.count_include_pad != 0);
    launch_average(context, tables, op.x, op.y, op.divisor_override);
}
void adaptive_average(const AdaptiveAvgPool& op, Context& context) {
    const int rank = op.x.rank - 2;
    PoolAxis axes[3];
    adaptive_axes(op.x, op.y, axes);
    int64_t taps = 1;
    for (const PoolAxis& axis : axes) {
        int64_t most = 0;
        for (int64_t i = 0; i < axis.outputs; ++i) most = larger(most, axis.reads(i).count);
        taps *= most;
    }
    if (taps > chunk_taps)
        return launch_chunks(context, make_tables(context, axes, false), op.x, op.y, ceil_div(taps, chunk_taps));
    if (op.y.size(2, op.y.rank) == 1 && op.x.contiguous() && op.y.contiguous()) { // one window: the same sum
        AvgPool2d whole{op.x, op.y, {}, {1, 1}, {}, {}, {1, 1}};
        whole.x.rank = whole.y.rank = 4;
        const int64_t width = op.x.extent[1 + rank], height = op.x.size(2, 1 + rank);
        whole.x.extent[2] = whole.kernel[0] = height, whole.x.extent[3] = whole.kernel[1] = width;
        whole.y.extent[2] = whole.y.extent[3] = 1;
        whole.x = contiguous_like(whole.x), whole.y = contiguous_like(whole.y);
        return avg_pool2d(whole, context);
    }
    launch_average(context, make_tables(context, axes, false), op.x, op.y, 0);
}
void adaptive_maximum(const AdaptiveMaxPool& op, Context& context) {
    PoolAxis axes[3];
    adaptive_axes(op.x, op.y, axes);
    launch_maximum(context, make_tables(context, axes, false), op.x, op.y, op.indices);
}

} // namespace

Tables make_tables(Context& context, const PoolAxis (&axes)[3], bool backward, bool count_include_pad) {
    TableWork work{{axes[0], axes[1], axes[2]}, {}, {}, {}, backward, count_include_pad};
    Tables tables{{}, {}, backward ? axes[1].outputs : axes[1].extent, backward ? axes[2].outputs : axes[2].extent};
    int64_t most = 1;
    for (int k = 0; k < 3; ++k) {
        work.results[k] = backward ? axes[k].extent : axes[k].outputs;
        tables.reach[k] = work.reach[k] = context.scratch<Reach>(work.results[k]);
        tables.counted[k] = work.counted[k] = context.scratch<int64_t>(axes[k].outputs);
        most = larger(most, larger(work.results[k], axes[k].outputs));
    }
    MMK_LAUNCH(context, fill_tables, grid_of(ceil_div(most, place_threads)), place_threads, 0, work);
    return tables;
}

void max_pool1d(const MaxPool& op, Context& context) {
    const MaxPool2d plane{as_plane(op.x),     as_plane(op.y),    op.indices ? as_plane(op.indices) : Tensor(),
                          {1, op.kernel[0]},  {1, op.stride[0]}, {0, op.padding[0]},
                          {1, op.dilation[0]}};
    max_pool2d(plane, context);
}
void max_pool3d(const MaxPool& op, Context& context) {
    PoolAxis axes[3];
    window_axes(op, op.x, op.y, axes);
    launch_maximum(context, make_tables(context, axes, false), op.x, op.y, op.indices);
}
void avg_pool1d(const AvgPool& op, Context& context) {
    const AvgPool2d plane{as_plane(op.x),      as_plane(op.y),       {1, op.kernel[0]},
                          {1, op.stride[0]},   {0, op.padding[0]},   {0, op.padding_after[0]},
                          {1, op.dilation[0]}, op.count_include_pad, op.divisor_override};
    avg_pool2d(plane, context);
}
void avg_pool3d(const AvgPool& op, Context& context) { average(op, context); }
void avg_pool2d_of_any_windows(const AvgPool2d& op, Context& context) { average(op, context); }
void avg_pool_grad(const AvgPoolGrad& op, Context& context) {
    PoolAxis axes[3];
    window_axes(op, op.gx, op.gy, axes);
    launch_gradient(context, make_tables(context, axes, true, op.count_include_pad != 0), op.gy, op.gx,
                    op.divisor_override);
}

void adaptive_avg_pool1d(const AdaptiveAvgPool& op, Context& context) { adaptive_average(op, context); }
void adaptive_avg_pool2d(const AdaptiveAvgPool& op, Context& context) { adaptive_average(op, context); }
void adaptive_avg_pool3d(const AdaptiveAvgPool& op, Context& context) { adaptive_average(op, context); }
void adaptive_avg_pool_grad(const AdaptiveAvgPoolGrad& op, Context& context) {
    PoolAxis axes[3];
    adaptive_axes(op.gx, op.gy, axes);
    launch_gradient(context, make_tables(context, axes, true), op.gy, op.gx, 0);
}
void adaptive_max_pool1d(const AdaptiveMaxPool& op, Context& context) { adaptive_maximum(op, context); }
void adaptive_max_pool2d(const AdaptiveMaxPool& op, Context& context) { adaptive_maximum(op, context); }
void adaptive_max_pool3d(const AdaptiveMaxPool& op, Context& context) { adaptive_maximum(op, context); }

} // namespace mmk::cuda
