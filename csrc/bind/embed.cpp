#include "../ops/embed.h"
#include "registry.h"

namespace mmk::bind {

void bind_embed(Registry& registry) {
    MMK_BIND(embedding, Embedding);
    MMK_BIND(embedding_grad, EmbeddingGrad);
    MMK_BIND(sinusoidal_features, SinusoidalFeatures);
    MMK_BIND(fourier_features, FourierFeatures);
}

} // namespace mmk::bind
