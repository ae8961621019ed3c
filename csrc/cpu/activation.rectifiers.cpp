// The functions of core/rectifiers.h.
#include "../ops/activation.h"

#include "../core/rectifiers.h"
#include "elementwise.h"

namespace mmk::cpu::MMK_ISA {

#define MMK_OF_X(name)                                                                                                 \
    void name(const Unary& op, Context& context) {                                                                     \
        elementwise(context, [](auto x) { return mmk::MMK_ISA::name(x); }, op.y, op.x);                                \
    }
MMK_OF_X(hardsigmoid)
MMK_OF_X(hardswish)
MMK_OF_X(mish)
MMK_OF_X(quick_gelu)
#undef MMK_OF_X
#define MMK_OF_X_AND_GY(name)                                                                                          \
    void name(const UnaryGrad& op, Context& context) {                                                                 \
        elementwise(context, [](auto x, auto gy) { return mmk::MMK_ISA::name(x, gy); }, op.gx, op.x, op.gy);           \
    }
MMK_OF_X_AND_GY(hardsigmoid_grad)
MMK_OF_X_AND_GY(hardswish_grad)
MMK_OF_X_AND_GY(mish_grad)
MMK_OF_X_AND_GY(quick_gelu_grad)
#undef MMK_OF_X_AND_GY

void hardtanh(const Hardtanh& op, Context& context) {
    elementwise(
        context,
        [&op]<class T>(Vec<T> x) { return mmk::MMK_ISA::hardtanh(x, Vec<T>(T(op.min_val)), Vec<T>(T(op.max_val))); },
        op.y, op.x);
}
void hardtanh_grad(const HardtanhGrad& op, Context& context) {
    elementwise(
        context,
        [&op]<class T>(Vec<T> x, Vec<T> gy) {
            return mmk::MMK_ISA::hardtanh_grad(x, gy, Vec<T>(T(op.min_val)), Vec<T>(T(op.max_val)));
        },
        op.gx, op.x, op.gy);
}
void relu6(const Unary& op, Context& context) { hardtanh(Hardtanh{op.x, op.y, 0, 6}, context); }
void relu6_grad(const UnaryGrad& op, Context& context) {
    hardtanh_grad(HardtanhGrad{op.x, op.gy, op.gx, 0, 6}, context);
}

void softplus(const Softplus& op, Context& context) {
    elementwise(
        context,
        [&op]<class T>(Vec<T> x) { return mmk::MMK_ISA::softplus(x, Vec<T>(T(op.beta)), Vec<T>(T(op.threshold))); },
        op.y, op.x);
}
void softplus_grad(const SoftplusGrad& op, Context& context) {
    elementwise(
        context,
        [&op]<class T>(Vec<T> x, Vec<T> gy) {
            return mmk::MMK_ISA::softplus_grad(x, gy, Vec<T>(T(op.beta)), Vec<T>(T(op.threshold)));
        },
        op.gx, op.x, op.gy);
}

void elu(const Elu& op, Context& context) {
    elementwise(
        context,
        [&op]<class T>(Vec<T> x) {
            return mmk::MMK_ISA::elu(x, Vec<T>(T(op.scale)), Vec<T>(T(op.alpha * op.scale)), Vec<T>(T(op.input_scale)));
        },
        op.y, op.x);
}
void elu_grad(const EluGrad& op, Context& context) {
    elementwise(
        context,
        [&op]<class T>(Vec<T> x, Vec<T> gy) {
            return mmk::MMK_ISA::elu_grad(x, gy, Vec<T>(T(op.scale)), Vec<T>(T(op.alpha * op.scale * op.input_scale)),
                                          Vec<T>(T(op.input_scale)));
        },
        op.gx, op.x, op.gy);
}

} // namespace mmk::cpu::MMK_ISA
