// detect — which of many overlapping boxes to keep.
// Computes   nms: boxes in order of falling score; one is kept unless a kept one before it (of the same class) has
//                IoU > iou_threshold with it; keep: their indices, at most max_output, -1 behind them; count: how many
//            soft_nms: again and again the first of the greatest scores, while it is above score_threshold; IoU with it
//                (0 where it is not a number) lowers the others: linear s (1 - IoU) above iou_threshold; gaussian
//                s exp(-IoU^2 / sigma); decayed: the scores as they were chosen, 0 behind them
//            nms_rotated, box_iou_rotated: boxes (centre, width, height, angle), the angle times angle_scale in
//                radians, from the x axis to the y axis; else as nms; IoU is i / (u + u' - i), NaN where a
//                number is not finite or both are empty
// Shapes     as in ops/detect.py
// Types      float32, float64; classes int32, int64; indices int64
// Limits     N < 2^31; 0 <= iou_threshold <= 1
// Algorithm  a box is (x1, y1, x2, y2); area = max(x2 - x1, 0) max(y2 - y1, 0); intersection =
//            max(min(x2) - max(x1), 0) max(min(y2) - max(y1), 0); IoU > t is intersection > t ((area_i + area_j) -
//            intersection), t rounded to the boxes' type, no division. So a box with a NaN, an infinite, an inverted
//            or an empty side neither suppresses nor is suppressed. Scores: equal ones (and -0, +0) in the order of
//            their indices, NaN last; those not above score_threshold take no part, unless it is -inf.
//            CPU: a stable radix sort; classes, if any, are split by another one; a kept box meets sixteen others
//            at a time. From 256 boxes on they lie in order of x1, and it meets those whose x1 is near enough for
//            IoU > t: x1 - w (1 - t) / t <= x1' <= x1 + w (1 - t)
//            rotated boxes: sin and cos of core/arith.h; the intersection by core/box_rotated.h, the better
//            box (boxes1's) against the sides of the other; 0 where the circles around them do not meet
// CUDA       a stable merge sort by tiles of 256; 1024 boxes at a time: their bit mask (128 KB, whatever N), one warp
//            that walks it in order, then the kept ones strike out later boxes; nothing synchronises with the host
// Order      each comparison alone; of the sums (area_i + area_j) first; elsewhere as core/box_rotated.h and
//            core/box_decay.h write it
// Source     Girshick et al., arXiv 1311.2524 (greedy suppression); Bodla et al., arXiv 1704.04503 (soft); stable order
//            and strict threshold as torchvision.ops
// Moves      boxes, scores and classes twice; 20 bytes a box for each kept box that comes near it
#pragma once

#include "../core/dispatch.h"

namespace mmk {

struct Nms {
    Tensor boxes, scores, classes, keep, count; // classes: only if they are given
    double iou_threshold = 0, score_threshold = 0;
    MMK_FIELDS(Nms, boxes, scores, classes, keep, count, iou_threshold, score_threshold)
};

struct SoftNms {
    Tensor boxes, scores, keep, decayed, count;
    int64_t method = 0; // linear, gaussian
    double iou_threshold = 0, sigma = 0, score_threshold = 0;
    MMK_FIELDS(SoftNms, boxes, scores, keep, decayed, count, method, iou_threshold, sigma, score_threshold)
};
struct BoxIouRotated {
    Tensor boxes1, boxes2, y;
    double angle_scale = 0;
    MMK_FIELDS(BoxIouRotated, boxes1, boxes2, y, angle_scale)
};
struct NmsRotated {
    Tensor boxes, scores, classes, keep, count;
    double iou_threshold = 0, score_threshold = 0, angle_scale = 0;
    MMK_FIELDS(NmsRotated, boxes, scores, classes, keep, count, iou_threshold, score_threshold, angle_scale)
};

MMK_OPERATOR(nms, Nms)
MMK_OPERATOR(soft_nms, SoftNms)
MMK_OPERATOR(box_iou_rotated, BoxIouRotated)
MMK_OPERATOR(nms_rotated, NmsRotated)

} // namespace mmk
