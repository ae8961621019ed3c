// Lp pooling and its gradient.
#include "../ops/pool.h"

#include "../core/arith.h"
#include "pool.kernels.h"

namespace mmk::cpu::MMK_ISA {
namespace {

enum class Norm { one, two, any, maximum };
Norm norm_of(double p) { return p == 1 ? Norm::one : p == 2 ? Norm::two : p > 1e308 ? Norm::maximum : Norm::any; }

template <class T> struct NormOf {
    Norm norm;
    Vec<T> p;
    template <bool neighbours> MMK_FLATTEN void operator()(const Window<T, neighbours>& w, T* to, int64_t*) const {
        Vec<T> sum = Vec<T>::zero();
        switch (norm) {
        case Norm::one: w.each([&](int64_t i, int64_t, int64_t, int64_t) { sum = sum + abs(w.load(i)); }); break;
        case Norm::two:
            w.each([&](int64_t i, int64_t, int64_t, int64_t) {
                const Vec<T> v = w.load(i);
                sum = sum + v * v;
            });
            sum = sqrt(sum);
            break;
        case Norm::maximum:
            w.each([&](int64_t i, int64_t, int64_t, int64_t) {
                const Vec<T> v = abs(w.load(i));
                sum = select((v > sum) | (v != v), v, sum);
            });
            break;
        case Norm::any:
            w.each([&](int64_t i, int64_t, int64_t, int64_t) { sum = sum + exp(p * log(abs(w.load(i)))); });
            sum = exp(log(sum) / p);
            break;
        }
        sum.store(to, w.lanes_used);
    }
};

// sources: gy and y; own: x.
template <class T> struct NormGradient {
    Norm norm;
    Vec<T> p;
    MMK_FLATTEN void operator()(const Window<T>& w, T* to, int64_t*) const {
        const Vec<T> x = Vec<T>::load(w.own, w.lanes_used), zero = Vec<T>::zero(), magnitude = abs(x);
        Vec<T> sum = zero;
        if (norm == Norm::one) {
            const Vec<T> slope = select(x > zero, Vec<T>(T(1)), select(x < zero, Vec<T>(T(-1)), x + zero));
            w.each([&](int64_t i, int64_t, int64_t, int64_t) { sum = sum + w.load(i) * slope; });
        } else if (norm == Norm::two) {
            w.each([&](int64_t i, int64_t, int64_t, int64_t) {
                const Vec<T> y = w.load(i, 1), gradient = w.load(i);
                sum = sum + select(y == zero, zero, gradient * (x / y));
            });
        } else {
            const Vec<T> power = p - Vec<T>(T(1));
            w.each([&](int64_t i, int64_t, int64_t, int64_t) {
                const Vec<T> y = w.load(i, 1), slope = exp(power * log(magnitude / y));
                const Vec<T> term = w.load(i) * select(x < zero, -slope, slope);
                sum = sum + select((y == zero) | (x == zero), zero, term);
            });
        }
        sum.store(to, w.lanes_used);
    }
};

void lp_pool(const LpPool& op, Context& context) {
    visit_float(op.y.dtype, [&](auto zero) {
        using T = decltype(zero);
        Axis3 axes;
        window_axes(op, op.x, op.y, axes);
        const Pooled p{{as_volume(op.x), Tensor()}, Tensor(), as_volume(op.y), Tensor()};
        pool_forward<T>(context, axes, p, NormOf<T>{norm_of(op.norm_type), Vec<T>(T(op.norm_type))});
    });
}

} // namespace

void lp_pool1d(const LpPool& op, Context& context) { lp_pool(op, context); }
void lp_pool2d(const LpPool& op, Context& context) { lp_pool(op, context); }
void lp_pool3d(const LpPool& op, Context& context) { lp_pool(op, context); }

void lp_pool_grad(const LpPoolGrad& op, Context& context) {
    visit_float(op.gx.dtype, [&](auto zero) {
        using T = decltype(zero);
        Axis3 axes;
        window_axes(op, op.gx, op.gy, axes);
        const Pooled p{{as_volume(op.gy), as_volume(op.y)}, as_volume(op.x), as_volume(op.gx), Tensor()};
        pool_backward<T>(context, axes, p, NormGradient<T>{norm_of(op.norm_type), Vec<T>(T(op.norm_type))});
    });
}

} // namespace mmk::cpu::MMK_ISA
