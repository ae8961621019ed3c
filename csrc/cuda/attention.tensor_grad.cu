// The gradients of attention in 16-bit types, on tensor cores. One kernel owns queries and adds up gq over the tiles of
// keys; one owns keys and adds up gk and gv over the tiles of queries. Scores are found twice, which costs two products of
// seven, and nothing is added by atomics: the order of every sum is fixed.
#include "attention.tensor.cuh"

namespace mmk::cuda::flash {
namespace {

constexpr int warps = 4, team = 32 * warps, own_rows = 16 * warps;
// Two stages, so that copies run under products, where they leave room for it.
template <int D> inline constexpr int stages = D <= 128 ? 2 : 1;
template <int D, int others> inline constexpr int room_pieces = 2 * (own_rows + stages<D> * others) * D / 8;

MMK_INLINE int rows_left(int64_t all, int64_t first, int most) {
    return int(all - first < 0 ? 0 : all - first < most ? all - first : most);
}

// Scores become their gradients ds; without `some` all are seen.
template <int N> MMK_PTX void find_gradients(float (&s)[N][4], const float (&dp)[N][4], const float (&lse)[2],
                                             const float (&delta)[2], bool some, uint32_t seen) {
#pragma unroll
    for (int n = 0; n < N; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const float p = softmax_exp2(fma_scalar(float(-log2_e), lse[i / 2], s[n][i]));
            s[n][i] = p * (dp[n][i] - delta[i / 2]);
            if (some && !(seen >> (4 * n + i) & 1)) s[n][i] = 0.0f;
        }
}
// Numbers behind a mask in a tile of keys, for the warp's 16 queries from `own` on: noted in gq, the first time into rows
// of zeros, and removed.
template <class T, int D, int keys> MMK_PTX void set_apart_specials(const Backward<T>& g, const AttentionItem& item,
                                                                    const uint8_t* mask, Piece<T>* tile, int64_t b,
                                                                    int64_t h, int64_t head_row, int64_t own,
                                                                    int64_t key, int left, bool noted) {
    const Shape& shape = g.shape;
    const int thread = int(threadIdx.x), lane = thread % 32;
    T* const gq = g.gq.of(b, h) + (item.query_start + own) * g.gq.row;
    if (!noted) clear_rows(gq, g.gq.row, left, shape.depth, lane);
    __syncwarp();
    note_specials<D>(tile, keys, gq, g.gq.row, left, shape.depth, lane, true, [&](int r, int i) {
        return key + i < item.limit(own + r) && key + i >= item.start(own + r) &&
               g.lse[head_row + own + r] != -__builtin_inff() &&
               (!mask || mask[(own + r) * shape.mask.row + (key + i) * shape.mask.step]);
    });
    __syncthreads(); // scores have been found, too
    remove_specials<T, keys * D / 8, team>(tile, thread);
    __syncthreads();
}

template <class T, int D> __global__ void __launch_bounds__(team, 2)
    differentiate_queries(Backward<T> g, int64_t first_task, int64_t tasks) {
    constexpr int keys = tile_keys<D>, N = keys / 8, pieces = keys * D / 8;
    DYN_SHARED(Piece<T>, room_q);
    Piece<T>* const room_gy = room_q + own_rows * D / 8;
    Piece<T>* const room_k = room_gy + own_rows * D / 8;
    Piece<T>* const room_v = room_k + stages<D> * pieces;
    const int thread = int(threadIdx.x), warp = thread / 32, lane = thread % 32, row = lane / 4, t = lane % 4;
    const Shape& shape = g.shape;
    const int64_t tiles = ceil_div(shape.queries, own_rows), task = first_task + blockIdx.x;
    if (task >= tasks) return;
    const int64_t sample = task / tiles, b = sample / shape.heads, h = sample % shape.heads;
    // under a triangle the last queries see the most keys: theirs come first
    const int64_t first = (tiles - 1 - task % tiles) * own_rows, own = first + warp * 16;
    SHARED(AttentionItem, item_once, [1]); // as it is needed once a tile, and registers are full
    const AttentionItem& item = item_once[0];
    if (thread == 0) item_once[0] = shape.item(b);
    __syncthreads();
    const T* const k = g.k.of(b, h / shape.group) + item.key_start * g.k.row;
    const T* const v = g.v.of(b, h / shape.group) + item.key_start * g.v.row;
    const uint8_t* const mask = shape.mask.of(b, h);
    const T* const bias = g.dress.bias.of(b, h);
    const int64_t rows = shape.rows(item), head_row = shape.rule.row(shape.heads, b, h) + item.query_start;
    const auto load_keys = [&](int64_t key, int stage) {
        load_tile<D, keys, team>(room_k + stage * pieces, k + key * g.k.row, g.k.row, item.keys - key, shape.depth / 8,
                                 thread);
        load_tile<D, keys, team>(room_v + stage * pieces, v + key * g.v.row, g.v.row, item.keys - key,
                                 shape.columns / 8, thread);
        cp_async_commit();
    };
    load_tile<D, own_rows, team>(room_q, g.q.of(b, h) + (item.query_start + first) * g.q.row, g.q.row, rows - first,
                                 shape.depth / 8, thread);
    load_tile<D, own_rows, team>(room_gy, g.gy.of(b, h) + (item.query_start + first) * g.gy.row, g.gy.row, rows - first,
                                 shape.columns / 8, thread);
    cp_async_commit(); // there may be no key
    float lse[2], delta[2];
    uint32_t alive = 0; // bits of what_is_seen
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const int64_t query = own + 8 * half + row, at = head_row + query;
        lse[half] = query < rows ? g.lse[at] : 0.0f;
        delta[half] = query < rows ? g.delta[at] : 0.0f;
        if (lse[half] != -__builtin_inff()) alive |= 0x33333333u << 2 * half;
    }
    const bool any_dead = __syncthreads_or(alive != 0xffffffffu);
    const int64_t end = g.gbias ? shape.keys : last_limit(item, first, own_rows);
    const int begin = g.gbias ? 0 : int(item.start(first) / keys), count = int(ceil_div(end, keys));
    if (count > begin) load_keys(int64_t(begin) * keys, 0);
    float sum[1][D / 8][4] = {};
    bool noted = false; // infinities and NaN in gq
    for (int tile = begin, stage = 0; tile < count; ++tile, stage = (stage + 1) % stages<D>) {
        const int64_t key = int64_t(tile) * keys;
        if (stages<D> == 1 && tile > begin) {
            __syncthreads(); // all have done with the tile before
            load_keys(key, 0);
        }
        cp_async_wait<0>();
        if (!MMK_DEFECT(attention_tile_without_barrier)) __syncthreads();
        if (stages<D> > 1 && tile + 1 < count) load_keys(key + keys, (stage + 1) % stages<D>);
        Piece<T>* const tile_k = room_k + stage * pieces;
        const bool some = mask || any_dead || !all_see(item, shape.queries, first, own_rows, key, keys);
        float s[1][N][4], dp[1][N][4];
        row_products<T, D>(s, room_q + warp * 16 * (D / 8), tile_k, lane);
        row_products<T, D>(dp, room_gy + warp * 16 * (D / 8), room_v + stage * pieces, lane);
        uint32_t seen = 0xffffffffu;
        if (some) {
            seen = alive & what_is_seen<N>(shape, item, mask, own + row, key, t);
            if (!g.gbias && __syncthreads_or(any_special<T, pieces, team>(tile_k, thread))) {
                set_apart_specials<T, D, keys>(g, item, mask, tile_k, b, h, head_row, own, key,
                                               rows_left(rows, own, 16), noted);
                noted = true;
            }
        }
#pragma unroll
        for (int n = 0; n < N; ++n)
#pragma unroll
            for (int i = 0; i < 4; ++i) s[0][n][i] *= g.folded;
        if (bias)
            add_bias(s[0], bias + (own + row) * g.dress.bias.row + (key + 2 * t) * g.dress.bias.step, g.dress.bias.row,
                     g.dress.bias.step, shape.queries - own - row, shape.keys - key - 2 * t);
        find_gradients(s[0], dp[0], lse, delta, some, seen);
        if (g.gbias) {
#pragma unroll
            for (int n = 0; n < N; ++n)
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    const int64_t query = own + 8 * (i / 2) + row, other = key + 8 * n + 2 * t + i % 2;
                    if (query < shape.queries && other < shape.keys)
                        g.gbias[(head_row + query) * shape.keys + other] = narrow<T>(s[0][n][i]);
                }
        } else
            factor_products<T, D>(sum, s, tile_k, lane);
    }
    if (g.gbias) return;
    cp_async_wait<0>();
    __syncthreads(); // queries that see no key have their copies under way until here
#pragma unroll
    for (int n = 0; n < D / 8; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i) sum[0][n][i] *= g.scale;
    store_rows<T, D>(sum, room_q + warp * 16 * (D / 8), g.gq.of(b, h) + (item.query_start + own) * g.gq.row, g.gq.row,
                     rows_left(rows, own, 16), shape.depth / 8, lane, noted);
}

