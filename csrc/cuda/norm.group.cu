// group_norm, instance_norm and their gradients, planes contiguous (NCHW) or interleaved (channels-last). A group that fits is held by
// a block in shared memory, so that memory is read once and written once; 40,960 elements of a U-Net's 64 x 64 level are
// 160 KB of float32. Larger groups are read by every pass, in launches of sixteen threads a run of chunks.
#include "../ops/norm.h"

#include "../core/activate.h"
#include "divide.cuh"
#include "norm.cuh"

namespace mmk::cuda {
namespace {

struct Shape {
    int64_t samples, channels, groups, planes, size; // planes: channels of a group
    bool interleaved;

    Shape(const Tensor& x, int64_t groups_, bool interleaved_)
        : samples(x.extent[0]), channels(x.extent[1]), groups(groups_), planes(channels / groups_),
          size(x.size(2, x.rank)), interleaved(interleaved_) {}
    __device__ int64_t element_stride() const { return interleaved ? channels : 1; }
    __device__ int64_t plane_stride() const { return interleaved ? 1 : size; }
    // Of group n * groups + g.
    __device__ int64_t group_begin(int64_t group) const {
        if (!interleaved) return group * planes * size;
        const int64_t n = group / groups;
        return n * size * channels + (group - n * groups) * planes;
    }
};

template <class T> struct GroupNormOperands {
    const T *x, *weight, *bias, *scale, *shift;
    T* y;
    Compute<T> eps;
    Activation activation;
};
template <class T> struct GroupGradOperands {
    const T *x, *gy, *weight;
    T* gx;
    Compute<T>*part_weight, *part_bias; // of each plane, for the sums over samples
    Compute<T> eps;

    __device__ Compute<T> weight_of(int64_t channel) const { return weight ? widen(weight[channel]) : Compute<T>(1); }
};

// What a plane's elements share: y = f(fma(x - mean, factor, bias) * scale + shift).
template <class C> struct PlaneNumbers {
    C mean, factor, bias, scale, shift;
    template <class F> __device__ C operator()(C x, const F& f) const {
        return f(fma_scalar(x - mean, factor, bias) * scale + shift);
    }
};
// Plane n * channels + c.
template <class T> __device__ inline PlaneNumbers<Compute<T>>
plane_numbers(const GroupNormOperands<T>& op, Moments<Compute<T>> m, int64_t plane, int64_t c) {
    using C = Compute<T>;
    return {m.mean, op.weight ? m.rstd * widen(op.weight[c]) : m.rstd, op.bias ? widen(op.bias[c]) : -C(0),
            op.scale ? C(1) + widen(op.scale[plane]) : C(1), op.shift ? widen(op.shift[plane]) : -C(0)};
}

// ---- groups in shared memory -----------------------------------------------------------------------------------

// Where a block has what, in values of the type that it computes in: sums, numbers of each plane, elements.
struct Held {
    Group group;
    int numbers_at, elements_at, pitch, array; // elements from plane to plane, and from x to gy
    int64_t bytes;
};

// Threads side by side go through `fast` extents first.
struct Places {
    int fast, slow, fast_step, slow_step, extent;
    __device__ Places(int first, int step, int extent_)
        : fast(first % extent_), slow(first / extent_), fast_step(step % extent_), slow_step(step / extent_),
          extent(extent_) {}
    __device__ void next() {
        fast += fast_step, slow += slow_step;
        if (fast >= extent) fast -= extent, ++slow;
    }
};

// body(plane, element, where in memory), by all threads of a block, so that neighbours are neighbours in memory.
template <class Body> __device__ inline void each_element(const Shape& shape, const Body& body) {
    const int planes = int(shape.planes), size = int(shape.size);
    if (shape.interleaved)
        for (Places at(int(threadIdx.x), int(blockDim.x), planes); at.slow < size; at.next())
            body(at.fast, at.slow, at.slow * shape.channels + at.fast);
    else
        for (Places at(int(threadIdx.x), int(blockDim.x), size); at.slow < planes; at.next())
            body(at.slow, at.fast, int64_t(at.slow) * size + at.fast);
}

template <class T> __device__ inline void fetch_group(const Shape& shape, T* held, int pitch, const T* from) {
    constexpr int N = 16 / sizeof(T);
    if (shape.interleaved || !aligned(from, 16)) {
        each_element(shape, [&](int plane, int i, int64_t at) { held[plane * pitch + i] = from[at]; });
        return;
    }
    const int count = int(shape.planes * shape.size), whole = count / N * N;
    for (int i = int(threadIdx.x) * N; i < whole; i += int(blockDim.x) * N) cp_async<16>(held + i, from + i);
    if (whole + int(threadIdx.x) < count) held[whole + threadIdx.x] = from[whole + threadIdx.x];
    cp_async_commit();
}

// to[...] = value(plane, held element of each of the arrays), 16 bytes a thread where planes allow it.
template <class T, class Value, class... Arrays>
__device__ inline void store_group(const Shape& shape, T* to, int pitch, const Value& value, const Arrays*... held) {
    constexpr int N = 16 / sizeof(T);
    const int planes = int(shape.planes), size = int(shape.size);
    if (shape.interleaved || size % N != 0 || !aligned(to, 16)) {
        each_element(shape, [&](int plane, int i, int64_t at) { to[at] = value(plane, held[plane * pitch + i]...); });
        return;
    }
    for (Places at(int(threadIdx.x) * N, int(blockDim.x) * N, size); at.slow < planes; at.next()) {
        const int first = at.slow * size + at.fast;
        Pack<T, N> result;
        [&](const auto&... in) {
#pragma unroll
            for (int k = 0; k < N; ++k) result.at[k] = value(at.slow, in.at[k]...);
        }(*reinterpret_cast<const Pack<T, N>*>(held + first)...);
        *reinterpret_cast<Pack<T, N>*>(to + first) = result;
    }
}

constexpr int held_levels = 4; // runs of groups that fit are of few chunks

template <class T> __global__ void __launch_bounds__(sizeof(T) == 8 ? 512 : 1024, 1)
    norm_held_groups(Shape shape, Held where, GroupNormOperands<T> op) {
    using C = Compute<T>;
    DYN_SHARED(C, shared);
    PlaneNumbers<C>* const numbers = reinterpret_cast<PlaneNumbers<C>*>(shared + where.numbers_at);
    T* const held = reinterpret_cast<T*>(shared + where.elements_at);
    for (int64_t index = blockIdx.x; index < shape.samples * shape.groups; index += gridDim.x) {
        const int64_t begin = shape.group_begin(index), first = index * shape.planes; // the first plane
        fetch_group(shape, held, where.pitch, op.x + begin);
        if (!MMK_DEFECT(norm_missing_wait)) cp_async_wait<0>();
        __syncthreads();
        const Moments<C> m = block_moments<held_levels>(
            where.group, shared, C(shape.planes * shape.size), op.eps,
            [&](int64_t plane, int64_t i) { return widen(held[int(plane) * where.pitch + int(i)]); });
        for (int64_t p = threadIdx.x; p < shape.planes; p += blockDim.x)
            numbers[p] = plane_numbers(op, m, first + p, (first + p) % shape.channels);
        if (!MMK_DEFECT(norm_missing_barrier)) __syncthreads();
        visit_activation(op.activation, [&](auto f) {
            store_group(
                shape, op.y + begin, where.pitch,
                [&](int plane, T x) { return narrow<T>(numbers[plane](widen(x), f)); }, held);
        });
        __syncthreads(); // before the next group takes this one's place
    }
}

template <class T> __global__ void __launch_bounds__(sizeof(T) == 8 ? 256 : 512, 1)
    norm_grad_held_groups(Shape shape, Held where, GroupGradOperands<T> op) {
    using C = Compute<T>;
    using S = Several<C, 4>;
    DYN_SHARED(C, shared);
    C* const weight = shared + where.numbers_at;
    T *const x = reinterpret_cast<T*>(shared + where.elements_at), *const gy = x + where.array;
    for (int64_t index = blockIdx.x; index < shape.samples * shape.groups; index += gridDim.x) {
        const int64_t begin = shape.group_begin(index), first = index * shape.planes;
        fetch_group(shape, x, where.pitch, op.x + begin);
        fetch_group(shape, gy, where.pitch, op.gy + begin);
        for (int64_t p = threadIdx.x; p < shape.planes; p += blockDim.x)
            weight[p] = op.weight_of((first + p) % shape.channels);
        cp_async_wait<0>();
        __syncthreads();
        const C count = C(shape.planes * shape.size);
        const auto x_of = [&](int64_t plane, int64_t i) { return widen(x[int(plane) * where.pitch + int(i)]); };
        const Moments<C> m = block_moments<held_levels>(where.group, shared, count, op.eps, x_of);
        __syncthreads(); // before sums of another type take the place of these
        const S sums = group_sum<held_levels, S>(
            where.group, reinterpret_cast<S*>(shared),
            [&](int64_t plane, int64_t i) {
                const C d = x_of(plane, i) - m.mean, g = widen(gy[int(plane) * where.pitch + int(i)]);
                S terms;
                terms.at[0] = g, terms.at[1] = g * d;
                terms.at[2] = g * weight[plane], terms.at[3] = terms.at[2] * d;
                return terms;
            },
            [&](int64_t plane, const S& sum) {
                op.part_weight[first + plane] = m.rstd * sum.at[1], op.part_bias[first + plane] = sum.at[0];
            });
        const SharedPart<C> part = shared_part(sums.at[2], sums.at[3], count, m.rstd);
        store_group(
            shape, op.gx + begin, where.pitch,
            [&](int plane, T x_, T gy_) {
                return narrow<T>(part(widen(x_) - m.mean, widen(gy_), m.rstd * weight[plane]));
            },
            x, gy);
        __syncthreads();
    }
}

// ---- groups of any size ----------------------------------------------------------------------------------------

constexpr int threads = 256;
constexpr int run_levels = 12; // a run is of less than 4096 chunks, a plane of less than 16384 runs
constexpr int join_levels = 14;

// Planes cut into runs of chunks; a thread has one lane of one run, and neighbours are neighbours in memory: lanes
// where planes are contiguous, channels where they are interleaved.
struct Runs {
    Divisor channels, planes, runs;
    int64_t size, run, threads;
    bool interleaved;

