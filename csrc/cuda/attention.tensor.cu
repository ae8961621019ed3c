// Attention of 16-bit types on tensor cores (ops/attention.h says what is computed, "CUDA" in what order).
#include "attention.tensor.cuh"

namespace mmk::cuda::flash {
namespace {

// A team of warps owns 16 M queries a warp and walks the tiles of keys; the next tile's copies run under this one's
// products. Short sequences have teams of one warp, four to a block.
template <int D_, int keys_, int M_, int warps_, int stages_> struct Form {
    static constexpr int D = D_, keys = keys_, M = M_, warps = warps_, stages = stages_;
    static constexpr int team = 32 * warps, teams = warps == 1 ? 4 : 1, threads = team * teams,
                         queries = 16 * M * warps;
    static constexpr int query_pieces = queries * D / 8, key_pieces = keys * D / 8;
    static constexpr int room = query_pieces + 2 * stages * key_pieces; // pieces of a team
};
// 32 queries a warp use each fragment of keys and values twice, which halves what is read of shared memory; at 256
// columns the accumulators leave registers for 16.
template <int D> using Long = Form<D, tile_keys<D>, D <= 128 ? 2 : 1, 4, 2>;
template <int D> using Short = Form<D, 32, 1, 1, 1>;

// What a warp carries from tile to tile: accumulators, running maxima, and each lane's part of the denominators.
template <int M, int D> struct Carried {
    float out[M][D / 8][4], maximum[M][2], total[M][2];
};

// Scores become p, hidden ones 0; what is carried is rescaled to the new maximum.
template <int M, int N, int D>
MMK_PTX void softmax(Carried<M, D>& carried, float (&s)[M][N][4], const uint32_t (&seen)[M], bool some) {
    bool moved = false;
    float factor[M][2];
#pragma unroll
    for (int m = 0; m < M; ++m)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            float top = carried.maximum[m][half];
#pragma unroll
            for (int n = 0; n < N; ++n)
#pragma unroll
                for (int i = 2 * half; i < 2 * half + 2; ++i) {
                    if (some && !(seen[m] >> (4 * n + i) & 1)) s[m][n][i] = -__builtin_inff();
                    top = top < s[m][n][i] ? s[m][n][i] : top;
                }
#pragma unroll
            for (int lane = 1; lane <= 2; lane *= 2) {
                const float other = __shfl_xor_sync(0xffffffffu, top, lane);
                top = top < other ? other : top;
            }
            const float safe = top == -__builtin_inff() ? 0.0f : top; // -inf - -inf would be NaN
            factor[m][half] = softmax_exp2(carried.maximum[m][half] - safe);
            moved |= factor[m][half] != 1.0f;
            carried.maximum[m][half] = top;
            float sum = 0.0f;
#pragma unroll
            for (int n = 0; n < N; ++n)
#pragma unroll
                for (int i = 2 * half; i < 2 * half + 2; ++i) {
                    s[m][n][i] = softmax_exp2(s[m][n][i] - safe);
                    sum += s[m][n][i];
                }
            carried.total[m][half] = fma_scalar(carried.total[m][half], factor[m][half], sum);
        }
    if (!__any_sync(0xffffffffu, moved)) return; // times 1 everywhere
#pragma unroll
    for (int m = 0; m < M; ++m)
#pragma unroll
        for (int n = 0; n < D / 8; ++n)
#pragma unroll
            for (int i = 0; i < 4; ++i) carried.out[m][n][i] *= factor[m][i / 2];
}

// What a team knows of its task: in shared memory, as it is needed once a tile, and registers are full.
template <class T> struct Kept {
    const T *k, *v, *bias;
    const uint8_t* mask;
    T* y;
    float* lse;
    AttentionItem item;
    int64_t first, rows; // query; of the item
    int begin, count;    // tiles of keys
    int whole, after;    // of which all queries see these whole, but for a mask
    float sink;
};

template <class T, class Form> __global__ void __launch_bounds__(Form::threads, Form::warps > 1 ? 2
                                                                                : Form::D <= 64 ? 4
                                                                                                : 3)
    attend(Forward<T> f, int64_t first_task, int64_t tasks) {
    constexpr int D = Form::D, M = Form::M, N = Form::keys / 8, team = Form::team;
    DYN_SHARED(Piece<T>, memory);
    SHARED(Kept<T>, kept_by_team, [Form::teams]);
    const int thread = int(threadIdx.x) % team, warp = thread / 32, lane = thread % 32, g = lane / 4, t = lane % 4;
    const int64_t task = first_task + int64_t(blockIdx.x) * Form::teams + int(threadIdx.x) / team;
    if (task >= tasks) return; // a whole team
    Kept<T>& kept = kept_by_team[int(threadIdx.x) / team];
    Piece<T>* const room_q = memory + int(threadIdx.x) / team * Form::room;
    Piece<T>* const own_q = room_q + warp * 16 * M * (D / 8);
    Piece<T>* const room_k = room_q + Form::query_pieces;
    Piece<T>* const room_v = room_k + Form::stages * Form::key_pieces;
    const Shape& shape = f.shape;
    const auto load_keys = [&](const T* k, const T* v, int64_t keys, int64_t key, int stage) {
        load_tile<D, Form::keys, team>(room_k + stage * Form::key_pieces, k + key * f.k.row, f.k.row, keys - key,
                                       shape.depth / 8, thread);
        load_tile<D, Form::keys, team>(room_v + stage * Form::key_pieces, v + key * f.v.row, f.v.row, keys - key,
                                       shape.columns / 8, thread);
    };
    {
        const int64_t tiles = ceil_div(shape.queries, Form::queries);
        const int64_t sample = task / tiles, b = sample / shape.heads, h = sample % shape.heads;
        // under a triangle the last queries see the most keys: theirs come first
        const int64_t first = (tiles - 1 - task % tiles) * Form::queries;
        const AttentionItem item = shape.item(b);
        const int64_t rows = shape.rows(item), end = first + Form::queries < rows ? first + Form::queries : rows;
        const int64_t row = item.query_start, head_row = shape.rule.row(shape.heads, b, h) + row;
        const Kept<T> found = {f.k.of(b, h / shape.group) + item.key_start * f.k.row,
                               f.v.of(b, h / shape.group) + item.key_start * f.v.row,
                               f.dress.bias.of(b, h),
                               shape.mask.of(b, h),
                               f.y.of(b, h) + row * f.y.row,
                               f.lse ? f.lse + head_row : nullptr,
                               item,
                               first,
                               rows,
                               int(item.start(first) / Form::keys),
                               int(ceil_div(last_limit(item, first, Form::queries), Form::keys)),
                               end > first ? int(ceil_div(item.start(end - 1), Form::keys)) : 0,
                               end <= item.queries ? int(item.limit(first) / Form::keys) : 0,
                               f.sink ? widen(f.sink[h]) : 0.0f};
        if (thread == 0) kept = found;
        load_tile<D, Form::queries, team>(room_q, f.q.of(b, h) + (row + first) * f.q.row, f.q.row, rows - first,
                                          shape.depth / 8, thread);
        if (found.count > found.begin) load_keys(found.k, found.v, item.keys, int64_t(found.begin) * Form::keys, 0);
    }
    meet<team>();
    const int count = kept.count;
    const int64_t own = kept.first + warp * 16 * M; // this warp's first query
    const auto own_rows = [&] {
        return int(kept.rows - own < 0 ? 0 : kept.rows - own < 16 * M ? kept.rows - own : 16 * M);
    };
    cp_async_commit();
    Carried<M, D> carried = {};
#pragma unroll
    for (int m = 0; m < M; ++m) carried.maximum[m][0] = carried.maximum[m][1] = -__builtin_inff();
    bool noted = false; // infinities and NaN in y
    for (int tile = kept.begin, stage = 0; tile < count; ++tile, stage = (stage + 1) % Form::stages) {
        const int64_t key = int64_t(tile) * Form::keys;
        cp_async_wait<0>();
        meet<team>(); // this tile has landed for all, and all have done with the one before
        if (Form::stages > 1 && tile + 1 < count)
            load_keys(kept.k, kept.v, kept.item.keys, key + Form::keys, (stage + 1) % Form::stages);
        cp_async_commit();
        Piece<T>* const values = room_v + stage * Form::key_pieces;
        const uint8_t* const mask = kept.mask;
        T* const y = kept.y + own * f.y.row;
        const bool some = mask || tile < kept.whole || tile >= kept.after;
        uint32_t seen[M] = {}, sees = 0;
        if (some) {
            if (meet_any<team>(any_special<T, Form::key_pieces, team>(values, thread))) {
                if (!noted) clear_rows(y, f.y.row, own_rows(), shape.columns, lane);
                __syncwarp();
                note_specials<D>(values, Form::keys, y, f.y.row, own_rows(), shape.columns, lane, false,
                                 [&](int r, int i) {
                                     return key + i < kept.item.limit(own + r) && key + i >= kept.item.start(own + r) &&
                                            (!mask || mask[(own + r) * shape.mask.row + (key + i) * shape.mask.step]);
                                 });
                noted = true;
                meet<team>();
                remove_specials<T, Form::key_pieces, team>(values, thread);
                meet<team>();
            }
#pragma unroll
            for (int m = 0; m < M; ++m)
                sees |= seen[m] = what_is_seen<N>(shape, kept.item, mask, own + 16 * m + g, key, t);
            // tiles that a warp's queries do not see leave what they carry as it is
            if (!__any_sync(0xffffffffu, sees != 0)) continue;
        }
        if (own >= kept.rows) continue; // one query of a decoder leaves three warps to copy only
        float s[M][N][4];
        row_products<T, D>(s, own_q, room_k + stage * Form::key_pieces, lane);
#pragma unroll
        for (int m = 0; m < M; ++m)
#pragma unroll
            for (int n = 0; n < N; ++n)
#pragma unroll
                for (int i = 0; i < 4; ++i) s[m][n][i] *= f.folded;
        if (const T* const bias = kept.bias)
#pragma unroll
            for (int m = 0; m < M; ++m) {
                const int64_t query = own + 16 * m + g, other = key + 2 * t;
                const Grid<T>& grid = f.dress.bias;
                add_bias(s[m], bias + query * grid.row + other * grid.step, grid.row, grid.step, shape.queries - query,
                         shape.keys - other);
            }
        softmax(carried, s, seen, some);
        factor_products<T, D>(carried.out, s, values, lane);
    }
    cp_async_wait<0>();
    meet<team>(); // queries that see no key have their copies under way until here
#pragma unroll
    for (int m = 0; m < M; ++m)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            float sum = carried.total[m][half];
            sum += __shfl_xor_sync(0xffffffffu, sum, 1);
            sum += __shfl_xor_sync(0xffffffffu, sum, 2);
            const bool alive = sum != 0.0f;
            const int64_t query = own + 16 * m + 8 * half + g;
            float maximum = carried.maximum[m][half], factor = 1.0f, empty = -__builtin_inff();
            if (f.sink) {
                const float score = kept.sink * float(log2_e), top = maximum < score ? score : maximum;
                factor = softmax_exp2(maximum - top);
                sum = fma_scalar(sum, factor, softmax_exp2(score - top));
                maximum = top;
                if (query < kept.item.queries) empty = kept.sink;
            }
            const float inverse = 1.0f / sum;
#pragma unroll
            for (int n = 0; n < D / 8; ++n)
#pragma unroll
                for (int i = 2 * half; i < 2 * half + 2; ++i)
                    carried.out[m][n][i] = alive ? carried.out[m][n][i] * factor * inverse + 0.0f : 0.0f;
            if (kept.lse && t == 0 && query < kept.rows)
                kept.lse[query] = alive ? fma_scalar(maximum, float(ln_2), log(sum)) : empty;
        }
    store_rows<T, D>(carried.out, own_q, kept.y + own * f.y.row, f.y.row, own_rows(), shape.columns / 8, lane, noted);
}

