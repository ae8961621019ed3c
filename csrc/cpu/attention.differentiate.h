// What the gradients of attention share: a panel's scores, probabilities and their gradients, block by block.
#pragma once

#include "attention.panel.h"

namespace mmk::cpu::MMK_ISA {

MMK_INLINE int64_t whole_vectors(int64_t n) { return (n + lanes - 1) / lanes * lanes; }

// Operands of the gradients, and what follows from their extents.
template <class T> struct Problem {
    AttentionRule rule;
    int64_t batch, heads, key_heads, group, queries, keys, depth, columns, panels;
    Rows<const T> q, k, v, y, gy;
    Dense<T> lse, glse;
    T scale, folded; // folded: what q is multiplied with
    bool capped;

    template <class Op> Problem(Context& context, const Op& op)
        : rule(op), batch(rule.batch.size()), heads(op.q.extent_at(-3)), key_heads(op.k.extent_at(-3)),
          group(key_heads ? heads / key_heads : 0), queries(rule.queries), keys(rule.keys), depth(op.q.extent_at(-1)),
          columns(op.v.extent_at(-1)), panels((queries + panel_queries - 1) / panel_queries),
          q(context, rule.batch, op.q), k(context, rule.batch, op.k), v(context, rule.batch, op.v),
          y(context, rule.batch, op.y), gy(context, rule.batch, op.gy), lse(context, op.lse), glse(context, op.glse),
          scale(T(op.scale)), folded(folded_scale<T>(op)), capped(op.softcap > 0) {}
    // How many rows of gradients an item has.
    MMK_MEMBER int64_t key_rows(const AttentionItem& item) const { return rule.packed() ? item.keys : keys; }
};

// Of one worker: a panel's queries and gradients per lane and per row, and one block of scores.
template <class T> struct Room {
    T *queries, *gradients, *outputs, *gq, *query_rows, *gradient_rows, *scores, *gscores, *block, *slopes;
    T logarithm[panel_queries], delta[panel_queries];
    bool finite = true;

    static int64_t size(const Problem<T>& p) {
        return (2 * p.depth + 2 * p.columns + whole_vectors(p.depth) + whole_vectors(p.columns) +
                (p.capped ? 4 : 3) * key_block) *
               panel_queries;
    }
    Room(T* memory, const Problem<T>& p)
        : queries(memory), gradients(queries + p.depth * panel_queries), outputs(gradients + p.columns * panel_queries),
          gq(outputs + p.columns * panel_queries), query_rows(gq + p.depth * panel_queries),
          gradient_rows(query_rows + whole_vectors(p.depth) * panel_queries),
          scores(gradient_rows + whole_vectors(p.columns) * panel_queries), gscores(scores + key_block * panel_queries),
          block(gscores + key_block * panel_queries), slopes(p.capped ? block + key_block * panel_queries : nullptr) {}
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
    Panel<T> panel = panel_of<T>(p.rule, op, b, h, index);
    const int64_t n = panel.queries, width = panel.width(), first = panel.item.query_start + panel.first;
    const T *q = p.q.of(b, h) + first * p.q.row, *gy = p.gy.of(b, h) + first * p.gy.row;
    const T* const y = p.y.of(b, h) + first * p.y.row;
    rows_to_lanes(q, p.q.row, 1, n, p.depth, room.queries, width, panel.vectors, p.folded);
    rows_to_lanes(gy, p.gy.row, 1, n, p.columns, room.gradients, width, panel.vectors, T(1));
    rows_to_lanes(y, p.y.row, 1, n, p.columns, room.outputs, width, panel.vectors, T(1));
    const int64_t row = p.rule.row(p.heads, b, h) + first;
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
template <class T> Ahead next_panel(const Problem<T>& p, int64_t b, int64_t h, int64_t index) {
    Ahead ahead;
    const int64_t next = (b * p.heads + h) * p.panels + index + 1;
    const int64_t nb = next / p.panels / p.heads, nh = next / p.panels % p.heads;
    if (nb == p.batch) return ahead;
    const int64_t first = next % p.panels * panel_queries, left = p.queries - first;
    const int64_t rows = left < panel_queries ? left : panel_queries;
    ahead.add(p.q, nb, nh, first, rows, p.depth);
    ahead.add(p.gy, nb, nh, first, rows, p.columns);
    ahead.add(p.y, nb, nh, first, rows, p.columns);
    if (nb != b || nh / p.group != h / p.group) {
        ahead.add(p.k, nb, nh / p.group, 0, p.keys, p.depth);
        ahead.add(p.v, nb, nh / p.group, 0, p.keys, p.columns);
    }
    ahead.spread(p.keys);
    return ahead;
}

// Room.scores: p, room.gscores: ds of a block as [key][query], or what is left of ds under the soft cap if `products`;
// room.block: hidden, if only some are seen.
template <class T>
Seen differentiate(const Problem<T>& p, const Work<T>& work, int64_t key, int64_t count, Ahead& ahead, bool products) {
    const Panel<T>& panel = work.panel;
    const Room<T>& room = work.room;
    const Seen seen = what_is_seen(panel, key, count);
    if (seen == Seen::none) return seen;
    const int64_t width = panel.width();
    const int64_t start = panel.item.key_start;
    const T* const k = p.k.of(work.b, work.key_head) + start * p.k.row;
    const T* const v = p.v.of(work.b, work.key_head) + (start + key) * p.v.row;
    find_scores(panel, k, p.k.row, p.depth, room.queries, key, count, room.scores, room.block, room.slopes);
    multiply_chunked<T>({v, p.v.row, 1, room.gradients, width, p.columns, room.gscores, width}, count, panel.vectors);
    if (seen == Seen::some) find_hidden(panel, key, count, room.block);
    const Vec<T> base((T(-log2_e)));
    const T* const slopes = products ? room.slopes : nullptr;
    for (int64_t j = 0; j < width; j += lanes) {
        const Vec<T> logarithm = Vec<T>::load(room.logarithm + j), delta = Vec<T>::load(room.delta + j);
        for (int64_t i = j; i < count * width; i += width) {
            if (j == 0) ahead.fetch();
            Vec<T> probability = softmax_exp2(fma(base, logarithm, Vec<T>::load(room.scores + i)));
            Vec<T> gscore = probability * (Vec<T>::load(room.gscores + i) - delta);
            if (slopes) gscore = gscore * Vec<T>::load(slopes + i);
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

} // namespace mmk::cpu::MMK_ISA
