// pointwise — what gradients and models need between kernels: arithmetic with broadcasting, selection, sums.
// Computes   add a + b, sub a - b, mul a * b, div a / b, each correctly rounded; where(c, a, b) = c ? a : b;
//            greater a > b, false where either is NaN;
//            sum over any set of axes; mean = sum / count, one division
// Shapes     as in ops/pointwise.py; operands broadcast as NumPy's do (stride 0)
// Types      float32, float64; condition bool
// Limits     none: empty extents give empty results, an empty sum is +0, an empty mean 0/0 = NaN
// Algorithm  one pass; operands that are not dense like the result are packed first
// Order      sum and mean: each result is the long sum (core/reduce.h) of its elements in logical order
// Moves      the contract's minimum for dense operands; a packed operand is read and written once more
#pragma once

#include "../core/dispatch.h"

namespace mmk {

struct Binary {
    Tensor a, b, y;
    MMK_FIELDS(Binary, a, b, y)
};
struct Where {
    Tensor condition, a, b, y;
    MMK_FIELDS(Where, condition, a, b, y)
};
struct Reduction {
    Tensor x, y;
    int64_t reduced = 0; // bit i is set if axis i is summed over
    MMK_FIELDS(Reduction, x, y, reduced)
};
// x with the axes that are summed over behind the others: `rows` rows of `count` elements.
MMK_INLINE Tensor summed_last(const Reduction& op, int64_t& rows, int64_t& count) {
    Tensor x = op.x;
    int axis = 0;
    rows = count = 1;
    for (const bool reduced : {false, true})
        for (int i = 0; i < op.x.rank; ++i)
            if (bool(op.reduced >> i & 1) == reduced) {
                x.extent[axis] = op.x.extent[i];
                x.stride[axis++] = op.x.stride[i];
                (reduced ? count : rows) *= op.x.extent[i];
            }
    return x;
}

MMK_OPERATOR(add, Binary)
MMK_OPERATOR(sub, Binary)
MMK_OPERATOR(mul, Binary)
MMK_OPERATOR(div, Binary)
MMK_OPERATOR(greater, Binary)
MMK_OPERATOR(where, Where)
MMK_OPERATOR(sum, Reduction)
MMK_OPERATOR(mean, Reduction)

} // namespace mmk
