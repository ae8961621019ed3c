// What layer_norm and group_norm share: the numbers of a group, and the gradients of the weights, which are sums over rows.
#pragma once

#include "channels.cuh"

namespace mmk::cuda {

template <class C> struct Moments {
    C mean, rstd;
};
template <class C> __device__ inline C reciprocal_deviation(C squares, C count, C eps) {
    return C(1) / sqrt(Vec<C>(squares / count + eps)).v;
}

// Of a group whose elements are value(plane, element), by a block; rms: about 0, which stands for the mean.
template <int levels, class C, class Value> __device__ inline Moments<C>
block_moments(const Group& group, C* shared, C count, C eps, const Value& value, bool rms = false) {
    const C mean = rms ? C(0) : group_sum<levels, C>(group, shared, value) / count;
    const C squares = group_sum<levels, C>(group, shared, [&](int64_t plane, int64_t i) {
        const C d = value(plane, i) - mean;
        return d * d;
    });
    return {mean, reciprocal_deviation(squares, count, eps)};
}

// The part of gx that a group's elements share.
template <class C> struct SharedPart {
    C k1, k2;
    // gx of an element from its distance to the mean, its gy and rstd * weight
    __device__ C operator()(C d, C gy, C factor) const { return fma_scalar(d, -k2, fma_scalar(gy, factor, -k1)); }
};
template <class C> __device__ inline SharedPart<C> shared_part(C sum_g, C sum_g_d, C count, C rstd) {
    return {(sum_g / count) * rstd, (((sum_g_d * rstd) / count) * rstd) * rstd};
}

// ---- sums over rows, one for each column: 64 rows at a time, then the binary-counter tree ------------------------

inline constexpr int column_sum_threads = 256;

// Terms that earlier threads have summed.
template <class C> struct ColumnParts {
    const C *weight, *bias;
    int64_t columns;
    __device__ Several<C, 2> operator()(int64_t row, int64_t column) const {
        Several<C, 2> terms;
        terms.at[0] = weight[row * columns + column], terms.at[1] = bias[row * columns + column];
        return terms;
    }
};

// A thread sums `run` rows of a column, which are a subtree; threads side by side read neighbouring columns.
template <class C, class Term, class T> __global__ void __launch_bounds__(column_sum_threads)
    sum_columns(Term term, T* weight, T* bias, int64_t rows, int64_t columns, int64_t chunk, int64_t run,
                int64_t runs) {
    for (int64_t index = int64_t(blockIdx.x) * column_sum_threads + threadIdx.x; index < runs * columns;
         index += int64_t(gridDim.x) * column_sum_threads) {
        const int64_t r = index / columns, column = index - r * columns;
        const int64_t end = (r + 1) * run < rows ? (r + 1) * run : rows;
        ChunkCounter<Several<C, 2>, 20> counter;
        for (int64_t begin = r * run; begin < end; begin += chunk) {
            const int64_t stop = begin + chunk < end || MMK_DEFECT(norm_chunk_past_end) ? begin + chunk : end;
            Several<C, 2> sum(0);
#pragma unroll 8
            for (int64_t row = begin; row < stop; ++row) sum = sum + term(row, column);
            counter.add(sum);
        }
        const Several<C, 2> sums = counter.total();
        weight[index] = narrow<T>(sums.at[0]), bias[index] = narrow<T>(sums.at[1]);
    }
}

// weight[column] and bias[column] become the sums over rows of term(row, column), both at once. Where rows are many,
// threads sum runs of them first, of which at most 64 are left.
template <class C, class Term, class T>
void column_sums(Context& context, const Term& term, T* weight, T* bias, int64_t rows, int64_t columns) {
    const auto launch = [&]<class From, class To>(const From& from, To* to_weight, To* to_bias, int64_t count,
                                                  int64_t chunk, int64_t run) {
        const int64_t runs = count > run ? ceil_div(count, run) : 1;
        MMK_LAUNCH(context, (sum_columns<C, From, To>), grid_of(ceil_div(runs * columns, column_sum_threads)),
                   column_sum_threads, 0, from, to_weight, to_bias, count, columns, chunk, run, runs);
    };
    if (rows <= rows_a_chunk) return launch(term, weight, bias, rows, rows_a_chunk, rows_a_chunk);
    int64_t run = rows_a_chunk;
    while (ceil_div(rows, run) > 64) run *= 2;
    const int64_t runs = ceil_div(rows, run);
    C* const part = context.scratch<C>(2 * runs * columns);
    launch(term, part, part + runs * columns, rows, rows_a_chunk, run);
    launch(ColumnParts<C>{part, part + runs * columns, columns}, weight, bias, runs, 1, runs);
}

} // namespace mmk::cuda
