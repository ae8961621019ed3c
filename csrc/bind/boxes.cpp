#include "../ops/boxes.h"
#include "registry.h"

namespace mmk::bind {

void bind_boxes(Registry& registry) {
    MMK_BIND(box_iou, BoxIou);
    MMK_BIND(box_iou_grad, BoxIouGrad);
    MMK_BIND(box_angle, BoxAngle);
    MMK_BIND(box_convert, BoxConvert);
    MMK_BIND(clip_boxes, ClipBoxes);
    MMK_BIND(clip_boxes_grad, ClipBoxesGrad);
    MMK_BIND(box_area, BoxAreas);
    MMK_BIND(box_encode, BoxEncode);
    MMK_BIND(box_decode, BoxDecode);
    MMK_BIND(box_decode_grad, BoxDecodeGrad);
    MMK_BIND(distance_decode, DistanceDecode);
    MMK_BIND(distance_decode_grad, DistanceDecodeGrad);
    MMK_BIND(yolo_grid_decode, YoloGridDecode);
}

} // namespace mmk::bind
