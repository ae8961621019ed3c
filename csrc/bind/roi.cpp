#include "../ops/roi.h"
#include "registry.h"

namespace mmk::bind {

void bind_roi(Registry& registry) {
    MMK_BIND(roi_align, RoiAlign);
    MMK_BIND(roi_align_grad, RoiAlignGrad);
    MMK_BIND(ps_roi_align, PsRoiAlign);
    MMK_BIND(ps_roi_align_grad, PsRoiAlignGrad);
    MMK_BIND(ps_roi_pool, PsRoiPool);
    MMK_BIND(ps_roi_pool_grad, PsRoiPoolGrad);
    MMK_BIND(roi_pool, RoiPool);
    MMK_BIND(roi_pool_grad, RoiPoolGrad);
    MMK_BIND(roi_pool_gather, RoiPoolGather);
    MMK_BIND(roi_align_max, RoiAlignMax);
    MMK_BIND(roi_align_max_grad, RoiAlignMaxGrad);
    MMK_BIND(roi_align_max_gather, RoiAlignMaxGather);
    MMK_BIND(roi_align_rotated, RoiAlignRotated);
    MMK_BIND(roi_align_rotated_grad, RoiAlignRotatedGrad);
    MMK_BIND(multi_scale_roi_align, MultiScaleRoiAlign);
    MMK_BIND(multi_scale_roi_align_grad, MultiScaleRoiAlignGrad);
}

} // namespace mmk::bind
