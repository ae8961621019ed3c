// norm — normalisation of groups of channels, of trailing extents and of channels over a batch, and the gradients.
// Computes   mean = sum(x) / count; var = sum((x - mean)^2) / count; rstd = 1 / sqrt(var + eps) over each group or row;
//            y = fma(x - mean, rstd * weight, bias);
//            group_norm goes on: y * (1 + scale), + shift, activation, each as the operator of its name would;
//            instance_norm is group_norm with a group for each channel; rms_norm takes 0 for the mean and for the bias;
//            batch_norm: y = activation(fma(x - running_mean, rstd * weight, bias)), rstd of running_var;
//            batch_norm_training: the same with mean and rstd of the channel's batch, and
//            new_mean = (1 - momentum) * running_mean + momentum * mean, new_var alike, of the unbiased variance
// Gradients  with d = x - mean and g = gy * weight:
//            gx = fma(d, -k2, fma(gy, rstd * weight, -k1)), k1 = (sum(g) / count) * rstd,
//            k2 = (((sum(g * d) * rstd) / count) * rstd) * rstd; rms_norm: k1 = 0;
//            gbias = sum of gy; gweight of group_norm = sum over n of rstd * sum(gy * d) over the plane, of layer_norm
//            = sum over rows of gy * (d * rstd);
//            batch_norm: gweight = sum(gy * d) * rstd, k1 = ((sum(gy) * weight) * rstd - gmean) / count,
//            k2 = (((((sum(gy * d) * weight) + grstd) * rstd) / count) * rstd) * rstd; frozen: gx = gy * (rstd * weight)
// Shapes     as in ops/norm.py and ops/norm_batch.py; any number of spatial extents, none included
// Types      float32, float64; eps and momentum cross as double and are rounded to the dtype. batch_norm's parameters
//            may be float32 beside 16-bit x
// Limits     An absent weight is 1, an absent scale 0; an absent bias or shift is not added (it is -0). The variance is
//            that of the group alone (biased). A constant group gives bias exactly if its mean is exact. NaN and
//            infinities make their whole group NaN. Empty groups leave the weights' gradients at +0. An empty batch has
//            mean and rstd 0 and leaves the running statistics as they are; where none run, new ones are the batch's.
// Algorithm  true two passes (mean, then squares about the mean), a third writes: a group is read from memory once
//            while it fits the second-level cache. group_norm's threads share groups, layer_norm's rows; the gradients of the
//            weights are then summed per channel. batch_norm_training reads x twice in all: each segment of a plane has
//            its own mean and squares about that, and squares are joined by (Chan, Golub and LeVeque 1983)
//            var * count = sum of (squares + length * (segment's mean - mean)^2), which never subtracts.
// Order      Every operation above is rounded by itself. Sums over a row or a channel plane are the long sum
//            (core/reduce.h); a group adds its planes' sums in channel order, from +0. Sums over n or over rows take 64
//            of them at a time in order from +0, and join those in the long sum's binary-counter tree. batch_norm:
//            a plane is cut into segments of 512 elements, each a long sum; the channel's segments, n slowest, are
//            the rows of such a sum over rows.
// CUDA       the same operations and orders. A row or group is held in registers (half a warp, a warp) or in a block's
//            shared memory and moved once; one that does not fit is read again by each pass. The gradients of the
//            weights: a thread sums a column's rows, or a run of their chunks that is a subtree. batch_norm: a segment
//            is held in the registers of half a warp, or of sixteen threads a channel apart where channels are inside
// Source     group_norm: Wu and He, arXiv 1803.08494; layer_norm: Ba et al., arXiv 1607.06450; batch_norm: Ioffe and
//            Szegedy, arXiv 1502.03167; instance_norm: Ulyanov et al., arXiv 1607.08022; rms_norm: Zhang and Sennrich,
//            arXiv 1910.07467
// Moves      x once and y once; gradients x and gy once (layer_norm_grad twice) and gx once; batch_norm_training x twice
//            and y once, batch_norm_grad x and gy twice and gx once
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

struct RmsNorm {
    Tensor x, weight, y;
    int64_t axes = 1;
    double eps = 0;
    MMK_FIELDS(RmsNorm, x, weight, y, axes, eps)
};
struct RmsNormGrad {
    Tensor x, gy, weight, gx, gweight;
    int64_t axes = 1;
    double eps = 0;
    MMK_FIELDS(RmsNormGrad, x, gy, weight, gx, gweight, axes, eps)
};
struct InstanceNorm {
    Tensor x, weight, bias, y;
    double eps = 0;
    Activation activation{};
    MMK_FIELDS(InstanceNorm, x, weight, bias, y, eps, activation)
};
struct BatchNorm {
    Tensor x, running_mean, running_var, weight, bias, y;
    double eps = 0;
    Activation activation{};
    MMK_FIELDS(BatchNorm, x, running_mean, running_var, weight, bias, y, eps, activation)
};
struct BatchNormTraining {
    Tensor x, running_mean, running_var, weight, bias, y, new_mean, new_var, mean, rstd;
    double momentum = 0, eps = 0;
    Activation activation{};
    MMK_FIELDS(BatchNormTraining, x, running_mean, running_var, weight, bias, y, new_mean, new_var, mean, rstd,
               momentum, eps, activation)
};
struct BatchNormGrad {
    Tensor x, gy, mean, rstd, weight, gmean, grstd, gx, gweight, gbias;
    int64_t frozen = 0; // whether mean and rstd do not depend on x
    MMK_FIELDS(BatchNormGrad, x, gy, mean, rstd, weight, gmean, grstd, gx, gweight, gbias, frozen)
};

MMK_OPERATOR(group_norm, GroupNorm)
MMK_OPERATOR(group_norm_grad, GroupNormGrad)
MMK_OPERATOR(layer_norm, LayerNorm)
MMK_OPERATOR(layer_norm_grad, LayerNormGrad)
MMK_OPERATOR(rms_norm, RmsNorm)
MMK_OPERATOR(rms_norm_grad, RmsNormGrad)
MMK_OPERATOR(instance_norm, InstanceNorm)
MMK_OPERATOR(batch_norm, BatchNorm)
MMK_OPERATOR(batch_norm_training, BatchNormTraining)
MMK_OPERATOR(batch_norm_grad, BatchNormGrad)

} // namespace mmk
