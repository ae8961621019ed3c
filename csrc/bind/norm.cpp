#include "../ops/norm.h"
#include "registry.h"

namespace mmk::bind {

void bind_norm(Registry& registry) {
    MMK_BIND(group_norm, GroupNorm);
    MMK_BIND(group_norm_grad, GroupNormGrad);
    MMK_BIND(layer_norm, LayerNorm);
    MMK_BIND(layer_norm_grad, LayerNormGrad);
    MMK_BIND(rms_norm, RmsNorm);
    MMK_BIND(rms_norm_grad, RmsNormGrad);
    MMK_BIND(instance_norm, InstanceNorm);
    MMK_BIND(batch_norm, BatchNorm);
    MMK_BIND(batch_norm_training, BatchNormTraining);
    MMK_BIND(batch_norm_grad, BatchNormGrad);
}

} // namespace mmk::bind
