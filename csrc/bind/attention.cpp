#include "../ops/attention.h"
#include "registry.h"

namespace mmk::bind {

void bind_attention(Registry& registry) {
    MMK_BIND(attention, Attention);
    MMK_BIND(attention_grad, AttentionGrad);
    MMK_BIND(attention_bias_grad, AttentionBiasGrad);
}

} // namespace mmk::bind
