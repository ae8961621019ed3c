// softmax, log_softmax and their gradients. An axis is rows of consecutive elements (inner extent 1) or columns of
// elements `inner` apart, which 32 threads side by side read; either way memory is read once and written once while
// a row fits on chip:
//     rows     to 512 elements: half a warp holds one in registers; to 1024: a warp; beyond: a block, in shared memory
//              as wide as it computes, or read again from the second-level cache where that does not suffice
//     columns  to 512 elements: sixteen threads hold one in registers, one lane each; beyond: read again
#include "../ops/activation.h"

#include "layout.cuh"
#include "rows.cuh"

namespace mmk::cuda {
namespace {

// What is done to a row of elements a (and b): kept(a) is what a thread holds on to, term(kept, b) is summed.
template <class C> struct Softmax {
    static constexpr int operands = 1;
    static constexpr bool of_largest = true;
    C largest, factor;
    __device__ C kept(C x) const { return exp(x - largest); }
    __device__ C term(C e, C) const { return e; }
    __device__ void summed(C sum) { factor = C(1) / sum; }
    __device__ C result(C e, C) const { return e * factor; }
};
template <class C> struct LogSoftmax {
    static constexpr int operands = 1;
    static constexpr bool of_largest = true;
    C largest, log_sum;
    __device__ C kept(C x) const { return x - largest; }
    __device__ C term(C shifted, C) const { return exp(shifted); }
    __device__ void summed(C sum) { log_sum = log(sum); }
    __device__ C result(C shifted, C) const { return shifted - log_sum; }
};
template <class C> struct SoftmaxSlope {
    static constexpr int operands = 2;
    static constexpr bool of_largest = false;
    C largest, sum;
    __device__ C kept(C y) const { return y; }
    __device__ C term(C y, C gy) const { return gy * y; }
    __device__ void summed(C sum_) { sum = sum_; }
    __device__ C result(C y, C gy) const { return y * (gy - sum); }
};
template <class C> struct LogSoftmaxSlope {
    static constexpr int operands = 2;
    static constexpr bool of_largest = false;
    C largest, sum;
    __device__ C kept(C y) const { return y; }
    __device__ C term(C, C gy) const { return gy; }
    __device__ void summed(C sum_) { sum = sum_; }
    __device__ C result(C y, C gy) const { return gy - exp(y) * sum; }
};

// a and b: x and nothing, or y and gy. Element d of row (o, i) is (o * count + d) * inner + i.
template <class T> struct Rows {
    const T *a, *b;
    T* y;
    int64_t rows, count, inner;
};

constexpr int threads = 256;

// ---- rows of consecutive elements ------------------------------------------------------------------------------

template <class T, class Row, int halves>
__global__ void __launch_bounds__(threads, sizeof(T) == 8 || Row::operands == 2 ? 2 : 3) held_rows(Rows<T> op) {
    using C = Compute<T>;
    constexpr int per_block = threads / (halves * sum_lanes);
    for (int64_t first = int64_t(blockIdx.x) * per_block; first < op.rows; first += int64_t(gridDim.x) * per_block) {
        const int64_t index = first + threadIdx.x / (halves * sum_lanes), begin = index * op.count;
        // the whole warp takes part in sums, so a thread without a row holds nothing
        const Slots<C> slots = slots_of_row<C, halves>(index < op.rows ? int(op.count) : 0);
        C a[held<C>], b[Row::operands == 2 ? held<C> : 1];
        slots.each([&](int k, int i) {
            a[k] = widen(op.a[begin + i]);
            if constexpr (Row::operands == 2) b[k] = widen(op.b[begin + i]);
        });
        Row row;
        if constexpr (Row::of_largest) row.largest = row_largest<halves>(slots.largest([&](int k) { return a[k]; }));
        slots.each([&](int k, int) { a[k] = row.kept(a[k]); });
        const auto b_of = [&](int k) {
            if constexpr (Row::operands == 2)
                return b[k];
            else
                return C(0);
        };
        row.summed(row_sum<halves>(slots.lane_sum([&](int k) { return row.term(a[k], b_of(k)); })));
        slots.each([&](int k, int i) { op.y[begin + i] = narrow<T>(row.result(a[k], b_of(k))); });
    }
}

template <class C> struct BlockLargest {
    C part[32];
};
template <class C> __device__ inline C block_largest(BlockLargest<C>& shared, C most) {
    most = row_largest<2>(most);
    if (threadIdx.x % 32 == 0) shared.part[threadIdx.x / 32] = most;
    if (!MMK_DEFECT(activation_missing_barrier)) __syncthreads();
    for (int warp = 0; warp < int(blockDim.x) / 32; ++warp) most = shared.part[warp] > most ? shared.part[warp] : most;
    return most;
}

// A row by a block: kept in shared memory, as wide as it computes, or read anew by each pass. A row that fits has at most
// four chunks in a run.
template <class C> inline constexpr int long_row_threads = sizeof(C) == 8 ? 512 : 1024;
template <class T, class Row> __global__ void __launch_bounds__(long_row_threads<Compute<T>>, 1)
    kept_rows(Rows<T> op, Group group, int64_t kept_at) {
    using C = Compute<T>;
    SHARED(BlockLargest<C>, shared_largest, [1]);
    DYN_SHARED(C, shared);
    C *const a = shared + kept_at, *const b = a + op.count;
    for (int64_t index = blockIdx.x; index < op.rows; index += gridDim.x) {
        const int count = int(op.count);
        C most = -C(__builtin_inff());
        for (int i = int(threadIdx.x); i < count; i += int(blockDim.x)) {
            a[i] = widen(op.a[index * op.count + i]);
            if constexpr (Row::operands == 2) b[i] = widen(op.b[index * op.count + i]);
            if constexpr (Row::of_largest) most = a[i] > most ? a[i] : most;
        }
        const auto b_of = [&](int64_t i) { return Row::operands == 2 ? b[i] : C(0); };
        Row row;
        if constexpr (Row::of_largest) {
            row.largest = block_largest(shared_largest[0], most);
            for (int i = int(threadIdx.x); i < count; i += int(blockDim.x)) a[i] = row.kept(a[i]);
        }
        __syncthreads();
        row.summed(group_sum<4, C>(group, shared, [&](int64_t, int64_t i) { return row.term(a[i], b_of(i)); }));
        for (int i = int(threadIdx.x); i < count; i += int(blockDim.x))
            op.y[index * op.count + i] = narrow<T>(row.result(a[i], b_of(i)));
        __syncthreads(); // before the next row takes this one's place
    }
}
template <class T, class Row> __global__ void __launch_bounds__(threads, sizeof(T) == 8 ? 1 : 2)
    long_rows(Rows<T> op, Group group) {
    using C = Compute<T>;
    SHARED(BlockLargest<C>, shared_largest, [1]);
    DYN_SHARED(C, shared);
    for (int64_t index = blockIdx.x; index < op.rows; index += gridDim.x) {
        const T *const a = op.a + index * op.count, *const b = op.b + index * op.count;
        const auto b_of = [&](int64_t i) { return Row::operands == 2 ? widen(b[i]) : C(0); };
        Row row;
        if constexpr (Row::of_largest) {
            C most = -C(__builtin_inff());
            for (int64_t i = threadIdx.x; i < op.count; i += threads) most = widen(a[i]) > most ? widen(a[i]) : most;
            row.largest = block_largest(shared_largest[0], most);
        }
        row.summed(group_sum<20, C>(group, shared,
                                    [&](int64_t, int64_t i) { return row.term(row.kept(widen(a[i])), b_of(i)); }));
        for (int64_t i = threadIdx.x; i < op.count; i += threads)
            op.y[index * op.count + i] = narrow<T>(row.result(row.kept(widen(a[i])), b_of(i)));
        __syncthreads(); // before the next row's largest element takes this one's place
    }
}

// ---- columns: 32 of them (16 of float64) by 16 lanes ---------------------------------------------------------------------------

template <class C> inline constexpr int tile = sizeof(C) == 8 ? 16 : 32; // 128 bytes
template <class C> struct ColumnParts {
    C largest[sum_lanes][tile<C>], sum[sum_lanes][tile<C>];
};

template <class C> __device__ inline C column_largest(ColumnParts<C>& shared, int lane, int at, C most) {
    shared.largest[lane][at] = most;
    __syncthreads();
    for (int k = 0; k < sum_lanes; ++k) most = shared.largest[k][at] > most ? shared.largest[k][at] : most;
    return most;
}
// The lanes as 8, 4, 2, 1. Each thread does it for its column, which spares a second barrier.
template <class C> __device__ inline C column_sum(ColumnParts<C>& shared, int lane, int at, C lane_part) {
    shared.sum[lane][at] = lane_part;
    if (!MMK_DEFECT(activation_early_sum)) __syncthreads();
    C sum[sum_lanes];
#pragma unroll
    for (int k = 0; k < sum_lanes; ++k) sum[k] = shared.sum[k][at];
#pragma unroll
    for (int half = sum_lanes / 2; half >= 1; half /= 2) {
#pragma unroll
        for (int k = 0; k < sum_lanes / 2; ++k) // of constant length, or the array is not in registers
            if (k < half) sum[k] = sum[k] + sum[k + half];
    }
    return sum[0];
}

template <class T, class Row, bool hold>
__global__ void __launch_bounds__(tile<Compute<T>>* sum_lanes, hold&& Row::operands == 1 ? 2 : 1) columns(Rows<T> op) {
    using C = Compute<T>;
    using Parts = ColumnParts<C>;
    SHARED(Parts, shared_parts, [1]);
    Parts& shared = shared_parts[0];
    const int at = int(threadIdx.x) % tile<C>, lane = int(threadIdx.x) / tile<C>;
    for (int64_t first = int64_t(blockIdx.x) * tile<C>; first < op.rows; first += int64_t(gridDim.x) * tile<C>) {
        const int64_t column = first + at, outer = column / op.inner;
        const int64_t begin = outer * op.count * op.inner + (column - outer * op.inner);
        const int64_t count = column < op.rows ? op.count : 0; // every thread meets the others
        Row row;
        if constexpr (hold) {
            const Slots<C> slots(lane, int(count));
            C a[held<C>], b[Row::operands == 2 ? held<C> : 1];
            slots.each([&](int k, int i) {
                a[k] = widen(op.a[begin + i * op.inner]);
                if constexpr (Row::operands == 2) b[k] = widen(op.b[begin + i * op.inner]);
            });
            if constexpr (Row::of_largest)
                row.largest = column_largest(shared, lane, at, slots.largest([&](int k) { return a[k]; }));
            slots.each([&](int k, int) { a[k] = row.kept(a[k]); });
            const auto b_of = [&](int k) {
                if constexpr (Row::operands == 2)
                    return b[k];
                else
                    return C(0);
            };
            const C part = slots.lane_sum([&](int k) { return row.term(a[k], b_of(k)); });
            row.summed(column_sum(shared, lane, at, part));
            slots.each([&](int k, int i) { op.y[begin + i * op.inner] = narrow<T>(row.result(a[k], b_of(k))); });
        } else {
            const auto a_of = [&](int64_t i) { return widen(op.a[begin + i * op.inner]); };
            const auto b_of = [&](int64_t i) { return Row::operands == 2 ? widen(op.b[begin + i * op.inner]) : C(0); };
            if constexpr (Row::of_largest) {
                C most = -C(__builtin_inff());
                for (int64_t i = lane; i < count; i += sum_lanes) most = a_of(i) > most ? a_of(i) : most;
                row.largest = column_largest(shared, lane, at, most);
            }
            const C part = lane_sum<C>(lane, 0, count, [&](int64_t i) { return row.term(row.kept(a_of(i)), b_of(i)); });
            row.summed(column_sum(shared, lane, at, part));
            for (int64_t i = lane; i < count; i += sum_lanes)
                op.y[begin + i * op.inner] = narrow<T>(row.result(row.kept(a_of(i)), b_of(i)));
        }
        __syncthreads(); // before the next columns' parts take these ones' place
    }
}

// ---- host ------------------------------------------------------------------------------------------------------

template <class T, class Row> void launch_rows(const Rows<T>& op, Context& context) {
    using C = Compute<T>;
    if (op.count <= half_warp_row<C>) {
        context.chose("half warp", "rows of at most 512 elements");
        MMK_LAUNCH(context, (held_rows<T, Row, 1>), grid_of(ceil_div(op.rows, threads / sum_lanes)), threads, 0, op);
    } else if (op.count <= 2 * half_warp_row<C>) {
        context.chose("warp", "rows of at most 1024 elements");
        MMK_LAUNCH(context, (held_rows<T, Row, 2>), grid_of(ceil_div(op.rows, threads / 32)), threads, 0, op);
    } else {
        // more threads where shared memory leaves room for few blocks
        const int wide = op.count < 8192 ? threads : long_row_threads<C>;
        const Group group(1, op.count, wide);
        const int64_t kept_at = group.shared_values();
        const int64_t bytes = (kept_at + Row::operands * op.count) * int64_t(sizeof(C));
        if (bytes + int64_t(sizeof(BlockLargest<C>)) + 1024 <= context.shared_memory) {
            context.chose("block", "long rows, kept in shared memory");
            MMK_LAUNCH(context, (kept_rows<T, Row>), grid_of(op.rows), wide, size_t(bytes), op, group, kept_at);
        } else {
            const Group streamed(1, op.count, threads);
            context.chose("block, streaming", "rows longer than shared memory");
            MMK_LAUNCH(context, (long_rows<T, Row>), grid_of(op.rows), threads,
                       size_t(streamed.shared_values()) * sizeof(C), op, streamed);
        }
    }
}
template <class T, class Row> void launch_columns(const Rows<T>& op, Context& context) {
    using C = Compute<T>;
    const dim3 grid = grid_of(ceil_div(op.rows, tile<C>));
    constexpr int column_threads = tile<C> * sum_lanes;
    context.chose("columns", op.count <= half_warp_row<C> ? "an inner axis" : "a long inner axis");
    if (op.count <= half_warp_row<C>)
        MMK_LAUNCH(context, (columns<T, Row, true>), grid, column_threads, 0, op);
    else
        MMK_LAUNCH(context, (columns<T, Row, false>), grid, column_threads, 0, op);
}

// Operands that are dense like the result, in whatever order of axes, are read in place: the axis' stride is the inner
// extent. b may be absent.
template <template <class> class Row>
void along_axis(Context& context, int64_t dim, const Tensor& y, const Tensor& a, const Tensor& b) {
    visit_storage(y.dtype, [&](auto type) {
        using T = typename decltype(type)::type;
        using R = Row<Compute<T>>;
        const int64_t count = y.extent[dim], rows = y.size() / count;
        const auto run = [&](const T* a_, const T* b_, T* y_, int64_t inner) {
            const Rows<T> op{a_, b_, y_, rows, count, count > 1 ? inner : 1};
            if (op.inner == 1)
                launch_rows<T, R>(op, context);
            else
                launch_columns<T, R>(op, context);
        };
        if (same_dense(y, y) && same_dense(a, y) && (!b || same_dense(b, y)))
            return run(static_cast<const T*>(a.data), static_cast<const T*>(b.data), static_cast<T*>(y.data),
                       y.stride[dim]);
        const Dense<T> a_(context, a), b_(context, b);
        DenseOut<T> y_(context, y);
        run(a_, b_, y_, y.size(int(dim) + 1, y.rank));
        y_.finish();
    });
}

} // namespace

void softmax(const AlongAxis& op, Context& context) { along_axis<Softmax>(context, op.dim, op.y, op.x, {}); }
void log_softmax(const AlongAxis& op, Context& context) { along_axis<LogSoftmax>(context, op.dim, op.y, op.x, {}); }
void softmax_grad(const AlongAxisGrad& op, Context& context) {
    along_axis<SoftmaxSlope>(context, op.dim, op.gx, op.y, op.gy);
}
void log_softmax_grad(const AlongAxisGrad& op, Context& context) {
    along_axis<LogSoftmaxSlope>(context, op.dim, op.gx, op.y, op.gy);
}

} // namespace mmk::cuda
