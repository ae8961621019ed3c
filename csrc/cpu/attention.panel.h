// A panel of queries against a block of keys: where their operands lie, which keys are hidden, and the scores.
#pragma once

#include "../core/arith.h"
#include "../core/layout.h"
#include "attention.one.h"

namespace mmk::cpu::MMK_ISA {

inline constexpr int panel_vectors = 3, panel_queries = panel_vectors * lanes;
inline constexpr double log2_e = 0x1.71547652b82fep0;
inline constexpr int64_t flops_per_task = 1000000; // about 10 us: what makes a second thread worth waking

// An operand [*B H S D] whose rows are dense; one that is not is packed.
template <class T> struct Rows {
    T* data;
    AttentionBatch items;
    int64_t batch[5], head, row;

    Rows() = default;
    Rows(Context& context, const AttentionBatch& items_, const Tensor& x) : items(items_) {
        Tensor rows = x;
        if (x && x.extent_at(-1) > 1 && x.stride[x.rank - 1] != 1) {
            rows = contiguous_like(x);
            rows.data = pack(context, x);
        }
        set(rows);
    }
    MMK_MEMBER void set(const Tensor& x) {
        data = static_cast<T*>(x.data), head = x.stride[x.rank - 3], row = x.stride[x.rank - 2];
        copy_strides(batch, x);
    }
    MMK_MEMBER T* of(int64_t b, int64_t h) const { return data + items.offset(batch, b) + h * head; }
};
// Results likewise; the destructor brings what was written to the real output.
template <class T> struct RowsOut : Rows<T> {
    RowsOut(Context& context_, const AttentionBatch& items_, const Tensor& y)
        : context(context_), target(y),
          written(y.extent_at(-1) <= 1 || y.stride[y.rank - 1] == 1 ? y : contiguous_scratch(context_, y)) {
        this->items = items_;
        this->set(written);
    }
    RowsOut(const RowsOut&) = delete;
    RowsOut& operator=(const RowsOut&) = delete;
    MMK_MEMBER ~RowsOut() {
        if (written.data != target.data) copy_strided(context, target, written);
    }

    Context& context;
    const Tensor& target;
    Tensor written;
};

// Memory of the next task, fetched into L2 while this one computes: short sequences are over before the hardware's
// own prefetching has begun (1024 x 8 x 16 x 40: 10.9 ms without, 6.3 with). It is spread over the rows of scores; all
// at once it would hold up the work.
struct Ahead {
    static constexpr int most = 5;
    static constexpr int64_t line = 64;
    const char* from[most];
    int64_t bytes[most]; // left to fetch
    int count = 0;
    int64_t each = 0; // bytes of each per row of scores

