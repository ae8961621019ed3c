// Attention in the CPU floor's order, one fused multiply-add after another: float32 and float64, and the head dimensions
// and options that tensor cores do not take. 256 threads own a tile of queries and walk blocks of keys; scores stay in
// registers, p passes through shared memory as [key][query], so that each thread finds the factors of its rows side by
// side. The gradients are attention.scalar_grad.cu's.
#include "attention.scalar_queries.cuh"

namespace mmk::cuda::flash {
namespace {

// The softmax of a tile's rows over the keys so far. Each thread knows the greatest scores of its rows; a row's p are
// summed by one thread, key after key, and those threads are spread over all warps.
template <class C> struct RunningSoftmax {
    static constexpr int rows = rows_each<C>, threads_a_row = threads / tile_rows<C>;
    C maximum[rows], total = C(0);

    MMK_PTX RunningSoftmax() {
#pragma unroll
        for (int i = 0; i < rows; ++i) maximum[i] = minus_infinity<C>();
    }
    // The row that this thread sums, or -1.
    static MMK_PTX int own_row() {
        return int(threadIdx.x) % threads_a_row == 0 ? int(threadIdx.x) / threads_a_row : -1;
    }
    // The greatest of row i so far, the scores of a block included; bit j of `hides`: score j takes no part.
    MMK_PTX C top_with(int i, const C (&s)[keys_each], uint32_t hides) const {
        C top = maximum[i];
#pragma unroll
        for (int j = 0; j < keys_each; ++j)
            if (!(hides >> j & 1)) top = top < s[j] ? s[j] : top;
#pragma unroll
        for (int lane = side / 2; lane >= 1; lane /= 2) {
            const C other = __shfl_xor_sync(0xffffffffu, top, lane, side);
            top = top < other ? other : top;
        }
        return top;
    }
    // The scores of row i become p; gives what the row's sums so far are multiplied with.
    MMK_PTX C take(int i, C (&s)[keys_each], uint32_t hides) {
        const C top = top_with(i, s, hides);
        const C safe = top == minus_infinity<C>() ? C(0) : top; // -inf - -inf would be NaN
        const C factor = softmax_exp2(maximum[i] - safe);
        maximum[i] = top;
#pragma unroll
        for (int j = 0; j < keys_each; ++j) {
            s[j] = softmax_exp2(s[j] - safe);
            if (hides >> j & 1) s[j] = hidden<C>();
        }
        return factor;
    }
    template <int pitch> MMK_PTX void add(const C (*kept)[pitch], const C* factors, int count) {
        const int row = own_row();
        if (row < 0) return;
        C sum = C(0);
        for (int i = 0; i < count; ++i)
            if (const C p = kept[i][row]; !is_hidden(p)) sum = sum + p;
        total = fma_scalar(total, factors[row], sum);
    }
    MMK_PTX void share(C* totals) const {
        __syncthreads();
        if (own_row() >= 0) totals[own_row()] = total;
        __syncthreads();
    }
};

// Bit j: the thread's key j is hidden from a query.
MMK_PTX uint32_t hidden_keys(const Shape& shape, const AttentionItem& item, const uint8_t* mask, int64_t query,
                             const KeyBlock& block) {
    const Sight sight = block.sight(item, query, item.limit(query));
    uint32_t hides = 0;
#pragma unroll
    for (int j = 0; j < keys_each; ++j)
        if (!sees(shape, mask, query, block.key, column_of<4>(int(threadIdx.x) % side, j), sight)) hides |= 1u << j;
    return hides;
}

// The scores of a block become p, which are summed and kept on chip; `factor` is what their rows' sums so far are
// multiplied with.
template <class C, int wide> __device__ inline void find_weights(Scores<C>& s, C (&factor)[rows_each<C>],
                                                                 RunningSoftmax<C>& softmax, QueryRoom<C, wide>& room,
                                                                 const Shape& shape, const AttentionItem& item,
                                                                 const uint8_t* mask, const KeyBlock& block) {
    constexpr int rows = rows_each<C>;
    const int tx = int(threadIdx.x) % side, ty = int(threadIdx.x) / side;
#pragma unroll
    for (int i = 0; i < rows; ++i) {
        factor[i] = softmax.take(i, s[i], hidden_keys(shape, item, mask, block.first + ty * rows + i, block));
        if (tx == 0) room.factor[ty * rows + i] = factor[i];
    }
    keep(room.p, s);
    __syncthreads();
    softmax.add(room.p, room.factor, block.count);
}

// A sink is one more key, whose value is 0.
template <int columns, class C> MMK_PTX void add_sink(C own, C& maximum, C& sum, C (&out)[columns]) {
    const C score = own * C(log2_e);
    const C top = maximum < score ? score : maximum, factor = softmax_exp2(maximum - top);
    sum = fma_scalar(sum, factor, softmax_exp2(score - top));
    maximum = top;
#pragma unroll
    for (int j = 0; j < columns; ++j) out[j] = out[j] * factor;
}

// The tile's rows of y and of lse; `totals` are the sums of p.
template <int columns, class T, class C>
__device__ inline void finish_rows(const Forward<T>& f, const Kept<T>& kept, const Task& task,
                                   C (&out)[rows_each<C>][columns], RunningSoftmax<C>& softmax, const C* totals) {
    const int tx = int(threadIdx.x) % side, ty = int(threadIdx.x) / side;
    const int width = f.shape.columns - int(task.column);
#pragma unroll
    for (int i = 0; i < rows_each<C>; ++i) {
        const int64_t query = task.first + ty * rows_each<C> + i, row = kept.item.query_start + query;
        if (query >= kept.rows) continue;
        C sum = totals[ty * rows_each<C> + i], empty = minus_infinity<C>();
        const bool alive = sum != C(0);
        if (f.sink) {
            const C own = widen(f.sink[task.h]);
            add_sink(own, softmax.maximum[i], sum, out[i]);
            empty = query < kept.item.queries ? own : empty;
        }
        const C inverse = C(1) / sum;
        T* const y = f.y.of(task.b, task.h) + row * f.y.row + task.column;
#pragma unroll
        for (int j = 0; j < columns; ++j)
            if (const int at = column_of<4>(tx, j); at < width)
                y[at] = narrow<T>(alive ? out[i][j] * inverse + C(0) : C(0));
        if (f.lse && tx == 0 && task.column == 0)
            f.lse[f.shape.rule.row(f.shape.heads, task.b, task.h) + row] =
                alive ? fma_scalar(softmax.maximum[i], C(ln_2), log(sum)) : empty;
    }
}

template <class T, int wide> __global__ void __launch_bounds__(threads, 1) attend(Forward<T> f, int64_t tasks) {
    using C = Compute<T>;
    using Room = QueryRoom<C, wide>;
    constexpr int rows = rows_each<C>, columns = 4 * wide;
    DYN_SHARED(Room, memory);
    Room& room = *memory;
    SHARED(Kept<T>, kept, [1]);
    const Shape& shape = f.shape;
    const AttentionItem& item = kept[0].item;
    const int64_t groups = groups_of<Room::width>(shape.columns), tiles = ceil_div(shape.queries, Room::rows);
    for (int64_t i = blockIdx.x; i < tasks; i += gridDim.x) {
        const Task task = task_of<Room>(i, groups, tiles, shape.heads);
        const int64_t b = task.b, h = task.h, first = task.first;
        kept[0].find(shape, f.dress, b, h);
        const T* const q = f.q.of(b, h) + (item.query_start + first) * f.q.row;
        const T* const k = f.k.of(b, h / shape.group) + item.key_start * f.k.row;
        const T* const v = f.v.of(b, h / shape.group) + item.key_start * f.v.row + task.column;
        const uint8_t* const mask = shape.mask.of(b, h);
        const T* const bias = f.dress.bias.of(b, h);
        RunningSoftmax<C> softmax;
        C out[rows][columns] = {};
        const int64_t end = last_limit(item, first, Room::rows);
        for (int64_t key = item.start(first) / key_block * key_block; key < end; key += key_block) {
            const int count = int(end - key < key_block ? end - key : key_block);
            const bool some = mask || !all_see(item, shape.queries, first, Room::rows, key, count);
            const KeyBlock block{key, first, count, some};
            C s[rows][keys_each], factor[rows], chain[rows][columns];
            find_scores(s, room, f, kept[0], q, k, bias, block, no_slopes<C>);
            find_weights(s, factor, softmax, room, shape, item, mask, block);
            chain_of<slice>(chain, room.p, room.b, v + key * f.v.row, f.v.row, count, shape.columns - int(task.column),
                            some);
#pragma unroll
            for (int r = 0; r < rows; ++r)
#pragma unroll
                for (int c = 0; c < columns; ++c) out[r][c] = fma_scalar(out[r][c], factor[r], chain[r][c]);
        }
        softmax.share(room.factor);
        finish_rows(f, kept[0], task, out, softmax, room.factor);
    }
}

template <class T, int wide> void launch_forward(Context& context, const Forward<T>& f) {
    using Room = QueryRoom<Compute<T>, wide>;
    const int64_t tasks =
        f.shape.batch * f.shape.heads * ceil_div(f.shape.queries, Room::rows) * groups_of<Room::width>(f.shape.columns);
    if (tasks > 0) MMK_LAUNCH(context, (attend<T, wide>), grid_of(tasks), threads, sizeof(Room), f, tasks);
}

} // namespace

template <class T> void forward_scalar(Context& context, const Forward<T>& problem) {
    if constexpr (std::is_same_v<T, float>)
        if (is_wide(problem.shape.columns)) return launch_forward<T, 2>(context, problem);
    launch_forward<T, 1>(context, problem);
}

template void forward_scalar(Context&, const Forward<float>&);
template void forward_scalar(Context&, const Forward<double>&);

} // namespace mmk::cuda::flash