    explicit Runs(const Shape& shape)
        : channels(shape.channels), planes(shape.planes), size(shape.size), run(8 * sum_chunk),
          interleaved(shape.interleaved) {
        // no more threads than any device has at once, if runs need not be longer than 128 chunks for it; and no more
        // runs than can be joined, 2^32 elements of a plane
        const int64_t lanes = shape.samples * shape.channels * sum_lanes;
        while ((run < 128 * sum_chunk && lanes * ceil_div(size, run) > int64_t(1) << 18) ||
               ceil_div(size, run) >= int64_t(1) << join_levels)
            run *= 2;
        runs = Divisor(ceil_div(size, run));
        threads = lanes * runs.by();
    }
};
struct Share {
    int64_t plane, channel, group, part, begin, end, at, step; // element i is at + i * step; part: where its sum goes
    int lane;

    __device__ Share(const Runs& all, int64_t index) {
        int64_t r;
        if (all.interleaved) {
            channel = all.channels.take(index);
            lane = int(index % sum_lanes), index /= sum_lanes;
            r = all.runs.take(index);
            plane = index * all.channels.by() + channel;
            at = index * all.size * all.channels.by() + channel, step = all.channels.by();
        } else {
            lane = int(index % sum_lanes), index /= sum_lanes;
            r = all.runs.take(index);
            plane = index, at = plane * all.size, step = 1;
            channel = all.channels.take(index);
        }
        group = all.planes(plane);
        part = (plane * all.runs.by() + r) * sum_lanes + lane;
        begin = r * all.run, end = begin + all.run < all.size ? begin + all.run : all.size;
    }
};

template <class T, bool squares> __global__ void __launch_bounds__(threads)
    sum_runs(Runs runs, const T* x, const Moments<Compute<T>>* moments, Compute<T>* part) {
    using C = Compute<T>;
    for (int64_t index = int64_t(blockIdx.x) * threads + threadIdx.x; index < runs.threads;
         index += int64_t(gridDim.x) * threads) {
        const Share share(runs, index);
        const C mean = squares ? moments[share.group].mean : C(0);
        part[share.part] = lane_sum<C, run_levels>(share.lane, share.begin, share.end, [&](int64_t i) {
            const C value = widen(x[share.at + i * share.step]), d = value - mean;
            return squares ? d * d : value;
        });
    }
}

// The sum over a group's planes of their runs' parts, planes in order, by a block.
constexpr int planes_a_round = 64;
template <class S, class Each>
__device__ inline S join_group(int64_t group, int64_t planes, int64_t runs, const S* part, S* sum, const Each& each) {
    S total = S(0);
    for (int64_t p = 0; p < planes; p += planes_a_round) {
        const int64_t here = planes - p < planes_a_round ? planes - p : planes_a_round;
        const int64_t first = group * planes + p;
        join_runs<join_levels>(here, runs, part + first * runs * sum_lanes, sum);
        __syncthreads();
        for (int64_t k = 0; k < here; ++k) {
            total = total + sum[k];
            if (threadIdx.x == 0) each(first + k, sum[k]);
        }
        __syncthreads();
    }
    return total;
}

template <class C, bool squares> __global__ void __launch_bounds__(threads)
    join_moments(int64_t groups, int64_t planes, int64_t runs, C count, C eps, const C* part, Moments<C>* moments) {
    SHARED(C, sum, [planes_a_round]);
    for (int64_t group = blockIdx.x; group < groups; group += gridDim.x) {
        const C total = join_group(group, planes, runs, part, sum, [](int64_t, C) {});
        if (threadIdx.x != 0) continue;
        if (squares)
            moments[group].rstd = reciprocal_deviation(total, count, eps);
        else
            moments[group].mean = total / count;
    }
}

template <class T> __global__ void __launch_bounds__(threads)
    norm_runs(Runs runs, GroupNormOperands<T> op, const Moments<Compute<T>>* moments) {
    for (int64_t index = int64_t(blockIdx.x) * threads + threadIdx.x; index < runs.threads;
         index += int64_t(gridDim.x) * threads) {
        const Share share(runs, index);
        const auto numbers = plane_numbers(op, moments[share.group], share.plane, share.channel);
        visit_activation(op.activation, [&](auto f) {
#pragma unroll 4
            for (int64_t i = share.begin + share.lane; i < share.end; i += sum_lanes) {
                const int64_t at = share.at + i * share.step;
                op.y[at] = narrow<T>(numbers(widen(op.x[at]), f));
            }
        });
    }
}

template <class T> __global__ void __launch_bounds__(threads)
    sum_gradient_runs(Runs runs, GroupGradOperands<T> op, const Moments<Compute<T>>* moments,
                      Several<Compute<T>, 4>* part) {
    using C = Compute<T>;
    using S = Several<C, 4>;
    for (int64_t index = int64_t(blockIdx.x) * threads + threadIdx.x; index < runs.threads;
         index += int64_t(gridDim.x) * threads) {
        const Share share(runs, index);
        const C mean = moments[share.group].mean, weight = op.weight_of(share.channel);
        part[share.part] = lane_sum<S, run_levels>(share.lane, share.begin, share.end, [&](int64_t i) {
            const int64_t at = share.at + i * share.step;
            const C d = widen(op.x[at]) - mean, gy = widen(op.gy[at]), g = gy * weight;
            S terms;
            terms.at[0] = gy, terms.at[1] = gy * d, terms.at[2] = g, terms.at[3] = g * d;
            return terms;
        });
    }
}

template <class T> __global__ void __launch_bounds__(threads)
    join_gradients(int64_t groups, int64_t planes, int64_t runs, Compute<T> count, GroupGradOperands<T> op,
                   const Moments<Compute<T>>* moments, const Several<Compute<T>, 4>* part,
                   SharedPart<Compute<T>>* shared) {
    using C = Compute<T>;
    using S = Several<C, 4>;
    SHARED(S, sum, [planes_a_round]);
    for (int64_t group = blockIdx.x; group < groups; group += gridDim.x) {
        const C rstd = moments[group].rstd;
        const S total = join_group(group, planes, runs, part, sum, [&](int64_t plane, const S& s) {
            op.part_weight[plane] = rstd * s.at[1], op.part_bias[plane] = s.at[0];
        });
        if (threadIdx.x == 0) shared[group] = shared_part(total.at[2], total.at[3], count, rstd);
    }
}

template <class T> __global__ void __launch_bounds__(threads)
    norm_grad_runs(Runs runs, GroupGradOperands<T> op, const Moments<Compute<T>>* moments,
                   const SharedPart<Compute<T>>* shared) {
    using C = Compute<T>;
    for (int64_t index = int64_t(blockIdx.x) * threads + threadIdx.x; index < runs.threads;
         index += int64_t(gridDim.x) * threads) {
        const Share share(runs, index);
        const Moments<C> m = moments[share.group];
        const SharedPart<C> part = shared[share.group];
        const C factor = m.rstd * op.weight_of(share.channel);
#pragma unroll 4
        for (int64_t i = share.begin + share.lane; i < share.end; i += sum_lanes) {
            const int64_t at = share.at + i * share.step;
            op.gx[at] = narrow<T>(part(widen(op.x[at]) - m.mean, widen(op.gy[at]), factor));
        }
    }
}

// ---- host ------------------------------------------------------------------------------------------------------

bool is_interleaved(const Tensor& t) {
    if (t.rank < 3 || t.stride[1] != 1) return false;
    int64_t expected = t.extent[1];
    for (int k = t.rank - 1; k >= 1; --k) { // the last axis to the third, then the first
        const int axis = k >= 2 ? k : 0;
        if (t.extent[axis] != 1 && t.stride[axis] != expected) return false;
        expected *= t.extent[axis];
    }
    return true;
}

// numbers: values for each plane; arrays: of elements; sums: that are made at once.
template <class T> Held held_by_block(const Shape& shape, int block, int numbers, int arrays, int sums) {
    const auto ceil_to_16_bytes = [](int64_t bytes) { return ceil_div(bytes, 16) * 16; };
    constexpr int64_t value = sizeof(Compute<T>), element = sizeof(T);
    // An interleaved group is written across planes: 16 bytes past a multiple of 128, eight planes have different banks.
    const int64_t pitch =
        shape.interleaved ? (ceil_div(shape.size * element - 16, 128) * 128 + 16) / element : shape.size;
    Held held{Group(shape.planes, shape.size, block), 0, 0, 0, 0, 0};
    const int64_t sum_bytes = ceil_to_16_bytes(held.group.shared_values() * sums * value);
    const int64_t number_bytes = ceil_to_16_bytes(shape.planes * numbers * value);
    const int64_t array_bytes = ceil_to_16_bytes(shape.planes * pitch * element);
    held.bytes = sum_bytes + number_bytes + arrays * array_bytes;
    if (held.bytes >= int64_t(1) << 31) return held; // more than any device has: the places below do not matter
    held.numbers_at = int(sum_bytes / value), held.elements_at = int((sum_bytes + number_bytes) / value);
    held.array = int(array_bytes / element), held.pitch = int(pitch);
    return held;
}
int block_for(const Shape& shape, int most) {
    const int64_t count = shape.planes * shape.size;
    const int wanted = count >= 16384 ? 1024 : count >= 4096 ? 512 : count >= 1024 ? 256 : count >= 256 ? 128 : 32;
    return wanted < most ? wanted : most;
}

template <class T> void launch_moments(const Shape& shape, const Runs& runs, const T* x, Compute<T> eps,
                                       Moments<Compute<T>>* moments, Context& context) {
    using C = Compute<T>;
    C* const part = context.scratch<C>(runs.threads);
    const dim3 grid = grid_of(ceil_div(runs.threads, threads)), group_grid = grid_of(shape.samples * shape.groups);
    const int64_t groups = shape.samples * shape.groups;
    const C count = C(shape.planes * shape.size);
    MMK_LAUNCH(context, (sum_runs<T, false>), grid, threads, 0, runs, x, moments, part);
    MMK_LAUNCH(context, (join_moments<C, false>), group_grid, threads, 0, groups, shape.planes, runs.runs.by(), count,
               eps, part, moments);
    MMK_LAUNCH(context, (sum_runs<T, true>), grid, threads, 0, runs, x, moments, part);
    MMK_LAUNCH(context, (join_moments<C, true>), group_grid, threads, 0, groups, shape.planes, runs.runs.by(), count,
               eps, part, moments);
}

const char* const held_reason = "a group fits into shared memory";
const char* const runs_reason = "groups larger than shared memory";
const Tensor none;

} // namespace

void group_norm(const GroupNorm& op, Context& context) {
    visit_storage(op.y.dtype, [&](auto type) {
        using T = typename decltype(type)::type;
        using C = Compute<T>;
        const Shape shape(op.x, op.num_groups, !op.x.contiguous() && is_interleaved(op.x) && is_interleaved(op.y));
        const Dense<T> x(context, shape.interleaved ? none : op.x), weight(context, op.weight), bias(context, op.bias);
        const Dense<T> scale(context, op.scale), shift(context, op.shift);
        DenseOut<T> y(context, shape.interleaved ? none : op.y);
        const GroupNormOperands<T> all{
            shape.interleaved ? static_cast<const T*>(op.x.data) : x.get(), weight,    bias,         scale, shift,
            shape.interleaved ? static_cast<T*>(op.y.data) : y.get(),       C(op.eps), op.activation};
        const int block = block_for(shape, sizeof(T) == 8 ? 512 : 1024);
        const Held held = held_by_block<T>(shape, block, sizeof(PlaneNumbers<C>) / sizeof(C), 1, 1);
        if (held.bytes <= context.shared_memory) {
            context.chose("block", held_reason);
            MMK_LAUNCH(context, (norm_held_groups<T>), grid_of(shape.samples * shape.groups), block, size_t(held.bytes),
                       shape, held, all);
        } else {
            context.chose("runs", runs_reason);
            const Runs runs(shape);
            Moments<C>* const moments = context.scratch<Moments<C>>(shape.samples * shape.groups);
            launch_moments<T>(shape, runs, all.x, all.eps, moments, context);
            MMK_LAUNCH(context, (norm_runs<T>), grid_of(ceil_div(runs.threads, threads)), threads, 0, runs, all,
                       moments);
        }
        y.finish();
    });
}

void instance_norm(const InstanceNorm& op, Context& context) {
    GroupNorm grouped;
    grouped.x = op.x, grouped.weight = op.weight, grouped.bias = op.bias, grouped.y = op.y;
    grouped.num_groups = op.x.extent[1], grouped.eps = op.eps, grouped.activation = op.activation;
    group_norm(grouped, context);
}

void group_norm_grad(const GroupNormGrad& op, Context& context) {
    visit_storage(op.gx.dtype, [&](auto type) {
        using T = typename decltype(type)::type;
        using C = Compute<T>;
        const Shape shape(op.x, op.num_groups,
                          !op.x.contiguous() && is_interleaved(op.x) && is_interleaved(op.gy) && is_interleaved(op.gx));
        const bool in_place = shape.interleaved;
        const Dense<T> x(context, in_place ? none : op.x), gy(context, in_place ? none : op.gy),
            weight(context, op.weight);
        DenseOut<T> gx(context, in_place ? none : op.gx), gweight(context, op.gweight), gbias(context, op.gbias);
        // no elements: no sums but those of the weights, over nothing
        const int64_t samples = shape.size ? shape.samples : 0, planes = samples * shape.channels;
        const GroupGradOperands<T> all{in_place ? static_cast<const T*>(op.x.data) : x.get(),
                                       in_place ? static_cast<const T*>(op.gy.data) : gy.get(),
                                       weight,
                                       in_place ? static_cast<T*>(op.gx.data) : gx.get(),
                                       context.scratch<C>(planes),
                                       context.scratch<C>(planes),
                                       C(op.eps)};
        const int block = block_for(shape, sizeof(T) == 8 ? 256 : 512);
        const Held held = held_by_block<T>(shape, block, 1, 2, 4);
        if (samples == 0) {
            context.chose("nothing", "no elements");
        } else if (held.bytes <= context.shared_memory) {
            context.chose("block", held_reason);
            MMK_LAUNCH(context, (norm_grad_held_groups<T>), grid_of(samples * shape.groups), block, size_t(held.bytes),
                       shape, held, all);
        } else {
            context.chose("runs", runs_reason);
            const Runs runs(shape);
            const int64_t groups = samples * shape.groups;
            const dim3 grid = grid_of(ceil_div(runs.threads, threads));
            Moments<C>* const moments = context.scratch<Moments<C>>(groups);
            Several<C, 4>* const part = context.scratch<Several<C, 4>>(runs.threads);
            SharedPart<C>* const shared = context.scratch<SharedPart<C>>(groups);
            launch_moments<T>(shape, runs, all.x, all.eps, moments, context);
            MMK_LAUNCH(context, (sum_gradient_runs<T>), grid, threads, 0, runs, all, moments, part);
            MMK_LAUNCH(context, (join_gradients<T>), grid_of(groups), threads, 0, groups, shape.planes, runs.runs.by(),
                       C(shape.planes * shape.size), all, moments, part, shared);
            MMK_LAUNCH(context, (norm_grad_runs<T>), grid, threads, 0, runs, all, moments, shared);
        }
        column_sums<C>(context, ColumnParts<C>{all.part_weight, all.part_bias, shape.channels}, gweight.get(),
                       gbias.get(), samples, shape.channels);
        gx.finish(), gweight.finish(), gbias.finish();
    });
}

} // namespace mmk::cuda
