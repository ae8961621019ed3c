// conv — convolution in one, two and three dimensions (cross-correlation, as in every deep-learning library),
// transposed convolution, and their gradients.
// Computes   conv2d: y[n,k,p,q] = act(sum over c, r, s of x'[n, c, p*sh + r*dh, q*sw + s*dw] * w[k,c,r,s]
//                + bias[k] + residual[n,k,p,q]), x' being x with its border of zeros
//            conv2d_input_grad: gx[n,c,h,w] = the sum over k, r, s of gy[n,k,p,q] * w[k,c,r,s], where
//                p*sh + r*dh = h + top and q*sw + s*dw = w + left
//            conv2d_weight_grad: gw[k,c,r,s] = the sum over n, p, q of x'[n, c, p*sh + r*dh, q*sw + s*dw] * gy[n,k,p,q]
//            conv_transpose2d: the sum of conv2d_input_grad, x standing for gy and y for gx; + bias, activation
//            conv1d, conv3d, conv_transpose1d, conv_transpose3d and their gradients: the same with (w) or (d, h, w) for
//                (h, w), (s) or (t, r, s) for (r, s), (q) or (o, p, q) for (p, q)
// Shapes     as in ops/conv.py
// Types      float32, float64; float16 and bfloat16 as storage: float32 rounded once, but for tensor cores
// Limits     none: empty batches and no channels at all give what the formulas say
// Algorithm  direct. Kernels know three dimensions; in one and two, the others have one element, at no cost that could
//            be measured. The input is copied with its border, strides taken apart into phases, so that an offset per
//            (c, t, r, s) and one per pixel find every factor (core/products.h). Lanes stand for output channels; for
//            pixels, where a group has few output channels. The input gradient is one such correlation for every
//            residue of (d, h, w) modulo the stride, so that no product with a zero between pixels is made; the weight
//            gradient exchanges the tables of taps and pixels. A transposed convolution is the input gradient's kernel
//            with another ending; its gradients are conv2d and conv2d_weight_grad with x and gy exchanged. Each number
//            of dimensions has operators of its own, not a reshape around conv2d: so messages, plans and laws speak of
//            the caller's operator and shapes, out= and channels-last work, and nothing is added to the tape.
// CUDA       groups of at most 16 outputs: depthwise kernels, four results a thread for one channel a group, lanes
//            along pixels, or the definition. Others: matrix products whose windows are never written down
//            (csrc/cuda/conv.implicit.cuh), the input gradient one for every residue, the weight gradient with its
//            chunks shared among blocks. A border in depth is written down, unless the window is one pixel high and
//            wide and the images are dense: then depth stands for rows, an image for columns. float32 keeps the order
//            below. 16 bits use tensor cores there: channels are rounded up to a multiple of 8 with zeros; products run
//            over t, r, s, c (convolution), t, r, s, k (input gradient and transposed convolution), n, o, p, q (weight
//            gradient), 16 at a time; sums are cut at 16384 products, the weight gradient's at a length that follows
//            from its extents; parts are added in order. A border's zeros take part; where they make NaN in the input
//            gradient, the definition is computed. MMK_CUDA_ARCH=sm_90a on Hopper: two dimensions by wgmma
//            (csrc/cuda/conv.sm90.cu), where a group has 32 channels to sum over or more: the same order, but each
//            tap's channels begin a step of 16. The weight gradient's products run over boxes of pixels there
//            (conv.weight.sm90.cu).
// Order      products run over c, t, r, s (conv2d), k, t, r, s, each rising (input gradient and transposed
//            convolution), n, o, p, q (weight gradient). Chunks: the most whole channels that make no more than 256
//            products, t*r*s to a channel; weight gradient: 256 products. A tap on the border is the product with +0.
//            The input gradient has no border: taps that meet no output take no part. Weights that are not finite are
//            therefore multiplied by zeros in conv2d, and not there.
// TF32       algorithm="tf32", float32 alone: x and weight (gy and weight; x and gy) are rounded to TF32 (8 exponent bits,
//            10 fraction bits; nearest, ties away from zero; NaN and infinities stay), then multiplied and summed in
//            float32; bias, residual and activation as ever. CPU: the order above, so the same bits everywhere. CUDA:
//            where 16 bits use tensor cores so does this, in the same order of products, 8 at a time, channels rounded
//            up to a multiple of 4; elsewhere the CPU's bits. Nothing but this attribute uses TF32.
// Source     Dumoulin and Visin, A guide to convolution arithmetic for deep learning, arXiv 1603.07285
// Moves      operands and results once, and a bordered copy of the input
#pragma once

#include "../core/activation.h"
#include "../core/algorithm.h"
#include "../core/dispatch.h"

