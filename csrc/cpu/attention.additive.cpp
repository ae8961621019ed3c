// Additive attention (ops/attention.h): 16 lanes are 16 numbers of A, so queries, keys and values are read as they lie. A
// task owns queries, or keys, of an item and finds tanh again block by block.
#include "../ops/attention.h"

#include "../core/arith.h"
#include "../core/layout.h"
#include "../core/simd.h"

namespace mmk::cpu::MMK_ISA {

using namespace mmk::MMK_ISA;

namespace {

constexpr int64_t block = 128; // keys, and queries
constexpr double log2_of_e = 0x1.71547652b82fep0;

struct Extents {
    int64_t batch, queries, keys, width, columns;

    Extents(const Tensor& q, const Tensor& k, int64_t columns_)
        : batch(q.size(0, q.rank - 2)), queries(q.extent_at(-2)), keys(k.extent_at(-2)), width(q.extent_at(-1)),
          columns(columns_) {}
};
template <class T> MMK_INLINE Vec<T> part(const T* x, int64_t at, int64_t count) {
    return at + lanes <= count ? Vec<T>::load(x + at) : Vec<T>::load(x + at, count - at);
}
template <class T> MMK_INLINE void store_part(Vec<T> v, T* x, int64_t at, int64_t count) {
    if (at + lanes <= count)
        v.store(x + at);
    else
        v.store(x + at, count - at);
}
template <class T> T dot_lanes(const T* a, const T* b, int64_t count) {
    Vec<T> sum = Vec<T>::zero();
    for (int64_t i = 0; i < count; i += lanes) sum = fma(part(a, i, count), part(b, i, count), sum);
    return sum_lanes(sum);
}
// s2 of one pair; tanh itself into `kept`, whole vectors, if not null.
template <class T> T score(const T* q, const T* k, const T* weight, int64_t width, T* kept) {
    Vec<T> sum = Vec<T>::zero();
    for (int64_t a = 0; a < width; a += lanes) {
        const Vec<T> t = tanh(part(q, a, width) + part(k, a, width));
        sum = fma(part(weight, a, width), t, sum);
        if (kept) t.store(kept + a);
    }
    return sum_lanes(sum) * T(log2_of_e);
}
// to += factor f(from), a vector at a time.
template <class T, class F> MMK_INLINE void accumulate(T* to, const T* from, T factor, int64_t count, F&& f) {
    for (int64_t i = 0; i < count; i += lanes)
        store_part(fma(Vec<T>(factor), f(part(from, i, count)), part(to, i, count)), to, i, count);
}
template <class T> void add_to(T* to, const T* from, int64_t count) {
    for (int64_t i = 0; i < count; i += lanes) store_part(part(to, i, count) + part(from, i, count), to, i, count);
}
template <class T> void fill(T* x, int64_t count) {
    for (int64_t i = 0; i < count; ++i) x[i] = 0;
}

// Which keys a query sees, a number of the mask [*B Tq Tk] each; null if there is none.
struct Hiding {
    const uint8_t* data;
    MMK_MEMBER bool operator()(int64_t row, int64_t keys, int64_t key) const { return !data || data[row * keys + key]; }
};
// A mask is packed: a byte a score, where a score costs hundreds of operations.
Hiding hiding(Context& context, const Tensor& mask) { return {Dense<uint8_t>(context, mask)}; }

template <class T> struct Softmax {
    T maximum = T(-__builtin_inff()), total = 0;
};

// One block of keys onto the sums of one query: s2 of the keys seen become p.
template <class T> void attend_block(T* scores, const bool* seen, int64_t count, const T* v, int64_t columns,
                                     Softmax<T>& softmax, T* result, T* chain) {
    T top = softmax.maximum;
    for (int64_t j = 0; j < count; ++j)
        if (seen[j] && top < scores[j]) top = scores[j];
    const T safe = top == T(-__builtin_inff()) ? T(0) : top; // -inf - -inf would be NaN
    for (int64_t j = 0; j < count; j += lanes) softmax_exp2(Vec<T>::load(scores + j) - Vec<T>(safe)).store(scores + j);
    const T factor = softmax_exp2(Vec<T>(softmax.maximum - safe)).lane(0);
    T sum = 0;
    fill(chain, columns);
    for (int64_t j = 0; j < count; ++j) {
        if (!seen[j]) continue;
        sum = sum + scores[j];
        accumulate(chain, v + j * columns, scores[j], columns, [](Vec<T> x) { return x; });
    }
    softmax.total = fma_scalar(softmax.total, factor, sum);
    softmax.maximum = top;
    for (int64_t d = 0; d < columns; d += lanes)
        store_part(fma(part(result, d, columns), Vec<T>(factor), part(chain, d, columns)), result, d, columns);
}

} // namespace

void additive_attention(const AdditiveAttention& op, Context& context) {
    visit_float(op.q.dtype, [&](auto zero) {
        using T = decltype(zero);
        const Extents e(op.q, op.k, op.v.extent_at(-1));
        const Dense<T> q(context, op.q), k(context, op.k), v(context, op.v), weight(context, op.weight);
        const Hiding sees = hiding(context, op.mask);
        const DenseOut<T> y(context, op.y), lse(context, op.lse);
        const int64_t rows = e.batch * e.queries;
        T* const memory = context.scratch<T>(context.threads * (e.columns + 2 * block));
        const int64_t grain = 1 + 30000 / (1 + e.keys * (1 + e.width));
        parallel_ranges(context, rows, grain, [&](int64_t begin, int64_t end, int worker) {
            T *const scores = memory + worker * (e.columns + 2 * block), *const chain = scores + 2 * block;
            bool seen[block];
            for (int64_t row = begin; row < end; ++row) {
                const int64_t b = row / e.queries;
                T* const result = y + row * e.columns;
                Softmax<T> softmax;
                fill(result, e.columns);
                for (int64_t key = 0; key < e.keys; key += block) {
                    const int64_t count = e.keys - key < block ? e.keys - key : block, first = b * e.keys + key;
                    bool any = false;
                    for (int64_t j = 0; j < count; ++j) {
                        any |= seen[j] = sees(row, e.keys, key + j);
                        scores[j] =
                            seen[j] ? score<T>(q + row * e.width, k + (first + j) * e.width, weight, e.width, nullptr)
                                    : T(0);
                    }
                    for (int64_t j = count; j < block; ++j) scores[j] = 0;
                    if (any)
                        attend_block<T>(scores, seen, count, v + first * e.columns, e.columns, softmax, result, chain);
                }
                const bool alive = softmax.total != T(0);
                const T inverse = T(1) / softmax.total;
                for (int64_t d = 0; d < e.columns; ++d) result[d] = alive ? result[d] * inverse + T(0) : T(0);
                if (!lse) continue;
                lse[row] =
                    alive ? fma_scalar(softmax.maximum, T(0x1.62e42fefa39efp-1), log(Vec<T>(softmax.total)).lane(0))
                          : T(-__builtin_inff());
            }
        });
    });
}

void additive_attention_weights(const AdditiveAttentionWeights& op, Context& context) {
    visit_float(op.q.dtype, [&](auto zero) {
        using T = decltype(zero);
        const Extents e(op.q, op.k, 0);
        const Dense<T> q(context, op.q), k(context, op.k), weight(context, op.weight), lse(context, op.lse);
        const Hiding sees = hiding(context, op.mask);
        const DenseOut<T> weights(context, op.weights);
        const int64_t grain = 1 + 30000 / (1 + e.keys * (1 + e.width));
        parallel_ranges(context, e.batch * e.queries, grain, [&](int64_t begin, int64_t end, int) {
            for (int64_t row = begin; row < end; ++row)
                for (int64_t key = 0; key < e.keys; ++key) {
                    const T* const other = k + (row / e.queries * e.keys + key) * e.width;
                    const bool seen = lse[row] != T(-__builtin_inff()) && sees(row, e.keys, key);
                    const T s = seen ? score<T>(q + row * e.width, other, weight, e.width, nullptr) : T(0);
                    const T p = softmax_exp2(Vec<T>(fma_scalar(T(-log2_of_e), lse[row], s))).lane(0);
                    weights[row * e.keys + key] = seen ? p : T(0);
                }
        });
    });
}

namespace {

// What both halves of the gradient read.
template <class T> struct Gradient {
    Extents e;
    Dense<T> q, k, v, weight, lse, gy;
    Hiding sees;
    const T* delta; // [*B Tq]

    // p and ds of a pair that is seen; tanh into `t`.
    MMK_MEMBER void find(int64_t row, int64_t other, T* t, T& p, T& ds) const {
        const T s = score<T>(q + row * e.width, k + other * e.width, weight, e.width, t);
        p = softmax_exp2(Vec<T>(fma_scalar(T(-log2_of_e), lse[row], s))).lane(0);
        ds = p * (dot_lanes<T>(gy + row * e.columns, v + other * e.columns, e.columns) - delta[row]);
    }
    MMK_MEMBER bool visible(int64_t row, int64_t key) const {
        return lse[row] != T(-__builtin_inff()) && sees(row, e.keys, key);
    }
};
template <class T> MMK_INLINE Vec<T> slope_of(Vec<T> t) { return fma(-t, t, Vec<T>(T(1))); }
template <class T> void multiply_store(const T* sum, const T* factor, int64_t count, T* to) {
    for (int64_t i = 0; i < count; i += lanes) store_part(part(sum, i, count) * part(factor, i, count), to, i, count);
}

// gq of a block of queries of an item, and what they give to gweight. `room`: tanh, chain and sum, whole vectors each.
template <class T>
void own_queries(const Gradient<T>& g, int64_t b, int64_t first, T* room, int64_t wide, T* gq, T* gweight) {
    const Extents& e = g.e;
    T *const t = room, *const chain = t + wide, *const sum = chain + wide, *const of_row = sum + wide;
    const int64_t last = first + block < e.queries ? first + block : e.queries;
    fill(gweight, e.width);
    for (int64_t i = first; i < last; ++i) {
        const int64_t row = b * e.queries + i;
        fill(sum, e.width), fill(of_row, e.width);
        for (int64_t key = 0; key < e.keys; key += block) {
            fill(chain, e.width);
            for (int64_t j = key; j < key + block && j < e.keys; ++j) {
                if (!g.visible(row, j)) continue;
                T p, ds;
                g.find(row, b * e.keys + j, t, p, ds);
                accumulate<T>(chain, t, ds, e.width, [](Vec<T> x) { return slope_of(x); });
                accumulate<T>(of_row, t, ds, e.width, [](Vec<T> x) { return x; });
            }
            add_to(sum, chain, e.width);
        }
        multiply_store<T>(sum, g.weight, e.width, gq + row * e.width);
        add_to(gweight, of_row, e.width);
    }
}
// gk and gv of one key.
template <class T> void own_key(const Gradient<T>& g, int64_t b, int64_t key, T* room, int64_t wide, T* gk, T* gv) {
    const Extents& e = g.e;
    T *const t = room, *const chain = t + wide, *const sum = chain + wide, *const value_chain = sum + wide;
    const int64_t other = b * e.keys + key;
    T* const value_sum = gv + other * e.columns;
    fill(sum, e.width), fill(value_sum, e.columns);
    for (int64_t first = 0; first < e.queries; first += block) {
        fill(chain, e.width), fill(value_chain, e.columns);
        for (int64_t i = first; i < first + block && i < e.queries; ++i) {
            const int64_t row = b * e.queries + i;
            if (!g.visible(row, key)) continue;
            T p, ds;
            g.find(row, other, t, p, ds);
            accumulate<T>(chain, t, ds, e.width, [](Vec<T> x) { return slope_of(x); });
            accumulate<T>(value_chain, g.gy + row * e.columns, p, e.columns, [](Vec<T> x) { return x; });
        }
        add_to(sum, chain, e.width), add_to(value_sum, value_chain, e.columns);
    }
    multiply_store<T>(sum, g.weight, e.width, gk + other * e.width);
}

} // namespace

void additive_attention_grad(const AdditiveAttentionGrad& op, Context& context) {
    visit_float(op.q.dtype, [&](auto zero) {
        using T = decltype(zero);
        const Extents e(op.q, op.k, op.v.extent_at(-1));
        const int64_t rows = e.batch * e.queries, blocks = (e.queries + block - 1) / block;
        const Dense<T> y(context, op.y), glse(context, op.glse);
        T* const delta = context.scratch<T>(rows);
        const Gradient<T> g{e,
                            {context, op.q},
                            {context, op.k},
                            {context, op.v},
                            {context, op.weight},
                            {context, op.lse},
                            {context, op.gy},
                            hiding(context, op.mask),
                            delta};
        const DenseOut<T> gq(context, op.gq), gk(context, op.gk), gv(context, op.gv), gweight(context, op.gweight);
        for (int64_t row = 0; row < rows; ++row)
            delta[row] =
                dot_lanes<T>(g.gy + row * e.columns, y + row * e.columns, e.columns) - (glse ? glse[row] : T(0));
        const int64_t wide = (e.width + lanes - 1) / lanes * lanes, size = 4 * wide + e.columns;
        T* const memory = context.scratch<T>(context.threads * size);
        T* const sums = context.scratch<T>(e.batch * blocks * e.width);
        parallel_for(context, e.batch * blocks, [&](int64_t task, int worker) {
            own_queries<T>(g, task / blocks, task % blocks * block, memory + worker * size, wide, gq,
                           sums + task * e.width);
        });
        parallel_ranges(context, e.batch * e.keys, 1 + 30000 / (1 + e.queries * (1 + e.width)),
                        [&](int64_t begin, int64_t end, int worker) {
                            for (int64_t key = begin; key < end; ++key)
                                own_key<T>(g, key / e.keys, key % e.keys, memory + worker * size, wide, gk, gv);
                        });
        fill<T>(gweight, e.width);
        for (int64_t i = 0; i < e.batch * blocks; ++i) add_to<T>(gweight, sums + i * e.width, e.width);
    });
}

} // namespace mmk::cpu::MMK_ISA
