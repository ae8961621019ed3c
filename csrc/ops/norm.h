// norm — normalisation of groups of channels and of trailing extents, and the gradients.
// Computes   mean = sum(x) / count; var = sum((x - mean)^2) / count; rstd = 1 / sqrt(var + eps) over each group or row;
//            y = fma(x - mean, rstd * weight, bias);
//            group_norm goes on: y * (1 + scale), + shift, activation, each as the operator of its name would
// Gradients  with d = x - mean and g = gy * weight:
//            gx = fma(d, -k2, fma(gy, rstd * weight, -k1)), k1 = (sum(g) / count) * rstd,
//            k2 = (((sum(g * d) * rstd) / count) * rstd) * rstd;
//            gbias = sum of gy; gweight of group_norm = sum over n of rstd * sum(gy * d) over the plane, of layer_norm
//            = sum over rows of gy * (d * rstd)
// Shapes     as in ops/norm.py; group_norm takes any number of spatial extents, none included
// Types      float32, float64; eps crosses as double and is rounded to the dtype
// Limits     An absent weight is 1, an absent scale 0; an absent bias or shift is not added (it is -0). The variance is
//            that of the group alone (biased). A constant group gives bias exactly if its mean is exact. NaN and
//            infinities make their whole group NaN. Empty groups leave the weights' gradients at +0.
// Algorithm  true two passes (mean, then squares about the mean), a third writes: a group is read from memory once
//            while it fits the second-level cache. group_norm's threads share groups, layer_norm's rows; the gradients of the
//            weights are then summed per channel.
// Order      Every operation above is rounded by itself. Sums over a row or a channel plane are the long sum
//            (core/reduce.h); a group adds its planes' sums in channel order, from +0. Sums over n or over rows take 64
//            of them at a time in order from +0, and join those in the long sum's binary-counter tree.
// CUDA       the same operations and orders. A row or group is held in registers (half a warp, a warp) or in a block's
//            shared memory and moved once; one that does not fit is read again by each pass. The gradients of the
//            weights: a thread sums a column's rows, or a run of their chunks that is a subtree
// Source     group_norm: Wu and He, arXiv 1803.08494; layer_norm: Ba et al., arXiv 1607.06450
// Moves      x once and y once; gradients x and gy once (layer_norm_grad twice) and gx once
#pragma once

#include "../core/dispatch.h"

namespace mmk {

enum class Activation : int64_t; // core/activate.h

struct GroupNorm {
    Tensor x, weight, bias, scale, shift, y;
    int64_t num_groups = 1;
    double eps = 0;
    Activation activation{};
    MMK_FIELDS(GroupNorm, x, weight, bias, scale, shift, y, num_groups, eps, activation)
};
struct GroupNormGrad {
    Tensor x, gy, weight, gx, gweight, gbias;
    int64_t num_groups = 1;
    double eps = 0;
    MMK_FIELDS(GroupNormGrad, x, gy, weight, gx, gweight, gbias, num_groups, eps)
};
struct LayerNorm {
    Tensor x, weight, bias, y;
    int64_t axes = 1; // how many trailing extents a row has
    double eps = 0;
    MMK_FIELDS(LayerNorm, x, weight, bias, y, axes, eps)
};
struct LayerNormGrad {
    Tensor x, gy, weight, gx, gweight, gbias;
    int64_t axes = 1;
    double eps = 0;
    MMK_FIELDS(LayerNormGrad, x, gy, weight, gx, gweight, gbias, axes, eps)
};

MMK_OPERATOR(group_norm, GroupNorm)
MMK_OPERATOR(group_norm_grad, GroupNormGrad)
MMK_OPERATOR(layer_norm, LayerNorm)
MMK_OPERATOR(layer_norm_grad, LayerNormGrad)

} // namespace mmk
