#include "../ops/attention.h"

#include "attention.panel.h"

namespace mmk::cpu::MMK_ISA {

namespace {

MMK_INLINE int64_t whole_vectors(int64_t n) { return (n + lanes - 1) / lanes * lanes; }

// Operands of attention_grad and attention_bias_grad, and what follows from their extents.
template <class T> struct Problem {
    int64_t batch, heads, key_heads, group, queries, keys, depth, columns, panels;
    Rows<T> q, k, v, y, gy;
    Dense<T> lse, glse;
    T scale, folded; // folded: what q is multiplied with for scores of base 2

    template <class Op> Problem(Context& context, const Op& op)
        : batch(op.q.extent[0]), heads(op.q.extent[1]), key_heads(op.k.extent[1]),
          group(key_heads ? heads / key_heads : 0), queries(op.q.extent[2]), keys(op.k.extent[2]),
          depth(op.q.extent[3]), columns(op.v.extent[3]), panels((queries + panel_queries - 1) / panel_queries),
          q(context, op.q), k(context, op.k), v(context, op.v), y(context, op.y), gy(context, op.gy),
          lse(context, op.lse), glse(context, op.glse), scale(T(op.scale)), folded(T(op.scale * log2_e)) {}
};

// Of one worker: a panel's queries and gradients per lane and per row, and one block of scores.
template <class T> struct Room {
    T *queries, *gradients, *outputs, *gq, *query_rows, *gradient_rows, *scores, *gscores, *block;
    T logarithm[panel_queries], delta[panel_queries];
    bool finite = true;

    static int64_t size(const Problem<T>& p) {
        return (2 * p.depth + 2 * p.columns + whole_vectors(p.depth) + whole_vectors(p.columns) + 3 * key_block) *
               panel_queries;
    }
    Room(T* memory, const Problem<T>& p)
        : queries(memory), gradients(queries + p.depth * panel_queries), outputs(gradients + p.columns * panel_queries),
          gq(outputs + p.columns * panel_queries), query_rows(gq + p.depth * panel_queries),
          gradient_rows(query_rows + whole_vectors(p.depth) * panel_queries),
          scores(gradient_rows + whole_vectors(p.columns) * panel_queries), gscores(scores + key_block * panel_queries),
          block(gscores + key_block * panel_queries) {}
};

// Rows of whole vectors: where they lie, or a copy with zeros behind each.
template <class T> struct Padded {
    const T* data;
    int64_t row;
};
template <class T> Padded<T> padded(const T* from, int64_t from_row, int64_t rows, int64_t columns, T* copy) {
    const int64_t row = whole_vectors(columns);
    if (row == columns) return {from, from_row};
    for (int64_t i = 0; i < rows; ++i) {
        T* const to = copy + i * row;
        std::memcpy(to, from + i * from_row, size_t(columns) * sizeof(T));
        for (int64_t c = columns; c < row; ++c) to[c] = 0;
    }
    return {copy, row};
}

// A panel of one query head with what its blocks share.
template <class T> struct Work {
    Panel<T> panel;
    Room<T>& room;
    int64_t b, key_head;
    Padded<T> query_rows, gradient_rows;
};

template <class T, class Op>
Work<T> prepare(const Problem<T>& p, const Op& op, int64_t b, int64_t h, int64_t index, Room<T>& room) {
    Panel<T> panel = panel_of<T>(op, b, h, index);
    const int64_t n = panel.queries, width = panel.width();
    const T *q = p.q.of(b, h) + panel.first * p.q.row, *gy = p.gy.of(b, h) + panel.first * p.gy.row;
    const T* const y = p.y.of(b, h) + panel.first * p.y.row;
    rows_to_lanes(q, p.q.row, 1, n, p.depth, room.queries, width, panel.vectors, p.folded);
    rows_to_lanes(gy, p.gy.row, 1, n, p.columns, room.gradients, width, panel.vectors, T(1));
    rows_to_lanes(y, p.y.row, 1, n, p.columns, room.outputs, width, panel.vectors, T(1));
    const int64_t row = (b * p.heads + h) * p.queries + panel.first;
    for (int64_t i = 0; i < width; ++i) {
        const T lse = p.lse[row + (i < n ? i : n - 1)];
        if (lse == T(-__builtin_inff()) && i < n) panel.dead |= uint64_t(1) << i;
        room.logarithm[i] = lse;
        room.delta[i] = p.glse ? p.glse[row + (i < n ? i : n - 1)] : T(0);
    }
    for (int64_t j = 0; j < width; j += lanes) {
        Vec<T> delta = Vec<T>::zero();
        for (int64_t begin = 0; begin < p.columns; begin += 256) {
            const int64_t end = p.columns < begin + 256 ? p.columns : begin + 256;
            Vec<T> chunk = Vec<T>::zero();
            for (int64_t d = begin; d < end; ++d)
                chunk = fma(Vec<T>::load(room.gradients + d * width + j), Vec<T>::load(room.outputs + d * width + j),
                            chunk);
            delta = delta + chunk;
        }
        (delta - Vec<T>::load(room.delta + j)).store(room.delta + j);
    }
    room.finite = all_finite(q, p.q.row, n, p.depth) && all_finite(gy, p.gy.row, n, p.columns);
    for (int64_t i = 0; i < p.depth * width; i += lanes) Vec<T>::zero().store(room.gq + i);
    return {panel,
            room,
            b,
            p.group ? h / p.group : 0,
            padded(q, p.q.row, n, p.depth, room.query_rows),
            padded(gy, p.gy.row, n, p.columns, room.gradient_rows)};
}

// What the panel after this one will read.
template <class T, class Op> Ahead next_panel(const Problem<T>& p, const Op& op, int64_t b, int64_t h, int64_t index) {
    Ahead ahead;
    const int64_t next = (b * p.heads + h) * p.panels + index + 1;
    const int64_t nb = next / p.panels / p.heads, nh = next / p.panels % p.heads;
    if (nb == p.batch) return ahead;
    const Panel<T> other = panel_of<T>(op, nb, nh, next % p.panels);
    ahead.add(p.q, nb, nh, other.first, other.queries, p.depth);
    ahead.add(p.gy, nb, nh, other.first, other.queries, p.columns);
    ahead.add(p.y, nb, nh, other.first, other.queries, p.columns);
    if (nb != b || nh / p.group != h / p.group) {
        ahead.add(p.k, nb, nh / p.group, 0, p.keys, p.depth);
        ahead.add(p.v, nb, nh / p.group, 0, p.keys, p.columns);
    }
    ahead.spread(p.keys);
    return ahead;
}

// Room.scores: p, room.gscores: ds of a block as [key][query]; room.block: hidden, if only some are seen.
template <class T>
Seen differentiate(const Problem<T>& p, const Work<T>& work, int64_t key, int64_t count, Ahead& ahead) {
    const Panel<T>& panel = work.panel;
    const Room<T>& room = work.room;
    const Seen seen = what_is_seen(panel, key, count);
    if (seen == Seen::none) return seen;
    const int64_t width = panel.width();
    const T *k = p.k.of(work.b, work.key_head), *v = p.v.of(work.b, work.key_head) + key * p.v.row;
    find_scores(panel, k, p.k.row, p.depth, room.queries, key, count, room.scores, room.block);
    multiply_chunked<T>({v, p.v.row, 1, room.gradients, width, p.columns, room.gscores, width}, count, panel.vectors);
    if (seen == Seen::some) find_hidden(panel, key, count, room.block);
    const Vec<T> base((T(-log2_e)));
    for (int64_t j = 0; j < width; j += lanes) {
        const Vec<T> logarithm = Vec<T>::load(room.logarithm + j), delta = Vec<T>::load(room.delta + j);
        for (int64_t i = j; i < count * width; i += width) {
            if (j == 0) ahead.fetch();
            Vec<T> probability = softmax_exp2(fma(base, logarithm, Vec<T>::load(room.scores + i)));
            Vec<T> gscore = probability * (Vec<T>::load(room.gscores + i) - delta);
            if (seen == Seen::some) {
                const Mask<T> visible = Vec<T>::load(room.block + i) == Vec<T>::zero();
                probability = select(visible, probability, Vec<T>::zero());
                gscore = select(visible, gscore, Vec<T>::zero());
            }
            probability.store(room.scores + i);
            gscore.store(room.gscores + i);
        }
    }
    return seen;
}

// c[key][d] += the chain over the panel's queries of factors[key][query] * rows[query][d].
template <class T> void add_to_keys(const Work<T>& work, const T* factors, const Padded<T>& rows, int64_t count, T* c,
                                    int64_t columns, bool leave_out) {
    const int64_t width = work.panel.width(), c_row = whole_vectors(columns);
    if (!leave_out) {
        multiply<T>({factors, width, 1, rows.data, rows.row, work.panel.queries, c, c_row, Into::add}, count,
                    int(c_row / lanes));
        return;
    }
    for (int64_t key = 0; key < count; ++key)
        for (int64_t d = 0; d < c_row; d += lanes) {
            Vec<T> sum = Vec<T>::zero();
            for (int64_t i = 0; i < work.panel.queries; ++i)
                if (work.room.block[key * width + i] == 0)
                    sum = fma(Vec<T>(factors[key * width + i]), Vec<T>::load(rows.data + i * rows.row + d), sum);
            T* const to = c + key * c_row + d;
            (Vec<T>::load(to) + sum).store(to);
        }
}

// Adds what a panel gives to the keys [key, key + count) and takes from them. gk and gv, rows of whole vectors, are
// those of the keys; null leaves them, and gq, alone.
template <class T> void differentiate_into(const Problem<T>& p, const Work<T>& work, int64_t key, int64_t count,
                                           bool want_gq, T* gk, T* gv, Ahead& ahead) {
    const Room<T>& room = work.room;
    const Seen seen = differentiate(p, work, key, count, ahead);
    if (seen == Seen::none) return;
    if (gk) {
        const bool leave_out = seen == Seen::some && !room.finite;
        add_to_keys(work, room.scores, work.gradient_rows, count, gv, p.columns, leave_out);
        add_to_keys(work, room.gscores, work.query_rows, count, gk, p.depth, leave_out);
    }
    if (want_gq) {
        const T* const k = p.k.of(work.b, work.key_head) + key * p.k.row;
        const int64_t width = work.panel.width();
        const Product<T> product{k, 1, p.k.row, room.gscores, width, count, room.gq, width, Into::add};
        if (seen == Seen::some && !all_finite(k, p.k.row, count, p.depth))
            multiply_seen(product, p.depth, work.panel.vectors, room.block);
        else
            multiply(product, p.depth, work.panel.vectors);
    }
}

template <class T> void store_gq(const Problem<T>& p, const Work<T>& work, int64_t h, T* gq) {
    const int64_t width = work.panel.width();
    for (int64_t i = 0; i < p.depth * width; i += lanes)
        (Vec<T>::load(work.room.gq + i) * Vec<T>(p.scale)).store(work.room.gq + i);
    lanes_to_rows(work.room.gq, width, work.panel.queries, p.depth,
                  gq + ((work.b * p.heads + h) * p.queries + work.panel.first) * p.depth, p.depth);
}

// Sums of whole vectors to dense rows.
template <class T> void store_rows(const T* from, int64_t rows, int64_t columns, T factor, T* to) {
    const int64_t row = whole_vectors(columns);
    for (int64_t i = 0; i < rows; ++i, from += row, to += columns) {
        int64_t c = 0;
        for (; c + lanes <= columns; c += lanes) (Vec<T>::load(from + c) * Vec<T>(factor)).store(to + c);
        for (; c < columns; ++c) to[c] = from[c] * factor;
    }
}
template <class T> void clear(T* x, int64_t count) {
    for (int64_t i = 0; i < count; i += lanes) Vec<T>::zero().store(x + i);
}

} // namespace

void attention_grad(const AttentionGrad& op, Context& context) {
    visit_float(op.q.dtype, [&](auto zero) {
        using T = decltype(zero);
        const Problem<T> p(context, op);
        const DenseOut<T> gq(context, op.gq), gk(context, op.gk), gv(context, op.gv);
        const int64_t room_size = Room<T>::size(p);
        const int64_t gk_row = whole_vectors(p.depth), gv_row = whole_vectors(p.columns);
        const int64_t owners = p.batch * p.key_heads, threads = context.threads;
        // One pass needs five products, two passes seven; both add the same numbers in the same order.
        if (threads == 1 || owners >= 4 * threads || (owners >= threads && owners % threads == 0)) {
            context.chose("one pass", "key heads enough for the threads");
            const bool fetch = fetch_ahead(op);
            const int64_t workers = threads < owners ? threads : owners;
            const int64_t sums = p.keys * (gk_row + gv_row);
            T* const memory = context.scratch<T>(workers * (room_size + sums));
            const int64_t flops = 4 * p.group * p.queries * p.keys * (p.depth + p.columns);
            const int64_t each = 1 + flops_per_task / (10000 + flops);
            parallel_for(context, (owners + each - 1) / each, [&](int64_t index, int worker) {
                Room<T> room(memory + worker * (room_size + sums), p);
                T *const gk_sums = memory + worker * (room_size + sums) + room_size, *const gv_sums =
                                                                                         gk_sums + p.keys * gk_row;
                for (int64_t owner = index * each; owner < (index + 1) * each && owner < owners; ++owner) {
                    const int64_t b = owner / p.key_heads, first = owner % p.key_heads * p.group;
                    clear(gk_sums, sums);
                    for (int64_t h = first; h < first + p.group; ++h)
                        for (int64_t i = 0; i < p.panels; ++i) {
                            const Work<T> work = prepare(p, op, b, h, i, room);
                            Ahead ahead = fetch ? next_panel(p, op, b, h, i) : Ahead();
                            const int64_t end = work.panel.last_limit();
                            for (int64_t key = 0; key < end; key += key_block)
                                differentiate_into(p, work, key, end - key < key_block ? end - key : key_block, true,
                                                   gk_sums + key * gk_row, gv_sums + key * gv_row, ahead);
                            store_gq(p, work, h, gq.get());
                        }
                    store_rows(gk_sums, p.keys, p.depth, p.scale, gk + owner * p.keys * p.depth);
                    store_rows(gv_sums, p.keys, p.columns, T(1), gv + owner * p.keys * p.columns);
                }
            });
            return;
        }
        context.chose("two passes", "few key heads: panels own gq, key blocks own gk and gv");
        const int64_t blocks = (p.keys + key_block - 1) / key_block;
        const int64_t query_tasks = p.batch * p.heads * p.panels, tasks = query_tasks + owners * blocks;
        const int64_t sums = key_block * (gk_row + gv_row);
        T* const memory = context.scratch<T>(threads * (room_size + sums));
        parallel_for(context, tasks, [&](int64_t task, int worker) {
            Room<T> room(memory + worker * (room_size + sums), p);
            Ahead ahead;
            T* const no_sums = nullptr;
            if (task < query_tasks) {
                const int64_t h = task / p.panels % p.heads;
                const Work<T> work = prepare(p, op, task / p.panels / p.heads, h, task % p.panels, room);
                const int64_t end = work.panel.last_limit();
                for (int64_t key = 0; key < end; key += key_block)
                    differentiate_into(p, work, key, end - key < key_block ? end - key : key_block, true, no_sums,
                                       no_sums, ahead);
                store_gq(p, work, h, gq.get());
                return;
            }
            const int64_t owner = (task - query_tasks) / blocks, key = (task - query_tasks) % blocks * key_block;
            const int64_t rows = p.keys - key < key_block ? p.keys - key : key_block;
            const int64_t b = owner / p.key_heads, first = owner % p.key_heads * p.group;
            T *const gk_sums = memory + worker * (room_size + sums) + room_size, *const gv_sums =
                                                                                     gk_sums + key_block * gk_row;
            clear(gk_sums, sums);
            for (int64_t h = first; h < first + p.group; ++h)
                for (int64_t i = 0; i < p.panels; ++i) {
                    if (panel_of<T>(op, b, h, i).last_limit() <= key) continue;
                    const Work<T> work = prepare(p, op, b, h, i, room);
                    const int64_t seen = work.panel.last_limit() - key;
                    differentiate_into(p, work, key, seen < rows ? seen : rows, false, gk_sums, gv_sums, ahead);
                }
            store_rows(gk_sums, rows, p.depth, p.scale, gk + (owner * p.keys + key) * p.depth);
            store_rows(gv_sums, rows, p.columns, T(1), gv + (owner * p.keys + key) * p.columns);
        });
    });
}

void attention_bias_grad(const AttentionBiasGrad& op, Context& context) {
    visit_float(op.q.dtype, [&](auto zero) {
        using T = decltype(zero);
        const Problem<T> p(context, op);
        const DenseOut<T> gbias(context, op.gbias);
        const int64_t tasks = p.batch * p.heads * p.panels, room_size = Room<T>::size(p);
        T* const memory = context.scratch<T>((context.threads < tasks ? context.threads : tasks) * room_size);
        parallel_for(context, tasks, [&](int64_t task, int worker) {
            Room<T> room(memory + worker * room_size, p);
            Ahead ahead;
            const int64_t sample = task / p.panels;
            const Work<T> work = prepare(p, op, sample / p.heads, sample % p.heads, task % p.panels, room);
            T* const to = gbias + (sample * p.queries + work.panel.first) * p.keys;
            const int64_t end = work.panel.last_limit();
            for (int64_t key = 0; key < p.keys; key += key_block) {
                const int64_t rows = p.keys - key < key_block ? p.keys - key : key_block;
                const int64_t count = end - key < 0 ? 0 : end - key < rows ? end - key : rows;
                const bool some = count > 0 && differentiate(p, work, key, count, ahead) != Seen::none;
                if (some) lanes_to_rows(room.gscores, work.panel.width(), work.panel.queries, count, to + key, p.keys);
                for (int64_t i = 0; i < work.panel.queries; ++i)
                    for (int64_t k = some ? count : 0; k < rows; ++k) to[i * p.keys + key + k] = 0;
            }
        });
    });
}

} // namespace mmk::cpu::MMK_ISA
