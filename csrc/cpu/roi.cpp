#include "../ops/roi.h"

#include "roi.blocks.h"

namespace mmk::cpu::MMK_ISA {
namespace {

// What a mean over regions reads and writes, in either direction: `map` is x or gx, `result` y or gy.
template <class T> struct Setting {
    RegionGrid grid;
    RegionRules rules;
    int64_t images, regions, channels;
    bool channels_last, direct; // direct: blocks of the map are read where they are

    Setting(const RegionRules& rules_, const Tensor& map, const Tensor& result, bool channels_last_)
        : grid{map.extent[2], map.extent[3], result.extent[2], result.extent[3]}, rules(rules_), images(map.extent[0]),
          regions(result.extent[0]), channels(result.extent[1]), channels_last(!rules.sensitive && channels_last_),
          direct(channels_last && channels % lanes == 0) {}

    int64_t pixel() const { return direct ? channels : lanes; }
    int64_t planes() const { return rules.sensitive ? grid.bins() : 1; }
    int64_t block_count() const { return (channels + lanes - 1) / lanes; }
    Tensor view(const Tensor& t) const { return channels_last ? channels_last_view(t) : t; }
    template <class U> Blocks<U> map_blocks(U* data) const {
        return {data, channels, grid.height * grid.width, planes(), channels_last};
    }
    template <class U> Blocks<U> result_blocks(U* data) const {
        return {data, channels, grid.bins(), 1, channels_last};
    }
    // body(image, block, plane, first region in order, their end, worker): every image's blocks, and, if those are
    // few, parts of the regions.
    template <class Body>
    void for_blocks(Context& context, const RegionsByImage& by_image, bool parts_allowed, Body&& body) const {
        const int64_t blocks = block_count(), each = blocks * planes(), tasks = images * each;
        const int64_t parts = parts_allowed && tasks < 2 * context.threads ? 2 * context.threads : 1;
        parallel_for(context, tasks * parts, [&](int64_t task, int worker) {
            const int64_t part = task % parts, place = task / parts, n = place / each;
            const int64_t first = by_image.first[n], count = by_image.first[n + 1] - first;
            body(n, place % each / planes(), place % planes(), first + count * part / parts,
                 first + count * (part + 1) / parts, worker);
        });
    }
};

// Bins [first, first + group) of a row of bins: for each row that is taken, its columns are added first.
template <int group, class T> MMK_INLINE void mean_group(const T* pixels, const RegionTables<T>& tables, int64_t r,
                                                         Taps<T> rows, int64_t first, T* tile) {
    Vec<T> sum[group];
    Taps<T> columns[group];
#pragma GCC unroll 8
    for (int k = 0; k < group; ++k) sum[k] = Vec<T>::zero(), columns[k] = tables.columns(r, first + k);
    for (int64_t j = 0; j < rows.count; ++j) {
        const T* const line = pixels + rows.at[j].offset;
        const Vec<T> weight(rows.at[j].weight);
#pragma GCC unroll 8
        for (int k = 0; k < group; ++k) {
            Vec<T> part = Vec<T>::zero();
            for (int64_t i = 0; i < columns[k].count; ++i)
                part = fma(Vec<T>(columns[k].at[i].weight), Vec<T>::load(line + columns[k].at[i].offset), part);
            if (columns[k].count) sum[k] = fma(weight, part, sum[k]);
        }
    }
#pragma GCC unroll 8
    for (int k = 0; k < group; ++k) sum[k].store(tile + k * lanes);
}
template <class T> MMK_INLINE void mean_row(const T* pixels, const RegionTables<T>& tables, int64_t r, int64_t p,
                                            int64_t first, int64_t end, T* tile) {
    const Taps<T> rows = tables.rows(r, p);
    for (; first + 7 <= end; first += 7, tile += 7 * lanes) mean_group<7>(pixels, tables, r, rows, first, tile);
    for (; first + 2 <= end; first += 2, tile += 2 * lanes) mean_group<2>(pixels, tables, r, rows, first, tile);
    for (; first < end; ++first, tile += lanes) mean_group<1>(pixels, tables, r, rows, first, tile);
}

template <class T> void mean_of_regions(Context& context, const RegionRules& rules, const Tensor& x_operand,
                                        const Tensor& boxes_operand, const Tensor& result, bool channels_last) {
    const Setting<T> s(rules, x_operand, result, channels_last);
    context.chose(s.direct ? "pixels" : "blocks", s.direct ? "x is channels-last" : "sixteen planes at a time");
    const Tensor x_view = s.view(x_operand), y_view = s.view(result);
    const Dense<T> x_data(context, x_view), boxes(context, boxes_operand);
    const DenseOut<T> y_data(context, y_view);
    const RegionsByImage by_image(context, rules, boxes.get(), s.regions, 5, s.images);
    const RegionTables<T> tables(context, rules, boxes, s.regions, s.grid, s.pixel(), false);
    const Blocks<const T> x = s.map_blocks(x_data.get());
    const Blocks<T> y = s.result_blocks(y_data.get());
    const int64_t pixels_size = s.direct ? 0 : x.places * lanes, size = pixels_size + s.grid.bins() * lanes;
    T* const scratch = context.scratch<T>(size * context.threads);
    const auto blocks = [&](int64_t n, int64_t index, int64_t plane, int64_t first, int64_t end, int worker) {
        if (first == end) return;
        T *const pixels = scratch + worker * size, *const tile = pixels + pixels_size;
        Block<const T> from = x.block(n, index, plane);
        if (!s.direct) { // the rows that these regions take
            int64_t top, bottom;
            tables.lines_of(by_image.order + first, end - first, top, bottom);
            from.data += top * s.grid.width * from.step;
            bring_block(from, (bottom - top) * s.grid.width, pixels + top * s.grid.width * lanes);
        }
        const T* const map = s.direct ? from.data : pixels;
        for (int64_t i = first; i < end; ++i) {
            const int64_t r = by_image.order[i];
            Block<T> to = y.block(r, index);
            if (rules.sensitive) {
                const int64_t p = plane / s.grid.bins_x, q = plane % s.grid.bins_x;
                mean_row(map, tables, r, p, q, q + 1, tile);
                to.data += plane * to.step;
                take_block(tile, 1, to);
                continue;
            }
            for (int64_t p = 0; p < s.grid.bins_y; ++p)
                mean_row(map, tables, r, p, 0, s.grid.bins_x, tile + p * s.grid.bins_x * lanes);
            take_block(tile, s.grid.bins(), to);
        }
    };
    s.for_blocks(context, by_image, true, blocks);
    for (int64_t i = by_image.first[s.images]; i < by_image.first[s.images + 1]; ++i)
        std::memset(y_data.get() + by_image.order[i] * s.channels * s.grid.bins(), 0,
                    size_t(s.channels * s.grid.bins()) * sizeof(T));
}

// ---- gradient -------------------------------------------------------------------------------------------------------

// Row p of a region's bins: their gradients are dealt out to the columns first, then to the rows.
template <class T> MMK_INLINE void deal_row(const RegionTables<T>& tables, int64_t r, int64_t p, int64_t first,
                                            int64_t end, const T* tile, T* parts, T* pixels) {
    const Taps<T> rows = tables.rows(r, p);
    if (rows.count == 0) return;
    int64_t distinct;
    const int64_t* const list = tables.compact_columns(r, distinct);
    for (int64_t k = 0; k < distinct; ++k) Vec<T>::zero().store(parts + k * lanes);
    for (int64_t q = first; q < end; ++q, tile += lanes) {
        const Taps<T> columns = tables.columns(r, q);
        const Vec<T> gradient = Vec<T>::load(tile);
        for (int64_t i = 0; i < columns.count; ++i) {
            T* const part = parts + columns.at[i].offset;
            fma(Vec<T>(columns.at[i].weight), gradient, Vec<T>::load(part)).store(part);
        }
    }
    for (int64_t j = 0; j < rows.count; ++j) {
        T* const line = pixels + rows.at[j].offset;
        const Vec<T> weight(rows.at[j].weight);
        for (int64_t k = 0; k < distinct; ++k)
            fma(weight, Vec<T>::load(parts + k * lanes), Vec<T>::load(line + list[k])).store(line + list[k]);
    }
}
// The same for one bin, whose columns need no list.
template <class T>
MMK_INLINE void deal_bin(const RegionTables<T>& tables, int64_t r, int64_t p, int64_t q, Vec<T> gradient, T* pixels) {
    const Taps<T> rows = tables.rows(r, p), columns = tables.columns(r, q);
    for (int64_t j = 0; j < rows.count; ++j)
        for (int64_t i = 0; i < columns.count; ++i) {
            T* const to = pixels + rows.at[j].offset + columns.at[i].offset;
            const Vec<T> part = fma(Vec<T>(columns.at[i].weight), gradient, Vec<T>::zero());
            fma(Vec<T>(rows.at[j].weight), part, Vec<T>::load(to)).store(to);
        }
}

template <class T> void deal_regions(Context& context, const RegionRules& rules, const Tensor& gradient,
                                     const Tensor& boxes_operand, const Tensor& result) {
    const Setting<T> s(rules, result, gradient, has_channels_last(gradient));
    context.chose(s.direct ? "pixels" : "blocks", s.direct ? "gy is channels-last" : "sixteen planes at a time");
    const Tensor gy_view = s.view(gradient), gx_view = s.view(result);
    const Dense<T> gy_data(context, gy_view), boxes(context, boxes_operand);
    const DenseOut<T> gx_data(context, gx_view);
    const RegionsByImage by_image(context, rules, boxes.get(), s.regions, 5, s.images);
    const RegionTables<T> tables(context, rules, boxes, s.regions, s.grid, s.pixel(), !rules.sensitive);
    const Blocks<const T> gy = s.result_blocks(gy_data.get());
    const Blocks<T> gx = s.map_blocks(gx_data.get());
    const int64_t pixels_size = s.direct ? 0 : gx.places * lanes, parts_size = s.grid.width * lanes;
    const int64_t size = pixels_size + parts_size + s.grid.bins() * lanes;
    T* const scratch = context.scratch<T>(size * context.threads);
    const auto blocks = [&](int64_t n, int64_t index, int64_t plane, int64_t first, int64_t end, int worker) {
        T *const parts = scratch + worker * size, *const tile = parts + parts_size,
                 *const own = tile + s.grid.bins() * lanes;
        const Block<T> to = gx.block(n, index, plane);
        T* const pixels = s.direct ? to.data : own;
        for (int64_t i = 0; i < gx.places; ++i) Vec<T>::zero().store(pixels + i * s.pixel());
        for (int64_t i = first; i < end; ++i) {
            const int64_t r = by_image.order[i];
            Block<const T> from = gy.block(r, index);
            if (rules.sensitive) {
                from.data += plane * from.step;
                bring_block(from, 1, tile);
                deal_bin(tables, r, plane / s.grid.bins_x, plane % s.grid.bins_x, Vec<T>::load(tile), pixels);
                continue;
            }
            bring_block(from, s.grid.bins(), tile);
            for (int64_t p = 0; p < s.grid.bins_y; ++p)
                deal_row(tables, r, p, 0, s.grid.bins_x, tile + p * s.grid.bins_x * lanes, parts, pixels);
        }
        if (!s.direct) take_block(own, gx.places, to);
    };
    s.for_blocks(context, by_image, false, blocks);
}

template <class Op> void mean_of_map(const Op& op, Context& context, const RegionRules& rules) {
    visit_float(op.y.dtype, [&](auto zero) {
        mean_of_regions<decltype(zero)>(context, rules, op.x, op.boxes, op.y, has_channels_last(op.x));
    });
}
template <class Op> void deal_to_map(const Op& op, Context& context, const RegionRules& rules) {
    visit_float(op.gx.dtype, [&](auto zero) { deal_regions<decltype(zero)>(context, rules, op.gy, op.boxes, op.gx); });
}

} // namespace

void roi_align(const RoiAlign& op, Context& context) { mean_of_map(op, context, sampling_rules(op)); }
void roi_align_grad(const RoiAlignGrad& op, Context& context) { deal_to_map(op, context, sampling_rules(op)); }
void ps_roi_align(const PsRoiAlign& op, Context& context) { mean_of_map(op, context, sensitive_sampling_rules(op)); }
void ps_roi_align_grad(const PsRoiAlignGrad& op, Context& context) {
    deal_to_map(op, context, sensitive_sampling_rules(op));
}
void ps_roi_pool(const PsRoiPool& op, Context& context) {
    mean_of_map(op, context, window_rules(op.spatial_scale, true));
}
void ps_roi_pool_grad(const PsRoiPoolGrad& op, Context& context) {
    deal_to_map(op, context, window_rules(op.spatial_scale, true));
}

// Every level writes the regions that are its own.
void multi_scale_roi_align(const MultiScaleRoiAlign& op, Context& context) {
    const Tensor* const maps[] = {&op.x0, &op.x1, &op.x2, &op.x3, &op.x4};
    const bool channels_last = has_channels_last(op.y), dense = channels_last || op.y.contiguous();
    const Tensor y = dense ? op.y : contiguous_scratch(context, op.y);
    visit_float(op.y.dtype, [&](auto zero) {
        for (int64_t k = 0; k < op.levels; ++k)
            mean_of_regions<decltype(zero)>(context, level_rules(op, k), *maps[k], op.boxes, y, channels_last);
    });
    if (!dense) copy_strided(context, op.y, y);
}
void multi_scale_roi_align_grad(const MultiScaleRoiAlignGrad& op, Context& context) {
    const Tensor* const maps[] = {&op.gx0, &op.gx1, &op.gx2, &op.gx3, &op.gx4};
    visit_float(op.gy.dtype, [&](auto zero) {
        for (int64_t k = 0; k < op.levels; ++k)
            deal_regions<decltype(zero)>(context, level_rules(op, k), op.gy, op.boxes, *maps[k]);
    });
}

} // namespace mmk::cpu::MMK_ISA