    template <class T>
    MMK_MEMBER void add(const Rows<const T>& x, int64_t b, int64_t h, int64_t first, int64_t rows, int64_t columns) {
        if (x.row != columns || rows == 0) return;
        from[count] = reinterpret_cast<const char*>(x.of(b, h) + first * x.row);
        bytes[count] = rows * columns * int64_t(sizeof(T));
        each = bytes[count] > each ? bytes[count] : each; // until spread
        ++count;
    }
    MMK_MEMBER void spread(int64_t rows) { each = rows ? (each / rows + line) / line * line : 0; }
    MMK_MEMBER void fetch() {
        for (int i = 0; i < count; ++i)
            for (int64_t n = each; n > 0 && bytes[i] > 0; n -= line, bytes[i] -= line, from[i] += line)
                __builtin_prefetch(from[i], 0, 2);
    }
};
// Where it pays: keys that are soon done with, and more memory than L2 holds anyway.
template <class Op> MMK_INLINE bool fetch_ahead(const Op& op) {
    return op.k.extent_at(-2) <= 512 && !op.query_starts && op.q.size() + op.k.size() + op.v.size() > int64_t(1) << 18;
}

// A mask or a bias [*B H Sq Sk] of one head; null if it is not given.
template <class T> struct Grid {
    const T* data = nullptr;
    int64_t row = 0, step = 0;

    Grid(const AttentionBatch& items, const Tensor& x, int64_t b, int64_t h) {
        if (!x) return;
        int64_t batch[5];
        copy_strides(batch, x);
        data = static_cast<const T*>(x.data) + items.offset(batch, b) + h * x.stride[x.rank - 3];
        row = x.stride[x.rank - 2], step = x.stride[x.rank - 1];
    }
    MMK_MEMBER const T* at(int64_t query, int64_t key) const { return data + query * row + key * step; }
};

// What a head adds to a score by the distance of key and query alone.
template <class T> struct Relative {
    const T* table = nullptr;
    int64_t step = 0, radius = 0;
    T slope = 0;
    bool sloped = false;

    template <class Op> Relative(const AttentionBatch& items, const Op& op, int64_t b, int64_t h) {
        if (op.table) {
            table = static_cast<const T*>(op.table.data) + h * op.table.stride[0];
            step = op.table.stride[1], radius = op.table.extent[1] / 2;
        }
        if (op.slopes) {
            int64_t batch[5];
            copy_strides(batch, op.slopes);
            slope = static_cast<const T*>(op.slopes.data)[items.offset(batch, b) + h * op.slopes.stride[items.rank]];
            sloped = true;
        }
    }
    MMK_MEMBER explicit operator bool() const { return table || sloped; }
    MMK_MEMBER T at(int64_t distance) const {
        const int64_t entry = distance < -radius ? -radius : distance > radius ? radius : distance;
        const T value = table ? table[(entry + radius) * step] : T(0);
        return sloped ? fma_scalar(-slope, T(distance < 0 ? -distance : distance), value) : value;
    }
};

enum class Seen { none, some, all };

// What one head of keys is to one panel of its queries.
template <class T> struct Panel {
    AttentionItem item;
    int64_t first;   // query
    int64_t queries; // 1 to 48
    int64_t real;    // of which so many are no padding
    int vectors;     // of lanes in use
    Grid<uint8_t> mask;
    Grid<T> bias;
    Relative<T> relative;
    T cap;             // softcap log2(e), or 0
    uint64_t dead = 0; // queries that see nothing at all, one bit each

    MMK_MEMBER int64_t width() const { return vectors * lanes; }
    MMK_MEMBER int64_t limit(int64_t query) const { return item.limit(first + query); }
    MMK_MEMBER int64_t start(int64_t query) const { return item.start(first + query); }
    MMK_MEMBER int64_t last_limit() const { return real > 0 ? limit(real - 1) : 0; }
    // The block of the first key that any of the queries sees.
    MMK_MEMBER int64_t first_block() const { return start(0) / key_block * key_block; }
};

template <class T, class Op>
MMK_INLINE Panel<T> panel_of(const AttentionRule& rule, const Op& op, int64_t b, int64_t h, int64_t index) {
    const AttentionItem item = rule.item(b);
    const int64_t rows = rule.packed() ? item.queries : rule.queries; // of the result
    const int64_t first = index * panel_queries, left = rows - first, real = item.queries - first;
    const int64_t queries = left < panel_queries ? left : panel_queries;
    return {item,
            first,
            queries,
            real < queries ? real : queries,
            int((queries + lanes - 1) / lanes),
            {rule.batch, op.mask, b, h},
            {rule.batch, op.bias, b, h},
            {rule.batch, op, b, h},
            T(op.softcap * log2_e)};
}
// What q is multiplied with.
template <class T, class Op> MMK_INLINE T folded_scale(const Op& op) {
    return op.softcap > 0 ? T(op.scale / op.softcap) : T(op.scale * log2_e);
}

// Whether the panel sees the keys [key, key + count).
template <class T> Seen what_is_seen(const Panel<T>& panel, int64_t key, int64_t count) {
    if (key >= panel.last_limit() || key + count <= panel.start(0)) return Seen::none;
    bool any_hidden = panel.dead != 0 || panel.real < panel.queries || key + count > panel.limit(0) ||
                      key < panel.start(panel.real - 1),
         any_seen = false;
    if (!panel.mask.data) return any_hidden ? Seen::some : Seen::all;
    const int64_t rows = panel.mask.row == 0 ? 1 : panel.queries;
    for (int64_t i = 0; i < rows && !(any_hidden && any_seen); ++i) {
        const uint8_t* const m = panel.mask.at(panel.first + i, key);
        uint8_t any = 0, all = 1;
        if (panel.mask.step == 1)
            for (int64_t k = 0; k < count; ++k) any |= m[k], all &= m[k] != 0;
        else
            for (int64_t k = 0; k < count; ++k) any |= m[k * panel.mask.step], all &= m[k * panel.mask.step] != 0;
        any_seen |= any != 0;
        any_hidden |= all == 0;
    }
    return !any_seen ? Seen::none : any_hidden ? Seen::some : Seen::all;
}

// hidden[k][query] is 0 where the query sees key + k.
template <class T> void find_hidden(const Panel<T>& panel, int64_t key, int64_t count, T* hidden) {
    const int64_t width = panel.width();
    T start[panel_queries], limit[panel_queries];
    bool late = false;
    for (int64_t i = 0; i < width; ++i) {
        const bool dead = i >= panel.queries || (panel.dead >> i & 1);
        const int64_t begin = panel.start(i) - key, end = dead ? 0 : panel.limit(i) - key;
        limit[i] = T(end < 0 ? 0 : end > count ? count : end);
        start[i] = T(begin < 0 ? 0 : begin > count ? count : begin);
        late |= begin > 0;
    }
    for (int64_t k = 0; k < count; ++k)
        for (int64_t i = 0; i < width; i += lanes)
            select(Vec<T>(T(k)) >= Vec<T>::load(limit + i), Vec<T>(T(1)), Vec<T>::zero()).store(hidden + k * width + i);
    if (late)
        for (int64_t k = 0; k < count; ++k)
            for (int64_t i = 0; i < width; i += lanes)
                select(Vec<T>(T(k)) < Vec<T>::load(start + i), Vec<T>(T(1)), Vec<T>::load(hidden + k * width + i))
                    .store(hidden + k * width + i);
    if (!panel.mask.data) return;
    if (panel.mask.row == 0) {
        const uint8_t* const m = panel.mask.at(0, key);
        for (int64_t k = 0; k < count; ++k)
            if (!m[k * panel.mask.step])
                for (int64_t i = 0; i < width; i += lanes) Vec<T>(T(1)).store(hidden + k * width + i);
        return;
    }
    const T flag[2] = {T(1), T(0)}; // a table, not a branch: random masks would be predicted wrongly
    const uint8_t* const m = panel.mask.at(panel.first, key);
    for (int64_t k = 0; k < count; ++k)
        for (int64_t i = 0; i < panel.queries; ++i)
            hidden[k * width + i] += flag[m[k * panel.mask.step + i * panel.mask.row] != 0];
}

// The soft cap; `slopes` receives its derivative, if not null.
template <class T> void soft_cap(T* scores, int64_t size, T cap, T* slopes) {
    for (int64_t i = 0; i < size; i += lanes) {
        const Vec<T> t = tanh(Vec<T>::load(scores + i));
        (t * Vec<T>(cap)).store(scores + i);
        if (slopes) fma(-t, t, Vec<T>(T(1))).store(slopes + i);
    }
}
// A block's distances are those of a line: lane i of row k is element count - 1 - k + i.
template <class T> void add_relative(const Panel<T>& panel, int64_t key, int64_t count, T* scores) {
    const int64_t width = panel.width(), last = key + count - 1 - panel.first - panel.item.position;
    T line[key_block + panel_queries];
    for (int64_t x = 0; x < count + width; ++x) line[x] = panel.relative.at(last - x);
    const Vec<T> base((T(log2_e)));
    for (int64_t k = 0; k < count; ++k)
        for (int64_t i = 0; i < width; i += lanes) {
            T* const s = scores + k * width + i;
            fma(Vec<T>::load(line + (count - 1 - k) + i), base, Vec<T>::load(s)).store(s);
        }
}

// s2[k][query] of the keys [key, key + count), hidden ones too. `room` holds a block and is overwritten; `slopes`, if not
// null, receives the derivatives of the soft cap.
template <class T> MMK_INLINE void find_scores(const Panel<T>& panel, const T* keys, int64_t key_row, int64_t depth,
                                               const T* queries, int64_t key, int64_t count, T* scores, T* room,
                                               T* slopes = nullptr) {
    const int64_t width = panel.width();
    const Product<T> product{keys + key * key_row, key_row, 1, queries, width, depth, scores, width};
    multiply_keys(product, panel.queries, count, panel.vectors);
    if (panel.cap > T(0)) soft_cap(scores, count * width, panel.cap, slopes);
    if (panel.relative) add_relative(panel, key, count, scores);
    if (!panel.bias.data) return;
    const Vec<T> base((T(log2_e)));
    if (panel.bias.row == 0) {
        for (int64_t k = 0; k < count; ++k) {
            const Vec<T> bias(*panel.bias.at(0, key + k));
            for (int64_t i = k * width; i < (k + 1) * width; i += lanes)
                fma(bias, base, Vec<T>::load(scores + i)).store(scores + i);
        }
        return;
    }
    rows_to_lanes(panel.bias.at(panel.first, key), panel.bias.row, panel.bias.step, panel.queries, count, room, width,
                  panel.vectors, T(1));
    for (int64_t i = 0; i < count * width; i += lanes)
        fma(Vec<T>::load(room + i), base, Vec<T>::load(scores + i)).store(scores + i);
}

// Whether all numbers are finite: x - x is 0 for those, NaN for the others.
template <class T> bool all_finite(const T* x, int64_t row, int64_t rows, int64_t columns) {
    Vec<T> sum = Vec<T>::zero();
    T rest = 0;
    for (int64_t i = 0; i < rows; ++i, x += row) {
        int64_t c = 0;
        for (; c + lanes <= columns; c += lanes) sum = sum + (Vec<T>::load(x + c) - Vec<T>::load(x + c));
        for (; c < columns; ++c) rest += x[c] - x[c];
    }
    return sum_lanes(sum) + rest == 0;
}

// multiply(product) where a lane leaves out the steps k at which hidden[k][lane] is set: for blocks in which a product
// with the 0 of a hidden key would be NaN.
template <class T> void multiply_seen(const Product<T>& product, int64_t rows, int vectors, const T* hidden) {
    for (int64_t i = 0; i < rows; ++i)
        for (int64_t j = 0; j < vectors * lanes; j += lanes) {
            Vec<T> sum = Vec<T>::zero();
            for (int64_t k = 0; k < product.count; ++k) {
                const Mask<T> seen = Vec<T>::load(hidden + k * product.b_row + j) == Vec<T>::zero();
                const Vec<T> w(product.a[i * product.a_row + k * product.a_step]);
                sum = select(seen, fma(w, Vec<T>::load(product.b + k * product.b_row + j), sum), sum);
            }
            T* const c = product.c + i * product.c_row + j;
            if (product.into == Into::add) sum = Vec<T>::load(c) + sum;
            if (product.into == Into::rescale) sum = fma(Vec<T>::load(c), Vec<T>::load(product.factor + j), sum);
            sum.store(c);
        }
}

} // namespace mmk::cpu::MMK_ISA
