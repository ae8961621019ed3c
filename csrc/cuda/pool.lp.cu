// Lp pooling and its gradient.
#include "../ops/pool.h"

#include "pool.volumes.cuh"

namespace mmk::cuda {
namespace {

enum class Norm { one, two, any, maximum };
template <class C> struct NormType {
    Norm norm;
    C p;
    explicit NormType(double type)
        : norm(type == 1      ? Norm::one
               : type == 2    ? Norm::two
               : type > 1e308 ? Norm::maximum
                              : Norm::any),
          p(C(type)) {}

    __device__ C add(C sum, C x) const {
        const C magnitude = abs(Vec<C>(x)).v;
        if (norm == Norm::two) return sum + x * x;
        if (norm == Norm::one) return sum + magnitude;
        if (norm == Norm::maximum) return magnitude > sum || magnitude != magnitude ? magnitude : sum;
        return sum + exp(Vec<C>(p * log(Vec<C>(magnitude)).v)).v;
    }
    __device__ C root(C sum) const {
        if (norm == Norm::two && !MMK_DEFECT(pool_lp_root)) return sqrt(Vec<C>(sum)).v;
        if (norm == Norm::any) return exp(Vec<C>(log(Vec<C>(sum)).v / p)).v;
        return sum;
    }
    // What a window of norm y adds to the gradient at x.
    __device__ C term(C gradient, C x, C y) const {
        if (norm == Norm::one) return gradient * (x > C(0) ? C(1) : x < C(0) ? C(-1) : x + C(0));
        if (norm == Norm::two) return y == C(0) ? C(0) : gradient * (x / y);
        const C slope = exp(Vec<C>((p - C(1)) * log(Vec<C>(abs(Vec<C>(x)).v / y)).v)).v;
        return y == C(0) || x == C(0) ? C(0) : gradient * (x < C(0) && !MMK_DEFECT(pool_lp_sign) ? -slope : slope);
    }
};

template <class T, int V> __global__ void __launch_bounds__(place_threads, 2)
    norm_volumes(Volume<T> v, NormType<Compute<T>> type) {
    using C = Compute<T>;
    for_results(v, [&](const Place5& place, const Reach(&reach)[3]) {
        Sums<C, V> sum;
        each_read<1>(place, reach, v.from_strides, [&](int64_t at, int64_t, int64_t, int64_t) {
            const Pack<T, V>& taps = pack_at<T, V>(v.from + at);
#pragma unroll
            for (int k = 0; k < V; ++k) sum.at[k] = type.add(sum.at[k], widen(taps.at[k]));
        });
#pragma unroll
        for (int k = 0; k < V; ++k) sum.at[k] = type.root(sum.at[k]);
        sum.store(v.to + place.in(v.to_strides));
    });
}

template <class T> struct Beside {
    const T *x, *y; // elements beside the results; windows beside what is read
    Strides5 x_strides, y_strides;
};
template <class T, int V> __global__ void __launch_bounds__(place_threads, 2)
    norm_gradients(Volume<T> v, Beside<T> beside, NormType<Compute<T>> type) {
    using C = Compute<T>;
    for_results(v, [&](const Place5& place, const Reach(&reach)[3]) {
        const Pack<T, V> x = pack_at<T, V>(beside.x + place.in(beside.x_strides));
        Sums<C, V> sum;
        each_read<1>(place, reach, v.from_strides, [&](int64_t at, int64_t o, int64_t p, int64_t q) {
            const Place5 window{place.n, place.c, {o, p, MMK_DEFECT(pool_lp_window) ? 0 : q}};
            const Pack<T, V>&gradient = pack_at<T, V>(v.from + at),
                          &y = pack_at<T, V>(beside.y + window.in(beside.y_strides));
#pragma unroll
            for (int k = 0; k < V; ++k)
                sum.at[k] = sum.at[k] + type.term(widen(gradient.at[k]), widen(x.at[k]), widen(y.at[k]));
        });
        sum.store(v.to + place.in(v.to_strides));
    });
}

void lp_pool(const LpPool& op, Context& context) {
    PoolAxis axes[3];
    window_axes(op, op.x, op.y, axes);
    const Tables tables = make_tables(context, axes, false);
    const Tensor x = as_volume(op.x), y = as_volume(op.y);
    visit_storage(y.dtype, [&](auto type) {
        using T = typename decltype(type)::type;
        const bool packs = in_packs<T>(context, x, y);
        const Volume<T> v = volume_of<T>(tables, x, y, packs);
        launch_packs<T>(packs, [&](auto pack) {
            MMK_LAUNCH(context, (norm_volumes<T, decltype(pack)::value>), grid_of_results(v.order), place_threads, 0, v,
                       NormType<Compute<T>>(op.norm_type));
        });
    });
}

} // namespace

void lp_pool1d(const LpPool& op, Context& context) { lp_pool(op, context); }
void lp_pool2d(const LpPool& op, Context& context) { lp_pool(op, context); }
void lp_pool3d(const LpPool& op, Context& context) { lp_pool(op, context); }

void lp_pool_grad(const LpPoolGrad& op, Context& context) {
    PoolAxis axes[3];
    window_axes(op, op.gx, op.gy, axes);
    const Tables tables = make_tables(context, axes, true);
    const Tensor gy = as_volume(op.gy), x = as_volume(op.x), y = as_volume(op.y), gx = as_volume(op.gx);
    visit_storage(gx.dtype, [&](auto type) {
        using T = typename decltype(type)::type;
        const bool packs = in_packs<T>(context, gy, gx, x, y);
        const Volume<T> v = volume_of<T>(tables, gy, gx, packs);
        const Beside<T> beside{static_cast<const T*>(x.data), static_cast<const T*>(y.data), Strides5(x), Strides5(y)};
        launch_packs<T>(packs, [&](auto pack) {
            MMK_LAUNCH(context, (norm_gradients<T, decltype(pack)::value>), grid_of_results(v.order), place_threads, 0,
                       v, beside, NormType<Compute<T>>(op.norm_type));
        });
    });
}

} // namespace mmk::cuda
