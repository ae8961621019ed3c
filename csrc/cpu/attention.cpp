#include "../ops/attention.h"

#include "attention.panel.h"

namespace mmk::cpu::MMK_ISA {

namespace {

// Of one worker.
template <class T> struct Room {
    T *queries, *result, *scores, *block;

    static int64_t size(int64_t depth, int64_t columns) { return (depth + columns + 2 * key_block) * panel_queries; }
    Room(T* memory, int64_t depth, int64_t columns)
        : queries(memory), result(queries + depth * panel_queries), scores(result + columns * panel_queries),
          block(scores + key_block * panel_queries) {}
};

// The running maximum, the denominator, and what a new maximum multiplies the past with.
template <class T> struct Softmax {
    T maximum[panel_queries], total[panel_queries], factor[panel_queries];
};

// Scores become p; the rest is carried on. For as many vectors of queries as registers hold.
template <class T, int vectors>
void exponentials_of(T* scores, int64_t width, int64_t count, T* maximum, T* total, T* factor, Ahead& ahead) {
    const Vec<T> infinity((T(__builtin_inff())));
    Vec<T> before[vectors], m[vectors], sum[vectors];
#pragma GCC unroll 4
    for (int j = 0; j < vectors; ++j) m[j] = before[j] = Vec<T>::load(maximum + j * lanes);
    for (int64_t k = 0; k < count; ++k)
#pragma GCC unroll 4
        for (int j = 0; j < vectors; ++j) m[j] = at_least(m[j], Vec<T>::load(scores + k * width + j * lanes));
#pragma GCC unroll 4
    for (int j = 0; j < vectors; ++j) {
        m[j].store(maximum + j * lanes);
        m[j] = select(m[j] == -infinity, Vec<T>::zero(), m[j]); // -inf - -inf would be NaN
        before[j] = softmax_exp2(before[j] - m[j]);
        before[j].store(factor + j * lanes);
        sum[j] = Vec<T>::zero();
    }
    for (int64_t k = 0; k < count; ++k) {
        ahead.fetch();
#pragma GCC unroll 4
        for (int j = 0; j < vectors; ++j) {
            T* const s = scores + k * width + j * lanes;
            const Vec<T> p = softmax_exp2(Vec<T>::load(s) - m[j]);
            p.store(s);
            sum[j] = sum[j] + p;
        }
    }
#pragma GCC unroll 4
    for (int j = 0; j < vectors; ++j) {
        T* const t = total + j * lanes;
        fma(Vec<T>::load(t), before[j], sum[j]).store(t);
    }
}
template <class T> void exponentials(T* scores, int vectors, int64_t count, Softmax<T>& softmax, Ahead& ahead) {
    constexpr int most = TileShape<T>::columns;
    const int64_t width = vectors * lanes;
    for (int64_t j = 0; j < width;) {
        const int64_t left = (width - j) / lanes;
        T *const maximum = softmax.maximum + j, *const total = softmax.total + j, *const factor = softmax.factor + j;
        if (most >= 3 && left >= 3) {
            exponentials_of<T, most >= 3 ? 3 : 1>(scores + j, width, count, maximum, total, factor, ahead),
                j += 3 * lanes;
        } else if (most >= 2 && left >= 2) {
            exponentials_of<T, most >= 2 ? 2 : 1>(scores + j, width, count, maximum, total, factor, ahead),
                j += 2 * lanes;
        } else {
            exponentials_of<T, 1>(scores + j, width, count, maximum, total, factor, ahead), j += lanes;
        }
    }
}

template <class T> void hide(T* scores, const T* hidden, int64_t count) {
    const Vec<T> infinity((T(__builtin_inff())));
    for (int64_t i = 0; i < count; i += lanes)
        select(Vec<T>::load(hidden + i) == Vec<T>::zero(), Vec<T>::load(scores + i), -infinity).store(scores + i);
}

// y and lse of one panel, from the panel's sums; `sink` is the head's, or null.
template <class T> void finish(const Panel<T>& panel, Softmax<T>& softmax, const Room<T>& room, int64_t columns,
                               const T* sink, T* y, int64_t y_row, T* lse) {
    const int64_t width = panel.width();
    const Vec<T> infinity((T(__builtin_inff())));
    for (int64_t j = 0; j < width; j += lanes) {
        Vec<T> total = Vec<T>::load(softmax.total + j), maximum = Vec<T>::load(softmax.maximum + j);
        const Mask<T> alive = total != Vec<T>::zero();
        Vec<T> empty = -infinity;
        if (sink) {
            T of_row[lanes];
            for (int i = 0; i < lanes; ++i) of_row[i] = j + i < panel.real ? *sink : T(-__builtin_inff());
            empty = Vec<T>::load(of_row);
            const Vec<T> score(*sink * T(log2_e)), top = at_least(maximum, score);
            const Vec<T> factor = softmax_exp2(maximum - top);
            total = fma(total, factor, softmax_exp2(score - top));
            maximum = top;
            for (int64_t d = 0; d < columns; ++d) {
                T* const o = room.result + d * width + j;
                (Vec<T>::load(o) * factor).store(o);
            }
        }
        const Vec<T> inverse = Vec<T>(T(1)) / total;
        for (int64_t d = 0; d < columns; ++d) {
            T* const o = room.result + d * width + j;
            select(alive, Vec<T>::load(o) * inverse + Vec<T>::zero(), Vec<T>::zero()).store(o);
        }
        if (!lse) continue;
        const Vec<T> natural = fma(maximum, Vec<T>(T(0x1.62e42fefa39efp-1)), log(total));
        select(alive, natural, empty).store(lse + j, panel.queries - j);
    }
    lanes_to_rows(room.result, width, panel.queries, columns, y, y_row);
}

template <class T> void attend(const Panel<T>& panel, const T* q, int64_t q_row, const T* k, int64_t k_row, const T* v,
                               int64_t v_row, int64_t depth, int64_t columns, T scale, const Room<T>& room, Ahead ahead,
                               const T* sink, T* y, int64_t y_row, T* lse) {
    const int64_t width = panel.width();
    rows_to_lanes(q, q_row, 1, panel.queries, depth, room.queries, width, panel.vectors, scale);
    Softmax<T> softmax;
    for (int64_t j = 0; j < width; ++j) softmax.maximum[j] = T(-__builtin_inff()), softmax.total[j] = 0;
    bool first = true;
    const int64_t end = panel.last_limit();
    for (int64_t key = panel.first_block(); key < end; key += key_block) {
        const int64_t count = end - key < key_block ? end - key : key_block;
        const Seen seen = what_is_seen(panel, key, count);
        if (seen == Seen::none) continue;
        find_scores(panel, k, k_row, depth, room.queries, key, count, room.scores, room.block);
        if (seen == Seen::some) {
            find_hidden(panel, key, count, room.block);
            hide(room.scores, room.block, count * width);
        }
        exponentials(room.scores, panel.vectors, count, softmax, ahead);
        const T* const values = v + key * v_row;
        const Product<T> product{
            values,        1, v_row, room.scores, width, count, room.result, width, first ? Into::store : Into::rescale,
            softmax.factor};
        if (seen == Seen::some && !all_finite(values, v_row, count, columns))
            multiply_seen(product, columns, panel.vectors, room.block);
        else
            multiply_values(product, panel.queries, columns, panel.vectors);
        first = false;
    }
    if (first)
        for (int64_t i = 0; i < columns * width; ++i) room.result[i] = 0;
    finish(panel, softmax, room, columns, sink, y, y_row, lse);
}

} // namespace

void attention(const Attention& op, Context& context) {
    visit_float(op.q.dtype, [&](auto zero) {
        using T = decltype(zero);
        const AttentionRule rule(op);
        const int64_t heads = op.q.extent_at(-3), queries = op.q.extent_at(-2), depth = op.q.extent_at(-1);
        const int64_t group = heads / op.k.extent_at(-3), keys = op.k.extent_at(-2), columns = op.v.extent_at(-1);
        const Rows<const T> q(context, rule.batch, op.q), k(context, rule.batch, op.k), v(context, rule.batch, op.v);
        const RowsOut<T> y(context, rule.batch, op.y);
        const DenseOut<T> lse(context, op.lse);
        const Dense<T> sink(context, op.sink);
        const T scale = folded_scale<T>(op);
        const int64_t panels = (queries + panel_queries - 1) / panel_queries;
        const int64_t tasks = rule.batch.size() * heads * panels;
        const int64_t average = queries < panel_queries ? queries : panel_queries;
        const int64_t each = 1 + flops_per_task / (10000 + 2 * average * keys * (depth + columns));
        const int64_t workers = context.threads < tasks ? context.threads : tasks;
        const int64_t room_size = Room<T>::size(depth, columns);
        const bool fetch = fetch_ahead(op);
        T* const memory = context.scratch<T>(workers * room_size);
        parallel_for(context, (tasks + each - 1) / each, [&](int64_t index, int worker) {
            const Room<T> room(memory + worker * room_size, depth, columns);
            for (int64_t task = index * each; task < (index + 1) * each && task < tasks; ++task) {
                const int64_t sample = task / panels, b = sample / heads, h = sample % heads;
                const Panel<T> panel = panel_of<T>(rule, op, b, h, task % panels);
                if (panel.queries <= 0) continue;
                Ahead ahead;
                if (const int64_t next = task + 1; fetch && next < tasks) {
                    const int64_t nb = next / panels / heads, nh = next / panels % heads;
                    const int64_t first = next % panels * panel_queries, left = queries - first;
                    ahead.add(q, nb, nh, first, left < panel_queries ? left : panel_queries, depth);
                    if (nb != b || nh / group != h / group) {
                        ahead.add(k, nb, nh / group, 0, keys, depth);
                        ahead.add(v, nb, nh / group, 0, keys, columns);
                    }
                    ahead.spread(keys);
                }
                const int64_t row = panel.item.query_start + panel.first, key = panel.item.key_start;
                attend<T>(panel, q.of(b, h) + row * q.row, q.row, k.of(b, h / group) + key * k.row, k.row,
                          v.of(b, h / group) + key * v.row, v.row, depth, columns, scale, room, ahead,
                          sink ? sink + h : nullptr, y.of(b, h) + row * y.row, y.row,
                          lse ? lse + rule.row(heads, b, h) + row : nullptr);
            }
        });
    });
}

} // namespace mmk::cpu::MMK_ISA