// Of the queries of a tile; and at most 128 columns of gk and gv, whose accumulators are half of the registers: the other
// columns are another block's.
template <int D> inline constexpr int tile_queries = D <= 64 ? 64 : 32;
template <int D> inline constexpr int own_columns = D <= 128 ? D : 128;

// Like what_is_seen, of a tile of scores [key][query]; `lse` is that of `query`.
template <int N> MMK_PTX uint32_t what_sees(const Shape& shape, const AttentionItem& item, const uint8_t* mask,
                                            const float* lse, int64_t query, int64_t key) {
    uint32_t seen = 0;
#pragma unroll 1
    for (int n = 0; n < N; ++n)
#pragma unroll 1
        for (int i = 0; i < 2; ++i) {
            const int64_t at = query + 8 * n + i, left = item.limit(at) - key, before = item.start(at) - key;
            if (left <= 0 || lse[8 * n + i] == -__builtin_inff()) continue;
            for (int half = 0; half < 2; ++half)
                if (8 * half < left && 8 * half >= before &&
                    (!mask || mask[at * shape.mask.row + (key + 8 * half) * shape.mask.step]))
                    seen |= 1u << (4 * n + 2 * half + i);
        }
    return seen;
}

template <int N> MMK_PTX void multiply_all(float (&s)[N][4], float factor) {
#pragma unroll
    for (int n = 0; n < N; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i) s[n][i] *= factor;
}

