// boxes — how much they overlap, and how detectors write them. A box is (x1, y1, x2, y2) where nothing else is said.
// Computes   box_iou: y = i / (u + eps), i and u the areas of intersection and union; giou: less (h - u) / (h + eps), h
//                the area of the smallest box around both; diou: less d / (g + eps), d the squared distance of the
//                centres, g the squared diagonal of that box; ciou: diou less v v / (1 - iou + v + eps),
//                v = 4 / pi^2 (arctan(w / h) - arctan(w' / h'))^2
//            box_angle: arctan(w / h), of which ciou's second derivatives are made
//            box_convert: corners, corner and sides, centre and sides into each other, or the transposed map
//            clip_boxes: x between 0 and width, y between 0 and height; box_area: (x2 - x1) (y2 - y1)
//            box_encode: (weight (centre - centre') / side', weight log(side / side')), ' of the anchor; box_decode:
//                the inverse, logarithms held below log_clip
//            distance_decode: centre - side (left, up), centre + side (right, down), centre and side of a cell
//            yolo_grid_decode: box b of cell (r, q): centre ((q + x) / Q, (r + y) / R), sides w^2 and h^2, times the
//                picture's; scores: confidence times the cell's classes
// Shapes     as in ops/boxes.py
// Types      float32, float64
// Limits     weights other than 0
// Algorithm  functions of core/box_maps.h and core/box_iou.h, sixteen boxes or pairs at a time. In box_iou sides
//            below 0 are taken as 0. Pairs of all with all: blocks of 512 boxes stay turned into columns for many lines
// CUDA       the same functions: a box, or four pairs, per thread, 16 bytes an access where addresses allow it
// Order      as core/box_maps.h and core/box_iou.h write it; gradients: where two ends are equal each has half; sides
//            of 0 pass theirs on; CIoU's is exact (its weight is differentiated too)
// Source     Rezatofighi et al., arXiv 1902.09630 (GIoU); Zheng et al., arXiv 1911.08287 (DIoU, CIoU); Girshick et al.,
//            arXiv 1311.2524 (offsets); Tian et al., arXiv 1904.01355 (distances);
//            Redmon et al., arXiv 1506.02640 (grid)
// Moves      the contract's minimum
#pragma once

#include "../core/dispatch.h"

namespace mmk {

struct BoxIou {
    Tensor boxes1, boxes2, y;
    int64_t kind = 0; // core/box_iou.h's Overlap
    double eps = 0;
    MMK_FIELDS(BoxIou, boxes1, boxes2, y, kind, eps)
};
struct BoxIouGrad {
    Tensor gy, boxes1, boxes2, g1, g2;
    int64_t kind = 0;
    double eps = 0;
    MMK_FIELDS(BoxIouGrad, gy, boxes1, boxes2, g1, g2, kind, eps)
};
struct BoxAngle {
    Tensor width, height, y;
    MMK_FIELDS(BoxAngle, width, height, y)
};
struct BoxConvert {
    Tensor x, y;
    int64_t source = 0, target = 0; // xyxy, xywh, cxcywh
    int64_t transposed = 0;
    MMK_FIELDS(BoxConvert, x, y, source, target, transposed)
    // Of one axis: (u, v) -> (m[0] u + m[1] v, m[2] u + m[3] v), row by row.
    template <class T> void matrix(T (&m)[4]) const {
        constexpr double table[3][3][4] = {
            {{1, 0, 0, 1}, {1, 0, -1, 1}, {0.5, 0.5, -1, 1}},
            {{1, 0, 1, 1}, {1, 0, 0, 1}, {1, 0.5, 0, 1}},
            {{1, -0.5, 1, 0.5}, {1, -0.5, 0, 1}, {1, 0, 0, 1}},
        };
        for (int k = 0; k < 4; ++k) m[k] = T(table[source][target][transposed ? k % 2 * 2 + k / 2 : k]);
    }
};
struct ClipBoxes {
    Tensor x, y;
    double height = 0, width = 0;
    MMK_FIELDS(ClipBoxes, x, y, height, width)
};
struct ClipBoxesGrad {
    Tensor gy, x, gx;
    double height = 0, width = 0;
    MMK_FIELDS(ClipBoxesGrad, gy, x, gx, height, width)
};
struct BoxAreas {
    Tensor x, y;
    MMK_FIELDS(BoxAreas, x, y)
};
struct BoxEncode {
    Tensor boxes, anchors, deltas;
    double weights[4] = {};
    MMK_FIELDS(BoxEncode, boxes, anchors, deltas, weights)
};
struct BoxDecode {
    Tensor deltas, anchors, boxes;
    double weights[4] = {}, log_clip = 0;
    MMK_FIELDS(BoxDecode, deltas, anchors, boxes, weights, log_clip)
};
struct BoxDecodeGrad {
    Tensor gboxes, deltas, anchors, gdeltas, ganchors;
    double weights[4] = {}, log_clip = 0;
    MMK_FIELDS(BoxDecodeGrad, gboxes, deltas, anchors, gdeltas, ganchors, weights, log_clip)
};

struct DistanceDecode {
    Tensor distances, cells, boxes;
    MMK_FIELDS(DistanceDecode, distances, cells, boxes)
};
struct DistanceDecodeGrad {
    Tensor gboxes, cells, gdistances;
    MMK_FIELDS(DistanceDecodeGrad, gboxes, cells, gdistances)
};
struct YoloGridDecode {
    Tensor x, boxes, scores;
    int64_t B = 0, C = 0; // boxes of a cell, classes
    double height = 0, width = 0;
    MMK_FIELDS(YoloGridDecode, x, boxes, scores, B, C, height, width)
};

MMK_OPERATOR(box_iou, BoxIou)
MMK_OPERATOR(box_iou_grad, BoxIouGrad)
MMK_OPERATOR(box_angle, BoxAngle)
MMK_OPERATOR(box_convert, BoxConvert)
MMK_OPERATOR(clip_boxes, ClipBoxes)
MMK_OPERATOR(clip_boxes_grad, ClipBoxesGrad)
MMK_OPERATOR(box_area, BoxAreas)
MMK_OPERATOR(box_encode, BoxEncode)
MMK_OPERATOR(box_decode, BoxDecode)
MMK_OPERATOR(box_decode_grad, BoxDecodeGrad)
MMK_OPERATOR(distance_decode, DistanceDecode)
MMK_OPERATOR(distance_decode_grad, DistanceDecodeGrad)
MMK_OPERATOR(yolo_grid_decode, YoloGridDecode)

} // namespace mmk
