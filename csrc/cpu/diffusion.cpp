#include "../ops/diffusion.h"

#include "../core/layout.h"
#include "../core/orders.h"
#include "../core/philox.h"

namespace mmk::cpu::MMK_ISA {

using namespace mmk::MMK_ISA;

namespace {

constexpr int64_t grain = 16384; // elements for which a second thread pays; with drawn noise half of it
constexpr int64_t block = 1024;  // elements of one sample that stay together
constexpr int vectors = 4, group = vectors * lanes;
static_assert(group == philox_block && block % group == 0);

void make_contiguous(Tensor& t) {
    int64_t stride = 1;
    for (int i = t.rank - 1; i >= 0; --i) {
        t.stride[i] = stride;
        stride *= t.extent[i];
    }
}
// Where all lie in one dense order, that order is as good as the logical one.
bool take_memory_order(Tensor* const* tensors, int count) {
    const Tensor& first = *tensors[0];
    if (first.contiguous() || !dense_samples(first) || !all_in_order_of(first, tensors, count)) return false;
    for (int i = 0; i < count; ++i) make_contiguous(*tensors[i]);
    return true;
}

// body(sample, first, last): elements [first, last) of a sample, first being a multiple of the block.
template <class Body> void for_blocks(Context& context, int64_t samples, int64_t size, int64_t grain, Body&& body) {
    const int64_t blocks = (size + block - 1) / block;
    const int64_t blocks_per_grain = 1 + grain / (1 + (size < block ? size : block));
    parallel_ranges(context, samples * blocks, blocks_per_grain, [&](int64_t begin, int64_t end, int) {
        for (int64_t index = begin; index < end; ++index) {
            const int64_t first = index % blocks * block;
            body(index / blocks, first, first + block < size ? first + block : size);
        }
    });
}

enum Column { g1, g2, p, q, lo, hi, A, B, E, C1, C2, C3, C4, s, ka, kb, ha, hb, hc, reserved, columns };
enum Input { x, y0, y1, y2, h1, h2, h3, h4, noise, known, mask, inputs };

template <class T> struct Sample {
    const T* in[inputs]; // null: not given
    T *x_next, *history;
};

// 64 elements of a sample's noise from i on.
template <class T> MMK_INLINE void draw(const PhiloxKey& key, int64_t i, T* to) {
    F32x16 values[vectors];
    philox_normal(key, uint64_t(i) / 4, values);
#pragma GCC unroll 4
    for (int j = 0; j < vectors; ++j) {
        if constexpr (std::is_same_v<T, float>)
            values[j].store(to + j * lanes);
        else
            convert<T>(values[j]).store(to + j * lanes);
    }
}

// 16 elements from i on; z and masks are already theirs, null if there are none.
template <class T> MMK_INLINE void step(const Sample<T>& at, int64_t i, const T* z, const T* masks, const T* row) {
    using V = Vec<T>;
    const auto given = [&](Input input) { return V::load(at.in[input] + i); };
    const auto factor = [&](int column) { return V(row[column]); };
    const V vx = given(x);
    V y = given(y0);
    if (at.in[y1]) {
        const V second = given(y1);
        y = fma(factor(g1), second - y, y);
        if (at.in[y2]) y = fma(factor(g2), given(y2) - second, y);
    }
    const V sample = clamp(fma(factor(p), vx, factor(q) * y), factor(lo), factor(hi));
    if (at.history) fma(factor(hc), y, fma(factor(hb), sample, factor(ha) * vx)).store(at.history + i);
    V next = fma(factor(E), y, fma(factor(B), sample, factor(A) * vx));
    if (at.in[h1]) next = fma(factor(C1), given(h1), next);
    if (at.in[h2]) next = fma(factor(C2), given(h2), next);
    if (at.in[h3]) next = fma(factor(C3), given(h3), next);
    if (at.in[h4]) next = fma(factor(C4), given(h4), next);
    if (z) next = fma(factor(s), V::load(z), next);
    if (masks) {
        const V m = V::load(masks);
        V kept = factor(ka) * given(known);
        if (z) kept = fma(factor(kb), V::load(z), kept);
        next = m * kept + (V(T(1)) - m) * next;
    }
    next.store(at.x_next + i);
}
template <class T>
MMK_INLINE void step_group(const Sample<T>& at, int64_t i, const T* z, const T* masks, const T* row) {
    for (int j = 0; j < group; j += lanes) step(at, i + j, z ? z + j : z, masks ? masks + j : masks, row);
}

template <class T> void step_kernel(const Sample<T>& at, int64_t first, int64_t last, int64_t mask_period, const T* row,
                                    const PhiloxKey* key) {
    int64_t phase = at.in[mask] ? first % mask_period : 0;
    for (int64_t i = first; i < last; i += group) {
        const int64_t n = last - i < group ? last - i : group;
        alignas(64) T drawn[group], repeated[group];
        const T *z = nullptr, *masks = nullptr;
        if (key) {
            draw(*key, i, drawn);
            z = drawn;
        } else if (at.in[noise])
            z = at.in[noise] + i;
        if (at.in[mask]) {
            if (phase + group <= mask_period)
                masks = at.in[mask] + phase;
            else {
                for (int64_t k = 0; k < group; ++k) repeated[k] = at.in[mask][(phase + k) % mask_period];
                masks = repeated;
            }
            phase = phase + group < mask_period ? phase + group : (phase + group) % mask_period;
        }
        if (n == group) {
            step_group(at, i, z, masks, row);
            continue;
        }
        // The last elements of a sample pass through a group of their own.
        alignas(64) T memory[inputs + 2][group] = {};
        Sample<T> part{};
        for (int k = 0; k < inputs; ++k)
            if (at.in[k] && k != mask) {
                std::memcpy(memory[k], at.in[k] + i, size_t(n) * sizeof(T));
                part.in[k] = memory[k];
            }
        part.x_next = memory[inputs];
        part.history = at.history ? memory[inputs + 1] : nullptr;
        step_group(part, 0, key ? z : part.in[noise], masks, row);
        std::memcpy(at.x_next + i, part.x_next, size_t(n) * sizeof(T));
        if (at.history) std::memcpy(at.history + i, part.history, size_t(n) * sizeof(T));
    }
}

template <class T> void add_noise_kernel(const T* x, const T* noise, T alpha, T sigma, T* y, int64_t n) {
    const Vec<T> a(alpha), s(sigma);
    int64_t i = 0;
    for (; i + lanes <= n; i += lanes) fma(s, Vec<T>::load(noise + i), a * Vec<T>::load(x + i)).store(y + i);
    if (i < n) fma(s, Vec<T>::load(noise + i, n - i), a * Vec<T>::load(x + i, n - i)).store(y + i, n - i);
}

// A mask as it lies: [samples or 1][period], the period being the trailing extents that it does not repeat over.
struct Mask {
    Tensor values;
    int64_t period, sample_stride;
};
Mask mask_as_it_lies(const Tensor& mask) {
    Mask m{mask, 1, 0};
    int axis = 1;
    while (axis < mask.rank && (mask.extent[axis] == 1 || mask.stride[axis] == 0)) m.values.extent[axis++] = 1;
    for (; axis < mask.rank; ++axis) m.period *= mask.extent[axis];
    if (mask.stride[0] == 0)
        m.values.extent[0] = 1;
    else
        m.sample_stride = m.period;
    return m;
}

} // namespace

void add_noise(const AddNoise& given, Context& context) {
    AddNoise op = given;
    Tensor* const tensors[] = {&op.x, &op.noise, &op.y};
    if (take_memory_order(tensors, 3)) context.chose("memory order", "all operands lie in one dense order");
    visit_float(op.y.dtype, [&](auto zero) {
        using T = decltype(zero);
        const Dense<T> x(context, op.x), noise(context, op.noise);
        const DenseOut<T> y(context, op.y);
        const T *const alpha = static_cast<const T*>(op.alpha.data), *const sigma =
                                                                         static_cast<const T*>(op.sigma.data);
        const int64_t samples = op.x.extent[0], size = op.x.size(1, op.x.rank);
        for_blocks(context, samples, size, grain, [&](int64_t sample, int64_t first, int64_t last) {
            const int64_t at = sample * size + first;
            add_noise_kernel(x + at, noise + at, alpha[sample * op.alpha.stride[0]], sigma[sample * op.sigma.stride[0]],
                             y + at, last - first);
        });
    });
}

void diffusion_step(const DiffusionStep& given, Context& context) {
    DiffusionStep op = given;
    Tensor* const tensors[] = {&op.x,  &op.y0, &op.y1,    &op.y2,    &op.h1,     &op.h2,
                               &op.h3, &op.h4, &op.noise, &op.known, &op.x_next, &op.history};
    if (!op.keys && !op.mask && take_memory_order(tensors, 12))
        context.chose("memory order", "all operands lie in one dense order");
    visit_float(op.x_next.dtype, [&](auto zero) {
        using T = decltype(zero);
        Mask masks{};
        if (op.mask) masks = mask_as_it_lies(op.mask);
        const Dense<T> dense[inputs] = {{context, op.x},     {context, op.y0},       {context, op.y1},
                                        {context, op.y2},    {context, op.h1},       {context, op.h2},
                                        {context, op.h3},    {context, op.h4},       {context, op.noise},
                                        {context, op.known}, {context, masks.values}};
        const DenseOut<T> x_next(context, op.x_next), history(context, op.history);
        const Tensor& table = op.table ? op.table : op.coefficients;
        const T* const rows = static_cast<const T*>(table.data);
        const int64_t* const steps = static_cast<const int64_t*>(op.step.data);
        const uint64_t* const keys = static_cast<const uint64_t*>(op.keys.data);
        const int64_t samples = op.x.extent[0], size = op.x.size(1, op.x.rank);
        for_blocks(context, samples, size, keys ? grain / 2 : grain, [&](int64_t sample, int64_t first, int64_t last) {
            Sample<T> at;
            for (int k = 0; k < inputs; ++k)
                at.in[k] = dense[k].get() ? dense[k] + sample * (k == mask ? masks.sample_stride : size) : nullptr;
            at.x_next = x_next + sample * size;
            at.history = history.get() ? history + sample * size : nullptr;
            const int64_t index = steps ? steps[sample * op.step.stride[0]] : sample;
            T row[columns];
            for (int k = 0; k < columns; ++k) row[k] = rows[index * table.stride[0] + k * table.stride[1]];
            uint64_t of = keys ? keys[sample * op.keys.stride[0]] : 0;
            if (keys && steps) of = philox_fold_in(of, uint64_t(index));
            const PhiloxKey key(of);
            step_kernel(at, first, last, masks.period, row, keys ? &key : nullptr);
        });
    });
}

} // namespace mmk::cpu::MMK_ISA