namespace mmk {

template <int dims> struct Conv {
    Tensor x, weight, bias, residual, y;
    int64_t stride[dims] = {}, padding[2 * dims] = {}, dilation[dims] = {}, groups = 1;
    Activation activation = Activation::none;
    Algorithm algorithm = Algorithm::standard;
    MMK_FIELDS(Conv, x, weight, bias, residual, y, stride, padding, dilation, groups, activation, algorithm)
};
template <int dims> struct ConvTranspose {
    Tensor x, weight, bias, y;
    int64_t stride[dims] = {}, padding[2 * dims] = {}, dilation[dims] = {}, groups = 1;
    Activation activation = Activation::none;
    Algorithm algorithm = Algorithm::standard;
    MMK_FIELDS(ConvTranspose, x, weight, bias, y, stride, padding, dilation, groups, activation, algorithm)
};
template <int dims> struct ConvInputGrad {
    Tensor gy, weight, gx;
    int64_t stride[dims] = {}, padding[2 * dims] = {}, dilation[dims] = {}, groups = 1;
    Algorithm algorithm = Algorithm::standard;
    MMK_FIELDS(ConvInputGrad, gy, weight, gx, stride, padding, dilation, groups, algorithm)
};
template <int dims> struct ConvWeightGrad {
    Tensor x, gy, gweight;
    int64_t stride[dims] = {}, padding[2 * dims] = {}, dilation[dims] = {}, groups = 1;
    Algorithm algorithm = Algorithm::standard;
    MMK_FIELDS(ConvWeightGrad, x, gy, gweight, stride, padding, dilation, groups, algorithm)
};

// What kernels are written for: (n, c, d, h, w), dimensions that an operand lacks having one element.
MMK_INLINE Tensor volume(const Tensor& t) {
    Tensor v = t;
    if (!t) return v;
    v.rank = 5;
    for (int axis = 4; axis >= 2; --axis) {
        const int from = axis - 5 + t.rank;
        v.extent[axis] = from >= 2 ? t.extent[from] : 1;
        v.stride[axis] = from >= 2 ? t.stride[from] : v.extent[axis + 1] * v.stride[axis + 1];
    }
    return v;
}
template <int dims, class From, class To> MMK_INLINE void volume_geometry(const From& from, To& to) {
    for (int i = 0; i < 3; ++i) {
        const int at = i - 3 + dims;
        to.stride[i] = at >= 0 ? from.stride[at] : 1;
        to.dilation[i] = at >= 0 ? from.dilation[at] : 1;
        for (int side = 0; side < 2; ++side) to.padding[2 * i + side] = at >= 0 ? from.padding[2 * at + side] : 0;
    }
    to.groups = from.groups, to.algorithm = from.algorithm;
}
template <int dims> MMK_INLINE Conv<3> in_volumes(const Conv<dims>& op) {
    Conv<3> v;
    v.x = volume(op.x), v.weight = volume(op.weight), v.bias = op.bias, v.residual = volume(op.residual);
    v.y = volume(op.y), v.activation = op.activation;
    volume_geometry<dims>(op, v);
    return v;
}
template <int dims> MMK_INLINE ConvTranspose<3> in_volumes(const ConvTranspose<dims>& op) {
    ConvTranspose<3> v;
    v.x = volume(op.x), v.weight = volume(op.weight), v.bias = op.bias, v.y = volume(op.y);
    v.activation = op.activation;
    volume_geometry<dims>(op, v);
    return v;
}
template <int dims> MMK_INLINE ConvTranspose<3> in_volumes(const ConvInputGrad<dims>& op) {
    ConvTranspose<3> v;
    v.x = volume(op.gy), v.weight = volume(op.weight), v.y = volume(op.gx);
    volume_geometry<dims>(op, v);
    return v;
}
template <int dims> MMK_INLINE ConvWeightGrad<3> in_volumes(const ConvWeightGrad<dims>& op) {
    ConvWeightGrad<3> v;
    v.x = volume(op.x), v.gy = volume(op.gy), v.gweight = volume(op.gweight);
    volume_geometry<dims>(op, v);
    return v;
}

using Conv1d = Conv<1>;
using ConvTranspose1d = ConvTranspose<1>;
using Conv1dInputGrad = ConvInputGrad<1>;
using Conv1dWeightGrad = ConvWeightGrad<1>;
using Conv2d = Conv<2>;
using ConvTranspose2d = ConvTranspose<2>;
using Conv2dInputGrad = ConvInputGrad<2>;
using Conv2dWeightGrad = ConvWeightGrad<2>;
using Conv3d = Conv<3>;
using ConvTranspose3d = ConvTranspose<3>;
using Conv3dInputGrad = ConvInputGrad<3>;
using Conv3dWeightGrad = ConvWeightGrad<3>;

MMK_OPERATOR(conv1d, Conv1d)
MMK_OPERATOR(conv_transpose1d, ConvTranspose1d)
MMK_OPERATOR(conv1d_input_grad, Conv1dInputGrad)
MMK_OPERATOR(conv1d_weight_grad, Conv1dWeightGrad)
MMK_OPERATOR(conv2d, Conv2d)
MMK_OPERATOR(conv_transpose2d, ConvTranspose2d)
MMK_OPERATOR(conv2d_input_grad, Conv2dInputGrad)
MMK_OPERATOR(conv2d_weight_grad, Conv2dWeightGrad)
MMK_OPERATOR(conv3d, Conv3d)
MMK_OPERATOR(conv_transpose3d, ConvTranspose3d)
MMK_OPERATOR(conv3d_input_grad, Conv3dInputGrad)
MMK_OPERATOR(conv3d_weight_grad, Conv3dWeightGrad)

} // namespace mmk
