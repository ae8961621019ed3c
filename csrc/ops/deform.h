// deform — deformable convolution, and attention to a few sampled points of several feature maps.
// Computes   sample(plane, y, x) = the bilinear value of a plane that zeros surround: 0 outside (-1, H) x (-1, W), NaN
//                at a position that is NaN
//            deform_conv2d: y[n,k,p,q] = act(bias[k] + sum over c, r, s of w[k,c,r,s] * mask[n,g,t,p,q] *
//                sample(x[n,c], p*sh - top + r*dh + offset[n,g,t,0,p,q], q*sw - left + s*dw + offset[n,g,t,1,p,q])), t
//                being r*S + s and g the offset group of channel c
//            With z[n,c,t,p,q] = sum over k of gy[n,k,p,q] * w[k,c,t]:
//            deform_conv2d_input_grad: gx[n,c,h,w] = sum over t, p, q of (bilinear weight of (h, w) * mask) * z
//            deform_conv2d_offset_grad: goffset = mask * sum over the group's c of z * (slope of the sample along y,
//                x), gmask = sum of z * sample
//            deform_conv2d_mask_grad: that gmask alone, whatever the mask
//            deform_conv2d_weight_grad: gw[k,c,t] = sum over n, p, q of gy * mask * sample
//            ms_deform_attention: y[b,q,h] = sum over levels l and points p of weights[b,q,h,l,p] *
//                sample(value of level l and head h, Y * H_l - 1/2, X * W_l - 1/2), (X, Y) = locations[b,q,h,l,p];
//                value_grad, points_grad (locations and weights), weights_grad: its gradients
//            deform_conv2d_snap, ms_deform_attention_snap: positions moved, along one axis, to the element below, or to
//                the one above (0 at levels without pixels): samples there differ by the slope, which can thus be
//                differentiated again
// Shapes     as in ops/deform.py
// Types      float32, float64; float16 and bfloat16 as storage: float32 rounded once
// Limits     8 levels; rows and columns from 2^24 on (float32; float64: 2^30) count as outside
// Algorithm  core/bilinear.h finds the four elements and their weights. x is copied with its channels innermost and
//            zeros around it, so that sixteen channels of a sample are four loads; a tile of samples then meets the
//            register tiles of core/products.h. The input gradient makes z for sixteen or 32 channels of a tile of
//            pixels and adds it, sample after sample, to their plane, which a task owns; the offset gradient makes z
//            for all channels.
// CUDA       samples are written down, 256 MiB at most at a time, by threads along pixels, and multiplied by the
//            register tiles of products.cuh; 16 bits are widened before and rounded after. Input and value gradients:
//            samples are counted and listed by the cell between four elements that they fall into, by atomics on
//            integers; each list is sorted, and every element merges the lists of its four cells (deform.bins.cuh).
//            That costs two passes over the positions, 8 bytes a sample and 16 a cell; z is there for 256 MiB at a
//            time.
// Order      position: the integer part, rounded, + offset; attention: fma(Y, H_l, -0.5). Weights along an axis: 1 -
//            f and the fraction f; of a corner: the row's * the column's. sample: w00*v00, then fma with 01, 10, 11.
//            Slope along y: left * (v10 - v00), then fma(right, v11 - v01); along x: top * (v01 - v00), then
//            fma(bottom, v11 - v10).
//            deform_conv2d: products (mask * sample) * w over c, r, s, in chunks of the most whole channels with at
//            most 256 products; weight gradient: over n, p, q in chunks of 256. With offsets of zero and no mask both
//            have conv2d's bits if x is finite (a corner whose weight is 0 is multiplied like any other).
//            z: over the group's k in chunks of 256. gx: fma(corner weight * mask, z) from +0, samples in the order
//            p, q, r, s; corners outside take no part, nor do samples outside or at NaN. goffset, gmask: the long sum
//            of the rounded terms over the offset group's channels, then * mask.
//            Attention: fma(weight, sample) over l, p in chunks of 256; gvalue: fma(corner weight * weight, gy) from
//            +0 in the order q, p; glocations: (weight * long sum over the channels) * extent; gweights: the long
//            sum.
// Source     Dai et al., arXiv 1703.06211; Zhu et al., arXiv 1811.11168 (mask), arXiv 2010.04159 (attention)
// Moves      operands and results once, a copy of x; on CUDA the samples twice
#pragma once

#include "../core/activation.h"
#include "../core/dispatch.h"

