#include "../ops/detect.h"
#include "registry.h"

namespace mmk::bind {

void bind_detect(Registry& registry) {
    MMK_BIND(nms, Nms);
    MMK_BIND(soft_nms, SoftNms);
    MMK_BIND(box_iou_rotated, BoxIouRotated);
    MMK_BIND(nms_rotated, NmsRotated);
}

} // namespace mmk::bind
