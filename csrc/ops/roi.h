// roi — what regions of interest hold of a map, in a fixed number of bins, and where their gradients go.
// Computes   A box (image, x1, y1, x2, y2) is a region: a position is a coordinate * spatial_scale - offset, offset 1/2
//            if aligned, else 0; its size is the difference of its positions, at least 1 unless aligned; P x Q bins of
//            size / P share it; s samples of a bin along an axis lie at (start + p bin) + (i + 1/2) bin / s, with s =
//            sampling_ratio or, if that is 0 or less, ceil(bin). A sample off [-1, extent] is 0; else it is moved to
//            [0, extent - 1] and lies between two elements, which get 1 - d and d.
//            roi_align: y = mean of a bin's samples; roi_align_grad is its transpose
//            roi_align_max: the first maximum of a bin's samples, or the first NaN; with corners, of the four weighted
//                elements of each sample (weight 0: 0); indices: the sample in its bin, row by row from the map's start
//                (with corners 4 times that + the corner), -1: none; .._grad and .._gather: to and from what was chosen
//            roi_pool: positions are rounded, halves away from zero, size = their difference + 1, at least 1; bin p is
//                the elements from floor(p bin) + start to ceil((p + 1) bin) + start, on the map; the first maximum, or
//                the first NaN; indices: h * W + w, -1 (and y = 0): no element; .._grad, .._gather as above
//            ps_roi_align: roi_align, aligned, bin (p, q) of channel c from plane (c P + p) Q + q
//            ps_roi_pool: the mean of roi_pool's bins, without its + 1 and without the map's last row and column
//            roi_align_rotated: boxes (image, cx, cy, w, h, angle): samples of the box about its centre, turned: y =
//                (v cos - u sin) + cy, x = (v sin + u cos) + cx for v down and u across; s is at most 256 if counted
//            multi_scale_roi_align: roi_align on the map of the box's level: as many sides[k] as sqrt(its area) reaches
// Shapes     as in ops/roi.py
// Types      float32, float64; boxes in the type that is computed in; indices int64
// Limits     sampling_ratio <= 4096; s is at most 2^24 if counted (256 where every sample is visited: rotated, maxima);
//            extents below 2^31, of roi_pool's maps their product too; 5 levels.
//            Zeros (and index -1) are the result of a region whose positions or size are not finite, of one without
//            samples or elements, of an empty map, and of an image that does not exist: the image is the number with
//            its fraction cut off, NaN is none. Regions with exchanged corners have samples if aligned and not counted.
//            A side that is NaN is of the first level.
// Algorithm  means are separable: an axis of a bin is a list of elements with weights, equal elements merged
//            (core/regions.h, for both floors); samples off the map are passed over by bisection, so that a box of any
//            size costs no more than the map has elements. blocks: sixteen planes are turned into [H W][16], which lies
//            in L2, and every region of the image reads it; pixels: channels-last maps are read where they are
// CUDA       means: a block per region, 16 x 16 bins and some channels, its lists on chip; longer bins by a second
//            kernel. Their gradients: a block per 16 x 16 elements and 8 channels lists the regions that reach it,
//            weighs its lines, and each element gathers. Chosen elements and rotated regions: a warp owns 512 elements
//            of a plane and adds what regions give them in their order. No atomic addition
// Order      weights: gifts in the order of positions, from +0, then a division by s. Means: for each row of elements
//            the columns' products, an fma chain from +0; then the rows, an fma chain from +0. Gradients: regions in
//            order, rows of bins, for each the columns of bins as an fma chain from +0, then one fma into the element.
//            Elements without a weight take no part. A maximum's sample is a mean of one; chosen: fma chains over its
//            corners, upper left first. Rotated: an fma chain over samples and corners, then a division; gradients:
//            the division, then fma in the order region, bin, sample, corner. Maxima end with + 0
// Source     Girshick, arXiv 1504.08083, 2.1; He et al., arXiv 1703.06870, 3; Dai et al., arXiv 1605.06409, 3; Lin et
//            al., arXiv 1612.03144, 4.2; Ma et al., arXiv 1703.01086
// Moves      x once per sixteen channels and y once; maps of several levels once each
#pragma once

#include "../core/dispatch.h"

