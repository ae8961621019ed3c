// What attention's kernels share: where operands lie, which keys a query sees, and the ways to compute it.
#pragma once

#include "../ops/attention.h"
#include "layout.cuh"

namespace mmk::cuda::flash {

inline constexpr double log2_e = 0x1.71547652b82fep0;
inline constexpr double ln_2 = 0x1.62e42fefa39efp-1;

// An operand [*B H S D] whose rows are dense; strides in elements.
template <class T> struct Rows {
    T* data;
    AttentionBatch items;
    int64_t batch[5], head, row;

    MMK_MEMBER T* of(int64_t b, int64_t h) const { return data + items.offset(batch, b) + h * head; }
};
// Whether rows are dense, and all of them begin at a multiple of `elements`.
inline bool rows_lie(const Tensor& x, int64_t elements) {
    const int last = x.rank - 1;
    bool good = aligned(x.data, size_t(elements * itemsize(x.dtype))) && (x.extent[last] <= 1 || x.stride[last] == 1);
    for (int axis = 0; axis < last; ++axis) good &= x.extent[axis] <= 1 || x.stride[axis] % elements == 0;
    return good;
}
template <class T> Rows<T> rows_of(const Tensor& x) {
    Rows<T> rows = {static_cast<T*>(x.data), batch_of(x), {}, x.stride[x.rank - 3], x.stride[x.rank - 2]};
    copy_strides(rows.batch, x);
    return rows;
}
// Heads are read where they lie, (B, S, H, D) too; what does not lie in rows is packed.
template <class T> Rows<const T> rows_in(Context& context, const Tensor& x, int64_t elements) {
    return rows_of<const T>(x && !rows_lie(x, elements) ? pack(context, x) : x);
}
// Results likewise; finish() is the host function's last word.
template <class T> class RowsOut {
  public:
    RowsOut(Context& context, const Tensor& y, int64_t elements)
        : context_(context), target_(y), written_(rows_lie(y, elements) ? y : contiguous_scratch(context, y)) {}
    RowsOut(const RowsOut&) = delete;
    RowsOut& operator=(const RowsOut&) = delete;
    Rows<T> rows() const { return rows_of<T>(written_); }
    void finish() {
        if (written_.data != target_.data) copy_strided(context_, target_, written_);
    }

  private:
    Context& context_;
    const Tensor& target_;
    Tensor written_;
};

// A mask or a bias [*B H Sq Sk], of any strides; null if it is not given.
template <class T> struct Grid {
    const T* data;
    AttentionBatch items;
    int64_t batch[5] = {}, head = 0, row = 0, step = 0;

    explicit Grid(const Tensor& x) : data(static_cast<const T*>(x.data)) {
        if (!x) return;
        items = batch_of(x);
        copy_strides(batch, x);
        head = x.stride[x.rank - 3], row = x.stride[x.rank - 2], step = x.stride[x.rank - 1];
    }
    MMK_MEMBER const T* of(int64_t b, int64_t h) const {
        return data ? data + items.offset(batch, b) + h * head : nullptr;
    }
};

// What a head adds to a score by the distance of key and query alone.
template <class T> struct Relative {
    const T* table;
    int64_t step, radius;
    Compute<T> slope;
    bool sloped;

    MMK_MEMBER Compute<T> at(int64_t distance) const {
        using C = Compute<T>;
        const int64_t entry = distance < -radius ? -radius : distance > radius ? radius : distance;
        const C value = table ? widen(table[(entry + radius) * step]) : C(0);
        return sloped ? fma_scalar(-slope, C(distance < 0 ? -distance : distance), value) : value;
    }
};

// What scores are besides products: the soft cap, what is added by distance, the bias.
template <class T> struct Dress {
    using C = Compute<T>;
    Grid<T> bias;
    const T* table;
    int64_t table_head = 0, table_step = 0, radius = 0;
    const C* slopes;
    AttentionBatch items;
    int64_t slope_batch[5] = {}, slope_head = 0;
    C cap;

    template <class Op> explicit Dress(const Op& op)
        : bias(op.bias), table(static_cast<const T*>(op.table.data)), slopes(static_cast<const C*>(op.slopes.data)),
          items(batch_of(op.q)), cap(C(op.softcap * log2_e)) {
        if (op.table) table_head = op.table.stride[0], table_step = op.table.stride[1], radius = op.table.extent[1] / 2;
        if (op.slopes) copy_strides(slope_batch, op.slopes), slope_head = op.slopes.stride[items.rank];
    }
    MMK_MEMBER bool more_than_bias() const { return table || slopes || cap > C(0); }
    MMK_MEMBER Relative<T> relative(int64_t b, int64_t h) const {
        return {table ? table + h * table_head : nullptr, table_step, radius,
                slopes ? slopes[items.offset(slope_batch, b) + h * slope_head] : C(0), slopes != nullptr};
    }
    // The score of base 2 from a product, and the soft cap's derivative; `own` is the head's bias or null.
    MMK_MEMBER C score(C product, const Relative<T>& relative, const T* own, int64_t query, int64_t key,
                       int64_t position, C& slope) const {
        slope = C(1);
        if (cap > C(0)) {
            const C t = tanh(Vec<C>(product)).v;
            product = t * cap, slope = fma_scalar(-t, t, C(1));
        }
        if (relative.table || relative.sloped)
            product = fma_scalar(relative.at(key - query - position), C(log2_e), product);
        if (own) product = fma_scalar(widen(own[query * bias.row + key * bias.step]), C(log2_e), product);
        return product;
    }
};

// The extents, and which keys are hidden.
struct Shape {
    AttentionRule rule;
    int64_t batch, heads, key_heads, group, queries, keys;
    int depth, columns;
    Grid<uint8_t> mask;

