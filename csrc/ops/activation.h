// activation — functions of each element, softmax along an axis, dropout, normalisation across channels, and gradients.
// Computes   relu(x) = x > 0 ? x : +0; leaky_relu(x) = x > 0 ? x : x * negative_slope; sqrt, correctly rounded;
//            sigmoid, tanh, silu = x sigmoid(x), gelu = x Phi(x) or its tanh form, exp, log, erf of core/arith.h;
//            softmax(x) = e / sum(e), log_softmax(x) = (x - max) - log(sum(e)), e = exp(x - max), along one axis;
//            relu6, hardtanh, hardsigmoid, hardswish, mish, quick_gelu, softplus, elu (celu and selu are its cases) of
//            core/rectifiers.h; prelu(x) = x > 0 ? x : x * weight[c];
//            local_response_norm(x) = x / p, p = b^beta, b = fma(s / size, alpha, k), s = the sum of the squares of
//            channels c - size / 2 .. c + (size - 1) / 2; b^0.75 = r sqrt(r) with r = sqrt(b), b^0.5 and b^1 likewise,
//            else exp(beta log(b));
//            dropout(x)[n, i] = uniform(keys[n], 0, i) >= float32(p) ? x / T(1 - p) : +0
// Gradients  relu_grad = x > 0 or NaN ? gy : +0; leaky_relu_grad = x > 0 ? gy : gy * negative_slope;
//            silu_grad, gelu_grad = gy * f'(x); of the results: sigmoid_grad = gy * (y * (1 - y)),
//            tanh_grad = gy * ((1 - y) * (1 + y)), softmax_grad = y * (gy - sum(gy * y)),
//            prelu's: gx = x > 0 ? gy : gy * weight[c], gweight = the sum of x > 0 ? 0 : x * gy over a channel;
//            local_response_norm's: gx = fma(x * -f, sum of t, gy / p), t = (gy * x / p) / b, f = 2 alpha beta / size,
//            over channels c - (size - 1) / 2 .. c + size / 2;
//            log_softmax_grad = gy - exp(y) * sum(gy); dropout's is dropout of gy under the same keys
// Shapes     as in ops/activation*.py
// Types      float32, float64; keys uint64
// Limits     NaN gives NaN, but for an element that dropout drops. silu and gelu are at -inf what they tend to, a
//            zero, not the NaN of -inf * 0; their slopes are 0 at -inf and 1 at inf. relu(-0) = +0. A row of softmax
//            that is -inf throughout, or holds +inf, is NaN where the formula says so.
// Algorithm  one pass; softmax three over each row, the exponentials kept in the result; an axis that is not the last
//            is packed to be the last. dropout draws its own noise, 64 elements at a time.
// Order      Each operation above is rounded by itself, in the order of the parentheses; e / sum(e) is e times the
//            rounded reciprocal. Sums along a row are the long sum (core/reduce.h) of the rounded terms. prelu's sums
//            are those of batch_norm (ops/norm.h); a window's are from +0 in channel order.
// CUDA       the same operations and orders. A row of softmax is held in registers (half a warp, a warp; sixteen threads
//            of a column where the axis is not the last, which is read in place) or in a block's shared memory; one that does
//            not fit is read again by each pass. dropout: a thread draws the four elements of a counter
// Source     silu: Elfwing et al., arXiv 1702.03118; gelu: Hendrycks and Gimpel, arXiv 1606.08415;
//            dropout: Srivastava et al., JMLR 15 (2014)
//            local_response_norm: Krizhevsky et al., NIPS 2012
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
// core/rectifiers.h
struct Hardtanh {
    Tensor x, y;
    double min_val = 0, max_val = 0;
    MMK_FIELDS(Hardtanh, x, y, min_val, max_val)
};
struct HardtanhGrad {
    Tensor x, gy, gx;
    double min_val = 0, max_val = 0;
    MMK_FIELDS(HardtanhGrad, x, gy, gx, min_val, max_val)
};
struct Softplus {
    Tensor x, y;
    double beta = 0, threshold = 0;
    MMK_FIELDS(Softplus, x, y, beta, threshold)
};
struct SoftplusGrad {
    Tensor x, gy, gx;
    double beta = 0, threshold = 0;
    MMK_FIELDS(SoftplusGrad, x, gy, gx, beta, threshold)
};
struct Elu {
    Tensor x, y;
    double alpha = 0, scale = 0, input_scale = 0;
    MMK_FIELDS(Elu, x, y, alpha, scale, input_scale)
};
struct EluGrad {
    Tensor x, gy, gx;
    double alpha = 0, scale = 0, input_scale = 0;
    MMK_FIELDS(EluGrad, x, gy, gx, alpha, scale, input_scale)
};
struct Prelu {
    Tensor x, weight, y;
    MMK_FIELDS(Prelu, x, weight, y)
};
struct PreluGrad {
    Tensor x, gy, weight, gx, gweight;
    MMK_FIELDS(PreluGrad, x, gy, weight, gx, gweight)
};
struct LocalResponseNorm {
    Tensor x, y;
    int64_t size = 1;
    double alpha = 0, beta = 0, k = 0;
    MMK_FIELDS(LocalResponseNorm, x, y, size, alpha, beta, k)
};
struct LocalResponseNormGrad {
    Tensor x, gy, gx;
    int64_t size = 1;
    double alpha = 0, beta = 0, k = 0;
    MMK_FIELDS(LocalResponseNormGrad, x, gy, gx, size, alpha, beta, k)
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
MMK_OPERATOR(relu6, Unary)
MMK_OPERATOR(hardsigmoid, Unary)
MMK_OPERATOR(hardswish, Unary)
MMK_OPERATOR(mish, Unary)
MMK_OPERATOR(quick_gelu, Unary)
MMK_OPERATOR(hardtanh, Hardtanh)
MMK_OPERATOR(softplus, Softplus)
MMK_OPERATOR(elu, Elu)
MMK_OPERATOR(relu6_grad, UnaryGrad)
MMK_OPERATOR(hardsigmoid_grad, UnaryGrad)
MMK_OPERATOR(hardswish_grad, UnaryGrad)
MMK_OPERATOR(mish_grad, UnaryGrad)
MMK_OPERATOR(quick_gelu_grad, UnaryGrad)
MMK_OPERATOR(hardtanh_grad, HardtanhGrad)
MMK_OPERATOR(softplus_grad, SoftplusGrad)
MMK_OPERATOR(elu_grad, EluGrad)
MMK_OPERATOR(prelu, Prelu)
MMK_OPERATOR(prelu_grad, PreluGrad)
MMK_OPERATOR(local_response_norm, LocalResponseNorm)
MMK_OPERATOR(local_response_norm_grad, LocalResponseNormGrad)

} // namespace mmk
