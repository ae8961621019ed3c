#include "../ops/norm.h"
#include "registry.h"

namespace mmk::bind {

void bind_norm(Registry& registry) {
    MMK_BIND(group_norm, GroupNorm);
    MMK_BIND(group_norm_grad, GroupNormGrad);
    MMK_BIND(layer_norm, LayerNorm);
    MMK_BIND(layer_norm_grad, LayerNormGrad);
}

} // namespace mmk::bind
