// Means over rotated regions and their gradient.
#include "../core/regions_rotated.h"
#include "roi.scatter.cuh"

namespace mmk::cuda {
namespace {

// The boxes of a call, made ready: [count].
template <class B> struct RotatedRegions {
    const RotatedRegion<B>* at;
    int64_t width, bins_y, bins_x;
};
template <class B> __global__ void __launch_bounds__(place_threads)
    turn_boxes(RotationRules rules, const B* boxes, int64_t count, int64_t height, int64_t width, int64_t bins_y,
               int64_t bins_x, RotatedRegion<B>* regions) {
    for (int64_t r = int64_t(blockIdx.x) * place_threads + threadIdx.x; r < count;
         r += int64_t(gridDim.x) * place_threads)
        regions[r] = RotatedRegion<B>(rules, boxes + 6 * r, height, width, bins_y, bins_x);
}
template <class Op, class B>
RotatedRegions<B> turned(Context& context, const Op& op, const B* boxes, const Tensor& map, const Tensor& result) {
    const int64_t count = result.extent[0];
    RotatedRegion<B>* const regions = context.scratch<RotatedRegion<B>>(larger(count, 1));
    if (count)
        MMK_LAUNCH(context, (turn_boxes<B>), grid_of(ceil_div(count, place_threads)), place_threads, 0,
                   rotation_rules(op), boxes, count, map.extent[2], map.extent[3], result.extent[2], result.extent[3],
                   regions);
    return {regions, map.extent[3], result.extent[2], result.extent[3]};
}

// A thread makes a bin for some channels, so that samples are placed once for them.
constexpr int channels_each = 8;
template <class T> struct RotatedMeans {
    RotatedRegions<Compute<T>> regions;
    const Compute<T>* boxes;
    int64_t images, channels;
    Order4 order; // of bins and of groups of channels
    Strides4 x_strides, y_strides;
    const T* x;
    T* y;
};
template <class T> __global__ void __launch_bounds__(place_threads) rotated_means(RotatedMeans<T> m) {
    using C = Compute<T>;
    for_places(m.order, [&](const Place4& at) {
        const int64_t image = index_of(m.boxes[6 * at.n], m.images), first = at.c * channels_each;
        const int count = int(smaller(channels_each, m.channels - first));
        const RotatedRegion<C> region = m.regions.at[at.n];
        const T* const map = m.x + m.x_strides.at(image < 0 ? 0 : image, first, 0, 0);
        C sum[channels_each];
#pragma unroll
        for (int v = 0; v < channels_each; ++v) sum[v] = C(0);
        const int64_t samples = region.samples();
        for (int64_t i = 0; i < samples && image >= 0; ++i) {
            const Corners<C> around = region.corners(at.h, at.w, i);
            for (int k = MMK_DEFECT(roi_first_corner) ? 1 : 0; k < 4; ++k) {
                const C weight = around.weight(k);
                if (weight == C(0)) continue;
                const T* const place = map + around.row(k) * m.x_strides.h + around.column(k) * m.x_strides.w;
#pragma unroll
                for (int v = 0; v < channels_each; ++v)
                    if (v < count) sum[v] = fma_scalar(weight, widen(place[v * m.x_strides.c]), sum[v]);
            }
        }
        const C divisor = samples ? C(samples) : C(1);
#pragma unroll
        for (int v = 0; v < channels_each; ++v)
            if (v < count + (MMK_DEFECT(roi_other_channels) ? 1 : 0))
                m.y[m.y_strides.at(at.n, first + v, at.h, at.w)] = narrow<T>(sum[v] / divisor);
    });
}

template <class T> struct RotatedEntries {
    RotatedRegions<Compute<T>> regions;
    const T* gy;
    Strides4 gy_strides;

    __device__ int64_t count(int64_t r) const { return regions.bins_y * regions.bins_x * regions.at[r].samples() * 4; }
    __device__ bool entry(int64_t r, int64_t c, int64_t number, Compute<T>& weight, Compute<T>& gradient,
                          int64_t& place) const {
        const RotatedRegion<Compute<T>>& region = regions.at[r];
        const int64_t samples = region.samples(), bin = number / 4 / samples;
        const int64_t p = bin / regions.bins_x, q = bin % regions.bins_x;
        const int k = int(number % 4);
        const Corners<Compute<T>> around = region.corners(p, q, number / 4 % samples);
        weight = around.weight(k);
        place = around.row(k) * regions.width + around.column(k);
        gradient =
            widen(gy[gy_strides.at(r, c, q * (MMK_DEFECT(roi_transposed_bins) ? 1 : 0) + p, q)]) / Compute<T>(samples);
        return weight != Compute<T>(0);
    }
};

} // namespace

void roi_align_rotated(const RoiAlignRotated& op, Context& context) {
    visit_storage(op.y.dtype, [&](auto type) {
        using T = typename decltype(type)::type;
        const Dense<Compute<T>> boxes(context, op.boxes);
        Tensor groups = op.y;
        groups.extent[1] = ceil_div(op.y.extent[1], channels_each);
        const RotatedMeans<T> m{turned(context, op, boxes.get(), op.x, op.y),
                                boxes,
                                op.x.extent[0],
                                op.y.extent[1],
                                Order4(groups, has_channels_last(op.y), 1),
                                Strides4(op.x),
                                Strides4(op.y),
                                static_cast<const T*>(op.x.data),
                                static_cast<T*>(op.y.data)};
        MMK_LAUNCH(context, (rotated_means<T>), grid_of_places(m.order), place_threads, 0, m);
    });
}
void roi_align_rotated_grad(const RoiAlignRotatedGrad& op, Context& context) {
    visit_storage(op.gx.dtype, [&](auto type) {
        using T = typename decltype(type)::type;
        const Dense<Compute<T>> boxes(context, op.boxes);
        const RotatedEntries<T> entries{turned(context, op, boxes.get(), op.gx, op.gy),
                                        static_cast<const T*>(op.gy.data), Strides4(op.gy)};
        scatter_of<T>(context, entries, boxes, 6, op.gy.extent[0], true, op.gx);
    });
}

} // namespace mmk::cuda
