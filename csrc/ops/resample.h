// resample — planes at another resolution.
// Computes   nearest: y[n,c,p,q] = x[n,c,source(p),source(q)], source(i) = min(floor(float32(i) * float32(scale)),
//            extent - 1) with the product rounded to float32, whatever the operands' type
//            bilinear, in the type T that is computed in: an output's position is r = T(i) * T(scale) between aligned
//            corners, else r = (T(i) + 1/2) * T(scale) - 1/2, at least 0; left = min(floor(r), extent - 1); share = r -
//            left, and 0 if left is the last; along = fma(x[left + 1], share, x[left] * (1 - share)), which is x[left]
//            where the share is 0; y is along the rows what is along the columns
//            interpolate_grad: gx[n,c,h,w] = sum of gy over the output pixels that read (h, w), each times its shares
// Shapes     as in ops/resample.py; scale is the step in the source per output pixel
// Types      float32, float64
// Limits     modes nearest and bilinear; no filter
// Algorithm  nearest: a table of sources per axis; rows of x that are read again are copied from the row before.
//            bilinear: a table of left and share per axis; a row of x is interpolated once, and outputs mix two such rows.
//            channels-last operands move whole pixels
// CUDA       16 bytes of a line or of a pixel's channels per thread, by any strides; the gradient from a table of the
//            first output that reads each row and column
// Order      the gradient's sums are from +0, row-major in (p, q). bilinear: first along each row p, s = fma(gy, share, s)
//            in order of q, left before right; then gx = fma(s, share, gx) in order of p
// Source     the rules of torch.nn.functional.interpolate
// Moves      x once and y once
#pragma once

#include "../core/dispatch.h"

namespace mmk {

// In the order of the contract's choices.
enum class Interpolation : int64_t { nearest, bilinear };

struct Interpolate {
    Tensor x, y;
    double scale[2] = {};
    Interpolation mode{};
    int64_t align_corners = 0;
    MMK_FIELDS(Interpolate, x, y, scale, mode, align_corners)
};
struct InterpolateGrad {
    Tensor gy, gx;
    double scale[2] = {};
    Interpolation mode{};
    int64_t align_corners = 0;
    MMK_FIELDS(InterpolateGrad, gy, gx, scale, mode, align_corners)
};

MMK_OPERATOR(interpolate, Interpolate)
MMK_OPERATOR(interpolate_grad, InterpolateGrad)

} // namespace mmk