namespace mmk {

struct RoiAlign {
    Tensor x, boxes, y;
    double spatial_scale = 1;
    int64_t sampling_ratio = 0, aligned = 0;
    MMK_FIELDS(RoiAlign, x, boxes, y, spatial_scale, sampling_ratio, aligned)
};
struct RoiAlignGrad {
    Tensor gy, boxes, gx;
    double spatial_scale = 1;
    int64_t sampling_ratio = 0, aligned = 0;
    MMK_FIELDS(RoiAlignGrad, gy, boxes, gx, spatial_scale, sampling_ratio, aligned)
};
struct PsRoiAlign {
    Tensor x, boxes, y;
    double spatial_scale = 1;
    int64_t sampling_ratio = 0;
    MMK_FIELDS(PsRoiAlign, x, boxes, y, spatial_scale, sampling_ratio)
};
struct PsRoiAlignGrad {
    Tensor gy, boxes, gx;
    double spatial_scale = 1;
    int64_t sampling_ratio = 0;
    MMK_FIELDS(PsRoiAlignGrad, gy, boxes, gx, spatial_scale, sampling_ratio)
};
struct PsRoiPool {
    Tensor x, boxes, y;
    double spatial_scale = 1;
    MMK_FIELDS(PsRoiPool, x, boxes, y, spatial_scale)
};
struct PsRoiPoolGrad {
    Tensor gy, boxes, gx;
    double spatial_scale = 1;
    MMK_FIELDS(PsRoiPoolGrad, gy, boxes, gx, spatial_scale)
};
// Maps of several levels; those that are not there have no data.
struct MultiScaleRoiAlign {
    Tensor x0, x1, x2, x3, x4, boxes, y;
    double spatial_scales[5] = {}, sides[4] = {};
    int64_t levels = 0, sampling_ratio = 0, aligned = 0;
    MMK_FIELDS(MultiScaleRoiAlign, x0, x1, x2, x3, x4, boxes, y, spatial_scales, sides, levels, sampling_ratio, aligned)
};
struct MultiScaleRoiAlignGrad {
    Tensor gy, boxes, gx0, gx1, gx2, gx3, gx4;
    double spatial_scales[5] = {}, sides[4] = {};
    int64_t levels = 0, sampling_ratio = 0, aligned = 0;
    MMK_FIELDS(MultiScaleRoiAlignGrad, gy, boxes, gx0, gx1, gx2, gx3, gx4, spatial_scales, sides, levels,
               sampling_ratio, aligned)
};

struct RoiPool {
    Tensor x, boxes, y, indices; // indices: only if they are wanted
    double spatial_scale = 1;
    MMK_FIELDS(RoiPool, x, boxes, y, indices, spatial_scale)
};
struct RoiPoolGrad {
    Tensor gy, boxes, indices, gx;
    MMK_FIELDS(RoiPoolGrad, gy, boxes, indices, gx)
};
struct RoiPoolGather {
    Tensor ggx, boxes, indices, y;
    MMK_FIELDS(RoiPoolGather, ggx, boxes, indices, y)
};
struct RoiAlignMax {
    Tensor x, boxes, y, indices;
    double spatial_scale = 1;
    int64_t sampling_ratio = 0, aligned = 0, corners = 0;
    MMK_FIELDS(RoiAlignMax, x, boxes, y, indices, spatial_scale, sampling_ratio, aligned, corners)
};
struct RoiAlignMaxGrad {
    Tensor gy, boxes, indices, gx;
    double spatial_scale = 1;
    int64_t sampling_ratio = 0, aligned = 0, corners = 0;
    MMK_FIELDS(RoiAlignMaxGrad, gy, boxes, indices, gx, spatial_scale, sampling_ratio, aligned, corners)
};
struct RoiAlignMaxGather {
    Tensor ggx, boxes, indices, y;
    double spatial_scale = 1;
    int64_t sampling_ratio = 0, aligned = 0, corners = 0;
    MMK_FIELDS(RoiAlignMaxGather, ggx, boxes, indices, y, spatial_scale, sampling_ratio, aligned, corners)
};
struct RoiAlignRotated {
    Tensor x, boxes, y;
    double spatial_scale = 1;
    int64_t sampling_ratio = 0, aligned = 0, clockwise = 0, degrees = 0;
    MMK_FIELDS(RoiAlignRotated, x, boxes, y, spatial_scale, sampling_ratio, aligned, clockwise, degrees)
};
struct RoiAlignRotatedGrad {
    Tensor gy, boxes, gx;
    double spatial_scale = 1;
    int64_t sampling_ratio = 0, aligned = 0, clockwise = 0, degrees = 0;
    MMK_FIELDS(RoiAlignRotatedGrad, gy, boxes, gx, spatial_scale, sampling_ratio, aligned, clockwise, degrees)
};

MMK_OPERATOR(roi_align, RoiAlign)
MMK_OPERATOR(roi_align_grad, RoiAlignGrad)
MMK_OPERATOR(ps_roi_align, PsRoiAlign)
MMK_OPERATOR(ps_roi_align_grad, PsRoiAlignGrad)
MMK_OPERATOR(ps_roi_pool, PsRoiPool)
MMK_OPERATOR(ps_roi_pool_grad, PsRoiPoolGrad)
MMK_OPERATOR(roi_pool, RoiPool)
MMK_OPERATOR(roi_pool_grad, RoiPoolGrad)
MMK_OPERATOR(roi_pool_gather, RoiPoolGather)
MMK_OPERATOR(roi_align_max, RoiAlignMax)
MMK_OPERATOR(roi_align_max_grad, RoiAlignMaxGrad)
MMK_OPERATOR(roi_align_max_gather, RoiAlignMaxGather)
MMK_OPERATOR(roi_align_rotated, RoiAlignRotated)
MMK_OPERATOR(roi_align_rotated_grad, RoiAlignRotatedGrad)
MMK_OPERATOR(multi_scale_roi_align, MultiScaleRoiAlign)
MMK_OPERATOR(multi_scale_roi_align_grad, MultiScaleRoiAlignGrad)

} // namespace mmk