template <class Form, class T> void launch(Context& context, const Forward<T>& f) {
    const int64_t tasks = f.shape.batch * f.shape.heads * ceil_div(f.shape.queries, Form::queries);
    for_each_grid(tasks, Form::teams, [&](int64_t first, dim3 grid) {
        MMK_LAUNCH(context, (attend<T, Form>), grid, Form::threads, Form::teams * Form::room * sizeof(Piece<T>), f,
                   first, tasks);
    });
}

} // namespace

template <class T> void forward_tensor(Context& context, const Forward<T>& problem) {
    const Shape& shape = problem.shape;
    const int widest = shape.depth > shape.columns ? shape.depth : shape.columns;
    // Few keys are all in the first tile, and a tile's further keys are hidden: both ways give the same bits.
    if (shape.queries <= short_sequence && shape.keys <= short_sequence && widest <= 128) {
        context.chose("tensor cores, a warp a sequence", "16-bit operands, at most 32 queries and 32 keys");
        if (widest <= 64) return launch<Short<64>>(context, problem);
        return launch<Short<128>>(context, problem);
    }
    visit_depth(widest, [&](auto depth) { launch<Long<decltype(depth)::value>>(context, problem); });
}

template void forward_tensor(Context&, const Forward<float16>&);
template void forward_tensor(Context&, const Forward<bfloat16>&);

} // namespace mmk::cuda::flash
