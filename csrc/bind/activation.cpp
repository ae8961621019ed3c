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
    MMK_BIND(relu6, Unary);
    MMK_BIND(hardsigmoid, Unary);
    MMK_BIND(hardswish, Unary);
    MMK_BIND(mish, Unary);
    MMK_BIND(quick_gelu, Unary);
    MMK_BIND(hardtanh, Hardtanh);
    MMK_BIND(softplus, Softplus);
    MMK_BIND(elu, Elu);
    MMK_BIND(relu6_grad, UnaryGrad);
    MMK_BIND(hardsigmoid_grad, UnaryGrad);
    MMK_BIND(hardswish_grad, UnaryGrad);
    MMK_BIND(mish_grad, UnaryGrad);
    MMK_BIND(quick_gelu_grad, UnaryGrad);
    MMK_BIND(hardtanh_grad, HardtanhGrad);
    MMK_BIND(softplus_grad, SoftplusGrad);
    MMK_BIND(elu_grad, EluGrad);
    MMK_BIND(prelu, Prelu);
    MMK_BIND(prelu_grad, PreluGrad);
    MMK_BIND(local_response_norm, LocalResponseNorm);
    MMK_BIND(local_response_norm_grad, LocalResponseNormGrad);
}

} // namespace mmk::bind
