// conv — two-dimensional convolution (cross-correlation, as in every deep-learning library) and its two gradients.
// Computes   conv2d: y[n,k,p,q] = act(sum over c, r, s of x'[n, c, p*sh + r*dh, q*sw + s*dw] * w[k,c,r,s]
//                + bias[k] + residual[n,k,p,q]), x' being x with its border of zeros
//            conv2d_input_grad: gx[n,c,h,w] = the sum over k, r, s of gy[n,k,p,q] * w[k,c,r,s], where
//                p*sh + r*dh = h + top and q*sw + s*dw = w + left
//            conv2d_weight_grad: gw[k,c,r,s] = the sum over n, p, q of x'[n, c, p*sh + r*dh, q*sw + s*dw] * gy[n,k,p,q]
// Shapes     as in ops/conv.py
// Types      float32, float64; float16 and bfloat16 as storage: float32 rounded once, but for tensor cores
// Limits     none: empty batches and no channels at all give what the formulas say
// Algorithm  direct. The input is copied with its border, strides taken apart into phases, so that an offset per
//            (c, r, s) and one per pixel find every factor (core/products.h). Lanes stand for output channels; for
//            pixels, where a group has few output channels. The input gradient is one such correlation for every
//            residue of (h, w) modulo the stride; the weight gradient exchanges the tables of taps and pixels.
// CUDA       groups of at most 16 outputs: depthwise kernels, lanes along pixels, or the definition. Others: matrix
//            products whose windows are never written down (csrc/cuda/conv.implicit.cuh), the input gradient one for
//            every residue, the weight gradient with its chunks shared among blocks. float32 keeps the order below. 16
//            bits use tensor cores there: channels are rounded up to a multiple of 8 with zeros; products run over
//            r, s, c (conv2d), r, s, k (input gradient), n, p, q (weight gradient), 16 at a time; sums are cut at 16384
//            products, the weight gradient's at a length that follows from its extents; parts are added in order. A
//            border's zeros take part; where they make NaN in the input gradient, the definition is computed.
// Order      products run over c, r, s (conv2d), k, r, s, each rising (input gradient), n, p, q (weight gradient).
//            Chunks: the most whole channels that make no more than 256 products, r*s to a channel; weight gradient:
//            256 products.
//            A tap on the border is the product with +0. The input gradient has no border: taps that meet no output
//            take no part. Weights that are not finite are therefore multiplied by zeros in conv2d, and not there.
// Source     Dumoulin and Visin, A guide to convolution arithmetic for deep learning, arXiv 1603.07285
// Moves      operands and results once, and a bordered copy of the input
#pragma once

#include "../core/activation.h"
#include "../core/dispatch.h"

namespace mmk {

struct Conv2d {
    Tensor x, weight, bias, residual, y;
    int64_t stride[2] = {1, 1}, padding[4] = {}, dilation[2] = {1, 1}, groups = 1;
    Activation activation = Activation::none;
    MMK_FIELDS(Conv2d, x, weight, bias, residual, y, stride, padding, dilation, groups, activation)
};
struct Conv2dInputGrad {
    Tensor gy, weight, gx;
    int64_t stride[2] = {1, 1}, padding[4] = {}, dilation[2] = {1, 1}, groups = 1;
    MMK_FIELDS(Conv2dInputGrad, gy, weight, gx, stride, padding, dilation, groups)
};
struct Conv2dWeightGrad {
    Tensor x, gy, gweight;
    int64_t stride[2] = {1, 1}, padding[4] = {}, dilation[2] = {1, 1}, groups = 1;
    MMK_FIELDS(Conv2dWeightGrad, x, gy, gweight, stride, padding, dilation, groups)
};

MMK_OPERATOR(conv2d, Conv2d)
MMK_OPERATOR(conv2d_input_grad, Conv2dInputGrad)
MMK_OPERATOR(conv2d_weight_grad, Conv2dWeightGrad)

} // namespace mmk
