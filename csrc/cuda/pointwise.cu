#include "../ops/pointwise.h"

#include "elementwise.cuh"
#include "reduce.cuh"

namespace mmk::cuda {
namespace {

template <class T> struct Add {
    __device__ T operator()(T a, T b) const { return narrow<T>(widen(a) + widen(b)); }
};
template <class T> struct Sub {
    __device__ T operator()(T a, T b) const { return narrow<T>(widen(a) - widen(b)); }
};
template <class T> struct Mul {
    __device__ T operator()(T a, T b) const { return narrow<T>(widen(a) * widen(b)); }
};
template <class T> struct Div {
    __device__ T operator()(T a, T b) const { return narrow<T>(widen(a) / widen(b)); }
};
template <class T> struct Greater {
    __device__ uint8_t operator()(T a, T b) const { return widen(a) > widen(b); }
};
template <class T> struct Select {
    __device__ T operator()(uint8_t condition, T a, T b) const { return condition ? a : b; }
};

template <template <class> class Operation> void binary(const Binary& op, Context& context) {
    visit_storage(op.y.dtype, [&](auto type) {
        using T = typename decltype(type)::type;
        map<T, T, T>(context, Operation<T>(), op.y, op.a, op.b);
    });
}

constexpr int threads = 256;
// A row shorter than this is summed by half a warp, others by a block.
constexpr int64_t short_row = 2048;

template <class T, bool mean> MMK_INLINE T finished(Compute<T> sum, int64_t count) {
    return narrow<T>(mean ? sum / Compute<T>(count) : sum);
}

template <class T, bool mean> __global__ void __launch_bounds__(threads)
    sum_short_rows(const T* x, T* y, int64_t rows, int64_t count) {
    constexpr int per_block = threads / sum_lanes;
    for (int64_t first = int64_t(blockIdx.x) * per_block; first < rows; first += int64_t(gridDim.x) * per_block) {
        const int64_t row = first + threadIdx.x / sum_lanes;
        const T* const values = x + row * count;
        // the whole warp takes part in joining lanes, so a half without a row sums nothing
        const Compute<T> sum =
            half_warp_sum<Compute<T>>(row < rows ? count : 0, [&](int64_t i) { return widen(values[i]); });
        if (row < rows && threadIdx.x % sum_lanes == 0) y[row] = finished<T, mean>(sum, count);
    }
}
template <class T, bool mean> __global__ void __launch_bounds__(threads)
    sum_long_rows(const T* x, T* y, int64_t rows, int64_t count) {
    using Shared = BlockSum<Compute<T>, threads>;
    SHARED(Shared, shared, [1]);
    for (int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
        const T* const values = x + row * count;
        const Compute<T> sum = block_sum(shared[0], count, [&](int64_t i) { return widen(values[i]); });
        if (threadIdx.x == 0) y[row] = finished<T, mean>(sum, count);
        __syncthreads();
    }
}

// Rows of the axes that are summed, for every index of the others.
template <bool mean> void reduce(const Reduction& op, Context& context) {
    int64_t rows, count;
    const Tensor x = summed_last(op, rows, count);
    visit_storage(op.y.dtype, [&](auto type) {
        using T = typename decltype(type)::type;
        const Dense<T> dense(context, x);
        DenseOut<T> y(context, op.y);
        if (count < short_row) {
            context.chose("half warp", "short rows");
            MMK_LAUNCH(context, (sum_short_rows<T, mean>), grid_of(ceil_div(rows, threads / sum_lanes)), threads, 0,
                       dense.get(), y.get(), rows, count);
        } else {
            context.chose("block", "long rows");
            MMK_LAUNCH(context, (sum_long_rows<T, mean>), grid_of(rows), threads, 0, dense.get(), y.get(), rows, count);
        }
        y.finish();
    });
}

} // namespace

void add(const Binary& op, Context& context) { binary<Add>(op, context); }
void sub(const Binary& op, Context& context) { binary<Sub>(op, context); }
void mul(const Binary& op, Context& context) { binary<Mul>(op, context); }
void div(const Binary& op, Context& context) { binary<Div>(op, context); }
void greater(const Binary& op, Context& context) {
    visit_storage(op.a.dtype, [&](auto type) {
        using T = typename decltype(type)::type;
        map<uint8_t, T, T>(context, Greater<T>(), op.y, op.a, op.b);
    });
}
void where(const Where& op, Context& context) {
    visit_storage(op.y.dtype, [&](auto type) {
        using T = typename decltype(type)::type;
        map<T, uint8_t, T, T>(context, Select<T>(), op.y, op.condition, op.a, op.b);
    });
}
void sum(const Reduction& op, Context& context) { reduce<false>(op, context); }
void mean(const Reduction& op, Context& context) { reduce<true>(op, context); }

} // namespace mmk::cuda
