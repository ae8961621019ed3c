// What attention's kernels share: where operands lie, which keys a query sees, and the ways to compute it.
#pragma once

#include "../ops/attention.h"
#include "layout.cuh"

namespace mmk::cuda::flash {

inline constexpr double log2_e = 0x1.71547652b82fep0;
inline constexpr double ln_2 = 0x1.62e42fefa39efp-1;

// An operand [B H S D] whose rows are dense; strides in elements.
template <class T> struct Rows {
    T* data;
    int64_t batch, head, row;

    MMK_MEMBER T* of(int64_t b, int64_t h) const { return data + b * batch + h * head; }
};
// Whether rows are dense, and all of them begin at a multiple of `elements`.
inline bool rows_lie(const Tensor& x, int64_t elements) {
    bool good = aligned(x.data, size_t(elements * itemsize(x.dtype))) && (x.extent[3] <= 1 || x.stride[3] == 1);
    for (int axis = 0; axis < 3; ++axis) good &= x.extent[axis] <= 1 || x.stride[axis] % elements == 0;
    return good;
}
template <class T> Rows<T> rows_of(const Tensor& x) {
    return {static_cast<T*>(x.data), x.stride[0], x.stride[1], x.stride[2]};
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

// A mask or a bias [B H Sq Sk], of any strides; null if it is not given.
template <class T> struct Grid {
    const T* data;
    int64_t batch, head, row, step;

    explicit Grid(const Tensor& x)
        : data(static_cast<const T*>(x.data)), batch(x.stride[0]), head(x.stride[1]), row(x.stride[2]),
          step(x.stride[3]) {}
    MMK_MEMBER const T* of(int64_t b, int64_t h) const { return data ? data + b * batch + h * head : nullptr; }
};

// The extents, and which keys are hidden.
struct Shape {
    int64_t batch, heads, key_heads, group, queries, keys;
    int depth, columns;
    int64_t diagonal; // query i sees the keys below i + diagonal
    Grid<uint8_t> mask;

    template <class Op> explicit Shape(const Op& op)
        : batch(op.q.extent[0]), heads(op.q.extent[1]), key_heads(op.k.extent[1]),
          group(key_heads ? heads / key_heads : 0), queries(op.q.extent[2]), keys(op.k.extent[2]),
          depth(int(op.q.extent[3])), columns(int(op.v.extent[3])), diagonal(op.causal == 0   ? keys
                                                                             : op.causal == 1 ? 1
                                                                                              : 1 + keys - queries),
          mask(op.mask) {}
    // The first key that query i does not see; 0 for the queries that fill up a tile.
    MMK_MEMBER int64_t limit(int64_t query) const {
        const int64_t end = query < queries ? query + diagonal + (MMK_DEFECT(attention_wrong_diagonal) ? 1 : 0) : 0;
        return end < 0 ? 0 : end > keys ? keys : end;
    }
    // The first key that none of the queries [first, first + count) sees.
    MMK_MEMBER int64_t limit(int64_t first, int64_t count) const {
        return limit((first + count < queries ? first + count : queries) - 1);
    }
};

template <class T> struct Forward {
    Shape shape;
    Rows<const T> q, k, v;
    Grid<T> bias;
    Rows<T> y;
    Compute<T>* lse;   // [B H Sq], or null
    Compute<T> folded; // scale log2(e)

    Forward(Context& context, const Attention& op, const RowsOut<T>& y_, Compute<T>* lse_, int64_t elements)
        : shape(op), q(rows_in<T>(context, op.q, elements)), k(rows_in<T>(context, op.k, elements)),
          v(rows_in<T>(context, op.v, elements)), bias(op.bias), y(y_.rows()), lse(lse_),
          folded(Compute<T>(op.scale * log2_e)) {}
};

// attention_grad and attention_bias_grad.
template <class T> struct Backward {
    Shape shape;
    Rows<const T> q, k, v, gy;
    Grid<T> bias;
    const Compute<T>*lse, *delta; // [B H Sq]
    Rows<T> gq, gk, gv;           // gradients that are wanted; or
    T* gbias;                     // [B H Sq Sk]
    Compute<T> scale, folded;

    template <class Op>
    Backward(Context& context, const Op& op, const Compute<T>* lse_, const Compute<T>* delta_, int64_t elements)
        : shape(op), q(rows_in<T>(context, op.q, elements)), k(rows_in<T>(context, op.k, elements)),
          v(rows_in<T>(context, op.v, elements)), gy(rows_in<T>(context, op.gy, elements)), bias(op.bias), lse(lse_),
          delta(delta_), gq{}, gk{}, gv{}, gbias(nullptr), scale(Compute<T>(op.scale)),
          folded(Compute<T>(op.scale * log2_e)) {}
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

// attention.scalar.cu: float32 and float64 in the CPU floor's order of operations.
template <class T> void forward_scalar(Context& context, const Forward<T>& problem);
template <class T> void backward_queries_scalar(Context& context, const Backward<T>& problem); // gq, or gbias
template <class T> void backward_keys_scalar(Context& context, const Backward<T>& problem);    // gk and gv
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

} // namespace mmk::cuda::flash
