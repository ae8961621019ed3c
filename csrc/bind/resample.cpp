#include "../ops/resample.h"
#include "registry.h"

namespace mmk::bind {

void bind_resample(Registry& registry) {
    MMK_BIND(interpolate, Interpolate);
    MMK_BIND(interpolate_grad, InterpolateGrad);
}

} // namespace mmk::bind
