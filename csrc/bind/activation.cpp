#include "../ops/activation.h"
#include "registry.h"

namespace mmk::bind {

void bind_activation(Registry& registry) {
    MMK_BIND(relu, Unary);
    MMK_BIND(sigmoid, Unary);
    MMK_BIND(tanh, Unary);
    MMK_BIND(silu, Unary);
    MMK_BIND(exp, Unary);
    MMK_BIND(log, Unary);
    MMK_BIND(sqrt, Unary);
    MMK_BIND(erf, Unary);
    MMK_BIND(leaky_relu, LeakyRelu);
    MMK_BIND(gelu, Gelu);
    MMK_BIND(relu_grad, UnaryGrad);
    MMK_BIND(silu_grad, UnaryGrad);
    MMK_BIND(leaky_relu_grad, LeakyReluGrad);
    MMK_BIND(gelu_grad, GeluGrad);
    MMK_BIND(sigmoid_grad, ResultGrad);
    MMK_BIND(tanh_grad, ResultGrad);
    MMK_BIND(softmax, AlongAxis);
    MMK_BIND(log_softmax, AlongAxis);
    MMK_BIND(softmax_grad, AlongAxisGrad);
    MMK_BIND(log_softmax_grad, AlongAxisGrad);
    MMK_BIND(dropout, Dropout);
}

} // namespace mmk::bind
