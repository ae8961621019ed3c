// Additive attention (ops/attention.h). A block owns a query (or, for gk and gv, a key) and walks the blocks of 128 on the
// other side: 16 threads find one score, whose tanh are what the time goes into, then a thread owns columns of the results.
// Sums that go on from block to block wait in global memory, so that extents have no limit.
#include "layout.cuh"
#include "reduce.cuh"

#include "../ops/attention.h"

namespace mmk::cuda {
namespace {

// Eight blocks a multiprocessor are said everywhere: left to itself the compiler goes for twelve, and spills.
constexpr int threads = 128, block = 128, groups = threads / sum_lanes;
constexpr double log2_of_e = 0x1.71547652b82fep0, ln_2 = 0x1.62e42fefa39efp-1;

template <class C> MMK_INLINE C minus_infinity() { return C(-__builtin_inff()); }

// What all kernels read; rows are numbered through the batch. Null: not given.
template <class T> struct Additive {
    int64_t batch, queries, keys;
    int width, columns;
    const T *q, *k, *v, *weight, *gy;
    const uint8_t* mask; // [*B Tq Tk]
    const Compute<T>*lse, *delta;

    MMK_MEMBER bool sees(int64_t row, int64_t key) const { return !mask || mask[row * keys + key]; }
};

template <class C> MMK_INLINE C tanh_of(C x) { return tanh(Vec<C>(x)).v; }

// Sums of sixteen threads, all of which get it; all threads of the warp call.
template <class T> __device__ inline Compute<T> score(const Additive<T>& g, int64_t row, int64_t other) {
    using C = Compute<T>;
    C sum = C(0);
    for (int a = int(threadIdx.x) % sum_lanes; a < g.width; a += sum_lanes)
        sum = fma_scalar(widen(g.weight[a]), tanh_of(widen(g.q[row * g.width + a]) + widen(g.k[other * g.width + a])),
                         sum);
    return join_lanes(sum) * C(log2_of_e);
}
template <class T> __device__ inline Compute<T> dot(const T* a, const T* b, int count) {
    Compute<T> sum = Compute<T>(0);
    for (int i = int(threadIdx.x) % sum_lanes; i < count; i += sum_lanes)
        sum = fma_scalar(widen(a[i]), widen(b[i]), sum);
    return join_lanes(sum);
}

template <class T> __global__ void __launch_bounds__(threads, 8)
    attend(Additive<T> g, Compute<T>* result, T* y, Compute<T>* lse, int64_t tasks) {
    using C = Compute<T>;
    SHARED(C, p, [block]);
    SHARED(uint8_t, seen, [block]);
    const int thread = int(threadIdx.x), group = thread / sum_lanes;
    for (int64_t row = blockIdx.x; row < tasks; row += gridDim.x) {
        const int64_t b = row / g.queries;
        C maximum = minus_infinity<C>(), total = C(0);
        for (int64_t key = 0; key < g.keys; key += block) {
            const int count = int(g.keys - key < block ? g.keys - key : block);
            for (int first = 0; first < count; first += groups) {
                const int j = first + group, at = j < count ? j : 0;
                const C s = score(g, row, b * g.keys + key + at);
                if (thread % sum_lanes == 0 && j < count) p[j] = s, seen[j] = g.sees(row, key + j);
            }
            if (!MMK_DEFECT(attention_additive_early_softmax)) __syncthreads();
            C top = maximum, sum = C(0);
            for (int j = 0; j < count; ++j)
                if (seen[j] && top < p[j]) top = p[j];
            const C safe = top == minus_infinity<C>() ? C(0) : top; // -inf - -inf would be NaN
            __syncthreads();
            if (thread < count) p[thread] = softmax_exp2(p[thread] - safe);
            __syncthreads();
            for (int j = 0; j < count; ++j)
                if (seen[j] || MMK_DEFECT(attention_additive_hidden_summed)) sum = sum + p[j];
            const C factor = softmax_exp2(maximum - safe);
            total = fma_scalar(total, factor, sum), maximum = top;
            for (int d = thread; d < g.columns; d += threads) {
                const T* const v = g.v + (b * g.keys + key) * g.columns + d;
                C chain = C(0);
                for (int j = 0; j < count; ++j)
                    if (seen[j]) chain = fma_scalar(p[j], widen(v[j * int64_t(g.columns)]), chain);
                C& to = result[row * g.columns + d];
                to = fma_scalar(key == 0 ? C(0) : to, factor, chain);
            }
            __syncthreads(); // the next block's scores
        }
        const bool alive = total != C(0);
        const C inverse = C(1) / total;
        for (int d = thread; d < g.columns; d += threads)
            y[row * g.columns + d] = narrow<T>(alive ? result[row * g.columns + d] * inverse + C(0) : C(0));
        if (thread == 0 && lse)
            lse[row] = alive ? fma_scalar(maximum, C(ln_2), log(Vec<C>(total)).v) : minus_infinity<C>();
    }
}

template <class T> __global__ void __launch_bounds__(threads) find_weights(Additive<T> g, T* weights, int64_t pairs) {
    using C = Compute<T>;
    const int64_t stride = int64_t(gridDim.x) * groups;
    for (int64_t first = int64_t(blockIdx.x) * groups; first < pairs; first += stride) {
        const int64_t own = first + int(threadIdx.x) / sum_lanes, pair = own < pairs ? own : pairs - 1;
        const int64_t row = pair / g.keys, key = pair % g.keys;
        const C s = score(g, row, row / g.queries * g.keys + key);
        const bool seen = g.lse[row] != minus_infinity<C>() && g.sees(row, key);
        if (threadIdx.x % sum_lanes == 0 && own < pairs)
            weights[pair] = narrow<T>(seen ? softmax_exp2(fma_scalar(C(-log2_of_e), g.lse[row], s)) : C(0));
    }
}

template <class T> __global__ void __launch_bounds__(threads, 8)
    find_delta(Additive<T> g, const T* y, const Compute<T>* glse, Compute<T>* delta, int64_t rows) {
    using C = Compute<T>;
    const int64_t stride = int64_t(gridDim.x) * groups;
    for (int64_t first = int64_t(blockIdx.x) * groups; first < rows; first += stride) {
        const int64_t own = first + int(threadIdx.x) / sum_lanes, row = own < rows ? own : rows - 1;
        const C sum = dot(g.gy + row * g.columns, y + row * g.columns, g.columns);
        if (threadIdx.x % sum_lanes == 0 && own < rows) delta[row] = sum - (glse ? glse[row] : C(0));
    }
}

// Where a block's sums go on: of a query gq's and gweight's, of a key gk's and gv's.
template <class T> struct Sums {
    Compute<T>*slope, *other;
    T *gx, *gv;
};

// With `queries` a block owns a query, else a key.
template <class T, bool queries> __global__ void __launch_bounds__(threads, 8)
    differentiate(Additive<T> g, Sums<T> sums, int64_t tasks) {
    using C = Compute<T>;
    SHARED(C, p, [block]);
    SHARED(C, ds, [block]);
    SHARED(uint8_t, seen, [block]);
    const int thread = int(threadIdx.x), group = thread / sum_lanes;
    const int64_t others = queries ? g.keys : g.queries, owned = queries ? g.queries : g.keys;
    for (int64_t task = blockIdx.x; task < tasks; task += gridDim.x) {
        const int64_t b = task / owned, base = b * others; // of the other side's rows
        C* const slope = sums.slope + task * g.width;
        C* const other = sums.other + task * (queries ? g.width : g.columns);
        for (int a = thread; a < g.width; a += threads) slope[a] = C(0);
        for (int a = thread; a < (queries ? g.width : g.columns); a += threads) other[a] = C(0);
        for (int64_t first = 0; first < others; first += block) {
            const int count = int(others - first < block ? others - first : block);
            for (int begin = 0; begin < count; begin += groups) {
                const int j = begin + group, at = j < count ? j : 0;
                const int64_t row = queries ? task : base + first + at, key = queries ? base + first + at : task;
                const C s = score(g, row, key), dp = dot(g.gy + row * g.columns, g.v + key * g.columns, g.columns);
                if (thread % sum_lanes != 0 || j >= count) continue;
                p[j] = softmax_exp2(fma_scalar(C(-log2_of_e), g.lse[row], s));
                ds[j] = p[j] * (dp - g.delta[row]);
                seen[j] = g.lse[row] != minus_infinity<C>() && g.sees(row, key - b * g.keys);
            }
            if (!MMK_DEFECT(attention_additive_early_gradient)) __syncthreads();
            const T* const own = (queries ? g.q : g.k) + task * g.width;
            const T* const across = (queries ? g.k : g.q) + (base + first) * g.width;
            for (int a = thread; a < g.width; a += threads) {
                const C x = widen(own[a]);
                C chain = C(0), of_row = queries ? other[a] : C(0);
                for (int j = 0; j < count; ++j) {
                    if (!seen[j]) continue;
                    const C t = tanh_of(x + widen(across[j * int64_t(g.width) + a]));
                    chain = fma_scalar(ds[j], fma_scalar(-t, t, C(1)), chain);
                    if (queries) of_row = fma_scalar(ds[j], t, of_row);
                }
                slope[a] = slope[a] + chain;
                if (queries) other[a] = of_row;
            }
            for (int d = thread; !queries && d < g.columns; d += threads) {
                C chain = C(0);
                for (int i = 0; i < count; ++i)
                    if (seen[i]) chain = fma_scalar(p[i], widen(g.gy[(base + first + i) * g.columns + d]), chain);
                other[d] = other[d] + chain;
            }
            __syncthreads(); // the next block's factors
        }
        for (int a = thread; a < g.width; a += threads)
            sums.gx[task * g.width + a] = narrow<T>(slope[a] * widen(g.weight[a]));
        for (int d = thread; !queries && d < g.columns; d += threads)
            sums.gv[task * g.columns + d] = narrow<T>(other[d]);
    }
}

// to[item][part][a] = from[item][n][a], summed over the 128 n of a part, in order.
template <class C, class T> __global__ void __launch_bounds__(threads, 8)
    add_rows(const C* from, int64_t count, int64_t each, int64_t parts, int width, T* to, int64_t size) {
    for (int64_t i = int64_t(blockIdx.x) * threads + threadIdx.x; i < size; i += int64_t(gridDim.x) * threads) {
        const int64_t a = i % width, part = i / width % parts, item = i / width / parts;
        const int64_t end = (part + 1) * each < count ? (part + 1) * each : count;
        C sum = C(0);
        for (int64_t n = part * each; n < end; ++n) sum = sum + from[(item * count + n) * width + a];
        if constexpr (std::is_same_v<C, T>)
            to[i] = sum;
        else
            to[i] = narrow<T>(sum);
    }
}

template <class T, class Op> Additive<T> problem_of(Context& context, const Op& op, int64_t columns) {
    return {op.q.size(0, op.q.rank - 2),
            op.q.extent_at(-2),
            op.k.extent_at(-2),
            int(op.q.extent_at(-1)),
            int(columns),
            Dense<T>(context, op.q),
            Dense<T>(context, op.k),
            nullptr,
            Dense<T>(context, op.weight),
            nullptr,
            Dense<uint8_t>(context, op.mask),
            nullptr,
            nullptr};
}

template <class T> void forward(const AdditiveAttention& op, Context& context) {
    using C = Compute<T>;
    Additive<T> g = problem_of<T>(context, op, op.v.extent_at(-1));
    g.v = Dense<T>(context, op.v);
    DenseOut<T> y(context, op.y);
    DenseOut<C> lse(context, op.lse);
    const int64_t rows = g.batch * g.queries;
    C* const result = context.scratch<C>(rows * g.columns);
    if (g.keys == 0 && rows > 0) fill_zero(context, result, rows * g.columns * int64_t(sizeof(C)));
    if (rows > 0) MMK_LAUNCH(context, attend<T>, grid_of(rows), threads, 0, g, result, y.get(), lse.get(), rows);
    y.finish(), lse.finish();
}

template <class T> void weights_of(const AdditiveAttentionWeights& op, Context& context) {
    Additive<T> g = problem_of<T>(context, op, 0);
    g.lse = Dense<Compute<T>>(context, op.lse);
    DenseOut<T> weights(context, op.weights);
    const int64_t pairs = g.batch * g.queries * g.keys;
    if (pairs > 0)
        MMK_LAUNCH(context, find_weights<T>, grid_of(ceil_div(pairs, groups)), threads, 0, g, weights.get(), pairs);
    weights.finish();
}

template <class T> void backward(const AdditiveAttentionGrad& op, Context& context) {
    using C = Compute<T>;
    Additive<T> g = problem_of<T>(context, op, op.v.extent_at(-1));
    g.v = Dense<T>(context, op.v), g.gy = Dense<T>(context, op.gy), g.lse = Dense<C>(context, op.lse);
    const Dense<T> y(context, op.y);
    const Dense<C> glse(context, op.glse);
    DenseOut<T> gq(context, op.gq), gk(context, op.gk), gv(context, op.gv), gweight(context, op.gweight);
    const int64_t rows = g.batch * g.queries, others = g.batch * g.keys, parts = ceil_div(g.queries, block);
    C* const delta = context.scratch<C>(rows);
    C *const slopes = context.scratch<C>(rows * g.width), *const of_rows = context.scratch<C>(rows * g.width);
    C *const key_slopes = context.scratch<C>(others * g.width), *const values = context.scratch<C>(others * g.columns);
    C* const partial = context.scratch<C>(g.batch * parts * g.width);
    g.delta = delta;
    if (rows > 0) {
        MMK_LAUNCH(context, find_delta<T>, grid_of(ceil_div(rows, groups)), threads, 0, g, y.get(), glse.get(), delta,
                   rows);
        MMK_LAUNCH(context, (differentiate<T, true>), grid_of(rows), threads, 0, g,
                   (Sums<T>{slopes, of_rows, gq.get(), nullptr}), rows);
    }
    if (others > 0)
        MMK_LAUNCH(context, (differentiate<T, false>), grid_of(others), threads, 0, g,
                   (Sums<T>{key_slopes, values, gk.get(), gv.get()}), others);
    if (g.width > 0) {
        const int64_t size = g.batch * parts * g.width;
        if (size > 0)
            MMK_LAUNCH(context, (add_rows<C, C>), grid_of(ceil_div(size, threads)), threads, 0, of_rows, g.queries,
                       int64_t(block), parts, g.width, partial, size);
        const int64_t all = g.batch * parts;
        MMK_LAUNCH(context, (add_rows<C, T>), grid_of(ceil_div(g.width, threads)), threads, 0, partial, all, all,
                   int64_t(1), g.width, gweight.get(), int64_t(g.width));
    }
    gq.finish(), gk.finish(), gv.finish(), gweight.finish();
}

} // namespace

#define MMK_T typename decltype(type)::type

void additive_attention(const AdditiveAttention& op, Context& context) {
    visit_storage(op.q.dtype, [&](auto type) { forward<MMK_T>(op, context); });
}

void additive_attention_grad(const AdditiveAttentionGrad& op, Context& context) {
    visit_storage(op.q.dtype, [&](auto type) { backward<MMK_T>(op, context); });
}

void additive_attention_weights(const AdditiveAttentionWeights& op, Context& context) {
    visit_storage(op.q.dtype, [&](auto type) { weights_of<MMK_T>(op, context); });
}

} // namespace mmk::cuda
