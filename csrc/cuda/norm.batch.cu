// batch_norm: statistics of a channel over all samples. A segment of 512 elements is held in registers, so that its mean
// and the squares about that come from one read; the joins read a value for each 512. Then one pass writes the result.
#include "../ops/norm.h"

#include "../core/activate.h"
#include "norm.cuh"

namespace mmk::cuda {
namespace {

// ---- each element: y = activation(fma(x - mean, factor, bias)) ----------------------------------------------------------

template <class C> struct alignas(2 * sizeof(C)) ChannelNumbers {
    C mean, factor, bias, rest;
};
template <class C> struct Normalise {
    const ChannelNumbers<C>* all;
    Activation activation;
    __device__ ChannelNumbers<C> numbers(int64_t c) const { return all[c]; }
    __device__ C operator()(const ChannelNumbers<C>& of, C x) const {
        const C y = fma_scalar(x - of.mean, of.factor, of.bias);
        C result = y;
        visit_activation(activation, [&](auto f) { result = f(y); });
        return result;
    }
};
// gx = fma(d, -k2, fma(gy, factor, -k1)); bias holds -k1, rest -k2.
template <class C> struct Gradient {
    const ChannelNumbers<C>* all;
    __device__ ChannelNumbers<C> numbers(int64_t c) const { return all[c]; }
    __device__ C operator()(const ChannelNumbers<C>& of, C x, C gy) const {
        return fma_scalar(x - of.mean, of.rest, fma_scalar(gy, of.factor, of.bias));
    }
};

// ---- inference --------------------------------------------------------------------------------------------------

constexpr int threads = 128;
template <class T> __global__ void __launch_bounds__(threads)
    inference_numbers(int64_t channels, Parameter<T> mean, Parameter<T> variance, Parameter<T> weight,
                      Parameter<T> bias, Compute<T> eps, ChannelNumbers<Compute<T>>* numbers) {
    using C = Compute<T>;
    for (int64_t c = int64_t(blockIdx.x) * threads + threadIdx.x; c < channels; c += int64_t(gridDim.x) * threads) {
        const C root = sqrt(Vec<C>(variance[c] + eps)).v;
        numbers[c] = {mean[c], (C(1) / root) * weight.or_else(C(1), c), bias.or_else(-C(0), c), C(0)};
    }
}

// ---- statistics -------------------------------------------------------------------------------------------------

template <class T, bool inside> __global__ void __launch_bounds__(segment_threads<Compute<T>>)
    segment_moments(Segments all, const T* from, Compute<T>* sums, Compute<T>* squares) {
    using C = Compute<T>;
    using Table = LaneTable<C, inside ? sum_lanes * segment_halves<C> : 1>;
    SHARED(Table, table, [1]);
    const int64_t items = segment_items(all);
    for (int64_t item = blockIdx.x; item < items; item += gridDim.x) {
        const Share share = share_of<C, inside>(all, item);
        const Slots<C> slots = slots_of_segment<C, inside>(share);
        C x[held<C>];
        slots.each([&](int k, int i) { x[k] = widen(from[share.at + i * share.step]); });
        const C sum = join_segment<C, inside>(table[0], slots.lane_sum([&](int k) { return x[k]; }));
        const C mean = sum / C(share.length);
        const C square = join_segment<C, inside>(table[0], slots.lane_sum([&](int k) {
            const C d = x[k] - mean;
            return d * d;
        }));
        if (slots.first == 0 && share.length > 0) sums[share.entry] = sum, squares[share.entry] = square;
    }
}

template <class T> struct Statistics {
    using C = Compute<T>;
    Segments all;
    const T* elements; // instead of sums, of segments of one element; their squares are 0
    const C *sums, *squares;
    Parameter<T> running_mean, running_var, weight, bias;
    C *new_mean, *new_var, *mean, *rstd;
    ChannelNumbers<C>* numbers;
    C momentum, eps;

    __device__ C sum_of(int64_t row, int64_t c) const {
        return elements ? widen(elements[row * all.channels + c]) : sums[row * all.channels + c];
    }
    __device__ C squares_of(int64_t row, int64_t c, C channel_mean) const {
        int64_t rest = row;
        const C length = C(all.length(all.by_count.take(rest)));
        const C d = sum_of(row, c) / length - channel_mean, between = length * (d * d);
        return elements ? between : squares[row * all.channels + c] + between;
    }
    __device__ C follow(const Parameter<T>& old, int64_t c, C batch, bool empty) const {
        if (empty) return old.or_else(C(0), c);
        return old.data ? (C(1) - momentum) * old[c] + momentum * batch : batch;
    }
    __device__ void finish(int64_t c, C channel_mean, C all_squares) const {
        const int64_t count = all.samples * all.size;
        const bool empty = count == 0;
        const C m = empty ? C(0) : channel_mean;
        const C r = empty ? C(0) : C(1) / sqrt(Vec<C>(all_squares / C(count) + eps)).v;
        new_mean[c] = follow(running_mean, c, m, empty);
        new_var[c] = follow(running_var, c, all_squares / C(count - 1), empty);
        mean[c] = m, rstd[c] = r;
        numbers[c] = {m, r * weight.or_else(C(1), c), bias.or_else(-C(0), c), C(0)};
    }
};
template <class T> __global__ void __launch_bounds__(join_threads) join_statistics(Statistics<T> op) {
    using C = Compute<T>;
    SHARED(JoinTable<C>, table, [1]);
    for (int64_t first = int64_t(blockIdx.x) * join_columns; first < op.all.channels;
         first += int64_t(gridDim.x) * join_columns) {
        const int64_t c = first + threadIdx.x % join_columns;
        const int64_t rows = c < op.all.channels ? op.all.rows() : 0;
        const C sum =
            join_rows<C>(op.all.rows(), table[0], [&](int64_t row) { return rows ? op.sum_of(row, c) : C(0); });
        const C mean = sum / C(op.all.samples * op.all.size);
        const C squares = join_rows<C>(op.all.rows(), table[0],
                                       [&](int64_t row) { return rows ? op.squares_of(row, c, mean) : C(0); });
        if (c < op.all.channels && threadIdx.x < join_columns) op.finish(c, mean, squares);
    }
}

// ---- gradients --------------------------------------------------------------------------------------------------

// The sums of gy and of gy * d.
template <class T> struct GradientTerms {
    static constexpr int count = 2;
    Parameter<T> mean;
    __device__ Compute<T> numbers(int64_t c) const { return mean[c]; }
    __device__ Several<Compute<T>, 2> terms(Compute<T> of, Compute<T> x, Compute<T> gy) const {
        Several<Compute<T>, 2> both;
        both.at[0] = gy, both.at[1] = gy * (x - of);
        return both;
    }
};
template <class T> struct GradientFinish {
    using C = Compute<T>;
    Parameter<T> mean, rstd, weight;
    const C *gmean, *grstd;
    void *gweight, *gbias;
    bool wide, frozen; // wide: gweight and gbias are of the type that is computed in
    ChannelNumbers<C>* numbers;
    C elements; // of a channel

    __device__ void operator()(int64_t c, const Several<C, 2>& sums) const {
        const C r = rstd[c], w = weight.or_else(C(1), c);
        store_parameter<T>(gweight, wide, c, sums.at[1] * r);
        store_parameter<T>(gbias, wide, c, sums.at[0]);
        if (frozen) {
            numbers[c] = {C(0), r * w, -C(0), C(0)};
            return;
        }
        const C k1 = ((sums.at[0] * w) * r - (gmean ? gmean[c] : C(0))) / elements;
        const C g_d = sums.at[1] * w + (grstd ? grstd[c] : C(0));
        numbers[c] = {mean[c], r * w, -k1, -((((g_d * r) / elements) * r) * r)};
    }
};

} // namespace

void batch_norm(const BatchNorm& op, Context& context) {
    visit_storage(op.y.dtype, [&](auto type) {
        using T = typename decltype(type)::type;
        using C = Compute<T>;
        const auto parameter = [&](const Tensor& t) { return Parameter<T>(context, t, op.x.dtype); };
        const int64_t channels = op.x.extent[1];
        ChannelNumbers<C>* const numbers = context.scratch<ChannelNumbers<C>>(channels);
        MMK_LAUNCH(context, (inference_numbers<T>), grid_of(ceil_div(channels, threads)), threads, 0, channels,
                   parameter(op.running_mean), parameter(op.running_var), parameter(op.weight), parameter(op.bias),
                   C(op.eps), numbers);
        launch_map_channels<T>(context, Normalise<C>{numbers, op.activation}, op.y, op.x);
    });
}

void batch_norm_training(const BatchNormTraining& op, Context& context) {
    visit_storage(op.y.dtype, [&](auto type) {
        using T = typename decltype(type)::type;
        using C = Compute<T>;
        if (op.x.extent[1] == 0) return;
        const auto parameter = [&](const Tensor& t) { return Parameter<T>(context, t, op.x.dtype); };
        const Segments all(op.x, channels_inside(op.x));
        const T* const x = laid_out<T>(context, all.inside, op.x);
        const int64_t step = all.rows() * all.channels;
        const bool elements = all.size == 1; // then both layouts are one
        C* const sums = context.scratch<C>(elements ? 0 : 2 * step);
        if (!elements && step > 0) {
            const dim3 grid = grid_of(segment_items(all));
            if (all.inside)
                MMK_LAUNCH(context, (segment_moments<T, true>), grid, segment_threads<C>, 0, all, x, sums, sums + step);
            else
                MMK_LAUNCH(context, (segment_moments<T, false>), grid, segment_threads<C>, 0, all, x, sums,
                           sums + step);
        }
        DenseOut<C> new_mean(context, op.new_mean), new_var(context, op.new_var), mean(context, op.mean),
            rstd(context, op.rstd);
        const Statistics<T> statistics{all,
                                       elements ? x : nullptr,
                                       sums,
                                       sums + step,
                                       parameter(op.running_mean),
                                       parameter(op.running_var),
                                       parameter(op.weight),
                                       parameter(op.bias),
                                       new_mean,
                                       new_var,
                                       mean,
                                       rstd,
                                       context.scratch<ChannelNumbers<C>>(all.channels),
                                       C(op.momentum),
                                       C(op.eps)};
        MMK_LAUNCH(context, (join_statistics<T>), grid_of(ceil_div(all.channels, join_columns)), join_threads, 0,
                   statistics);
        launch_map_channels<T>(context, Normalise<C>{statistics.numbers, op.activation}, op.y, op.x);
        new_mean.finish(), new_var.finish(), mean.finish(), rstd.finish();
    });
}

void batch_norm_grad(const BatchNormGrad& op, Context& context) {
    visit_storage(op.gx.dtype, [&](auto type) {
        using T = typename decltype(type)::type;
        using C = Compute<T>;
        const auto parameter = [&](const Tensor& t) { return Parameter<T>(context, t, op.x.dtype); };
        const Segments all(op.x, channels_inside(op.x, op.gy));
        const bool frozen = op.frozen != 0, wide = op.gweight.dtype != op.x.dtype;
        const Tensor gweight = op.gweight.contiguous() ? op.gweight : contiguous_scratch(context, op.gweight);
        const Tensor gbias = op.gbias.contiguous() ? op.gbias : contiguous_scratch(context, op.gbias);
        const GradientFinish<T> finish{parameter(op.mean),
                                       parameter(op.rstd),
                                       parameter(op.weight),
                                       static_cast<const C*>(parameter(op.gmean).data),
                                       static_cast<const C*>(parameter(op.grstd).data),
                                       gweight.data,
                                       gbias.data,
                                       wide,
                                       frozen,
                                       context.scratch<ChannelNumbers<C>>(all.channels),
                                       C(all.samples * all.size)};
        channel_sums(context, all, GradientTerms<T>{finish.mean}, laid_out<T>(context, all.inside, op.x),
                     laid_out<T>(context, all.inside, op.gy), finish);
        if (gweight.data != op.gweight.data) copy_strided(context, op.gweight, gweight);
        if (gbias.data != op.gbias.data) copy_strided(context, op.gbias, gbias);
        if (frozen)
            launch_map_channels<T>(context, Normalise<C>{finish.numbers, Activation::none}, op.gx, op.gy);
        else
            launch_map_channels<T>(context, Gradient<C>{finish.numbers}, op.gx, op.x, op.gy);
    });
}

} // namespace mmk::cuda
