// layer_norm, rms_norm and their gradients. A row of at most 512 elements is held in the registers of half a warp, of at most 1024 in
// those of a warp (half as many of float64); longer ones in a block's shared memory, so that memory is read once and
// written once; rows longer than that are read again by each pass.
#include "../ops/norm.h"

#include "norm.cuh"

namespace mmk::cuda {
namespace {

constexpr int threads = 256;

template <class T> struct LayerRows {
    const T *x, *gy, *weight, *bias; // of the gradient: gy, no bias
    T* y;                            // or gx
    Moments<Compute<T>>* moments;    // of each row, for the weights' gradients
    int64_t rows, count;
    Compute<T> eps;
    bool rms; // 0 stands for the mean

    __device__ Compute<T> weight_of(int64_t i) const { return weight ? widen(weight[i]) : Compute<T>(1); }
    __device__ Compute<T> bias_of(int64_t i) const { return bias ? widen(bias[i]) : -Compute<T>(0); }
};

// ---- rows in registers -----------------------------------------------------------------------------------------

template <int halves, class C, class Value>
__device__ inline Moments<C> row_moments(const Slots<C>& slots, C count, C eps, bool rms, const Value& value) {
    const C mean = rms ? C(0) : row_sum<halves>(slots.lane_sum(value)) / count;
    const C squares = row_sum<halves>(slots.lane_sum([&](int k) {
        const C d = value(k) - mean;
        return d * d;
    }));
    return {mean, reciprocal_deviation(squares, count, eps)};
}

template <class T, int halves> __global__ void __launch_bounds__(threads) norm_held_rows(LayerRows<T> op) {
    using C = Compute<T>;
    constexpr int per_block = threads / (halves * sum_lanes);
    for (int64_t first = int64_t(blockIdx.x) * per_block; first < op.rows; first += int64_t(gridDim.x) * per_block) {
        const int64_t row = first + threadIdx.x / (halves * sum_lanes), begin = row * op.count;
        // the whole warp takes part in sums, so a thread without a row holds nothing
        const Slots<C> slots =
            slots_of_row<C, halves>(row < op.rows || MMK_DEFECT(norm_row_past_end) ? int(op.count) : 0);
        C x[held<C>];
        slots.each([&](int k, int i) { x[k] = widen(op.x[begin + i]); });
        const Moments<C> m = row_moments<halves>(slots, C(op.count), op.eps, op.rms, [&](int k) { return x[k]; });
        slots.each([&](int k, int i) {
            op.y[begin + i] = narrow<T>(fma_scalar(x[k] - m.mean, m.rstd * op.weight_of(i), op.bias_of(i)));
        });
    }
}

template <class T, int halves> __global__ void __launch_bounds__(threads, 2) norm_grad_held_rows(LayerRows<T> op) {
    using C = Compute<T>;
    constexpr int per_block = threads / (halves * sum_lanes);
    for (int64_t first = int64_t(blockIdx.x) * per_block; first < op.rows; first += int64_t(gridDim.x) * per_block) {
        const int64_t row = first + threadIdx.x / (halves * sum_lanes), begin = row * op.count;
        const Slots<C> slots = slots_of_row<C, halves>(row < op.rows ? int(op.count) : 0);
        C x[held<C>], gy[held<C>];
        slots.each([&](int k, int i) { x[k] = widen(op.x[begin + i]), gy[k] = widen(op.gy[begin + i]); });
        const C count = C(op.count);
        const Moments<C> m = row_moments<halves>(slots, count, op.eps, op.rms, [&](int k) { return x[k]; });
        const auto sums = row_sum<halves>(slots.lane_sum([&](int k) { // the weight is fetched twice: no registers
            Several<C, 2> terms;
            terms.at[0] = gy[k] * op.weight_of(slots.first + k * sum_lanes),
            terms.at[1] = terms.at[0] * (x[k] - m.mean);
            return terms;
        }));
        const SharedPart<C> shared = shared_part(op.rms ? C(0) : sums.at[0], sums.at[1], count, m.rstd);
        slots.each(
            [&](int k, int i) { op.y[begin + i] = narrow<T>(shared(x[k] - m.mean, gy[k], m.rstd * op.weight_of(i))); });
        if (slots.first == 0 && row < op.rows) op.moments[row] = m;
    }
}

// ---- rows of a block -------------------------------------------------------------------------------------------

// 64 registers a thread of the kept ones, whose runs are of few chunks.
template <class C, bool keep> inline constexpr int long_row_threads = !keep ? 256 : sizeof(C) == 8 ? 512 : 1024;
template <bool keep> inline constexpr int run_levels = keep ? 4 : 20;

template <class T, bool keep> __global__ void __launch_bounds__(long_row_threads<Compute<T>, keep>, 1)
    norm_long_rows(LayerRows<T> op, Group group, int64_t kept_at) {
    using C = Compute<T>;
    DYN_SHARED(C, shared);
    C* const kept = shared + kept_at;
    for (int64_t row = blockIdx.x; row < op.rows; row += gridDim.x) {
        const T* const from = op.x + row * op.count;
        if constexpr (keep) {
            for (int i = int(threadIdx.x); i < int(op.count); i += int(blockDim.x)) kept[i] = widen(from[i]);
            __syncthreads();
        }
        const auto x = [&](int64_t, int64_t i) {
            if constexpr (keep)
                return kept[i];
            else
                return widen(from[i]);
        };
        const Moments<C> m = block_moments<run_levels<keep>>(group, shared, C(op.count), op.eps, x, op.rms);
        for (int64_t i = threadIdx.x; i < op.count; i += blockDim.x)
            op.y[row * op.count + i] = narrow<T>(fma_scalar(x(0, i) - m.mean, m.rstd * op.weight_of(i), op.bias_of(i)));
        if (keep) __syncthreads(); // before the next row takes this one's place
    }
}

template <class T, bool keep> __global__ void __launch_bounds__(long_row_threads<Compute<T>, keep>, 1)
    norm_grad_long_rows(LayerRows<T> op, Group group, int64_t kept_at) {
    using C = Compute<T>;
    constexpr int levels = run_levels<keep>;
    DYN_SHARED(C, shared);
    C* const kept = shared + kept_at;
    for (int64_t row = blockIdx.x; row < op.rows; row += gridDim.x) {
        const T *const x_row = op.x + row * op.count, *const gy_row = op.gy + row * op.count;
        if constexpr (keep) {
            for (int i = int(threadIdx.x); i < int(op.count); i += int(blockDim.x))
                kept[i] = widen(x_row[i]), kept[op.count + i] = widen(gy_row[i]);
            __syncthreads();
        }
        const auto x = [&](int64_t, int64_t i) {
            if constexpr (keep)
                return kept[i];
            else
                return widen(x_row[i]);
        };
        const auto gy = [&](int64_t i) {
            if constexpr (keep)
                return kept[op.count + i];
            else
                return widen(gy_row[i]);
        };
        const C count = C(op.count);
        const Moments<C> m = block_moments<levels>(group, shared, count, op.eps, x, op.rms);
        const auto g = [&](int64_t i) { return gy(i) * op.weight_of(i); };
        const C sum_g = group_sum<levels, C>(group, shared, [&](int64_t, int64_t i) { return g(i); });
        const C sum_g_d =
            group_sum<levels, C>(group, shared, [&](int64_t, int64_t i) { return g(i) * (x(0, i) - m.mean); });
        const SharedPart<C> part = shared_part(op.rms ? C(0) : sum_g, sum_g_d, count, m.rstd);
        for (int64_t i = threadIdx.x; i < op.count; i += blockDim.x)
            op.y[row * op.count + i] = narrow<T>(part(x(0, i) - m.mean, gy(i), m.rstd * op.weight_of(i)));
        if (threadIdx.x == 0) op.moments[row] = m;
        __syncthreads();
    }
}

// ---- gradients of the weights ----------------------------------------------------------------------------------

template <class T> struct LayerTerm {
    LayerRows<T> op;
    __device__ Several<Compute<T>, 2> operator()(int64_t row, int64_t i) const {
        using C = Compute<T>;
        const Moments<C> m = op.moments[row];
        const C gy = widen(op.gy[row * op.count + i]), d = widen(op.x[row * op.count + i]) - m.mean;
        Several<C, 2> terms;
        terms.at[0] = gy * (d * m.rstd), terms.at[1] = gy;
        return terms;
    }
};

// ---- host ------------------------------------------------------------------------------------------------------

template <class T, bool gradient> void launch_rows(const LayerRows<T>& op, Context& context) {
    using C = Compute<T>;
    if (op.rows == 0) return;
    if (op.count <= 2 * half_warp_row<C>) {
        const bool half = op.count <= half_warp_row<C>;
        context.chose(half ? "half warp" : "warp", "rows that registers hold");
        const dim3 grid = grid_of(ceil_div(op.rows, threads / (half ? sum_lanes : 2 * sum_lanes)));
        if constexpr (gradient) {
            if (half)
                MMK_LAUNCH(context, (norm_grad_held_rows<T, 1>), grid, threads, 0, op);
            else
                MMK_LAUNCH(context, (norm_grad_held_rows<T, 2>), grid, threads, 0, op);
        } else {
            if (half)
                MMK_LAUNCH(context, (norm_held_rows<T, 1>), grid, threads, 0, op);
            else
                MMK_LAUNCH(context, (norm_held_rows<T, 2>), grid, threads, 0, op);
        }
        return;
    }
    // more threads where shared memory leaves room for few blocks
    const int block = op.count < 8192 ? threads : long_row_threads<C, true>;
    const Group group(1, op.count, block), streamed(1, op.count, threads);
    const int64_t kept_at = group.shared_values();
    const int64_t bytes = (kept_at + op.count * (gradient ? 2 : 1)) * int64_t(sizeof(C));
    const size_t streamed_bytes = size_t(streamed.shared_values()) * sizeof(C);
    const bool keep = bytes <= context.shared_memory;
    context.chose(keep ? "block" : "block, streaming",
                  keep ? "long rows, kept in shared memory" : "rows longer than shared memory");
    if constexpr (gradient) {
        if (keep)
            MMK_LAUNCH(context, (norm_grad_long_rows<T, true>), grid_of(op.rows), block, size_t(bytes), op, group,
                       kept_at);
        else
            MMK_LAUNCH(context, (norm_grad_long_rows<T, false>), grid_of(op.rows), threads, streamed_bytes, op,
                       streamed, int64_t(0));
    } else {
        if (keep)
            MMK_LAUNCH(context, (norm_long_rows<T, true>), grid_of(op.rows), block, size_t(bytes), op, group, kept_at);
        else
            MMK_LAUNCH(context, (norm_long_rows<T, false>), grid_of(op.rows), threads, streamed_bytes, op, streamed,
                       int64_t(0));
    }
}

template <class T> void norm_rows(const Tensor& x_, const Tensor& weight_, const Tensor& bias_, const Tensor& y_,
                                  int64_t axes, double eps, bool rms, Context& context) {
    const int first = x_.rank - int(axes);
    const Dense<T> x(context, x_), weight(context, weight_), bias(context, bias_);
    DenseOut<T> y(context, y_);
    launch_rows<T, false>(LayerRows<T>{x, nullptr, weight, bias, y, nullptr, x_.size(0, first), x_.size(first, x_.rank),
                                       Compute<T>(eps), rms},
                          context);
    y.finish();
}
template <class T> void norm_rows_grad(const Tensor& x_, const Tensor& gy_, const Tensor& weight_, const Tensor& gx_,
                                       const Tensor& gweight_, const Tensor& gbias_, int64_t axes, double eps, bool rms,
                                       Context& context) {
    using C = Compute<T>;
    const int first = x_.rank - int(axes);
    const int64_t rows = x_.size(0, first), count = x_.size(first, x_.rank);
    const Dense<T> x(context, x_), gy(context, gy_), weight(context, weight_);
    DenseOut<T> gx(context, gx_), gweight(context, gweight_), gbias(context, gbias_);
    const LayerRows<T> all{x, gy, weight, nullptr, gx, context.scratch<Moments<C>>(rows), rows, count, C(eps), rms};
    launch_rows<T, true>(all, context);
    column_sums<C>(context, LayerTerm<T>{all}, gweight.get(), gbias_ ? gbias.get() : context.scratch<T>(count), rows,
                   count);
    gx.finish(), gweight.finish(), gbias.finish();
}

} // namespace

void layer_norm(const LayerNorm& op, Context& context) {
    visit_storage(op.y.dtype, [&](auto type) {
        using T = typename decltype(type)::type;
        norm_rows<T>(op.x, op.weight, op.bias, op.y, op.axes, op.eps, false, context);
    });
}
void rms_norm(const RmsNorm& op, Context& context) {
    visit_storage(op.y.dtype, [&](auto type) {
        using T = typename decltype(type)::type;
        norm_rows<T>(op.x, op.weight, Tensor(), op.y, op.axes, op.eps, true, context);
    });
}
void layer_norm_grad(const LayerNormGrad& op, Context& context) {
    visit_storage(op.gx.dtype, [&](auto type) {
        using T = typename decltype(type)::type;
        norm_rows_grad<T>(op.x, op.gy, op.weight, op.gx, op.gweight, op.gbias, op.axes, op.eps, false, context);
    });
}
void rms_norm_grad(const RmsNormGrad& op, Context& context) {
    visit_storage(op.gx.dtype, [&](auto type) {
        using T = typename decltype(type)::type;
        norm_rows_grad<T>(op.x, op.gy, op.weight, op.gx, op.gweight, Tensor(), op.axes, op.eps, true, context);
    });
}

} // namespace mmk::cuda
