#include "../ops/deform.h"
#include "registry.h"

namespace mmk::bind {

void bind_deform(Registry& registry) {
    MMK_BIND(deform_conv2d, DeformConv2d);
    MMK_BIND(deform_conv2d_input_grad, DeformConv2dInputGrad);
    MMK_BIND(deform_conv2d_offset_grad, DeformConv2dOffsetGrad);
    MMK_BIND(deform_conv2d_mask_grad, DeformConv2dMaskGrad);
    MMK_BIND(deform_conv2d_weight_grad, DeformConv2dWeightGrad);
    MMK_BIND(deform_conv2d_snap, DeformConv2dSnap);
    MMK_BIND(ms_deform_attention, MsDeformAttention);
    MMK_BIND(ms_deform_attention_value_grad, MsDeformAttentionValueGrad);
    MMK_BIND(ms_deform_attention_points_grad, MsDeformAttentionPointsGrad);
    MMK_BIND(ms_deform_attention_weights_grad, MsDeformAttentionWeightsGrad);
    MMK_BIND(ms_deform_attention_snap, MsDeformAttentionSnap);
}

} // namespace mmk::bind