namespace mmk {

struct DeformConv2d {
    Tensor x, offset, weight, bias, mask, y;
    int64_t stride[2] = {1, 1}, padding[4] = {}, dilation[2] = {1, 1}, groups = 1, offset_groups = 1;
    Activation activation = Activation::none;
    MMK_FIELDS(DeformConv2d, x, offset, weight, bias, mask, y, stride, padding, dilation, groups, offset_groups,
               activation)
};
struct DeformConv2dInputGrad {
    Tensor gy, offset, weight, mask, gx;
    int64_t stride[2] = {1, 1}, padding[4] = {}, dilation[2] = {1, 1}, groups = 1, offset_groups = 1;
    MMK_FIELDS(DeformConv2dInputGrad, gy, offset, weight, mask, gx, stride, padding, dilation, groups, offset_groups)
};
struct DeformConv2dOffsetGrad {
    Tensor x, offset, weight, gy, mask, goffset, gmask;
    int64_t stride[2] = {1, 1}, padding[4] = {}, dilation[2] = {1, 1}, groups = 1, offset_groups = 1;
    MMK_FIELDS(DeformConv2dOffsetGrad, x, offset, weight, gy, mask, goffset, gmask, stride, padding, dilation, groups,
               offset_groups)
};
struct DeformConv2dMaskGrad {
    Tensor x, offset, weight, gy, gmask;
    int64_t stride[2] = {1, 1}, padding[4] = {}, dilation[2] = {1, 1}, groups = 1, offset_groups = 1;
    MMK_FIELDS(DeformConv2dMaskGrad, x, offset, weight, gy, gmask, stride, padding, dilation, groups, offset_groups)
};
struct DeformConv2dWeightGrad {
    Tensor x, offset, gy, mask, gweight;
    int64_t stride[2] = {1, 1}, padding[4] = {}, dilation[2] = {1, 1}, groups = 1, offset_groups = 1;
    MMK_FIELDS(DeformConv2dWeightGrad, x, offset, gy, mask, gweight, stride, padding, dilation, groups, offset_groups)
};

struct DeformConv2dSnap {
    Tensor offset, y;
    int64_t kernel[2] = {1, 1}, stride[2] = {1, 1}, padding[4] = {}, dilation[2] = {1, 1}, axis = 0, step = 0;
    MMK_FIELDS(DeformConv2dSnap, offset, y, kernel, stride, padding, dilation, axis, step)
};

inline constexpr int max_levels = 8;
// spatial_shapes: rows and columns of one level after another
struct MsDeformAttention {
    Tensor value, sampling_locations, attention_weights, y;
    int64_t spatial_shapes[2 * max_levels] = {};
    MMK_FIELDS(MsDeformAttention, value, sampling_locations, attention_weights, y, spatial_shapes)
};
struct MsDeformAttentionValueGrad {
    Tensor gy, sampling_locations, attention_weights, gvalue;
    int64_t spatial_shapes[2 * max_levels] = {};
    MMK_FIELDS(MsDeformAttentionValueGrad, gy, sampling_locations, attention_weights, gvalue, spatial_shapes)
};
struct MsDeformAttentionPointsGrad {
    Tensor value, sampling_locations, attention_weights, gy, glocations, gweights;
    int64_t spatial_shapes[2 * max_levels] = {};
    MMK_FIELDS(MsDeformAttentionPointsGrad, value, sampling_locations, attention_weights, gy, glocations, gweights,
               spatial_shapes)
};
struct MsDeformAttentionWeightsGrad {
    Tensor value, sampling_locations, gy, gweights;
    int64_t spatial_shapes[2 * max_levels] = {};
    MMK_FIELDS(MsDeformAttentionWeightsGrad, value, sampling_locations, gy, gweights, spatial_shapes)
};
struct MsDeformAttentionSnap {
    Tensor sampling_locations, y;
    int64_t spatial_shapes[2 * max_levels] = {}, axis = 0, step = 0;
    MMK_FIELDS(MsDeformAttentionSnap, sampling_locations, y, spatial_shapes, axis, step)
};

MMK_OPERATOR(deform_conv2d, DeformConv2d)
MMK_OPERATOR(deform_conv2d_input_grad, DeformConv2dInputGrad)
MMK_OPERATOR(deform_conv2d_offset_grad, DeformConv2dOffsetGrad)
MMK_OPERATOR(deform_conv2d_mask_grad, DeformConv2dMaskGrad)
MMK_OPERATOR(deform_conv2d_weight_grad, DeformConv2dWeightGrad)
MMK_OPERATOR(deform_conv2d_snap, DeformConv2dSnap)
MMK_OPERATOR(ms_deform_attention, MsDeformAttention)
MMK_OPERATOR(ms_deform_attention_value_grad, MsDeformAttentionValueGrad)
MMK_OPERATOR(ms_deform_attention_points_grad, MsDeformAttentionPointsGrad)
MMK_OPERATOR(ms_deform_attention_weights_grad, MsDeformAttentionWeightsGrad)
MMK_OPERATOR(ms_deform_attention_snap, MsDeformAttentionSnap)

} // namespace mmk
