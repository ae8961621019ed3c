#include "../ops/diffusion.h"

#include "../core/orders.h"
#include "../core/philox.h"
#include "layout.cuh"
#include "samples.cuh"

namespace mmk::cuda {
namespace {

// As wide as an access, and whole counters of drawn noise.
template <class T> inline constexpr int pack_of = wide_pack<T> > 4 ? wide_pack<T> : 4;

enum Column { g1, g2, p, q, lo, hi, A, B, E, C1, C2, C3, C4, s, ka, kb, ha, hb, hc, columns };
enum Input { x, y0, y1, y2, h1, h2, h3, h4, noise, known, inputs };

// What the kernels are given; null is what was not given. Elements of a sample lie side by side in `packed` kernels,
// else where `order` says.
template <class T> struct Step {
    Deal deal;
    const T* in[inputs];
    T *x_next, *history;
    Walk<1> order;
    int64_t sample_stride;
    const T* rows;
    int64_t row_stride, column_stride;
    const int64_t* steps; // of samples, among `row_count` rows; null: row n is sample n's
    int64_t step_stride, row_count;
    const uint64_t* keys;
    int64_t key_stride;
    const T* mask; // as it lies: extents that it repeats over have no stride
    Walk<1> mask_order;
    int64_t mask_sample;
    bool mask_in_packs; // packs of elements have packs of the mask

    MMK_MEMBER int64_t mask_offset(int64_t sample, int64_t i) const {
        int64_t at[1];
        mask_order.offsets(i, at);
        return sample * mask_sample + at[0];
    }
    MMK_MEMBER int64_t offset(int64_t sample, int64_t i) const {
        int64_t at[1];
        order.offsets(i, at);
        return sample * sample_stride + at[0];
    }
};

// What a kernel is compiled for. DDPM, DDIM and Euler steps, guided or not, with drawn noise or none, take half the
// registers of a step that might have everything.
enum class Form { plain, any };
constexpr bool may_have(Form form, Input input) { return form == Form::any || input <= y1; }

// Blocks that a multiprocessor is to hold.
template <Form form, class T> inline constexpr int blocks_of = form == Form::any ? (sizeof(T) == 4 ? 2 : 1)
                                                               : sizeof(T) == 4  ? 4
                                                                                 : 3;

// An element in the order that ops/diffusion.h gives. z is its noise.
template <Form form, class T, class Given>
__device__ inline void make_element(const Step<T>& step, const Compute<T> (&row)[columns], const Given& given,
                                    Compute<T> z, Compute<T> m, T& x_next, T& history) {
    using C = Compute<T>;
    const auto has = [&](Input input) { return may_have(form, input) && step.in[input]; };
    const C vx = given(x);
    C y = given(y0);
    if (has(y1)) {
        const C second = given(y1);
        y = fma_scalar(row[g1], second - y, y);
        if (has(y2)) y = fma_scalar(row[g2], given(y2) - second, y);
    }
    C sample = fma_scalar(row[p], vx, row[q] * y);
    sample = sample < row[lo] ? row[lo] : sample;
    sample = sample > row[hi] ? row[hi] : sample;
    if (form == Form::any && step.history)
        history = narrow<T>(fma_scalar(row[hc], y, fma_scalar(row[hb], sample, row[ha] * vx)));
    C next = fma_scalar(row[E], y, fma_scalar(row[B], sample, row[A] * vx));
    if (has(h1)) next = fma_scalar(row[C1], given(h1), next);
    if (has(h2)) next = fma_scalar(row[C2], given(h2), next);
    if (has(h3)) next = fma_scalar(row[C3], given(h3), next);
    if (has(h4)) next = fma_scalar(row[C4], given(h4), next);
    const bool noisy = step.keys || has(noise);
    if (noisy) next = fma_scalar(row[s], z, next);
    if (has(known)) {
        C kept = row[ka] * given(known);
        if (noisy) kept = fma_scalar(row[kb], z, kept);
        next = m * kept + (C(1) - m) * next;
    }
    x_next = narrow<T>(next);
}

// Noise of elements i .. i + 3.
template <class T> __device__ inline void draw_noise(const Step<T>& step, uint64_t key, int64_t i, float (&drawn)[4]) {
    if (step.keys) philox_normal(key, uint64_t(i) / 4 + (MMK_DEFECT(diffusion_counter) ? 1 : 0), drawn);
}

// Side by side. Everything is asked for before the noise is drawn, which takes as long as memory does.
template <Form form, class T, int N> __device__ inline void
make_pack(const Step<T>& step, const Compute<T> (&row)[columns], uint64_t key, int64_t sample, int64_t i) {
    using C = Compute<T>;
    const int64_t left = step.deal.size - i, at = sample * step.sample_stride + i;
    Pack<T, N> in[inputs], mask, x_next, history;
#pragma unroll
    for (int k = 0; k < inputs; ++k)
        if (may_have(form, Input(k)) && step.in[k]) load_some<true>(in[k], step.in[k] + at, left);
    if (form == Form::any && step.mask) {
        if (step.mask_in_packs)
            load_some<true>(mask, step.mask + step.mask_offset(sample, i), N);
        else
            for (int k = 0; k < N; ++k)
                if (k < left) mask.at[k] = step.mask[step.mask_offset(sample, i + k)];
    }
#pragma unroll
    for (int counter = 0; counter < N; counter += 4) {
        float drawn[4];
        draw_noise(step, key, i + counter, drawn);
#pragma unroll
        for (int k = counter; k < counter + 4; ++k) {
            const auto given = [&](Input input) { return widen(in[input].at[k]); };
            C z(0), m(0);
            if (step.keys)
                z = C(drawn[k - counter]);
            else if (may_have(form, noise) && step.in[noise])
                z = given(noise);
            if (form == Form::any && step.mask) m = widen(mask.at[k]);
            make_element<form>(step, row, given, z, m, x_next.at[k], history.at[k]);
        }
    }
    store_some<true>(step.x_next + at, x_next, left);
    if (form == Form::any && step.history) store_some<true>(step.history + at, history, left);
}

// Anywhere, one element after another.
template <class T> __device__ inline void make_elements(const Step<T>& step, const Compute<T> (&row)[columns],
                                                        uint64_t key, int64_t sample, int64_t i) {
    using C = Compute<T>;
    float drawn[4];
    draw_noise(step, key, i, drawn);
#pragma unroll
    for (int k = 0; k < 4; ++k) {
        if (i + k >= step.deal.size) return;
        const int64_t at = step.offset(sample, i + k);
        const auto given = [&](Input input) { return widen(step.in[input][at]); };
        const C z = step.keys ? C(drawn[k]) : step.in[noise] ? given(noise) : C(0);
        const C m = step.mask ? widen(step.mask[step.mask_offset(sample, i + k)]) : C(0);
        T next, history;
        make_element<Form::any>(step, row, given, z, m, next, history);
        step.x_next[at] = next;
        if (step.history) step.history[at] = history;
    }
}

// Results of a sample whose step is not in the table.
template <class T, int N> __device__ inline void make_zeros(const Step<T>& step, int64_t sample, int64_t i) {
    for (int k = 0; k < N && i + k < step.deal.size; ++k) {
        const int64_t at = step.offset(sample, i + k);
        step.x_next[at] = narrow<T>(Compute<T>(0));
        if (step.history) step.history[at] = narrow<T>(Compute<T>(0));
    }
}

// The whole step: every operand is read once, every result written once.
template <Form form, class T, int N, bool packed> __global__ void __launch_bounds__(deal_threads, blocks_of<form, T>)
    make_step(Step<T> step) {
    for_dealt<N>(step.deal, [&](int64_t sample, int64_t i, int64_t advance, int64_t end) {
        int64_t of = MMK_DEFECT(diffusion_first_row) ? 0 : sample;
        if (step.steps) {
            of = step.steps[sample * step.step_stride];
            if (uint64_t(of) >= uint64_t(step.row_count)) {
                for (; i < end; i += advance) make_zeros<T, packed ? N : 4>(step, sample, i);
                return;
            }
        }
        Compute<T> row[columns];
#pragma unroll
        for (int k = 0; k < columns; ++k) row[k] = widen(step.rows[of * step.row_stride + k * step.column_stride]);
        uint64_t key = step.keys ? step.keys[sample * step.key_stride] : 0;
        if (step.keys && step.steps && !MMK_DEFECT(diffusion_unfolded_key)) key = philox_fold_in(key, uint64_t(of));
        for (; i < end; i += advance)
            if constexpr (packed)
                make_pack<form, T, N>(step, row, key, sample, i);
            else
                make_elements(step, row, key, sample, i);
    });
}

template <class T, int N, bool packed> __global__ void __launch_bounds__(deal_threads)
    mix(Deal deal, const T* x, const T* noise, const T* alpha, int64_t alpha_stride, const T* sigma,
        int64_t sigma_stride, T* y) {
    for_dealt<N>(deal, [&](int64_t sample, int64_t i, int64_t step, int64_t end) {
        const Compute<T> a = widen(alpha[sample * alpha_stride]), b = widen(sigma[sample * sigma_stride]);
        for (; i < end; i += step) {
            const int64_t at = sample * deal.size + i, left = deal.size - i;
            Pack<T, N> of_x, of_noise, mixed;
            load_some<packed>(of_x, x + at, left);
            load_some<packed>(of_noise, noise + at, left);
#pragma unroll
            for (int k = 0; k < N; ++k)
                if (packed || k < left)
                    mixed.at[k] = narrow<T>(fma_scalar(b, widen(of_noise.at[k]), a * widen(of_x.at[k])));
            store_some<packed>(y + at, mixed, left);
        }
    });
}

// ---- operands ---------------------------------------------------------------------------------------------------

// One of N per sample, or one for all.
int64_t step_of(const Tensor& t) { return t.extent[0] == 1 ? 0 : t.stride[0]; }

// The elements of one sample of a tensor, extents as in `like`.
Walk<1> walk_of_sample(const Tensor& t, const Tensor& like) {
    Tensor sample = t;
    sample.rank = like.rank - 1;
    for (int i = 0; i < sample.rank; ++i) {
        sample.extent[i] = like.extent[i + 1];
        sample.stride[i] = t.extent[i + 1] == 1 ? 0 : t.stride[i + 1];
    }
    const Tensor* const one[1] = {&sample};
    return walk_of(one);
}

template <class T> void place_mask(Step<T>& step, const Tensor& mask, const Tensor& like) {
    constexpr int N = pack_of<T>;
    step.mask = static_cast<const T*>(mask.data);
    step.mask_order = walk_of_sample(mask, like);
    step.mask_sample = MMK_DEFECT(diffusion_first_mask) ? 0 : step_of(mask);
    const Walk<1>& walk = step.mask_order;
    const int last = walk.rank - 1;
    step.mask_in_packs = last >= 0 && walk.stride[0][last] == 1 && walk.extent[last] % N == 0 &&
                         aligned(step.mask, 16) && step.mask_sample % N == 0;
    for (int i = 0; i < last; ++i) step.mask_in_packs &= walk.stride[0][i] % N == 0;
}

// A step, but for where its operands lie.
template <class T> Step<T> describe(const DiffusionStep& op) {
    Step<T> step{};
    const Tensor& table = op.table ? op.table : op.coefficients;
    step.rows = static_cast<const T*>(table.data);
    step.row_stride = op.table ? table.stride[0] : step_of(table), step.column_stride = table.stride[1];
    step.row_count = table.extent[0];
    step.steps = static_cast<const int64_t*>(op.step.data), step.step_stride = op.step ? step_of(op.step) : 0;
    step.keys = static_cast<const uint64_t*>(op.keys.data), step.key_stride = op.keys.stride[0];
    if (op.mask) place_mask(step, op.mask, op.x);
    return step;
}
template <class T> void launch_step(Context& context, const Step<T>& step, bool packed) {
    constexpr int N = pack_of<T>;
    bool plain = !step.mask && !step.history;
    for (const Input input : {y2, h1, h2, h3, h4, noise}) plain &= !step.in[input];
    const dim3 grid = grid_of(step.deal.blocks);
    if (!packed)
        MMK_LAUNCH(context, (make_step<Form::any, T, 4, false>), grid, deal_threads, 0, step);
    else if (plain)
        MMK_LAUNCH(context, (make_step<Form::plain, T, N, true>), grid, deal_threads, 0, step);
    else
        MMK_LAUNCH(context, (make_step<Form::any, T, N, true>), grid, deal_threads, 0, step);
}
// All operands lie in one dense order.
template <class T>
void launch_side_by_side(Context& context, Step<T>& step, const DiffusionStep& op, int64_t samples, int64_t size) {
    const bool one_row = (op.step ? step.step_stride : step.row_stride) == 0;
    if (!step.keys && !step.mask && one_row) size *= samples, samples = 1; // nothing tells them apart
    step.order.rank = 1, step.order.extent[0] = size, step.order.stride[0][0] = 1, step.sample_stride = size;
    bool packed = (size % pack_of<T> == 0 || samples == 1) && aligned(step.x_next, 16) && aligned(step.history, 16);
    for (const T* const in : step.in) packed &= aligned(in, 16);
    step.deal = deal_out(context, samples, size, packed ? pack_of<T> : 4);
    launch_step(context, step, packed);
}

template <class T> void run_step(const DiffusionStep& op, Context& context) {
    const Tensor* const all[inputs + 2] = {&op.x,  &op.y0, &op.y1,    &op.y2,    &op.h1,     &op.h2,
                                           &op.h3, &op.h4, &op.noise, &op.known, &op.x_next, &op.history};
    Step<T> step = describe<T>(op);
    const int64_t samples = op.x.extent[0], size = op.x.size(1, op.x.rank);
    if (!all_in_order_of(op.x_next, all, inputs + 2)) {
        context.chose("copies", "operands lie in different orders");
        for (int k = 0; k < inputs; ++k) step.in[k] = Dense<T>(context, *all[k]);
        DenseOut<T> x_next(context, op.x_next), history(context, op.history);
        step.x_next = x_next, step.history = history;
        launch_side_by_side(context, step, op, samples, size);
        x_next.finish();
        return history.finish();
    }
    for (int k = 0; k < inputs; ++k) step.in[k] = static_cast<const T*>(all[k]->data);
    step.x_next = static_cast<T*>(op.x_next.data), step.history = static_cast<T*>(op.history.data);
    // Where nothing asks for the logical index, memory order is as good.
    if (op.x_next.contiguous() || (!op.keys && !op.mask && dense_samples(op.x_next))) {
        context.chose("in place", "all operands lie in one dense order");
        return launch_side_by_side(context, step, op, samples, size);
    }
    context.chose("strided", "all operands lie in one order, and the noise or the mask in another");
    step.order = walk_of_sample(op.x_next, op.x), step.sample_stride = op.x_next.stride[0];
    step.deal = deal_out(context, samples, size, 4);
    launch_step(context, step, false);
}

} // namespace

void add_noise(const AddNoise& op, Context& context) {
    visit_storage(op.y.dtype, [&](auto type) {
        using T = typename decltype(type)::type;
        constexpr int N = wide_pack<T>;
        int64_t samples = op.x.extent[0], size = op.x.size(1, op.x.rank);
        const int64_t alpha_step = step_of(op.alpha), sigma_step = step_of(op.sigma);
        const T *const alpha = static_cast<const T*>(op.alpha.data), *const sigma =
                                                                         static_cast<const T*>(op.sigma.data);
        const auto run = [&](const T* x, const T* noise, T* y) {
            if (alpha_step == 0 && sigma_step == 0) size *= samples, samples = 1;
            const Deal deal = deal_out(context, samples, size, N);
            if ((size % N == 0 || samples == 1) && aligned(x, 16) && aligned(noise, 16) && aligned(y, 16))
                MMK_LAUNCH(context, (mix<T, N, true>), grid_of(deal.blocks), deal_threads, 0, deal, x, noise, alpha,
                           alpha_step, sigma, sigma_step, y);
            else
                MMK_LAUNCH(context, (mix<T, N, false>), grid_of(deal.blocks), deal_threads, 0, deal, x, noise, alpha,
                           alpha_step, sigma, sigma_step, y);
        };
        const Tensor* const all[] = {&op.x, &op.noise};
        if (dense_samples(op.y) && all_in_order_of(op.y, all, 2)) {
            context.chose("in place", "all operands lie in one dense order");
            return run(static_cast<const T*>(op.x.data), static_cast<const T*>(op.noise.data),
                       static_cast<T*>(op.y.data));
        }
        context.chose("copies", "operands lie in different orders");
        const Dense<T> x(context, op.x), noise(context, op.noise);
        DenseOut<T> y(context, op.y);
        run(x, noise, y);
        y.finish();
    });
}

void diffusion_step(const DiffusionStep& op, Context& context) {
    visit_storage(op.x_next.dtype, [&](auto type) { run_step<typename decltype(type)::type>(op, context); });
}

} // namespace mmk::cuda
