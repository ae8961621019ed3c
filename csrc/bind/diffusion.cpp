#include "../ops/diffusion.h"
#include "registry.h"

namespace mmk::bind {

void bind_diffusion(Registry& registry) {
    MMK_BIND(add_noise, AddNoise);
    MMK_BIND(diffusion_step, DiffusionStep);
}

} // namespace mmk::bind
