// Means over rotated regions: no sample shares a row or a column with another, so each brings its own four elements.
#include "../ops/roi.h"

#include "../core/regions_rotated.h"
#include "roi.blocks.h"

namespace mmk::cpu::MMK_ISA {
namespace {

// A call in either direction: `map` is x or gx, `result` y or gy, and `source` the one of them that is read.
template <class T> struct Turned {
    RotationRules rules;
    RegionGrid grid;
    int64_t images, channels, places, bins;
    bool channels_last, direct; // direct: blocks of the map are read or written where they are
    Dense<T> boxes;
    RegionsByImage by_image;

    template <class Op>
    Turned(Context& context, const Op& op, const Tensor& map, const Tensor& result, const Tensor& source)
        : rules(rotation_rules(op)), grid{map.extent[2], map.extent[3], result.extent[2], result.extent[3]},
          images(map.extent[0]), channels(map.extent[1]), places(grid.height * grid.width), bins(grid.bins()),
          channels_last(has_channels_last(source)), direct(channels_last && channels % lanes == 0),
          boxes(context, op.boxes), by_image(context, RegionRules{}, boxes.get(), result.extent[0], 6, images) {}

    Tensor view(const Tensor& t) const { return channels_last ? channels_last_view(t) : t; }
    template <class U> Blocks<U> map_blocks(U* data) const { return {data, channels, places, 1, channels_last}; }
    template <class U> Blocks<U> result_blocks(U* data) const { return {data, channels, bins, 1, channels_last}; }
    int64_t pixel() const { return direct ? channels : lanes; }

    // body(image, block of channels, room for an image's pixels unless direct, room for a region's bins)
    template <class Body> void for_blocks(Context& context, Body&& body) const {
        const int64_t blocks = (channels + lanes - 1) / lanes, own_size = direct ? 0 : places * lanes,
                      size = own_size + bins * lanes;
        T* const scratch = context.scratch<T>(size * context.threads);
        parallel_for(context, images * blocks, [&](int64_t task, int worker) {
            T* const own = scratch + worker * size;
            body(task / blocks, task % blocks, own, own + own_size);
        });
    }
    bool has_regions(int64_t image) const { return by_image.first[image] < by_image.first[image + 1]; }
    // body(number, region, how many samples a bin's mean is of), image by image; image `images`: of none
    template <class Body> MMK_MEMBER void for_regions(int64_t image, Body&& body) const {
        for (int64_t i = by_image.first[image]; i < by_image.first[image + 1]; ++i) {
            const int64_t r = by_image.order[i];
            const RotatedRegion<T> region(rules, boxes + 6 * r, grid.height, grid.width, grid.bins_y, grid.bins_x);
            body(r, region, Vec<T>(region.samples() ? T(region.samples()) : T(1)));
        }
    }
    // body(offset, weight) for what bin b takes, sample by sample.
    template <class Body> MMK_MEMBER void for_corners(const RotatedRegion<T>& region, int64_t b, Body&& body) const {
        const int64_t samples = region.samples(), p = b / grid.bins_x, q = b % grid.bins_x;
        const int64_t step = pixel(), width = grid.width;
        for (int64_t i = 0; i < samples; ++i) {
            const Corners<T> around = region.corners(p, q, i);
            for (int k = 0; k < 4; ++k) {
                const T weight = around.weight(k);
                if (weight != T(0)) body((around.row(k) * width + around.column(k)) * step, weight);
            }
        }
    }
};

} // namespace

void roi_align_rotated(const RoiAlignRotated& op, Context& context) {
    visit_float(op.y.dtype, [&](auto zero) {
        using T = decltype(zero);
        const Turned<T> t(context, op, op.x, op.y, op.x);
        context.chose(t.direct ? "pixels" : "blocks", t.direct ? "x is channels-last" : "sixteen planes at a time");
        const Tensor x_view = t.view(op.x), y_view = t.view(op.y);
        const Dense<T> x_data(context, x_view);
        const DenseOut<T> y_data(context, y_view);
        const Blocks<const T> x = t.map_blocks(x_data.get());
        const Blocks<T> y = t.result_blocks(y_data.get());
        t.for_blocks(context, [&](int64_t n, int64_t index, T* own, T* tile) {
            if (!t.has_regions(n)) return;
            const Block<const T> from = x.block(n, index);
            if (!t.direct) bring_block(from, t.places, own);
            const T* const pixels = t.direct ? from.data : own;
            t.for_regions(n, [&](int64_t r, RotatedRegion<T> region, Vec<T> count) {
                for (int64_t b = 0; b < t.bins; ++b) {
                    Vec<T> sum = Vec<T>::zero();
                    t.for_corners(region, b, [&](int64_t offset, T weight) {
                        sum = fma(Vec<T>(weight), Vec<T>::load(pixels + offset), sum);
                    });
                    (sum / count).store(tile + b * lanes);
                }
                take_block(tile, t.bins, y.block(r, index));
            });
        });
        const int64_t size = t.channels * t.bins;
        t.for_regions(t.images, [&](int64_t r, const RotatedRegion<T>&, Vec<T>) {
            std::memset(y_data.get() + r * size, 0, size_t(size) * sizeof(T));
        });
    });
}

void roi_align_rotated_grad(const RoiAlignRotatedGrad& op, Context& context) {
    visit_float(op.gx.dtype, [&](auto zero) {
        using T = decltype(zero);
        const Turned<T> t(context, op, op.gx, op.gy, op.gy);
        context.chose(t.direct ? "pixels" : "blocks", t.direct ? "gy is channels-last" : "sixteen planes at a time");
        const Tensor gy_view = t.view(op.gy), gx_view = t.view(op.gx);
        const Dense<T> gy_data(context, gy_view);
        const DenseOut<T> gx_data(context, gx_view);
        const Blocks<const T> gy = t.result_blocks(gy_data.get());
        const Blocks<T> gx = t.map_blocks(gx_data.get());
        t.for_blocks(context, [&](int64_t n, int64_t index, T* own, T* tile) {
            const Block<T> to = gx.block(n, index);
            T* const pixels = t.direct ? to.data : own;
            for (int64_t i = 0; i < t.places; ++i) Vec<T>::zero().store(pixels + i * t.pixel());
            t.for_regions(n, [&](int64_t r, RotatedRegion<T> region, Vec<T> count) {
                bring_block(gy.block(r, index), t.bins, tile);
                for (int64_t b = 0; b < t.bins; ++b) {
                    const Vec<T> share = Vec<T>::load(tile + b * lanes) / count;
                    t.for_corners(region, b, [&](int64_t offset, T weight) {
                        T* const place = pixels + offset;
                        fma(Vec<T>(weight), share, Vec<T>::load(place)).store(place);
                    });
                }
            });
            if (!t.direct) take_block(own, t.places, to);
        });
    });
}

} // namespace mmk::cpu::MMK_ISA
