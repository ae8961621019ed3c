// Average pooling and its gradient.
#include "../ops/pool.h"

#include "pool.windows.cuh"

namespace mmk::cuda {
namespace {

struct Counting {
    bool count_include_pad;
    int64_t divisor_override;

    // What a window counts for along one axis.
    MMK_MEMBER int64_t counted(const WindowAxis& axis, int64_t i) const {
        const int64_t start = axis.start(i), end = start + axis.kernel;
        if (count_include_pad) return smaller(end, axis.extent + axis.padding) - start;
        return larger(0, smaller(end, axis.extent) - larger(start, 0));
    }
    // A window that counts for nothing has the sum 0: any divisor will do.
    template <class C> MMK_MEMBER C divisor(int64_t rows_counted, int64_t columns_counted) const {
        const int64_t d = divisor_override ? divisor_override : rows_counted * columns_counted;
        return d ? C(d) : C(1);
    }
    template <class C>
    MMK_MEMBER C divisor(const WindowAxis& rows, const WindowAxis& columns, int64_t p, int64_t q) const {
        return divisor<C>(counted(rows, p), counted(columns, q));
    }
};

template <class T> struct Average {
    WindowAxis rows, columns;
    Counting counting;
    Order4 order; // of y; of gx
    Strides4 from_strides, to_strides;
    const T* from;
    T* to;
};

// Kernels to 3 x 3: all taps are asked for before the first is added. What lies outside adds +0, which changes no sum
// that began with +0.
template <class T, int V>
__device__ inline void add_nine(const Average<T>& a, const Place4& at, Sums<Compute<T>, V>& sum) {
    const int64_t h0 = a.rows.start(at.h), w0 = a.columns.start(at.w);
    const T* const corner = a.from + a.from_strides.at(at.n, at.c, h0, w0);
    Pack<T, V> taps[9];
#pragma unroll
    for (int r = 0; r < 3; ++r)
#pragma unroll
        for (int s = 0; s < 3; ++s) {
            const int64_t h = h0 + r, column = w0 + s;
            for (int v = 0; v < V; ++v) taps[r * 3 + s].at[v] = narrow<T>(0);
            if (r < a.rows.kernel && s < a.columns.kernel && uint64_t(h) < uint64_t(a.rows.extent) &&
                uint64_t(column) < uint64_t(a.columns.extent))
                taps[r * 3 + s] = pack_at<T, V>(corner + r * a.from_strides.h + s * a.from_strides.w);
        }
#pragma unroll
    for (int tap = 0; tap < 9; ++tap) sum.add(taps[tap]);
}
template <class T, int V>
__device__ inline void add_many(const Average<T>& a, const Place4& at, Sums<Compute<T>, V>& sum) {
    const T* const base = a.from + a.from_strides.at(at.n, at.c, 0, 0);
    const int64_t r_end = a.rows.end(at.h), s_first = a.columns.first(at.w), s_end = a.columns.end(at.w);
    for (int64_t r = a.rows.first(at.h); r < r_end; ++r) {
        const T* const line = base + (a.rows.start(at.h) + r) * a.from_strides.h;
#pragma unroll 4
        for (int64_t s = s_first; s < s_end; ++s)
            sum.add(pack_at<T, V>(line + (a.columns.start(at.w) + s) * a.from_strides.w));
    }
}
template <class T, int V, bool nine> __global__ void __launch_bounds__(place_threads) average_windows(Average<T> a) {
    for_places(a.order, [&](const Place4& at) {
        Sums<Compute<T>, V> sum;
        if constexpr (nine)
            add_nine(a, at, sum);
        else
            add_many(a, at, sum);
        const Compute<T> divisor = a.counting.template divisor<Compute<T>>(a.rows, a.columns, at.h, at.w);
#pragma unroll
        for (int v = 0; v < V; ++v) sum.at[v] = sum.at[v] / divisor;
        sum.store(a.to + a.to_strides.at(at.n, at.c, at.h, at.w));
    });
}

// Lines that lie side by side, K x K windows S apart: four outputs below each other, as in pool.cu.
template <class T, int K, int S> __global__ void __launch_bounds__(place_threads) average_strips(Average<T> a) {
    using C = Compute<T>;
    constexpr int rows = (strip - 1) * S + K;
    for_places(a.order, [&](Place4 at) {
        at.h *= strip;
        const int64_t h0 = a.rows.start(at.h), w0 = a.columns.start(at.w);
        const int64_t columns_counted = a.counting.counted(a.columns, at.w);
        const T* line = a.from + a.from_strides.at(at.n, at.c, h0, w0);
        bool column_inside[K];
#pragma unroll
        for (int s = 0; s < K; ++s) column_inside[s] = uint64_t(w0 + s) < uint64_t(a.columns.extent);
        T taps[rows][K];
#pragma unroll
        for (int r = 0; r < rows; ++r, line += a.from_strides.h) {
            const bool row_inside = uint64_t(h0 + r) < uint64_t(a.rows.extent);
#pragma unroll
            for (int s = 0; s < K; ++s) taps[r][s] = row_inside && column_inside[s] ? line[s] : narrow<T>(0);
        }
        T* to = a.to + a.to_strides.at(at.n, at.c, at.h, at.w);
#pragma unroll
        for (int o = 0; o < strip; ++o, to += a.to_strides.h) {
            if (at.h + o >= a.rows.outputs) return;
            C sum(0);
#pragma unroll
            for (int r = 0; r < K; ++r)
#pragma unroll
                for (int s = 0; s < K; ++s) sum = sum + widen(taps[o * S + r][s]);
            const int64_t rows_counted = a.counting.counted(a.rows, at.h + o);
            *to = narrow<T>(sum / a.counting.template divisor<C>(rows_counted, columns_counted));
        }
    });
}

// Windows that are whole planes, which follow each other: a warp brings 32 elements of 32 planes at a time through
// shared memory, where each lane adds those of its own plane. Rows are one longer than they are wide, so that a column
// has 32 different banks.
constexpr int plane_warps = 4;
template <class T> __global__ void __launch_bounds__(32 * plane_warps)
    average_planes(const T* x, T* y, int64_t planes, int64_t size, Compute<T> divisor) {
    using C = Compute<T>;
    SHARED(C, tiles, [plane_warps][32][33]);
    const int lane = int(threadIdx.x) % 32;
    C(&tile)[32][33] = tiles[threadIdx.x / 32];
    for (int64_t first = (int64_t(blockIdx.x) * plane_warps + threadIdx.x / 32) * 32; first < planes;
         first += int64_t(gridDim.x) * plane_warps * 32) {
        const int count = int(smaller(32, planes - first));
        C sum(0);
        for (int64_t begin = 0; begin < size; begin += 32) {
            const int n = int(smaller(32, size - begin));
            const T* const from = x + first * size + begin + lane;
#pragma unroll 8
            for (int k = 0; k < count; ++k)
                if (lane < n) tile[k][lane] = widen(from[k * size]);
            if (!MMK_DEFECT(pool_missing_warp_barrier)) __syncwarp();
#pragma unroll 8
            for (int k = 0; k < n; ++k)
                if (lane < count) sum = sum + tile[lane][k];
            __syncwarp();
        }
        if (lane < count) y[first + lane] = narrow<T>(sum / divisor);
    }
}

// gy by the divisors of its windows, in the type that is computed in, in the memory order of `order`. Windows that
// overlap would divide again for each element: nine divisions cost more than one more write and read.
template <class T, int V> __global__ void __launch_bounds__(place_threads)
    divide_windows(Average<T> a, Strides4 quotient_strides, Compute<T>* quotients) {
    for_places(a.order, [&](const Place4& at) {
        Sums<Compute<T>, V> quotient;
        quotient.add_quotients(pack_at<T, V>(a.from + a.from_strides.at(at.n, at.c, at.h, at.w)),
                               a.counting.template divisor<Compute<T>>(a.rows, a.columns, at.h, at.w));
        quotient.store(quotients + quotient_strides.at(at.n, at.c, at.h, at.w));
    });
}

// gx from all windows that see an element, in (p, q) order; S is T where each is divided here, else what quotients are
// kept in.
template <class T, class S, int V, bool divide> __global__ void __launch_bounds__(place_threads)
    gather_gradients(Average<T> a, const S* gy) {
    for_places(a.order, [&](const Place4& at) {
        const S* const base = gy + a.from_strides.at(at.n, at.c, 0, 0);
        const int64_t p_end = a.rows.end_seen(at.h), q_first = a.columns.first_seen(at.w),
                      q_end = a.columns.end_seen(at.w) - (MMK_DEFECT(pool_last_window) && at.w > 2 ? 1 : 0);
        Sums<Compute<T>, V> sum;
        for (int64_t p = a.rows.first_seen(at.h); p < p_end; ++p)
#pragma unroll(divide ? 1 : 4)
            for (int64_t q = q_first; q < q_end; ++q) {
                const Pack<S, V>& gradient = pack_at<S, V>(base + p * a.from_strides.h + q * a.from_strides.w);
                if constexpr (divide)
                    sum.add_quotients(gradient, a.counting.template divisor<Compute<T>>(a.rows, a.columns, p, q));
                else
                    sum.add(gradient);
            }
        sum.store(a.to + a.to_strides.at(at.n, at.c, at.h, at.w));
    });
}

// 2 x 2 windows side by side: a thread makes 16 bytes of two lines, from the windows that cover them.
template <class T> __global__ void __launch_bounds__(place_threads) spread_pairs(Average<T> a) {
    using C = Compute<T>;
    constexpr int V = wide_pack<T>;
    for_places(a.order, [&](const Place4& at) {
        const int64_t p = at.h, q = at.w / 2, rows_counted = a.counting.counted(a.rows, p);
        const T* const gradients = a.from + a.from_strides.at(at.n, at.c, p, q);
        Pack<T, V> line;
#pragma unroll
        for (int k = 0; k < V; k += 2) {
            C share(0);
            if (p < a.rows.outputs && q + k / 2 < a.columns.outputs)
                share = share + widen(gradients[k / 2]) / a.counting.template divisor<C>(
                                                              rows_counted, a.counting.counted(a.columns, q + k / 2));
            line.at[k] = line.at[k + 1] = narrow<T>(share);
        }
        T* const to = a.to + a.to_strides.at(at.n, at.c, 2 * p, at.w);
        store_pack(to, line);
        if (2 * p + 1 < a.rows.extent) store_pack(to + a.to_strides.h, line);
    });
}

template <class Op> WindowAxis axis_of(const Op& op, const Tensor& x, const Tensor& y, int i) {
    return WindowAxis(x.extent[2 + i], y.extent[2 + i], op.kernel[i], op.stride[i], op.padding[i], 1);
}

template <class T, int V> void launch_average(Context& context, const Average<T>& a) {
    if (a.rows.kernel <= 3 && a.columns.kernel <= 3)
        MMK_LAUNCH(context, (average_windows<T, V, true>), grid_of_places(a.order), place_threads, 0, a);
    else
        MMK_LAUNCH(context, (average_windows<T, V, false>), grid_of_places(a.order), place_threads, 0, a);
}

template <class T, int V> void launch_gradient(const AvgPool2dGrad& op, Context& context, Average<T> a, bool channels) {
    using C = Compute<T>;
    const dim3 grid = grid_of_places(a.order);
    const bool apart = op.kernel[0] <= op.stride[0] && op.kernel[1] <= op.stride[1];
    if (apart || op.gy.size() == 0) {
        MMK_LAUNCH(context, (gather_gradients<T, T, V, true>), grid, place_threads, 0, a, a.from);
        return;
    }
    Tensor quotients = op.gy;
    const int64_t c = op.gy.extent[1], h = op.gy.extent[2], w = op.gy.extent[3];
    const int64_t strides[2][4] = {{c * h * w, h * w, w, 1}, {c * h * w, 1, w * c, c}};
    for (int i = 0; i < 4; ++i) quotients.stride[i] = strides[channels][i];
    C* const divided = context.scratch<C>(op.gy.size());
    const Order4 order_of_gx = a.order;
    a.order = Order4(op.gy, channels, V);
    MMK_LAUNCH(context, (divide_windows<T, V>), grid_of_places(a.order), place_threads, 0, a, Strides4(quotients),
               divided);
    a.order = order_of_gx, a.from_strides = Strides4(quotients);
    MMK_LAUNCH(context, (gather_gradients<T, C, V, false>), grid, place_threads, 0, a, static_cast<const C*>(divided));
}

} // namespace

void avg_pool2d_of_any_windows(const AvgPool2d& op, Context& context); // pool.volumes.cu

void avg_pool2d(const AvgPool2d& op, Context& context) {
    for (int i = 0; i < 2; ++i)
        if (op.dilation[i] != 1 || op.padding_after[i] != op.padding[i]) return avg_pool2d_of_any_windows(op, context);
    visit_storage(op.y.dtype, [&](auto type) {
        using T = typename decltype(type)::type;
        constexpr int V = wide_pack<T>;
        const bool channels = has_channels_last(op.x),
                   packed = has_packs_of_channels<T>(op.x) && has_packs_of_channels<T>(op.y);
        Average<T> a{axis_of(op, op.x, op.y, 0),
                     axis_of(op, op.x, op.y, 1),
                     {op.count_include_pad != 0, op.divisor_override},
                     Order4(op.y, channels, channels && packed ? V : 1),
                     Strides4(op.x),
                     Strides4(op.y),
                     static_cast<const T*>(op.x.data),
                     static_cast<T*>(op.y.data)};
        const bool whole = op.x.contiguous() && op.y.contiguous() && op.y.size(2, 4) == 1 && op.padding[0] == 0 &&
                           op.padding[1] == 0 && op.kernel[0] >= op.x.extent[2] && op.kernel[1] >= op.x.extent[3];
        const auto geometry = [&](int k, int s) {
            return !channels && op.x.stride[3] == 1 && op.kernel[0] == k && op.kernel[1] == k && op.stride[0] == s &&
                   op.stride[1] == s;
        };
        if (channels && packed) {
            context.chose("channels", "x is channels-last, 16 bytes of channels at a time");
            launch_average<T, V>(context, a);
        } else if (whole) {
            context.chose("whole planes", "a lane per plane, through shared memory");
            const int64_t planes = op.x.size(0, 2);
            MMK_LAUNCH(context, (average_planes<T>), grid_of(ceil_div(planes, plane_warps * 32)), 32 * plane_warps, 0,
                       a.from, a.to, planes, op.x.size(2, 4),
                       a.counting.template divisor<Compute<T>>(a.rows, a.columns, 0, 0));
        } else if (geometry(2, 2) || geometry(3, 1)) {
            context.chose("strips", "four outputs below each other per thread");
            a.order = order_of_strips(op.y);
            if (op.kernel[0] == 2)
                MMK_LAUNCH(context, (average_strips<T, 2, 2>), grid_of_places(a.order), place_threads, 0, a);
            else
                MMK_LAUNCH(context, (average_strips<T, 3, 1>), grid_of_places(a.order), place_threads, 0, a);
        } else {
            context.chose(channels ? "single channels" : "planes", "a window per thread");
            launch_average<T, 1>(context, a);
        }
    });
}

void avg_pool2d_grad(const AvgPool2dGrad& op, Context& context) {
    visit_storage(op.gx.dtype, [&](auto type) {
        using T = typename decltype(type)::type;
        constexpr int V = wide_pack<T>;
        const bool channels = has_channels_last(op.gy),
                   packed = has_packs_of_channels<T>(op.gy) && has_packs_of_channels<T>(op.gx);
        Average<T> a{axis_of(op, op.gx, op.gy, 0),
                     axis_of(op, op.gx, op.gy, 1),
                     {op.count_include_pad != 0, op.divisor_override},
                     Order4(op.gx, channels, channels && packed ? V : 1),
                     Strides4(op.gy),
                     Strides4(op.gx),
                     static_cast<const T*>(op.gy.data),
                     static_cast<T*>(op.gx.data)};
        const bool pairs = !channels && op.gy.stride[3] == 1 && has_packs_of_columns<T>(op.gx) && op.kernel[0] == 2 &&
                           op.kernel[1] == 2 && op.stride[0] == 2 && op.stride[1] == 2 && op.padding[0] == 0 &&
                           op.padding[1] == 0;
        if (channels && packed) {
            context.chose("channels", "gy is channels-last, 16 bytes of channels at a time");
            launch_gradient<T, V>(op, context, a, true);
        } else if (pairs) {
            context.chose("pairs", "2 x 2 windows side by side, 16 bytes of two lines per thread");
            Tensor lines = op.gx;
            lines.extent[2] = ceil_div(lines.extent[2], 2);
            a.order = Order4(lines, false, V);
            MMK_LAUNCH(context, (spread_pairs<T>), grid_of_places(a.order), place_threads, 0, a);
        } else {
            context.chose(channels ? "single channels" : "planes", "an element per thread");
            launch_gradient<T, 1>(op, context, a, channels);
        }
    });
}

} // namespace mmk::cuda
