// Stochastic pooling.
#include "../ops/pool.h"

#include "../core/philox.h"
#include "pool.kernels.h"

namespace mmk::cpu::MMK_ISA {
namespace {

// Element i of a sample's noise, for each result in logical order.
const float* uniforms_of(Context& context, const StochasticPool& op) {
    const int64_t samples = op.y.extent[0], size = op.y.size(1, op.y.rank),
                  blocks = (size + philox_block - 1) / philox_block;
    float* const noise = context.scratch<float>(samples * size);
    const uint64_t* const keys = static_cast<const uint64_t*>(op.keys.data);
    parallel_ranges(context, samples * blocks, 128, [&](int64_t begin, int64_t end, int) {
        for (int64_t task = begin; task < end; ++task) {
            const int64_t sample = task / blocks, first = task % blocks * philox_block;
            F32x16 values[4];
            philox_uniform(PhiloxKey(keys[sample * op.keys.stride[0]]), uint64_t(first) / 4, values);
            for (int j = 0; j < 4 && first + j * lanes < size; ++j)
                values[j].store(noise + sample * size + first + j * lanes, size - first - j * lanes);
        }
    });
    return noise;
}

template <class T, class I> struct DrawOf {
    const float* noise; // [plane][result]
    template <bool neighbours>
    MMK_FLATTEN void operator()(const Window<T, neighbours>& w, T* to, int64_t* places) const {
        const Vec<T> zero = Vec<T>::zero();
        T u[lanes] = {};
        for (int64_t k = 0; k < w.results(); ++k) u[k] = T(1) - T(noise[w.result(k)]);
        const Vec<I> shifts = w.template shifts<I>();
        Vec<T> sum = zero;
        w.each([&](int64_t i, int64_t, int64_t, int64_t) { sum = sum + relu(w.load(i)); });
        const Vec<T> threshold = Vec<T>::load(u) * sum;
        Vec<T> drawn = zero, running = zero;
        Vec<I> place(I(-1));
        Mask<T> open = zero == zero;
        w.each([&](int64_t i, int64_t, int64_t, int64_t) {
            const Vec<T> v = w.load(i), weight = relu(v);
            running = running + weight;
            const Mask<T> take = open & (((weight > zero) & (running >= threshold)) | (v != v));
            drawn = select(take, v, drawn);
            place = select(convert<I>(take), neighbours ? Vec<I>(I(i)) + shifts : Vec<I>(I(i)), place);
            open = open & ~take;
        });
        drawn.store(to, w.lanes_used);
        if (!places) return;
        I found[lanes];
        place.store(found);
        for (int64_t k = 0; k < w.lanes_used; ++k) places[k] = found[k];
    }
};

template <class T> struct ExpectationOf {
    template <bool neighbours> MMK_FLATTEN void operator()(const Window<T, neighbours>& w, T* to, int64_t*) const {
        const Vec<T> zero = Vec<T>::zero();
        Vec<T> squares = zero, sum = zero;
        w.each([&](int64_t i, int64_t, int64_t, int64_t) {
            const Vec<T> weight = relu(w.load(i));
            squares = squares + weight * weight, sum = sum + weight;
        });
        select(sum == zero, zero, squares / sum).store(to, w.lanes_used);
    }
};

void stochastic_pool(const StochasticPool& op, Context& context) {
    visit_float(op.y.dtype, [&](auto zero) {
        using T = decltype(zero);
        Axis3 axes;
        window_axes(op, op.x, op.y, axes);
        const Pooled p{
            {as_volume(op.x), Tensor()}, Tensor(), as_volume(op.y), op.indices ? as_volume(op.indices) : Tensor()};
        if (!op.training) return pool_forward<T>(context, axes, p, ExpectationOf<T>());
        const float* const noise = uniforms_of(context, op);
        const double size = double(axes[0].extent) * double(axes[1].extent) * double(axes[2].extent);
        if (sizeof(T) == 8 || size >= 0x1p31)
            pool_forward<T>(context, axes, p, DrawOf<T, int64_t>{noise});
        else
            pool_forward<T>(context, axes, p, DrawOf<T, int32_t>{noise});
    });
}

} // namespace

void stochastic_pool1d(const StochasticPool& op, Context& context) { stochastic_pool(op, context); }
void stochastic_pool2d(const StochasticPool& op, Context& context) { stochastic_pool(op, context); }
void stochastic_pool3d(const StochasticPool& op, Context& context) { stochastic_pool(op, context); }

} // namespace mmk::cpu::MMK_ISA
