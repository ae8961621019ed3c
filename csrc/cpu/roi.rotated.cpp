// Means over rotated regions: no sample shares a row or a column with another, so each brings its own four elements.
#include "../ops/roi.h"

#include "../core/regions_rotated.h"
#include "roi.blocks.h"

namespace mmk::cpu::MMK_ISA {
namespace {

// A call in either direction: `map` is x or gx, `result` y or gy.
template <class T> struct Turned {
    RotationRules rules;
    RegionGrid grid;
    int64_t images, regions, channels;
    bool channels_last, direct;

    template <class Op> Turned(const Op& op, const Tensor& map, const Tensor& result, const Tensor& source)
        : rules(rotation_rules(op)), grid{map.extent[2], map.extent[3], result.extent[2], result.extent[3]},
          images(map.extent[0]), regions(result.extent[0]), channels(map.extent[1]),
          channels_last(has_channels_last(source)), direct(channels_last && channels % lanes == 0) {}

    Tensor view(const Tensor& t) const { return channels_last ? channels_last_view(t) : t; }
    int64_t pixel() const { return direct ? channels : lanes; }
    MMK_MEMBER RotatedRegion<T> region(const T* box) const {
        return RotatedRegion<T>(rules, box, grid.height, grid.width, grid.bins_y, grid.bins_x);
    }
    // body(offset, weight) for what bin b takes, sample by sample.
    template <class Body> MMK_MEMBER void for_corners(const RotatedRegion<T>& region, int64_t b, Body&& body) const {
        const int64_t samples = region.samples(), p = b / grid.bins_x, q = b % grid.bins_x;
        for (int64_t i = 0; i < samples; ++i) {
            const Corners<T> around = region.corners(p, q, i);
            for (int k = 0; k < 4; ++k) {
                const T weight = around.weight(k);
                if (weight != T(0)) body((around.row(k) * grid.width + around.column(k)) * pixel(), weight);
            }
        }
    }
};

} // namespace

void roi_align_rotated(const RoiAlignRotated& op, Context& context) {
    visit_float(op.y.dtype, [&](auto zero) {
        using T = decltype(zero);
        const Turned<T> t(op, op.x, op.y, op.x);
        context.chose(t.direct ? "pixels" : "blocks", t.direct ? "x is channels-last" : "sixteen planes at a time");
        const Tensor x_view = t.view(op.x), y_view = t.view(op.y);
        const Dense<T> x_data(context, x_view), boxes(context, op.boxes);
        const DenseOut<T> y_data(context, y_view);
        const RegionsByImage by_image(context, RegionRules{}, boxes.get(), t.regions, 6, t.images);
        const int64_t bins = t.grid.bins(), places = t.grid.height * t.grid.width;
        const Blocks<const T> x{x_data, t.channels, places, 1, t.channels_last};
        const Blocks<T> y{y_data, t.channels, bins, 1, t.channels_last};
        const int64_t own_size = t.direct ? 0 : places * lanes, size = own_size + bins * lanes;
        T* const scratch = context.scratch<T>(size * context.threads);
        parallel_for(context, t.images * x.count(), [&](int64_t task, int worker) {
            const int64_t n = task / x.count(), index = task % x.count();
            if (by_image.first[n] == by_image.first[n + 1]) return;
            T *const own = scratch + worker * size, *const tile = own + own_size;
            const Block<const T> from = x.block(n, index);
            if (!t.direct) bring_block(from, places, own);
            const T* const pixels = t.direct ? from.data : own;
            for (int64_t i = by_image.first[n]; i < by_image.first[n + 1]; ++i) {
                const int64_t r = by_image.order[i];
                const RotatedRegion<T> region = t.region(boxes + 6 * r);
                const Vec<T> count(region.samples() ? T(region.samples()) : T(1));
                for (int64_t b = 0; b < bins; ++b) {
                    Vec<T> sum = Vec<T>::zero();
                    t.for_corners(region, b, [&](int64_t offset, T weight) {
                        sum = fma(Vec<T>(weight), Vec<T>::load(pixels + offset), sum);
                    });
                    (sum / count).store(tile + b * lanes);
                }
                take_block(tile, bins, y.block(r, index));
            }
        });
        for (int64_t i = by_image.first[t.images]; i < by_image.first[t.images + 1]; ++i)
            std::memset(y_data.get() + by_image.order[i] * t.channels * bins, 0, size_t(t.channels * bins) * sizeof(T));
    });
}

void roi_align_rotated_grad(const RoiAlignRotatedGrad& op, Context& context) {
    visit_float(op.gx.dtype, [&](auto zero) {
        using T = decltype(zero);
        const Turned<T> t(op, op.gx, op.gy, op.gy);
        context.chose(t.direct ? "pixels" : "blocks", t.direct ? "gy is channels-last" : "sixteen planes at a time");
        const Tensor gy_view = t.view(op.gy), gx_view = t.view(op.gx);
        const Dense<T> gy_data(context, gy_view), boxes(context, op.boxes);
        const DenseOut<T> gx_data(context, gx_view);
        const RegionsByImage by_image(context, RegionRules{}, boxes.get(), t.regions, 6, t.images);
        const int64_t bins = t.grid.bins(), places = t.grid.height * t.grid.width;
        const Blocks<const T> gy{gy_data, t.channels, bins, 1, t.channels_last};
        const Blocks<T> gx{gx_data, t.channels, places, 1, t.channels_last};
        const int64_t own_size = t.direct ? 0 : places * lanes, size = own_size + bins * lanes;
        T* const scratch = context.scratch<T>(size * context.threads);
        parallel_for(context, t.images * gx.count(), [&](int64_t task, int worker) {
            const int64_t n = task / gx.count(), index = task % gx.count();
            T *const own = scratch + worker * size, *const tile = own + own_size;
            const Block<T> to = gx.block(n, index);
            T* const pixels = t.direct ? to.data : own;
            for (int64_t i = 0; i < places; ++i) Vec<T>::zero().store(pixels + i * t.pixel());
            for (int64_t i = by_image.first[n]; i < by_image.first[n + 1]; ++i) {
                const int64_t r = by_image.order[i];
                const RotatedRegion<T> region = t.region(boxes + 6 * r);
                bring_block(gy.block(r, index), bins, tile);
                const Vec<T> count(region.samples() ? T(region.samples()) : T(1));
                for (int64_t b = 0; b < bins; ++b) {
                    const Vec<T> share = Vec<T>::load(tile + b * lanes) / count;
                    t.for_corners(region, b, [&](int64_t offset, T weight) {
                        T* const place = pixels + offset;
                        fma(Vec<T>(weight), share, Vec<T>::load(place)).store(place);
                    });
                }
            }
            if (!t.direct) take_block(own, places, to);
        });
    });
}

} // namespace mmk::cpu::MMK_ISA
