// pool — what each window of a line, a plane or a volume holds: its maximum, mean, p-norm, or an element drawn from it;
//        windows of a given size, or a given number of them (adaptive); gradients; unpooling.
// Computes   max_pool: y[n,c,o] = max over the taps t of x[n,c,o*stride-padding+t*dilation], taps inside the plane only;
//                the first maximum in scan order, or the first NaN; indices: its number inside the plane (h * W + w), -1
//                (and y = -inf) if a window has no tap inside
//            max_pool2d_grad: gx[n,c,i] = sum of gy over the windows whose index is i; -1 adds nothing; it serves every
//                rank, as indices count inside a plane; max_pool2d_gather: result = ggx[n,c] at each index, 0 at -1
//            avg_pool: y = sum of the window's taps inside the plane / divisor; the divisor is divisor_override, or the
//                number of taps inside the padded plane (count_include_pad) or inside the plane
//            avg_pool2d_grad (no dilation), avg_pool_grad: gx = sum of gy / divisor over the windows that see an element
//            adaptive_avg_pool, adaptive_max_pool: the same of windows [floor(o in/out), ceil((o+1) in/out));
//                adaptive_avg_pool_grad
//            lp_pool: y = (sum of |x|^p)^(1/p); p = 1: the sum of |x|; p = 2: sqrt(sum of x x); p infinite: the maximum
//                of |x|; else exp(log(sum of exp(p log |x|)) / p). What overhangs is not scaled
//            lp_pool_grad: gx = sum of gy f(x, y) over the windows that see x; f = sign(x) for p = 1; 0 where y = 0, else
//                x / y for p = 2; 0 where y = 0 or x = 0, else sign(x) exp((p - 1) log(|x| / y))
//            stochastic_pool: w = x > 0 ? x : 0, or NaN; training: the first tap with w > 0 whose running sum of w
//                is at least u * sum, or the first NaN before it; 0 and index -1 if there is none; u = 1 - element i of
//                the sample's philox_uniform, i the result's logical index in its sample; else
//                sum of w w / sum of w, 0 if that is 0
//            max_unpool: y[n,c,i] = x of the last window whose index is i, 0 if there is none; max_unpool_grad: gy there
// Shapes     as in ops/pool*.py; ceil_mode lets a last window overhang if it starts inside the plane or its left padding
// Types      float32, float64; indices int64; keys uint64
// Limits     padding <= kernel / 2, or, where what follows is said separately, less than what a window spans; any kernel,
//            stride, dilation; planes of more than 2^31 elements
// Algorithm  max_pool2d, avg_pool2d, lines: a line of the plane is split into `stride` phases between padding, so that
//            sixteen neighbouring windows read neighbouring elements; the maximum without indices is taken down the
//            columns first, then along the line. channels: channels-last operands, sixteen channels of one window at a
//            time. plane: one plane per task
//            all others: what a result reads along each axis comes from a table (core/windows.h); sixteen channels of a
//            pixel, or sixteen planes turned abreast, slab by slab, at a time; where planes are few, sixteen neighbours in a
//            line of results; maxima of long lines, sixteen elements of one window; adaptive means of few planes whose
//            windows have more than 256 elements, sixteen chunks; channels-last, a chunk of all channels. Unpooling: one
//            plane per task
// CUDA       a window, a chunk of a long adaptive one, or 16 bytes of channels, per thread, by any strides; small windows
//            of planes in strips of four below each other; whole planes through shared memory. max_pool2d_grad: a warp
//            owns 512 elements and adds the windows of the runs of 128 that reach them, in order (contiguous operands),
//            max_unpool likewise; other gradients: each element from the windows that see it; avg_pool2d_grad makes the
//            quotients first where windows overlap. Tables are made by a launch of their own
// Order      sums: row-major from +0, avg_pool then divides once; adaptive_avg_pool: each 256 elements of a window, in
//            row-major order, from +0 (the last chunk may be shorter); S = the first chunk's sum, S += the next one's,
//            in order; then it divides once. Gradients: from +0, windows in (o, p, q) order; maxima
//            end with + 0; the order in which a maximum without indices is taken cannot be seen
// Source     LeCun et al., Proc. IEEE 86 (1998), II.B (average); Boureau et al., ICML 2010 (maximum, norms); He et al.,
//            ECCV 2014 (adaptive); Zeiler and Fergus, ICLR 2013 (stochastic); Zeiler et al., ICCV 2011 (unpooling)
// Moves      x once and y once (rows of overlapping windows stay in cache); avg_pool2d_grad: gy twice more
#pragma once

#include "../core/dispatch.h"

