// The gradients of what attention adds to its scores by head alone: a bias that all items share, the table of relative biases,
// slopes, and the sinks.
#include "../ops/attention.h"

#include "../core/reduce.h"
#include "attention.differentiate.h"

namespace mmk::cpu::MMK_ISA {

namespace {

constexpr int64_t segment_panels = 16; // of which one task sums the entries

template <class T> void add_row(const T* from, int64_t count, T* to) {
    int64_t k = 0;
    for (; k + lanes <= count; k += lanes) (Vec<T>::load(to + k) + Vec<T>::load(from + k)).store(to + k);
    for (; k < count; ++k) to[k] = to[k] + from[k];
}

// Of one task: the sums of a panel's diagonals, x = key - query + 47; and those of a segment, by entry and at both ends.
template <class T> struct Diagonals {
    T *line, *entries, left[key_block], right[key_block];
    int64_t size, radius;

    // The rows of ds, [query][key], of the keys [key, key + count).
    MMK_MEMBER void add_rows(const T* rows, int64_t queries, int64_t key, int64_t count) {
        for (int64_t i = 0; i < queries; ++i) add_row(rows + i * key_block, count, line + key - i + panel_queries - 1);
    }
    // Adds the panel whose first query stands at `position`, times the distances that slopes multiply.
    MMK_MEMBER void add_slopes(int64_t position) {
        for (int64_t x = 0; x < size; ++x) {
            const int64_t distance = x - (panel_queries - 1) - position;
            left[x % key_block] = fma_scalar(T(distance < 0 ? distance : -distance), line[x], left[x % key_block]);
        }
    }
    // Adds the panel whose first query stands at `position`.
    MMK_MEMBER void add_panel(int64_t position) {
        for (int64_t x = 0; x < size; ++x) {
            const int64_t distance = x - (panel_queries - 1) - position;
            T& to = distance <= -radius  ? left[x % key_block]
                    : distance >= radius ? right[x % key_block]
                                         : entries[distance + radius];
            to = to + line[x];
        }
    }
    MMK_MEMBER void finish() {
        T first = 0, last = 0;
        for (int64_t x = 0; x < key_block; ++x) first = first + left[x], last = last + right[x];
        entries[0] = entries[0] + first;
        entries[2 * radius] = entries[2 * radius] + last;
    }
};

// What a table of `width` entries reads, or slopes multiply: [item][segment][head][entry], an entry for slopes.
template <class T, class Op> const T* sum_segments(Context& context, const Problem<T>& p, const Op& op,
                                                   int64_t segments, int64_t width, bool of_slopes) {
    const int64_t size = p.keys + panel_queries, room_size = Room<T>::size(p);
    const int64_t tasks = p.batch * p.heads * segments, workers = context.threads < tasks ? context.threads : tasks;
    const int64_t own = room_size + size + key_block * panel_queries;
    T* const memory = context.scratch<T>(workers * own);
    T* const sums = context.scratch<T>(tasks * width);
    parallel_for(context, tasks, [&](int64_t task, int worker) {
        T* const mine = memory + worker * own;
        Room<T> room(mine, p);
        T* const rows = mine + room_size + size;
        const int64_t h = task % p.heads, segment = task / p.heads % segments, b = task / p.heads / segments;
        Diagonals<T> diagonals{mine + room_size, sums + task * width, {}, {}, size, width / 2};
        for (int64_t x = 0; x < width; ++x) diagonals.entries[x] = 0;
        const int64_t after = (segment + 1) * segment_panels;
        for (int64_t i = segment * segment_panels; i < after && i < p.panels; ++i) {
            if (p.rule.packed() && i * panel_queries >= p.rule.item(b).queries) break;
            const Work<T> work = prepare(p, op, b, h, i, room);
            Ahead ahead;
            for (int64_t x = 0; x < size; ++x) diagonals.line[x] = 0;
            const int64_t end = work.panel.last_limit();
            for (int64_t key = work.panel.first_block(); key < end; key += key_block) {
                const int64_t count = end - key < key_block ? end - key : key_block;
                if (differentiate(p, work, key, count, ahead, false) == Seen::none) continue;
                lanes_to_rows(room.gscores, work.panel.width(), work.panel.queries, count, rows, key_block);
                diagonals.add_rows(rows, work.panel.queries, key, count);
            }
            const int64_t position = work.panel.item.position + work.panel.first;
            of_slopes ? diagonals.add_slopes(position) : diagonals.add_panel(position);
        }
        diagonals.finish();
    });
    return sums;
}
// to[group][x] = the sum over i of sums[group][i][x], in order.
template <class T> void add_segments(const T* sums, int64_t groups, int64_t count, int64_t size, T* to) {
    for (int64_t at = 0; at < groups * size; ++at) {
        T sum = 0;
        for (int64_t i = 0; i < count; ++i) sum = sum + sums[(at / size * count + i) * size + at % size];
        to[at] = sum;
    }
}
template <class T> int64_t segments_of(const Problem<T>& p) { return (p.panels + segment_panels - 1) / segment_panels; }

} // namespace

// A task is a panel of queries of a head, for all items: nothing of the size of their scores is kept.
void attention_shared_bias_grad(const AttentionSharedBiasGrad& op, Context& context) {
    visit_float(op.q.dtype, [&](auto zero) {
        using T = decltype(zero);
        const Problem<T> p(context, op);
        const DenseOut<T> gbias(context, op.gbias);
        const int64_t tasks = p.heads * p.panels, workers = context.threads < tasks ? context.threads : tasks;
        const int64_t room_size = Room<T>::size(p), block = key_block * panel_queries, sums = panel_queries * p.keys;
        T* const memory = context.scratch<T>(workers * (room_size + block + sums));
        parallel_for(context, tasks, [&](int64_t task, int worker) {
            T* const mine = memory + worker * (room_size + block + sums);
            Room<T> room(mine, p);
            T *const rows = mine + room_size, *const sum = rows + block;
            const int64_t h = task / p.panels, i = task % p.panels, left = p.queries - i * panel_queries;
            const int64_t size = (left < panel_queries ? left : panel_queries) * p.keys;
            T* const to = gbias + (h * p.queries + i * panel_queries) * p.keys;
            for (int64_t x = 0; x < size; ++x) to[x] = 0;
            for (int64_t first = 0; first < p.batch; first += shared_bias_items) {
                for (int64_t x = 0; x < size; ++x) sum[x] = 0;
                for (int64_t b = first; b < p.batch && b < first + shared_bias_items; ++b) {
                    const Work<T> work = prepare(p, op, b, h, i, room);
                    Ahead ahead;
                    const int64_t end = work.panel.last_limit();
                    for (int64_t key = work.panel.first_block(); key < end; key += key_block) {
                        const int64_t count = end - key < key_block ? end - key : key_block;
                        if (differentiate(p, work, key, count, ahead, false) == Seen::none) continue;
                        lanes_to_rows(room.gscores, work.panel.width(), work.panel.queries, count, rows, key_block);
                        for (int64_t query = 0; query < work.panel.queries; ++query)
                            add_row(rows + query * key_block, count, sum + query * p.keys + key);
                    }
                }
                add_row(sum, size, to);
            }
        });
    });
}

void attention_table_grad(const AttentionTableGrad& op, Context& context) {
    visit_float(op.q.dtype, [&](auto zero) {
        using T = decltype(zero);
        const Problem<T> p(context, op);
        const DenseOut<T> gtable(context, op.gtable);
        const int64_t width = op.table.extent[1], segments = segments_of(p);
        const T* const sums = sum_segments(context, p, op, segments, width, false);
        add_segments<T>(sums, 1, p.batch * segments, p.heads * width, gtable);
    });
}

void attention_slopes_grad(const AttentionSlopesGrad& op, Context& context) {
    visit_float(op.q.dtype, [&](auto zero) {
        using T = decltype(zero);
        const Problem<T> p(context, op);
        const DenseOut<T> gslopes(context, op.gslopes);
        const int64_t segments = segments_of(p), items = p.rule.packed() ? 1 : p.batch;
        const T* const sums = sum_segments(context, p, op, segments, 1, true);
        add_segments<T>(sums, items, items == p.batch ? segments : p.batch * segments, p.heads, gslopes);
    });
}

void attention_sink_grad(const AttentionSinkGrad& op, Context& context) {
    visit_float(op.y.dtype, [&](auto zero) {
        using T = decltype(zero);
        const AttentionBatch items = batch_of(op.y);
        const Rows<const T> y(context, items, op.y), gy(context, items, op.gy);
        const Dense<T> lse(context, op.lse), glse(context, op.glse), sink(context, op.sink);
        const DenseOut<T> gsink(context, op.gsink);
        const int64_t heads = op.y.extent_at(-3), queries = op.y.extent_at(-2), columns = op.y.extent_at(-1);
        const int64_t batch = items.size(), panels = (queries + lanes - 1) / lanes, tasks = batch * heads * panels;
        const int64_t workers = context.threads < tasks ? context.threads : tasks;
        T* const memory = context.scratch<T>(workers * 2 * columns * lanes);
        T* const terms = context.scratch<T>(heads * batch * queries); // [head][item][query]
        parallel_ranges(
            context, tasks, 1 + 100000 / (lanes * (columns + 20)), [&](int64_t begin, int64_t end, int worker) {
                T *const a = memory + worker * 2 * columns * lanes, *const o = a + columns * lanes;
                for (int64_t task = begin; task < end; ++task) {
                    const int64_t b = task / panels / heads, h = task / panels % heads, first = task % panels * lanes;
                    const int64_t n = queries - first < lanes ? queries - first : lanes;
                    rows_to_lanes(gy.of(b, h) + first * gy.row, gy.row, 1, n, columns, a, lanes, 1, T(1));
                    rows_to_lanes(y.of(b, h) + first * y.row, y.row, 1, n, columns, o, lanes, 1, T(1));
                    Vec<T> delta = Vec<T>::zero();
                    for (int64_t from = 0; from < columns; from += 256) {
                        const int64_t to = columns < from + 256 ? columns : from + 256;
                        Vec<T> chunk = Vec<T>::zero();
                        for (int64_t d = from; d < to; ++d)
                            chunk = fma(Vec<T>::load(a + d * lanes), Vec<T>::load(o + d * lanes), chunk);
                        delta = delta + chunk;
                    }
                    const int64_t row = (b * heads + h) * queries + first;
                    const Vec<T> logarithm = Vec<T>::load(lse + row, n), infinity((T(__builtin_inff())));
                    if (glse) delta = delta - Vec<T>::load(glse + row, n);
                    const Vec<T> term = exp(Vec<T>(sink[h]) - logarithm) * delta;
                    select(logarithm == -infinity, Vec<T>::zero(), term)
                        .store(terms + (h * batch + b) * queries + first, n);
                }
            });
        for (int64_t h = 0; h < heads; ++h) gsink[h] = T(0) - long_sum(terms + h * batch * queries, batch * queries);
    });
}

} // namespace mmk::cpu::MMK_ISA
