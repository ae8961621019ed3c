#include "deform.bins.cuh"
#include "deform.cuh"
#include "places4.cuh"

namespace mmk::cuda {

namespace deform {
namespace {

// Lists lie behind each other in whatever order: a warp takes the room for its cells at once.
__global__ void __launch_bounds__(bin_threads) find_places(Count* begin, Count* end, Count* next, int64_t cells) {
    const int lane = int(threadIdx.x) % 32;
    const int64_t rounded = ceil_div(cells, 32) * 32;
    for (int64_t i = int64_t(blockIdx.x) * bin_threads + threadIdx.x; i < rounded;
         i += int64_t(gridDim.x) * bin_threads) {
        const Count count = i < cells ? end[i] : 0;
        Count sum = count; // of the lanes up to this one
        for (int step = 1; step < 32; step *= 2) {
            const Count before = __shfl_up_sync(0xffffffffu, sum, unsigned(step));
            if (lane >= step) sum += before;
        }
        Count first = 0;
        if (lane == 31) first = atomicAdd(next, sum);
        first = __shfl_sync(0xffffffffu, first, 31) + sum - (MMK_DEFECT(deform_overlapping_lists) ? 0 : count);
        if (i < cells) begin[i] = end[i] = first;
    }
}

// Few keys by insertion; many, which is rare, in a heap.
__device__ inline void sift_down(int64_t* keys, int64_t root, int64_t count) {
    const int64_t key = keys[root];
    for (int64_t child; (child = 2 * root + 1) < count; root = child) {
        if (child + 1 < count && keys[child + 1] > keys[child]) ++child;
        if (keys[child] <= key) break;
        keys[root] = keys[child];
    }
    keys[root] = key;
}
__global__ void __launch_bounds__(bin_threads)
    sort_lists(const Count* begin, const Count* end, int64_t* list, int64_t cells) {
    for (int64_t i = int64_t(blockIdx.x) * bin_threads + threadIdx.x; i < cells;
         i += int64_t(gridDim.x) * bin_threads) {
        int64_t* const keys = list + begin[i];
        const int64_t count = int64_t(end[i] - begin[i]);
        if (count <= 24) {
            for (int64_t k = 1; k < count - (MMK_DEFECT(deform_last_unsorted) ? 1 : 0); ++k) {
                const int64_t key = keys[k];
                int64_t to = k;
                for (; to > 0 && keys[to - 1] > key; --to) keys[to] = keys[to - 1];
                keys[to] = key;
            }
            continue;
        }
        for (int64_t k = count / 2 - 1; k >= 0; --k) sift_down(keys, k, count);
        for (int64_t left = count - 1; left > 0; --left) {
            const int64_t largest = keys[0];
            keys[0] = keys[left], keys[left] = largest;
            sift_down(keys, 0, left);
        }
    }
}

} // namespace

void place_bins(Context& context, Count* begin, Count* end, int64_t cells) {
    if (cells == 0) return;
    MMK_LAUNCH(context, find_places, grid_of(ceil_div(cells, bin_threads)), bin_threads, 0, begin, end, begin + cells,
               cells);
}
void sort_bins(Context& context, const Count* begin, const Count* end, int64_t* list, int64_t cells) {
    if (cells == 0) return;
    MMK_LAUNCH(context, sort_lists, grid_of(ceil_div(cells, bin_threads)), bin_threads, 0, begin, end, list, cells);
}

} // namespace deform

namespace {

using namespace deform;

// ---- z = gy times the weights --------------------------------------------------------------------------------------

// z[pixel][tap][group][channel] for the channels [begin, begin + count) of every group and some pixels of all samples.
template <class T> struct PulledBack {
    int64_t groups, channels, outputs, taps, pixels; // channels and outputs of one group; pixels of a sample
    const T *gy, *weight;                            // dense; weight: [group][k][tap][channel]

    PulledBack(Context& context, const Tensor& w, const T* gy_, int64_t groups_, int64_t pixels_)
        : groups(groups_), channels(w.extent[1]), outputs(w.extent[0] / groups_), taps(w.extent[2] * w.extent[3]),
          pixels(pixels_), gy(gy_) {
        Tensor turned = w; // k, row, column, channel
        for (int i = 1; i < 4; ++i) {
            turned.extent[i] = w.extent[i < 3 ? i + 1 : 1];
            turned.stride[i] = w.stride[i < 3 ? i + 1 : 1];
        }
        weight = Dense<T>(context, turned).get();
    }
    void operator()(Context& context, int64_t first, int64_t count, int64_t begin, int64_t some, T* z) const {
        multiply_back<T>(
            context, {gy, outputs * pixels, runs(first, pixels, groups * outputs * pixels, 1), steps(pixels)},
            {weight + begin, outputs * taps * channels, runs(0, some, channels, 1), steps(taps * channels)},
            {z, some, taps * groups * some, runs(0, some, groups * some, 1), nullptr, Activation::none},
            {groups, count, taps * some, outputs});
    }
};

// ---- the input gradient --------------------------------------------------------------------------------------------

// Cells of [sample][set][-1 .. H - 1][-1 .. W - 1]; a sample's key is its number in the order p, q, r, s.
template <class T> struct SampleCells {
    Sampling<T> s;
    int64_t first, samples; // of the batch; taps of all pixels of all samples
    Divisor by_pixel, by_tap, by_set;

    MMK_MEMBER bool find(int64_t i, int64_t& cell, int64_t& key) const {
        const int64_t pixel = by_pixel.take(i), tap = by_tap.take(i), set = by_set.take(i);
        const BilinearPlace<T> p = s.place(first + i, set, tap, pixel);
        if (p.row.v == s.H) return false;
        key = pixel * s.taps + tap;
        cell = ((i * s.sets + set) * (s.H + 1) + p.row.v + 1) * (s.W + 1) + p.column.v + 1;
        return true;
    }
};

// V channels of z, which are neighbours, of one element.
template <class T> struct InputGrad {
    Sampling<T> s;
    Bins bins;
    const T* z;
    T* gx;
    Strides4 strides;
    int64_t first, count;                            // samples of the batch
    int64_t groups, channels, begin, some, of_a_set; // z has channels [begin, begin + some) of each group
    Divisor by_channel, by_column, by_row;           // by_channel: packs
};
template <class T, int V> __global__ void __launch_bounds__(threads) gather_samples(InputGrad<T> g, int64_t work) {
    for (int64_t i = int64_t(blockIdx.x) * threads + threadIdx.x; i < work; i += int64_t(gridDim.x) * threads) {
        int64_t n = i;
        const int64_t packed = g.by_channel.take(n) * V, w = g.by_column.take(n), h = g.by_row.take(n);
        const int64_t channel = packed / g.some * g.channels + g.begin + packed % g.some, set = channel / g.of_a_set;
        const int64_t row = g.s.W + 1, cell = ((n * g.s.sets + set) * (g.s.H + 1) + h) * row + w;
        const T* const z = g.z + n * g.s.pixels() * g.s.taps * g.groups * g.some + packed;
        T sum[V] = {};
        for_samples_of(g.bins, cell, row, [&](int64_t key, int corner) {
            int64_t pixel = key;
            const int64_t tap = g.s.by_tap.take(pixel);
            const BilinearPlace<T> p = g.s.place(g.first + n, set, tap, pixel);
            T weight = ((corner / 2 ? p.bottom : p.top) * (corner % 2 ? p.right : p.left)).v;
            if (g.s.mask) weight = weight * g.s.factor(g.first + n, set, tap, pixel);
            const Pack<T, V> from = *reinterpret_cast<const Pack<T, V>*>(z + key * g.groups * g.some);
#pragma unroll
            for (int k = 0; k < V; ++k) sum[k] = fma_scalar(weight, from.at[k], sum[k]);
        });
#pragma unroll
        for (int k = 0; k < V; ++k) g.gx[g.strides.at(g.first + n, channel + k, h, w)] = sum[k] + T(0);
    }
}

template <class T, int V> void launch_gather(Context& context, InputGrad<T> g) {
    g.by_channel = Divisor(g.groups * g.some / V), g.by_column = Divisor(g.s.W), g.by_row = Divisor(g.s.H);
    const int64_t work = g.count * g.s.H * g.s.W * g.groups * g.some / V;
    MMK_LAUNCH(context, (gather_samples<T, V>), grid_of(ceil_div(work, threads)), threads, 0, g, work);
}

template <class T> void input_gradient(const DeformConv2dInputGrad& op, Context& context) {
    constexpr int V = 16 / int(sizeof(T));
    const int64_t N = op.gx.extent[0], C = op.gx.extent[1], D = C / op.groups, taps = op.weight.size(2, 4);
    const Dense<T> gy(context, op.gy), offset(context, op.offset), mask(context, op.mask);
    const Sampling<T> s(op, op.gx.extent[2], op.gx.extent[3], op.weight.extent[2], op.weight.extent[3], offset, mask);
    const PulledBack<T> pulled(context, op.weight, gy, op.groups, s.pixels());
    context.chose("samples listed by cell, elements gather", "the only one");
    // whole samples at a time; where one is too many, some of its channels
    const int64_t each = s.pixels() * taps * op.groups * int64_t(sizeof(T)), fit = slab_bytes / each;
    const int64_t some = larger(smaller(D, fit < V ? 1 : fit / V * V), 1), at_once = larger(1, smaller(N, fit / D));
    T* const z = context.scratch<T>(at_once * s.pixels() * taps * op.groups * some);
    for (int64_t first = 0; first < N; first += at_once) {
        const int64_t count = smaller(at_once, N - first);
        const SampleCells<T> cells{
            s, first, count * s.sets * taps * s.pixels(), Divisor(s.pixels()), Divisor(taps), Divisor(s.sets)};
        const Bins bins = make_bins(context, cells, count * s.sets * (s.H + 1) * (s.W + 1));
        for (int64_t begin = 0; begin < D; begin += some) {
            const int64_t channels = smaller(some, D - begin);
            pulled(context, first * s.pixels(), count * s.pixels(), begin, channels, z);
            const InputGrad<T> g{s,
                                 bins,
                                 z,
                                 static_cast<T*>(op.gx.data),
                                 Strides4(op.gx),
                                 first,
                                 count,
                                 op.groups,
                                 D,
                                 begin,
                                 channels,
                                 C / s.sets,
                                 {},
                                 {},
                                 {}};
            // a pack must have one list
            if (channels % V == 0 && g.of_a_set % V == 0 && D % V == 0 && begin % V == 0)
                launch_gather<T, V>(context, g);
            else
                launch_gather<T, 1>(context, g);
        }
    }
}

// ---- the offset gradient -------------------------------------------------------------------------------------------

template <class T> struct OffsetGrad {
    Sampling<T> s;
    const T *x, *z; // x: [sample][row][column][channel]
    T *goffset, *gmask;
    int64_t channels, of_a_set, first; // first: pixel of all samples
    Divisor by_set, by_tap, by_image;
};
// Half a warp has a sample: its lanes are those of the long sum over channels.
template <class T, bool few> __global__ void __launch_bounds__(threads) sum_slopes(OffsetGrad<T> g, int64_t work) {
    const int lane = int(threadIdx.x) % sum_lanes;
    const int64_t rounded = (work + 1) / 2 * 2; // whole warps join lanes
    for (int64_t i = (int64_t(blockIdx.x) * threads + threadIdx.x) / sum_lanes; i < rounded;
         i += int64_t(gridDim.x) * (threads / sum_lanes)) {
        int64_t column = i < work ? i : work - 1;
        const int64_t set = g.by_set.take(column), tap = g.by_tap.take(column);
        int64_t n = g.first + column;
        const int64_t pixel = g.by_image.take(n);
        const BilinearPlace<T> p = g.s.place(n, set, tap, pixel);
        const CornerOffsets corners(p, g.s.H, g.s.W, g.s.W * g.channels, g.channels);
        const T* const x = g.x + n * g.s.H * g.s.W * g.channels + set * g.of_a_set;
        const T* const z = g.z + (column * g.s.taps + tap) * g.channels + set * g.of_a_set;
        const Several<T, 3> sums =
            sum_channels<few, T>(lane, g.of_a_set, [&](int64_t c) { return sample_terms(p, corners, x + c, z[c]); });
        if (i >= work || (lane != 0 && !MMK_DEFECT(deform_every_lane))) continue;
        const int64_t plane = g.s.plane(n, set, tap), at = plane * g.s.pixels() + pixel;
        if (g.gmask) g.gmask[at] = sums.at[2];
        if (!g.goffset) continue;
        const T mask = g.s.factor(n, set, tap, pixel);
        T* const to = g.goffset + at + plane * g.s.pixels();
        to[0] = g.s.mask ? mask * sums.at[0] : sums.at[0];
        to[g.s.pixels()] = g.s.mask ? mask * sums.at[1] : sums.at[1];
    }
}

template <class T> void offset_gradient(const DeformConv2dOffsetGrad& op, Context& context) {
    const int64_t N = op.x.extent[0], C = op.x.extent[1], taps = op.weight.size(2, 4);
    const Dense<T> gy(context, op.gy), offset(context, op.offset), mask(context, op.mask);
    DenseOut<T> goffset(context, op.goffset), gmask(context, op.gmask);
    Tensor last = op.x; // row, column, channel
    for (int i = 1; i < 4; ++i) {
        last.extent[i] = op.x.extent[i < 3 ? i + 1 : 1];
        last.stride[i] = op.x.stride[i < 3 ? i + 1 : 1];
    }
    const Dense<T> x(context, last);
    const Sampling<T> s(op, op.x.extent[2], op.x.extent[3], op.weight.extent[2], op.weight.extent[3], offset, mask);
    const PulledBack<T> pulled(context, op.weight, gy, op.groups, s.pixels());
    context.chose("half a warp for each sample", "the only one");
    const int64_t all = N * s.pixels(), fit = slab_bytes / (taps * C * int64_t(sizeof(T))) / 64 * 64;
    const int64_t at_once = smaller(all, larger(64, fit));
    T* const z = context.scratch<T>(at_once * taps * C);
    for (int64_t first = 0; first < all; first += at_once) {
        const int64_t count = smaller(at_once, all - first), work = count * taps * s.sets;
        pulled(context, first, count, 0, C / op.groups, z);
        const OffsetGrad<T> g{
            s, x, z, goffset, gmask, C, C / s.sets, first, Divisor(s.sets), Divisor(taps), Divisor(s.pixels())};
        const dim3 grid = grid_of(ceil_div(work, threads / sum_lanes));
        if (g.of_a_set <= few_channels)
            MMK_LAUNCH(context, (sum_slopes<T, true>), grid, threads, 0, g, work);
        else
            MMK_LAUNCH(context, (sum_slopes<T, false>), grid, threads, 0, g, work);
    }
    if (op.goffset) goffset.finish();
    if (op.gmask) gmask.finish();
}

} // namespace

void deform_conv2d_input_grad(const DeformConv2dInputGrad& op, Context& context) {
    using Op = DeformConv2dInputGrad;
    in_wide(context, op, op.gx.dtype, [&](auto zero, const Op& o) { input_gradient<decltype(zero)>(o, context); },
            {&Op::gy, &Op::offset, &Op::weight, &Op::mask}, {&Op::gx});
}
void deform_conv2d_offset_grad(const DeformConv2dOffsetGrad& op, Context& context) {
    using Op = DeformConv2dOffsetGrad;
    in_wide(context, op, op.goffset.dtype, [&](auto zero, const Op& o) { offset_gradient<decltype(zero)>(o, context); },
            {&Op::x, &Op::offset, &Op::weight, &Op::gy, &Op::mask}, {&Op::goffset, &Op::gmask});
}

void deform_conv2d_mask_grad(const DeformConv2dMaskGrad& op, Context& context) {
    using Op = DeformConv2dOffsetGrad;
    Op both;
    both.x = op.x, both.offset = op.offset, both.weight = op.weight, both.gy = op.gy, both.gmask = op.gmask;
    for (int i = 0; i < 2; ++i) both.stride[i] = op.stride[i], both.dilation[i] = op.dilation[i];
    for (int i = 0; i < 4; ++i) both.padding[i] = op.padding[i];
    both.groups = op.groups, both.offset_groups = op.offset_groups;
    in_wide(context, both, op.gmask.dtype, [&](auto zero, const Op& o) { offset_gradient<decltype(zero)>(o, context); },
            {&Op::x, &Op::offset, &Op::weight, &Op::gy}, {&Op::gmask});
}

} // namespace mmk::cuda