// What a block knows of its task: in shared memory, as it is needed once a tile, and registers are full.
struct KeptKeys {
    AttentionItem item;
    int64_t b, key_head, begin; // first tile of queries that sees a key
    int64_t rows, keys;         // of the item
    int each;                   // tiles of a query head

    // Tiles of queries count from query 0. The first of them is the first that sees a key of [first, first + own_rows);
    // the last is the one before those whose windows begin behind these keys.
    MMK_PTX void find(const Shape& shape, int64_t sample, int64_t first, int queries) {
        b = sample / shape.key_heads, key_head = sample % shape.key_heads;
        const AttentionItem it = shape.item(b);
        item = it, rows = shape.rows(it), keys = shape.key_rows(it);
        begin = first < it.diagonal ? 0 : (first - it.diagonal + 1) / queries;
        const int64_t behind = first + own_rows - it.lower, end = behind < it.queries ? behind : it.queries;
        const int64_t tiles = ceil_div(end > 0 ? end : 0, queries) - begin;
        each = int(tiles > 0 && first < it.keys ? tiles : 0);
    }
};

// What the forward pass and gy left of the queries of a thread's columns; find() is told how many are real from there on.
template <int N> struct ColumnTerms {
    float lse[N][2], delta[N][2];

    template <class T> MMK_PTX void find(const Backward<T>& g, int64_t at, int left) {
#pragma unroll
        for (int n = 0; n < N; ++n)
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                lse[n][i] = 8 * n + i < left ? g.lse[at + 8 * n + i] : 0.0f;
                delta[n][i] = 8 * n + i < left ? g.delta[at + 8 * n + i] : 0.0f;
            }
    }
};

// s and dp become p and ds; without `some` all are seen.
template <int N>
MMK_PTX void find_factors(float (&s)[N][4], float (&dp)[N][4], const ColumnTerms<N>& terms, bool some, uint32_t seen) {
#pragma unroll
    for (int n = 0; n < N; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            float p = softmax_exp2(fma_scalar(float(-log2_e), terms.lse[n][i % 2], s[n][i]));
            float ds = p * (dp[n][i] - terms.delta[n][i % 2]);
            if (some && !(seen >> (4 * n + i) & 1)) p = ds = 0.0f;
            s[n][i] = p, dp[n][i] = ds;
        }
}

// The warp's 16 rows of gk and gv, and the block's columns of them: computed where it is used, seldom or at the end.
template <class T, int C> struct OwnResults {
    const Backward<T>& g;
    const KeptKeys& kept;
    int64_t own;
    int group; // first piece

    MMK_PTX int rows() const { return rows_left(kept.keys, own, 16); }
    MMK_PTX int depth() const { return rows_left(g.shape.depth, group * 8, C); }
    MMK_PTX int columns() const { return rows_left(g.shape.columns, group * 8, C); }
    MMK_PTX T* of(const Rows<T>& result) const {
        return result.of(kept.b, kept.key_head) + (kept.item.key_start + own) * result.row + group * 8;
    }
};

