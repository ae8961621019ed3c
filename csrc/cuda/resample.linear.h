// interpolate between pixels, and its gradient.
#pragma once

#include "../ops/resample.h"

namespace mmk::cuda {

void interpolate_linear(const Interpolate& op, Context& context);
void interpolate_linear_grad(const InterpolateGrad& op, Context& context);

} // namespace mmk::cuda
