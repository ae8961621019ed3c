// resample — planes at another resolution.
// Computes   interpolate: y[n,c,p,q] = x[n,c,source(p),source(q)], source(i) = min(floor(float32(i) * float32(scale)),
//            extent - 1) with the product rounded to float32, whatever the operands' type
//            interpolate_grad: gx[n,c,h,w] = sum of gy over the output pixels that read (h, w)
// Shapes     as in ops/resample.py; scale is the step in the source per output pixel
// Types      float32, float64
// Limits     mode nearest
// Algorithm  a table of sources per axis; rows of x that are read again are copied from the row before;
//            channels-last operands move whole pixels
// CUDA       16 bytes of a line or of a pixel's channels per thread, by any strides; the gradient from a table of the
//            first output that reads each row and column
// Order      the gradient's sums are from +0, row-major in (p, q)
// Source     the rule of torch.nn.functional.interpolate
// Moves      x once and y once
#pragma once

#include "../core/dispatch.h"

namespace mmk {

struct Interpolate {
    Tensor x, y;
    double scale[2] = {};
    MMK_FIELDS(Interpolate, x, y, scale)
};
struct InterpolateGrad {
    Tensor gy, gx;
    double scale[2] = {};
    MMK_FIELDS(InterpolateGrad, gy, gx, scale)
};

MMK_OPERATOR(interpolate, Interpolate)
MMK_OPERATOR(interpolate_grad, InterpolateGrad)

} // namespace mmk