// Numbers behind a mask in tiles of q and gy: noted in gk and gv, the first time into rows of zeros, and removed. `at` is
// the row of lse of the tiles' first query.
template <int D, int queries, class T, int C>
MMK_PTX void set_apart_specials(const OwnResults<T, C>& to, const uint8_t* mask, Piece<T>* tile_q, Piece<T>* tile_gy,
                                int64_t query, int64_t at, bool noted) {
    const Backward<T>& g = to.g;
    const int thread = int(threadIdx.x), lane = thread % 32;
    if (!noted) {
        clear_rows(to.of(g.gk), g.gk.row, to.rows(), to.depth(), lane);
        clear_rows(to.of(g.gv), g.gv.row, to.rows(), to.columns(), lane);
    }
    __syncwarp();
    const auto sees = [&](int r, int i) {
        return to.own + r < to.kept.item.limit(query + i) && to.own + r >= to.kept.item.start(query + i) &&
               g.lse[at + i] != -__builtin_inff() &&
               (!mask || mask[(query + i) * g.shape.mask.row + (to.own + r) * g.shape.mask.step]);
    };
    note_specials<D>(tile_q + to.group, queries, to.of(g.gk), g.gk.row, to.rows(), to.depth(), lane, true, sees);
    note_specials<D>(tile_gy + to.group, queries, to.of(g.gv), g.gv.row, to.rows(), to.columns(), lane, false, sees);
    __syncthreads(); // scores have been found, too
    remove_specials<T, queries * D / 8, team>(tile_q, thread);
    remove_specials<T, queries * D / 8, team>(tile_gy, thread);
    __syncthreads();
}

template <class T, int D> __global__ void __launch_bounds__(team, 2)
    differentiate_keys(Backward<T> g, int64_t first_task, int64_t tasks) {
    constexpr int queries = tile_queries<D>, N = queries / 8, pieces = queries * D / 8, C = own_columns<D>;
    DYN_SHARED(Piece<T>, room_k);
    Piece<T>* const room_v = room_k + own_rows * D / 8;
    Piece<T>* const room_q = room_v + own_rows * D / 8;
    Piece<T>* const room_gy = room_q + stages<D> * pieces;
    const int thread = int(threadIdx.x), warp = thread / 32, lane = thread % 32, row = lane / 4, t = lane % 4;
    const Shape& shape = g.shape;
    const int64_t tiles = ceil_div(shape.keys, own_rows), task = first_task + blockIdx.x;
    if (task >= tasks) return;
    const int group = int(task % (D / C)) * (C / 8); // first piece of this block's columns
    const int64_t first = task / (D / C) % tiles * own_rows, own = first + warp * 16;
    SHARED(KeptKeys, kept_once, [1]);
    KeptKeys& kept = kept_once[0];
    if (thread == 0) kept.find(shape, task / (D / C) / tiles, first, queries);
    __syncthreads();
    const int count = kept.each * int(shape.group);
    const auto head_of = [&](int tile) { return kept.key_head * shape.group + tile / kept.each; };
    const auto query_of = [&](int tile) { return (kept.begin + tile % kept.each) * queries; };
    const auto load_queries = [&](int tile, int stage) {
        const int64_t h = head_of(tile), query = query_of(tile);
        const int64_t at = kept.item.query_start + query;
        load_tile<D, queries, team>(room_q + stage * pieces, g.q.of(kept.b, h) + at * g.q.row, g.q.row,
                                    kept.rows - query, shape.depth / 8, thread);
        load_tile<D, queries, team>(room_gy + stage * pieces, g.gy.of(kept.b, h) + at * g.gy.row, g.gy.row,
                                    kept.rows - query, shape.columns / 8, thread);
        cp_async_commit();
    };
    // a query without a score above -inf is told one tile ahead of its barrier
    const auto row_of = [&](int64_t h) { return shape.rule.row(shape.heads, kept.b, h) + kept.item.query_start; };
    const auto probe = [&](int tile) {
        const int64_t query = query_of(tile) + thread;
        return thread < queries && query < kept.rows ? g.lse[row_of(head_of(tile)) + query] : 0.0f;
    };
    const int64_t first_row = kept.item.key_start + first;
    load_tile<D, own_rows, team>(room_k, g.k.of(kept.b, kept.key_head) + first_row * g.k.row, g.k.row,
                                 kept.keys - first, shape.depth / 8, thread);
    load_tile<D, own_rows, team>(room_v, g.v.of(kept.b, kept.key_head) + first_row * g.v.row, g.v.row,
                                 kept.keys - first, shape.columns / 8, thread);
    cp_async_commit(); // there may be no query
    float ahead = 0.0f;
    if (count > 0) load_queries(0, 0), ahead = probe(0);
    float gk[1][C / 8][4] = {}, gv[1][C / 8][4] = {};
    const OwnResults<T, C> to{g, kept, own, group};
    bool noted = false; // infinities and NaN in gk and gv
    for (int tile = 0; tile < count; ++tile) {
        const int64_t h = head_of(tile), query = query_of(tile), at = row_of(h) + query;
        const int stage = tile % stages<D>;
        if (stages<D> == 1 && tile > 0) {
            __syncthreads(); // all have done with the tile before
            load_queries(tile, 0);
        }
        cp_async_wait<0>();
        const bool any_dead = __syncthreads_or(ahead == -__builtin_inff());
        if (tile + 1 < count) {
            if (stages<D> > 1) load_queries(tile + 1, (stage + 1) % stages<D>);
            ahead = probe(tile + 1);
        }
        Piece<T>*const tile_q = room_q + stage * pieces, *const tile_gy = room_gy + stage * pieces;
        float s[1][N][4], dp[1][N][4];
        ColumnTerms<N> terms;
        row_products<T, D>(s, room_k + warp * 16 * (D / 8), tile_q, lane);
        terms.find(g, at + 2 * t, rows_left(kept.rows, query + 2 * t, queries)); // it arrives under the next product
        row_products<T, D>(dp, room_v + warp * 16 * (D / 8), tile_gy, lane);
        const uint8_t* const mask = shape.mask.of(kept.b, h);
        const bool some = mask || any_dead || query + queries > kept.rows ||
                          !all_see(kept.item, kept.rows, query, queries, first, own_rows);
        uint32_t seen = 0xffffffffu;
        if (some) {
            seen = what_sees<N>(shape, kept.item, mask, g.lse + at + 2 * t, query + 2 * t, own + row);
            if (__syncthreads_or(any_special<T, pieces, team>(tile_q, thread) ||
                                 any_special<T, pieces, team>(tile_gy, thread))) {
                set_apart_specials<D, queries>(to, mask, tile_q, tile_gy, query, at, noted);
                noted = true;
            }
        }
        multiply_all(s[0], g.folded);
        if (const T* const bias = g.dress.bias.of(kept.b, h))
            add_bias(s[0], bias + (query + 2 * t) * g.dress.bias.row + (own + row) * g.dress.bias.step,
                     g.dress.bias.step, g.dress.bias.row, shape.keys - own - row, shape.queries - query - 2 * t);
        find_factors(s[0], dp[0], terms, some, seen);
        factor_products<T, D>(gv, s, tile_gy + group, lane);
        factor_products<T, D>(gk, dp, tile_q + group, lane);
    }
    cp_async_wait<0>();
    __syncthreads(); // keys that no query sees have their copies under way until here
    multiply_all(gk[0], g.scale);
    store_rows<T, D>(gk, room_k + warp * 16 * (D / 8), to.of(g.gk), g.gk.row, to.rows(), to.depth() / 8, lane, noted);
    store_rows<T, D>(gv, room_v + warp * 16 * (D / 8), to.of(g.gv), g.gv.row, to.rows(), to.columns() / 8, lane, noted);
}

