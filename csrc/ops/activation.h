// activation — functions of each element, softmax along an axis, dropout, and their gradients.
// Computes   relu(x) = x > 0 ? x : +0; leaky_relu(x) = x > 0 ? x : x * negative_slope; sqrt, correctly rounded;
//            sigmoid, tanh, silu = x sigmoid(x), gelu = x Phi(x) or its tanh form, exp, log, erf of core/arith.h;
//            softmax(x) = e / sum(e), log_softmax(x) = (x - max) - log(sum(e)), e = exp(x - max), along one axis;
//            dropout(x)[n, i] = uniform(keys[n], 0, i) >= float32(p) ? x / T(1 - p) : +0
// Gradients  relu_grad = x > 0 or NaN ? gy : +0; leaky_relu_grad = x > 0 ? gy : gy * negative_slope;
//            silu_grad, gelu_grad = gy * f'(x); of the results: sigmoid_grad = gy * (y * (1 - y)),
//            tanh_grad = gy * ((1 - y) * (1 + y)), softmax_grad = y * (gy - sum(gy * y)),
//            log_softmax_grad = gy - exp(y) * sum(gy); dropout's is dropout of gy under the same keys
// Shapes     as in ops/activation.py
// Types      float32, float64; keys uint64
// Limits     NaN gives NaN, but for an element that dropout drops. silu and gelu are at -inf what they tend to, a
//            zero, not the NaN of -inf * 0; their slopes are 0 at -inf and 1 at inf. relu(-0) = +0. A row of softmax
//            that is -inf throughout, or holds +inf, is NaN where the formula says so.
// Algorithm  one pass; softmax three over each row, the exponentials kept in the result; an axis that is not the last
//            is packed to be the last. dropout draws its own noise, 64 elements at a time.
// Order      Each operation above is rounded by itself, in the order of the parentheses; e / sum(e) is e times the
//            rounded reciprocal. Sums along a row are the long sum (core/reduce.h) of the rounded terms.
// CUDA       the same operations and orders. A row of softmax is held in registers (half a warp, a warp; sixteen threads
//            of a column where the axis is not the last, which is read in place) or in a block's shared memory; one that does
//            not fit is read again by each pass. dropout: a thread draws the four elements of a counter
// Source     silu: Elfwing et al., arXiv 1702.03118; gelu: Hendrycks and Gimpel, arXiv 1606.08415;
//            dropout: Srivastava et al., JMLR 15 (2014)
// Moves      each operand once and the result once; softmax's second and third pass are over a row in cache
#pragma once

#include "../core/dispatch.h"

namespace mmk {

// In the order of the contract's choices: "none", "tanh".
enum class GeluForm : int64_t { exact, tanh };

struct Unary {
    Tensor x, y;
    MMK_FIELDS(Unary, x, y)
};
struct LeakyRelu {
    Tensor x, y;
    double negative_slope = 0;
    MMK_FIELDS(LeakyRelu, x, y, negative_slope)
};
struct Gelu {
    Tensor x, y;
    GeluForm approximate = GeluForm::exact;
    MMK_FIELDS(Gelu, x, y, approximate)
};
// Gradients that need the operand, and those that need the result.
struct UnaryGrad {
    Tensor x, gy, gx;
    MMK_FIELDS(UnaryGrad, x, gy, gx)
};
struct LeakyReluGrad {
    Tensor x, gy, gx;
    double negative_slope = 0;
    MMK_FIELDS(LeakyReluGrad, x, gy, gx, negative_slope)
};
struct GeluGrad {
    Tensor x, gy, gx;
    GeluForm approximate = GeluForm::exact;
    MMK_FIELDS(GeluGrad, x, gy, gx, approximate)
};
struct ResultGrad {
    Tensor y, gy, gx;
    MMK_FIELDS(ResultGrad, y, gy, gx)
};
struct AlongAxis {
    Tensor x, y;
    int64_t dim = 0;
    MMK_FIELDS(AlongAxis, x, y, dim)
};
struct AlongAxisGrad {
    Tensor y, gy, gx;
    int64_t dim = 0;
    MMK_FIELDS(AlongAxisGrad, y, gy, gx, dim)
};
struct Dropout {
    Tensor x, keys, y;
    double p = 0;
    MMK_FIELDS(Dropout, x, keys, y, p)
};

MMK_OPERATOR(relu, Unary)
MMK_OPERATOR(sigmoid, Unary)
MMK_OPERATOR(tanh, Unary)
MMK_OPERATOR(silu, Unary)
MMK_OPERATOR(exp, Unary)
MMK_OPERATOR(log, Unary)
MMK_OPERATOR(sqrt, Unary)
MMK_OPERATOR(erf, Unary)
MMK_OPERATOR(leaky_relu, LeakyRelu)
MMK_OPERATOR(gelu, Gelu)
MMK_OPERATOR(relu_grad, UnaryGrad)
MMK_OPERATOR(silu_grad, UnaryGrad)
MMK_OPERATOR(leaky_relu_grad, LeakyReluGrad)
MMK_OPERATOR(gelu_grad, GeluGrad)
MMK_OPERATOR(sigmoid_grad, ResultGrad)
MMK_OPERATOR(tanh_grad, ResultGrad)
MMK_OPERATOR(softmax, AlongAxis)
MMK_OPERATOR(log_softmax, AlongAxis)
MMK_OPERATOR(softmax_grad, AlongAxisGrad)
MMK_OPERATOR(log_softmax_grad, AlongAxisGrad)
MMK_OPERATOR(dropout, Dropout)

} // namespace mmk
