#include "../ops/attention.h"

#include "attention.differentiate.h"

namespace mmk::cpu::MMK_ISA {

namespace {

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
    const Seen seen = differentiate(p, work, key, count, ahead, true);
    if (seen == Seen::none) return;
    if (gk) {
        const bool leave_out = seen == Seen::some && !room.finite;
        add_to_keys(work, room.scores, work.gradient_rows, count, gv, p.columns, leave_out);
        add_to_keys(work, room.gscores, work.query_rows, count, gk, p.depth, leave_out);
    }
    if (want_gq) {
        const T* const k = p.k.of(work.b, work.key_head) + (work.panel.item.key_start + key) * p.k.row;
        const int64_t width = work.panel.width();
        const Product<T> product{k, 1, p.k.row, room.gscores, width, count, room.gq, width, Into::add};
        if (seen == Seen::some && !all_finite(k, p.k.row, count, p.depth))
            multiply_seen(product, p.depth, work.panel.vectors, room.block);
        else
            multiply(product, p.depth, work.panel.vectors);
    }
}

template <class T> void store_gq(const Problem<T>& p, const Work<T>& work, int64_t h, const Rows<T>& gq) {
    const int64_t width = work.panel.width();
    for (int64_t i = 0; i < p.depth * width; i += lanes)
        (Vec<T>::load(work.room.gq + i) * Vec<T>(p.scale)).store(work.room.gq + i);
    lanes_to_rows(work.room.gq, width, work.panel.queries, p.depth,
                  gq.of(work.b, h) + (work.panel.item.query_start + work.panel.first) * gq.row, gq.row);
}

// Sums of whole vectors to rows.
template <class T> void store_rows(const T* from, int64_t rows, int64_t columns, T factor, T* to, int64_t to_row) {
    const int64_t row = whole_vectors(columns);
    for (int64_t i = 0; i < rows; ++i, from += row, to += to_row) {
        int64_t c = 0;
        for (; c + lanes <= columns; c += lanes) (Vec<T>::load(from + c) * Vec<T>(factor)).store(to + c);
        for (; c < columns; ++c) to[c] = from[c] * factor;
    }
}
template <class T> void clear(T* x, int64_t count) {
    for (int64_t i = 0; i < count; i += lanes) Vec<T>::zero().store(x + i);
}

template <class T> struct Gradients {
    const AttentionGrad& op;
    const Problem<T> p;
    const RowsOut<T> gq, gk, gv;
    const int64_t gk_row, gv_row, room_size; // of sums; of a worker's room before its sums

    Gradients(Context& context, const AttentionGrad& op_)
        : op(op_), p(context, op), gq(context, p.rule.batch, op.gq), gk(context, p.rule.batch, op.gk),
          gv(context, p.rule.batch, op.gv), gk_row(whole_vectors(p.depth)), gv_row(whole_vectors(p.columns)),
          room_size(Room<T>::size(p)) {}

    // gq of a panel, and what it gives to gk and gv, whose sums begin at key 0 or are null.
    void differentiate_panel(const Work<T>& work, int64_t h, T* gk_sums, T* gv_sums, Ahead ahead) const {
        const int64_t end = work.panel.last_limit();
        for (int64_t key = work.panel.first_block(); key < end; key += key_block)
            differentiate_into(p, work, key, end - key < key_block ? end - key : key_block, true,
                               gk_sums ? gk_sums + key * gk_row : nullptr, gv_sums ? gv_sums + key * gv_row : nullptr,
                               ahead);
        store_gq(p, work, h, gq);
    }
    void store_sums(int64_t owner, int64_t row, int64_t rows, const T* gk_sums, const T* gv_sums) const {
        const int64_t b = owner / p.key_heads, kh = owner % p.key_heads;
        store_rows(gk_sums, rows, p.depth, p.scale, gk.of(b, kh) + row * gk.row, gk.row);
        store_rows(gv_sums, rows, p.columns, T(1), gv.of(b, kh) + row * gv.row, gv.row);
    }
    // All gradients of a key head, in room for the sums of all its keys.
    void differentiate_owner(int64_t owner, Room<T>& room, T* sums, bool fetch) const {
        const int64_t b = owner / p.key_heads, first = owner % p.key_heads * p.group;
        const AttentionItem item = p.rule.item(b);
        T *const gk_sums = sums, *const gv_sums = sums + p.keys * gk_row;
        clear(sums, p.keys * (gk_row + gv_row));
        for (int64_t h = first; h < first + p.group; ++h)
            for (int64_t i = 0; i < p.panels; ++i) {
                if (p.rule.packed() && i * panel_queries >= item.queries) break;
                const Work<T> work = prepare(p, op, b, h, i, room);
                differentiate_panel(work, h, gk_sums, gv_sums, fetch ? next_panel(p, b, h, i) : Ahead());
            }
        store_sums(owner, item.key_start, p.key_rows(item), gk_sums, gv_sums);
    }
    // gk and gv of a block of keys.
    void differentiate_block(int64_t owner, int64_t key, Room<T>& room, T* sums) const {
        const int64_t b = owner / p.key_heads, first = owner % p.key_heads * p.group;
        const AttentionItem item = p.rule.item(b);
        const int64_t left = p.key_rows(item) - key, rows = left < key_block ? left : key_block;
        if (rows <= 0) return;
        T *const gk_sums = sums, *const gv_sums = sums + key_block * gk_row;
        clear(sums, key_block * (gk_row + gv_row));
        Ahead ahead;
        for (int64_t h = first; h < first + p.group; ++h)
            for (int64_t i = 0; i < p.panels; ++i) {
                const Panel<T> panel = panel_of<T>(p.rule, op, b, h, i);
                if (panel.queries <= 0) break;
                if (panel.last_limit() <= key || panel.start(0) >= key + rows) continue;
                const Work<T> work = prepare(p, op, b, h, i, room);
                const int64_t seen = work.panel.last_limit() - key;
                differentiate_into(p, work, key, seen < rows ? seen : rows, false, gk_sums, gv_sums, ahead);
            }
        store_sums(owner, item.key_start + key, rows, gk_sums, gv_sums);
    }

    void one_pass(Context& context) const {
        const int64_t owners = p.batch * p.key_heads, workers = context.threads < owners ? context.threads : owners;
        const int64_t size = room_size + p.keys * (gk_row + gv_row);
        T* const memory = context.scratch<T>(workers * size);
        const int64_t flops = 4 * p.group * p.queries * p.keys * (p.depth + p.columns);
        const int64_t each = 1 + flops_per_task / (10000 + flops);
        const bool fetch = fetch_ahead(op);
        parallel_for(context, (owners + each - 1) / each, [&](int64_t index, int worker) {
            T* const own = memory + worker * size;
            Room<T> room(own, p);
            for (int64_t owner = index * each; owner < (index + 1) * each && owner < owners; ++owner)
                differentiate_owner(owner, room, own + room_size, fetch);
        });
    }
    void two_passes(Context& context) const {
        const int64_t blocks = (p.keys + key_block - 1) / key_block, size = room_size + key_block * (gk_row + gv_row);
        const int64_t query_tasks = p.batch * p.heads * p.panels, key_tasks = p.batch * p.key_heads * blocks;
        T* const memory = context.scratch<T>(context.threads * size);
        parallel_for(context, query_tasks + key_tasks, [&](int64_t task, int worker) {
            T* const own = memory + worker * size;
            Room<T> room(own, p);
            if (task >= query_tasks) {
                const int64_t owner = (task - query_tasks) / blocks, key = (task - query_tasks) % blocks * key_block;
                return differentiate_block(owner, key, room, own + room_size);
            }
            const int64_t b = task / p.panels / p.heads, h = task / p.panels % p.heads, i = task % p.panels;
            if (p.rule.packed() && i * panel_queries >= p.rule.item(b).queries) return;
            differentiate_panel(prepare(p, op, b, h, i, room), h, nullptr, nullptr, Ahead());
        });
    }
};

} // namespace

void attention_grad(const AttentionGrad& op, Context& context) {
    visit_float(op.q.dtype, [&](auto zero) {
        const Gradients<decltype(zero)> gradients(context, op);
        const int64_t owners = gradients.p.batch * gradients.p.key_heads, threads = context.threads;
        // One pass needs five products, two passes seven; both add the same numbers in the same order.
        if (threads == 1 || owners >= 4 * threads || (owners >= threads && owners % threads == 0)) {
            context.chose("one pass", "key heads enough for the threads");
            gradients.one_pass(context);
        } else {
            context.chose("two passes", "few key heads: panels own gq, key blocks own gk and gv");
            gradients.two_passes(context);
        }
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
                const bool some = count > 0 && differentiate(p, work, key, count, ahead, false) != Seen::none;
                if (some) lanes_to_rows(room.gscores, work.panel.width(), work.panel.queries, count, to + key, p.keys);
                for (int64_t i = 0; i < work.panel.queries; ++i)
                    for (int64_t k = some ? count : 0; k < rows; ++k) to[i * p.keys + key + k] = 0;
            }
        });
    });
}

} // namespace mmk::cpu::MMK_ISA
