#include "../ops/conv.h"
#include "registry.h"

namespace mmk::bind {

void bind_conv(Registry& registry) {
    MMK_BIND(conv1d, Conv1d);
    MMK_BIND(conv_transpose1d, ConvTranspose1d);
    MMK_BIND(conv1d_input_grad, Conv1dInputGrad);
    MMK_BIND(conv1d_weight_grad, Conv1dWeightGrad);
    MMK_BIND(conv2d, Conv2d);
    MMK_BIND(conv_transpose2d, ConvTranspose2d);
    MMK_BIND(conv2d_input_grad, Conv2dInputGrad);
    MMK_BIND(conv2d_weight_grad, Conv2dWeightGrad);
    MMK_BIND(conv3d, Conv3d);
    MMK_BIND(conv_transpose3d, ConvTranspose3d);
    MMK_BIND(conv3d_input_grad, Conv3dInputGrad);
    MMK_BIND(conv3d_weight_grad, Conv3dWeightGrad);
}

} // namespace mmk::bind