    template <class Op> explicit Shape(const Op& op)
        : rule(op), batch(rule.batch.size()), heads(op.q.extent_at(-3)), key_heads(op.k.extent_at(-3)),
          group(key_heads ? heads / key_heads : 0), queries(rule.queries), keys(rule.keys),
          depth(int(op.q.extent_at(-1))), columns(int(op.v.extent_at(-1))), mask(op.mask) {}
    MMK_MEMBER AttentionItem item(int64_t b) const {
        AttentionItem it = rule.item(b);
        it.diagonal += MMK_DEFECT(attention_wrong_diagonal) ? 1 : 0;
        return it;
    }
    // How many rows of results an item has.
    MMK_MEMBER int64_t rows(const AttentionItem& it) const { return rule.packed() ? it.queries : queries; }
    MMK_MEMBER int64_t key_rows(const AttentionItem& it) const { return rule.packed() ? it.keys : keys; }
    // Whether a row sees what it does for more reasons than the mask and a triangle.
    MMK_MEMBER bool plain() const {
        return rule.left == AttentionRule::open && rule.right == AttentionRule::open && !rule.lengths() &&
               !rule.offset.data;
    }
};
// The first key that none of the queries [first, first + count) sees; whether all of those that are real see the keys
// [key, key + keys), but for the mask. `rows` is how many queries there are, padded ones included.
MMK_INLINE int64_t last_limit(const AttentionItem& it, int64_t first, int64_t count) {
    const int64_t end = first + count < it.queries ? first + count : it.queries;
    return end > first ? it.limit(end - 1) : 0;
}
MMK_INLINE bool all_see(const AttentionItem& it, int64_t rows, int64_t first, int64_t count, int64_t key,
                        int64_t keys) {
    const int64_t end = first + count < rows ? first + count : rows;
    return end <= it.queries && key + keys <= it.limit(first) && key >= it.start(end - 1);
}

// What q is multiplied with.
template <class C, class Op> C folded_scale(const Op& op) {
    return op.softcap > 0 ? C(op.scale / op.softcap) : C(op.scale * log2_e);
}

template <class T> struct Forward {
    Shape shape;
    Rows<const T> q, k, v;
    Dress<T> dress;
    const T* sink; // [H], or null
    Rows<T> y;
    Compute<T>* lse;   // [B H Sq], or null
    Compute<T> folded; // scale log2(e)

    Forward(Context& context, const Attention& op, const RowsOut<T>& y_, Compute<T>* lse_, int64_t elements)
        : shape(op), q(rows_in<T>(context, op.q, elements)), k(rows_in<T>(context, op.k, elements)),
          v(rows_in<T>(context, op.v, elements)), dress(op), sink(Dense<T>(context, op.sink)), y(y_.rows()), lse(lse_),
          folded(folded_scale<Compute<T>>(op)) {}
};

// attention_grad and attention_bias_grad.
template <class T> struct Backward {
    Shape shape;
    Rows<const T> q, k, v, gy;
    Dress<T> dress;
    const Compute<T>*lse, *delta; // [B H Sq]
    Rows<T> gq, gk, gv;           // gradients that are wanted; or
    T* gbias;                     // [B H Sq Sk]; or
    Compute<T>* segments;         // [segment of an item][H][W], [H] for slopes, [segment][H Sq Sk] for a shared bias
    Compute<T> scale, folded;

    template <class Op>
    Backward(Context& context, const Op& op, const Compute<T>* lse_, const Compute<T>* delta_, int64_t elements)
        : shape(op), q(rows_in<T>(context, op.q, elements)), k(rows_in<T>(context, op.k, elements)),
          v(rows_in<T>(context, op.v, elements)), gy(rows_in<T>(context, op.gy, elements)), dress(op), lse(lse_),
          delta(delta_), gq{}, gk{}, gv{}, gbias(nullptr), segments(nullptr), scale(Compute<T>(op.scale)),
          folded(folded_scale<Compute<T>>(op)) {}
};

// What stands for p and ds of a hidden key: a signalling NaN, which no operation gives. Such a factor is left out, so
// that what is behind it does not matter.
template <class C> MMK_INLINE C hidden() {
    if constexpr (sizeof(C) == 4)
        return bit_cast<float>(U32x16(0x7fa00000u)).v;
    else
        return bit_cast<double>(U64x16(0x7ff4000000000000u)).v;
}
MMK_INLINE bool is_hidden(float x) { return bit_cast<uint32_t>(F32x16(x)).v == 0x7fa00000u; }
MMK_INLINE bool is_hidden(double x) { return bit_cast<uint64_t>(F64x16(x)).v == 0x7ff4000000000000u; }

template <class C> MMK_INLINE C minus_infinity() { return C(-__builtin_inff()); }

// Whether tensor cores take a 16-bit problem. The extents that decide are not free, so that a row's bits do not depend on
// the call it is part of.
inline bool fits_tensor_cores(const Shape& shape) {
    return shape.depth % 8 == 0 && shape.columns % 8 == 0 && shape.depth <= 256 && shape.columns > 0 &&
           shape.columns <= 256;
}
// attention.scalar.cu, attention.scalar_grad.cu: float32 and float64 in the CPU floor's order of operations.
template <class T> void forward_scalar(Context& context, const Forward<T>& problem);
template <class T> void backward_queries_scalar(Context& context, const Backward<T>& problem); // gq, or gbias
template <class T> void backward_keys_scalar(Context& context, const Backward<T>& problem);    // gk and gv
// attention.relative.cu
template <class T> void backward_table(Context& context, const Backward<T>& problem, int64_t width, T* gtable);
template <class T> void backward_shared_bias(Context& context, const Backward<T>& problem, T* gbias);
template <class T> void backward_slopes(Context& context, const Backward<T>& problem, T* gslopes);
// attention.tensor.cu, attention.tensor_grad.cu: 16-bit types, head dimensions that fit.
template <class T> void forward_tensor(Context& context, const Forward<T>& problem);
template <class T> void backward_queries_tensor(Context& context, const Backward<T>& problem);
template <class T> void backward_keys_tensor(Context& context, const Backward<T>& problem);

// attention.short.cu: many sequences of at most so many queries and keys, each of which a warp takes alone; the scalar
// kernels' bits. False where a sequence does not fit into shared memory.
inline constexpr int64_t short_sequence = 32;
bool forward_short(Context& context, const Forward<float>& problem);
// attention.sm90.cu: 16-bit types on Hopper; false where it does not serve the call.
bool attention_sm90(const Attention& op, Context& context);
// attention.grad.sm90.cu: likewise. lse and delta are [B H Sq].
bool attention_grad_sm90(Context& context, const AttentionGrad& op, const float* lse, const float* delta);

} // namespace mmk::cuda::flash