namespace mmk {

struct MaxPool2d {
    Tensor x, y, indices; // indices: only if they are wanted
    int64_t kernel[2] = {}, stride[2] = {}, padding[2] = {}, dilation[2] = {};
    MMK_FIELDS(MaxPool2d, x, y, indices, kernel, stride, padding, dilation)
};
struct MaxPool2dGrad {
    Tensor gy, indices, gx;
    MMK_FIELDS(MaxPool2dGrad, gy, indices, gx)
};
struct MaxPool2dGather {
    Tensor ggx, indices, y;
    MMK_FIELDS(MaxPool2dGather, ggx, indices, y)
};
struct AvgPool2d {
    Tensor x, y;
    int64_t kernel[2] = {}, stride[2] = {}, padding[2] = {}, padding_after[2] = {}, dilation[2] = {};
    int64_t count_include_pad = 0, divisor_override = 0;
    MMK_FIELDS(AvgPool2d, x, y, kernel, stride, padding, padding_after, dilation, count_include_pad, divisor_override)
};
struct AvgPool2dGrad {
    Tensor gy, gx;
    int64_t kernel[2] = {}, stride[2] = {}, padding[2] = {};
    int64_t count_include_pad = 0, divisor_override = 0;
    MMK_FIELDS(AvgPool2dGrad, gy, gx, kernel, stride, padding, count_include_pad, divisor_override)
};

// One, two or three axes, the operator's own in front.
struct MaxPool {
    Tensor x, y, indices;
    int64_t kernel[3] = {}, stride[3] = {}, padding[3] = {}, padding_after[3] = {}, dilation[3] = {};
    MMK_FIELDS(MaxPool, x, y, indices, kernel, stride, padding, padding_after, dilation)
};
struct AvgPool {
    Tensor x, y;
    int64_t kernel[3] = {}, stride[3] = {}, padding[3] = {}, padding_after[3] = {}, dilation[3] = {};
    int64_t count_include_pad = 0, divisor_override = 0;
    MMK_FIELDS(AvgPool, x, y, kernel, stride, padding, padding_after, dilation, count_include_pad, divisor_override)
};
struct AvgPoolGrad {
    Tensor gy, gx;
    int64_t kernel[3] = {}, stride[3] = {}, padding[3] = {}, padding_after[3] = {}, dilation[3] = {};
    int64_t count_include_pad = 0, divisor_override = 0;
    MMK_FIELDS(AvgPoolGrad, gy, gx, kernel, stride, padding, padding_after, dilation, count_include_pad,
               divisor_override)
};
struct AdaptiveAvgPool {
    Tensor x, y;
    MMK_FIELDS(AdaptiveAvgPool, x, y)
};
struct AdaptiveAvgPoolGrad {
    Tensor gy, gx;
    MMK_FIELDS(AdaptiveAvgPoolGrad, gy, gx)
};
struct AdaptiveMaxPool {
    Tensor x, y, indices;
    MMK_FIELDS(AdaptiveMaxPool, x, y, indices)
};
struct LpPool {
    Tensor x, y;
    double norm_type = 2;
    int64_t kernel[3] = {}, stride[3] = {}, padding[3] = {}, padding_after[3] = {}, dilation[3] = {};
    MMK_FIELDS(LpPool, x, y, norm_type, kernel, stride, padding, padding_after, dilation)
};
struct LpPoolGrad {
    Tensor gy, x, y, gx;
    double norm_type = 2;
    int64_t kernel[3] = {}, stride[3] = {}, padding[3] = {}, padding_after[3] = {}, dilation[3] = {};
    MMK_FIELDS(LpPoolGrad, gy, x, y, gx, norm_type, kernel, stride, padding, padding_after, dilation)
};
struct StochasticPool {
    Tensor x, keys, y, indices;
    int64_t training = 1;
    int64_t kernel[3] = {}, stride[3] = {}, padding[3] = {}, padding_after[3] = {}, dilation[3] = {};
    MMK_FIELDS(StochasticPool, x, keys, y, indices, training, kernel, stride, padding, padding_after, dilation)
};
struct MaxUnpool {
    Tensor x, indices, y;
    MMK_FIELDS(MaxUnpool, x, indices, y)
};
struct MaxUnpoolGrad {
    Tensor gy, indices, gx;
    MMK_FIELDS(MaxUnpoolGrad, gy, indices, gx)
};

MMK_OPERATOR(max_pool2d, MaxPool2d)
MMK_OPERATOR(max_pool2d_grad, MaxPool2dGrad)
MMK_OPERATOR(max_pool2d_gather, MaxPool2dGather)
MMK_OPERATOR(avg_pool2d, AvgPool2d)
MMK_OPERATOR(avg_pool2d_grad, AvgPool2dGrad)
MMK_OPERATOR(max_pool1d, MaxPool)
MMK_OPERATOR(max_pool3d, MaxPool)
MMK_OPERATOR(avg_pool1d, AvgPool)
MMK_OPERATOR(avg_pool3d, AvgPool)
MMK_OPERATOR(avg_pool_grad, AvgPoolGrad)
MMK_OPERATOR(adaptive_avg_pool1d, AdaptiveAvgPool)
MMK_OPERATOR(adaptive_avg_pool2d, AdaptiveAvgPool)
MMK_OPERATOR(adaptive_avg_pool3d, AdaptiveAvgPool)
MMK_OPERATOR(adaptive_avg_pool_grad, AdaptiveAvgPoolGrad)
MMK_OPERATOR(adaptive_max_pool1d, AdaptiveMaxPool)
MMK_OPERATOR(adaptive_max_pool2d, AdaptiveMaxPool)
MMK_OPERATOR(adaptive_max_pool3d, AdaptiveMaxPool)
MMK_OPERATOR(lp_pool1d, LpPool)
MMK_OPERATOR(lp_pool2d, LpPool)
MMK_OPERATOR(lp_pool3d, LpPool)
MMK_OPERATOR(lp_pool_grad, LpPoolGrad)
MMK_OPERATOR(stochastic_pool1d, StochasticPool)
MMK_OPERATOR(stochastic_pool2d, StochasticPool)
MMK_OPERATOR(stochastic_pool3d, StochasticPool)
MMK_OPERATOR(max_unpool1d, MaxUnpool)
MMK_OPERATOR(max_unpool2d, MaxUnpool)
MMK_OPERATOR(max_unpool3d, MaxUnpool)
MMK_OPERATOR(max_unpool_grad, MaxUnpoolGrad)

} // namespace mmk
