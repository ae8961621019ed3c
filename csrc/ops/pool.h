// pool — the maximum or the mean of each window of a plane, and their gradients.
// Computes   max_pool2d: y[n,c,p,q] = max over r, s of x[n,c,p*stride-padding+r*dilation, ...], taps inside the plane
//                only; the first maximum in scan order, or the first NaN; indices: h * W + w of what was chosen, -1
//                (and y = -inf) if a window has no tap inside
//            max_pool2d_grad: gx[n,c,i] = sum of gy over the windows whose index is i; -1 adds nothing
//            max_pool2d_gather: result[n,c,p,q] = ggx[n,c] at index [n,c,p,q], 0 at -1
//            avg_pool2d: y = sum of the window's taps inside the plane / divisor; the divisor is divisor_override, or
//                the window's size, clipped to the padded plane (count_include_pad) or to the plane
//            avg_pool2d_grad: gx[n,c,h,w] = sum of gy / divisor over the windows that see (h, w)
// Shapes     as in ops/pool.py; ceil_mode lets a last window overhang if it starts inside the plane or its left padding
// Types      float32, float64; indices int64
// Limits     padding <= kernel / 2; any kernel, stride, dilation; planes of more than 2^31 elements
// Algorithm  rows: a line of the plane is split into `stride` phases between padding, so that sixteen neighbouring
//            windows read neighbouring elements; the maximum without indices is taken down the columns first, then
//            along the line. channels: channels-last operands, sixteen channels of one window at a time. plane: one
//            plane per task
// CUDA       a window, or 16 bytes of channels, per thread, by any strides; small windows of planes in strips of four
//            below each other; whole planes through shared memory. max_pool2d_grad: a warp owns 512 elements and adds
//            the windows of the runs of 128 that reach them, in order (contiguous operands); avg_pool2d_grad: each
//            element from the windows that see it; where they overlap the quotients are made first
// Order      avg_pool2d: row-major from +0, then one division; gradients: from +0, windows in (p, q) order
//            maxima end with + 0; the order in which a maximum without indices is taken cannot be seen
// Source     LeCun et al., Proc. IEEE 86 (1998), II.B (average); Boureau et al., ICML 2010 (maximum)
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
    int64_t kernel[2] = {}, stride[2] = {}, padding[2] = {};
    int64_t count_include_pad = 0, divisor_override = 0;
    MMK_FIELDS(AvgPool2d, x, y, kernel, stride, padding, count_include_pad, divisor_override)
};
struct AvgPool2dGrad {
    Tensor gy, gx;
    int64_t kernel[2] = {}, stride[2] = {}, padding[2] = {};
    int64_t count_include_pad = 0, divisor_override = 0;
    MMK_FIELDS(AvgPool2dGrad, gy, gx, kernel, stride, padding, count_include_pad, divisor_override)
};

MMK_OPERATOR(max_pool2d, MaxPool2d)
MMK_OPERATOR(max_pool2d_grad, MaxPool2dGrad)
MMK_OPERATOR(max_pool2d_gather, MaxPool2dGather)
MMK_OPERATOR(avg_pool2d, AvgPool2d)
MMK_OPERATOR(avg_pool2d_grad, AvgPool2dGrad)

} // namespace mmk
