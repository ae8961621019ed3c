// interpolate between pixels: 16 bytes of a line or of a pixel's channels a thread; sources are found by arithmetic.
#include "resample.linear.h"

#include <cmath>

#include "resample.cuh"

namespace mmk::cuda {
namespace {

// What an output reads of an axis: element `left` and, if its share is not 0, the next one.
template <class C> struct Tap {
    int64_t left;
    C share;
    // Of element h; 0: it is not read.
    __device__ C of(int64_t h) const { return left == h ? C(1) - share : left + 1 == h ? share : C(0); }
};
template <class C> struct Line {
    int64_t outputs, inputs;
    C step;
    bool align_corners;

    __device__ Tap<C> tap(int64_t i) const {
        C position = align_corners ? C(i) * step : (C(i) + C(0.5)) * step - C(0.5);
        if (!(position > C(0))) position = C(0);
        // beyond 2^62 a number is no index any more
        const int64_t left = position < C(inputs) && position < C(0x1p62) ? int64_t(position) : inputs - 1;
        if (left >= inputs - 1) return {inputs - 1, C(0)};
        return {left, position - C(left)};
    }
    __device__ int64_t source(int64_t i) const { return tap(i).left; }
};
template <class C> __device__ inline C mixed(C a, C b, C share) { return fma_scalar(b, share, a * (C(1) - share)); }

constexpr DealNames names{"mixed pixels", "mixed lines", "mixed elements"};

// V outputs at once: the channels of a pixel, or neighbours of a line.
template <class T, int V, bool channels> __global__ void __launch_bounds__(place_threads)
    mix_linear(Resampled<T, Line<Compute<T>>> r) {
    using C = Compute<T>;
    for_places(r.order, [&](const Place4& at) {
        const Tap<C> row = r.rows.tap(at.h);
        const T* const above = r.x + r.x_strides.at(at.n, at.c, row.left, 0);
        const T* const below = above + (row.share != C(0) ? r.x_strides.h : 0);
        Pack<T, V> y;
        if constexpr (channels) {
            const Tap<C> column = r.columns.tap(at.w);
            const int64_t here = column.left * r.x_strides.w, next = here + (column.share != C(0) ? r.x_strides.w : 0);
            const Pack<T, V> a = pack_at<T, V>(above + here), b = pack_at<T, V>(above + next);
            const Pack<T, V> c = pack_at<T, V>(below + here), d = pack_at<T, V>(below + next);
#pragma unroll
            for (int k = 0; k < V; ++k) {
                C top = widen(a.at[k]), bottom = widen(c.at[k]);
                if (column.share != C(0)) {
                    top = mixed(top, widen(b.at[k]), column.share);
                    bottom = mixed(bottom, widen(d.at[k]), column.share);
                }
                y.at[k] = narrow<T>(row.share != C(0) ? mixed(top, bottom, row.share) : top);
            }
        } else {
#pragma unroll
            for (int k = 0; k < V; ++k) {
                const Tap<C> column = r.columns.tap(at.w + k);
                const int64_t here = column.left * r.x_strides.w;
                const int64_t next =
                    here + (column.share != C(0) || MMK_DEFECT(resample_past_last) ? r.x_strides.w : 0);
                C top = widen(above[here]), bottom = widen(below[here]);
                const C top_next = widen(above[next]), bottom_next = widen(below[next]);
                if (column.share != C(0)) {
                    top = mixed(top, top_next, column.share);
                    bottom = mixed(bottom, bottom_next, column.share);
                }
                y.at[k] = narrow<T>(row.share != C(0) ? mixed(top, bottom, row.share) : top);
            }
        }
        store_pack(r.y + r.y_strides.at(at.n, at.c, at.h, at.w), y);
    });
}

// Element h is read by the outputs whose left is h - 1 or h.
template <class T, int V> __global__ void __launch_bounds__(place_threads)
    spread_linear(ResampledGrad<T, Line<Compute<T>>> g) {
    using C = Compute<T>;
    for_places(g.order, [&](const Place4& at) {
        const T* const base = g.gy + g.gy_strides.at(at.n, at.c, 0, 0);
        const int64_t p_end = g.rows_first[at.h + 1], q_end = g.columns_first[at.w + 1];
        const int64_t q_first = g.columns_first[at.w > 0 && !MMK_DEFECT(resample_lost_left) ? at.w - 1 : at.w];
        Sums<C, V> sum;
        for (int64_t p = g.rows_first[at.h > 0 ? at.h - 1 : 0]; p < p_end; ++p) {
            const C row_share = g.rows.tap(p).of(at.h);
            if (row_share == C(0)) continue;
            Sums<C, V> line;
            for (int64_t q = q_first; q < q_end; ++q) {
                const C share = g.columns.tap(q).of(at.w);
                if (share == C(0)) continue;
                const Pack<T, V> gy = pack_at<T, V>(base + p * g.gy_strides.h + q * g.gy_strides.w);
#pragma unroll
                for (int k = 0; k < V; ++k) line.at[k] = fma_scalar(widen(gy.at[k]), share, line.at[k]);
            }
#pragma unroll
            for (int k = 0; k < V; ++k) sum.at[k] = fma_scalar(line.at[k], row_share, sum.at[k]);
        }
        sum.store(g.gx + g.gx_strides.at(at.n, at.c, at.h, at.w));
    });
}

template <class C> Line<C> line_of(const Tensor& y, const Tensor& x, int axis, double step, int64_t align_corners) {
    return {y.extent[axis], x.extent[axis], C(step), align_corners != 0};
}

} // namespace

void interpolate_linear(const Interpolate& op, Context& context) {
    visit_storage(op.y.dtype, [&](auto type) {
        using T = typename decltype(type)::type;
        const auto rows = line_of<Compute<T>>(op.y, op.x, 2, op.scale[0], op.align_corners),
                   columns = line_of<Compute<T>>(op.y, op.x, 3, op.scale[1], op.align_corners);
        resample<T>(context, op, rows, columns, names, [&](auto pack, auto channels, const auto& r) {
            MMK_LAUNCH(context, (mix_linear<T, pack(), channels()>), grid_of_places(r.order), place_threads, 0, r);
        });
    });
}

void interpolate_linear_grad(const InterpolateGrad& op, Context& context) {
    visit_storage(op.gx.dtype, [&](auto type) {
        using T = typename decltype(type)::type;
        const auto rows = line_of<Compute<T>>(op.gy, op.gx, 2, op.scale[0], op.align_corners),
                   columns = line_of<Compute<T>>(op.gy, op.gx, 3, op.scale[1], op.align_corners);
        resample_grad<T>(context, op, rows, columns, names, [&](auto pack, const auto& g) {
            MMK_LAUNCH(context, (spread_linear<T, pack()>), grid_of_places(g.order), place_threads, 0, g);
        });
    });
}

} // namespace mmk::cuda
