#include "../ops/attention.h"
#include "registry.h"

namespace mmk::bind {

void bind_attention(Registry& registry) {
    MMK_BIND(attention, Attention);
    MMK_BIND(attention_grad, AttentionGrad);
    MMK_BIND(attention_bias_grad, AttentionBiasGrad);
    MMK_BIND(attention_shared_bias_grad, AttentionSharedBiasGrad);
    MMK_BIND(attention_table_grad, AttentionTableGrad);
    MMK_BIND(attention_slopes_grad, AttentionSlopesGrad);
    MMK_BIND(attention_sink_grad, AttentionSinkGrad);
    MMK_BIND(attention_packed, AttentionPacked);
    MMK_BIND(attention_packed_grad, AttentionPackedGrad);
    MMK_BIND(attention_packed_slopes_grad, AttentionPackedSlopesGrad);
    MMK_BIND(additive_attention, AdditiveAttention);
    MMK_BIND(additive_attention_grad, AdditiveAttentionGrad);
    MMK_BIND(additive_attention_weights, AdditiveAttentionWeights);
}

} // namespace mmk::bind
