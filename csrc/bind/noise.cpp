#include "../ops/noise.h"
#include "registry.h"

namespace mmk::bind {

void bind_noise(Registry& registry) {
    MMK_BIND(philox4x32, Philox);
    MMK_BIND(philox_fold_in, PhiloxFold);
    MMK_BIND(philox_uniform, PhiloxDraw);
    MMK_BIND(philox_normal, PhiloxDraw);
}

} // namespace mmk::bind
