#include "../ops/conv.h"
#include "registry.h"

namespace mmk::bind {

void bind_conv(Registry& registry) {
    MMK_BIND(conv2d, Conv2d);
    MMK_BIND(conv2d_input_grad, Conv2dInputGrad);
    MMK_BIND(conv2d_weight_grad, Conv2dWeightGrad);
}

} // namespace mmk::bind
