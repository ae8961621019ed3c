// Maximum pooling.
#include "../ops/pool.h"

#include "pool.windows.cuh"

namespace mmk::cuda {
namespace {

template <class T> MMK_INLINE Compute<T> lowest() { return Compute<T>(-__builtin_inf()); }

template <class T> struct MaxWindows {
    WindowAxis rows, columns;
    Order4 order;
    Strides4 x_strides, y_strides, index_strides;
    const T* x;
    T* y;
    int64_t* indices; // null: not wanted
};

// A tap is better if it is greater, or the first NaN.
template <class C> MMK_INLINE bool is_better(C candidate, C best) {
    return candidate > best || (candidate != candidate && best == best);
}
// V windows of neighbouring channels, the taps in scan order. Without places a maximum is two instructions less.
template <class T, int V, class I, bool indexed> struct Best {
    Compute<T> value[V];
    I tap[V];
    __device__ explicit Best(I first_tap) {
#pragma unroll
        for (int v = 0; v < V; ++v) value[v] = lowest<T>(), tap[v] = first_tap;
    }
    __device__ void consider(int v, Compute<T> candidate, I at) {
        if constexpr (indexed) {
            if (is_better(candidate, value[v])) value[v] = candidate, tap[v] = at;
        } else
            value[v] = candidate > value[v] || candidate != candidate ? candidate : value[v];
    }
    __device__ void consider(const Pack<T, V>& candidates, I at) {
#pragma unroll
        for (int v = 0; v < V; ++v) consider(v, widen(candidates.at[v]), at);
    }
};
template <class T, int V, bool indexed> __device__ inline void
store_best(const MaxWindows<T>& w, const Place4& at, const Compute<T> (&best)[V], const int64_t (&places)[V]) {
    Pack<T, V> y;
#pragma unroll
    for (int v = 0; v < V; ++v) y.at[v] = narrow<T>(best[v] + Compute<T>(0));
    store_pack(w.y + w.y_strides.at(at.n, at.c, at.h, at.w), y);
    if constexpr (indexed) {
        Pack<int64_t, V> indices;
#pragma unroll
        for (int v = 0; v < V; ++v) indices.at[v] = places[v];
        store_pack(w.indices + w.index_strides.at(at.n, at.c, at.h, at.w), indices);
    }
}

// Kernels to 3 x 3: all taps are asked for before the first is looked at. What lies outside is -inf, which is not
// greater than anything.
template <class T, int V, bool indexed> __device__ inline void
best_of_nine(const MaxWindows<T>& w, const Place4& at, Compute<T> (&value)[V], int64_t (&places)[V]) {
    const int64_t h0 = w.rows.start(at.h), w0 = w.columns.start(at.w), dr = w.rows.dilation.by(),
                  ds = w.columns.dilation.by();
    const T* const corner = w.x + w.x_strides.at(at.n, at.c, h0, w0);
    const int64_t row_step = dr * w.x_strides.h, column_step = ds * w.x_strides.w;
    Pack<T, V> taps[9];
    int first_tap = -1;
#pragma unroll
    for (int r = 0; r < 3; ++r)
#pragma unroll
        for (int s = 0; s < 3; ++s) {
            const int64_t h = h0 + r * dr, column = w0 + s * ds;
            const bool inside = r < w.rows.kernel && s < w.columns.kernel && uint64_t(h) < uint64_t(w.rows.extent) &&
                                uint64_t(column) < uint64_t(w.columns.extent);
#pragma unroll
            for (int v = 0; v < V; ++v) taps[r * 3 + s].at[v] = narrow<T>(lowest<T>());
            if (inside) taps[r * 3 + s] = pack_at<T, V>(corner + r * row_step + s * column_step);
            if (inside && first_tap < 0) first_tap = r * 3 + s;
        }
    Best<T, V, int, indexed> best(first_tap);
#pragma unroll
    for (int tap = 0; tap < 9; ++tap) best.consider(taps[tap], tap);
#pragma unroll
    for (int v = 0; v < V; ++v) {
        const int tap = best.tap[v];
        value[v] = best.value[v];
        places[v] = tap < 0 ? -1 : (h0 + tap / 3 * dr) * w.columns.extent + w0 + tap % 3 * ds;
    }
}

template <class T, int V, bool indexed> __device__ inline void
best_of_many(const MaxWindows<T>& w, const Place4& at, Compute<T> (&value)[V], int64_t (&places)[V]) {
    const int64_t h0 = w.rows.start(at.h), w0 = w.columns.start(at.w), width = w.columns.extent;
    const int64_t r_first = w.rows.first(at.h), r_end = w.rows.end(at.h);
    const int64_t s_first = w.columns.first(at.w), s_end = w.columns.end(at.w);
    const int64_t dr = w.rows.dilation.by(), ds = w.columns.dilation.by();
    const T* const corner = w.x + w.x_strides.at(at.n, at.c, h0, w0);
    const int64_t row_step = dr * w.x_strides.h, column_step = ds * w.x_strides.w;
    const bool none = r_first >= r_end || s_first >= s_end;
    Best<T, V, int64_t, indexed> best(none ? -1 : (h0 + r_first * dr) * width + w0 + s_first * ds);
    for (int64_t r = r_first; r < r_end; ++r)
#pragma unroll(V > 4 ? 2 : 4)
        for (int64_t s = s_first; s < s_end; ++s)
            best.consider(pack_at<T, V>(corner + r * row_step + s * column_step), (h0 + r * dr) * width + w0 + s * ds);
#pragma unroll
    for (int v = 0; v < V; ++v) value[v] = best.value[v], places[v] = best.tap[v];
}

template <class T, int V, bool nine, bool indexed> __global__ void __launch_bounds__(place_threads)
    max_windows(MaxWindows<T> w) {
    for_places(w.order, [&](const Place4& at) {
        Compute<T> value[V];
        int64_t places[V];
        if constexpr (nine)
            best_of_nine<T, V, indexed>(w, at, value, places);
        else
            best_of_many<T, V, indexed>(w, at, value, places);
        store_best<T, V, indexed>(w, at, value, places);
    });
}

// Lines that lie side by side, K x K windows S apart: a thread makes four outputs below each other, which share what
// they see, the predicates of their columns and the way to their plane. A window per thread is bound by its
// arithmetic: 20 bytes, for 3 x 3 and 2 apart, leave it 140 instructions.
template <class T, int K, int S, bool indexed> __global__ void __launch_bounds__(place_threads)
    max_strips(MaxWindows<T> w) {
    constexpr int rows = (strip - 1) * S + K;
    for_places(w.order, [&](Place4 at) {
        at.h *= strip;
        const int64_t h0 = w.rows.start(at.h), w0 = w.columns.start(at.w);
        const T* line = w.x + w.x_strides.at(at.n, at.c, h0, w0);
        bool column_inside[K];
#pragma unroll
        for (int s = 0; s < K; ++s) column_inside[s] = uint64_t(w0 + s) < uint64_t(w.columns.extent);
        T taps[rows][K];
#pragma unroll
        for (int r = 0; r < rows; ++r, line += w.x_strides.h) {
            const bool row_inside = h0 + r >= (MMK_DEFECT(pool_padding_above) ? -1 : 0) && h0 + r < w.rows.extent;
#pragma unroll
            for (int s = 0; s < K; ++s) taps[r][s] = row_inside && column_inside[s] ? line[s] : narrow<T>(lowest<T>());
        }
        const int first_column = w0 < 0 ? int(-w0) : 0;
#pragma unroll
        for (int o = 0; o < strip; ++o, ++at.h) {
            if (at.h >= w.rows.outputs) return;
            const int64_t start = h0 + o * S;
            Best<T, 1, int, indexed> best((start < 0 ? int(-start) : 0) * K + first_column);
#pragma unroll
            for (int r = 0; r < K; ++r)
#pragma unroll
                for (int s = 0; s < K; ++s) best.consider(0, widen(taps[o * S + r][s]), r * K + s);
            const int64_t places[1] = {(start + best.tap[0] / K) * w.columns.extent + w0 + best.tap[0] % K};
            store_best<T, 1, indexed>(w, at, best.value, places);
        }
    });
}

template <class T, int V, bool indexed> void launch_max(Context& context, const MaxWindows<T>& w) {
    if (w.rows.kernel <= 3 && w.columns.kernel <= 3)
        MMK_LAUNCH(context, (max_windows<T, V, true, indexed>), grid_of_places(w.order), place_threads, 0, w);
    else
        MMK_LAUNCH(context, (max_windows<T, V, false, indexed>), grid_of_places(w.order), place_threads, 0, w);
}
template <class T, bool indexed> void max_windows_of(const MaxPool2d& op, Context& context) {
    constexpr int V = wide_pack<T>;
    const auto axis = [&](int i) {
        return WindowAxis(op.x.extent[2 + i], op.y.extent[2 + i], op.kernel[i], op.stride[i], op.padding[i],
                          op.dilation[i]);
    };
    const bool channels = has_channels_last(op.x), packed = has_packs_of_channels<T>(op.x) &&
                                                            has_packs_of_channels<T>(op.y) &&
                                                            has_packs_of_channels<int64_t>(op.indices);
    MaxWindows<T> w{axis(0),
                    axis(1),
                    Order4(op.y, channels, channels && packed ? V : 1),
                    Strides4(op.x),
                    Strides4(op.y),
                    Strides4(op.indices),
                    static_cast<const T*>(op.x.data),
                    static_cast<T*>(op.y.data),
                    static_cast<int64_t*>(op.indices.data)};
    if (channels && packed) {
        context.chose("channels", "x is channels-last, 16 bytes of channels at a time");
        return launch_max<T, V, indexed>(context, w);
    }
    const auto geometry = [&](int k, int s) {
        return !channels && op.x.stride[3] == 1 && op.x.size(2, 4) > 0 && op.kernel[0] == k && op.kernel[1] == k &&
               op.stride[0] == s && op.stride[1] == s && op.dilation[0] == 1 && op.dilation[1] == 1;
    };
    if (geometry(3, 2) || geometry(2, 2)) {
        context.chose("strips", "four outputs below each other per thread");
        w.order = order_of_strips(op.y);
        if (op.kernel[0] == 3)
            MMK_LAUNCH(context, (max_strips<T, 3, 2, indexed>), grid_of_places(w.order), place_threads, 0, w);
        else
            MMK_LAUNCH(context, (max_strips<T, 2, 2, indexed>), grid_of_places(w.order), place_threads, 0, w);
        return;
    }
    context.chose(channels ? "single channels" : "planes", "a window per thread");
    launch_max<T, 1, indexed>(context, w);
}

} // namespace

void max_pool2d(const MaxPool2d& op, Context& context) {
    visit_storage(op.y.dtype, [&](auto type) {
        using T = typename decltype(type)::type;
        if (op.indices)
            max_windows_of<T, true>(op, context);
        else
            max_windows_of<T, false>(op, context);
    });
}

} // namespace mmk::cuda