int widest(const Shape& shape) { return shape.depth > shape.columns ? shape.depth : shape.columns; }

} // namespace

template <class T> void backward_queries_tensor(Context& context, const Backward<T>& g) {
    visit_depth(widest(g.shape), [&](auto depth) {
        constexpr int D = decltype(depth)::value;
        const int64_t tasks = g.shape.batch * g.shape.heads * ceil_div(g.shape.queries, own_rows);
        for_each_grid(tasks, 1, [&](int64_t first, dim3 grid) {
            MMK_LAUNCH(context, (differentiate_queries<T, D>), grid, team,
                       (room_pieces<D, tile_keys<D>>)*sizeof(Piece<T>), g, first, tasks);
        });
    });
}
template <class T> void backward_keys_tensor(Context& context, const Backward<T>& g) {
    visit_depth(widest(g.shape), [&](auto depth) {
        constexpr int D = decltype(depth)::value;
        const int64_t tasks =
            g.shape.batch * g.shape.key_heads * ceil_div(g.shape.keys, own_rows) * (D / own_columns<D>);
        for_each_grid(tasks, 1, [&](int64_t first, dim3 grid) {
            MMK_LAUNCH(context, (differentiate_keys<T, D>), grid, team,
                       (room_pieces<D, tile_queries<D>>)*sizeof(Piece<T>), g, first, tasks);
        });
    });
}

#define MMK_ATTENTION_TENSOR(T)                                                                                        \
    template void backward_queries_tensor(Context&, const Backward<T>&);                                               \
    template void backward_keys_tensor(Context&, const Backward<T>&);
MMK_ATTENTION_TENSOR(float16)
MMK_ATTENTION_TENSOR(bfloat16)

} // namespace mmk::cuda::flash
