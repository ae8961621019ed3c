// Maxima over regions, and what goes back to the elements that were chosen: RoI pooling and the maximum of RoI align's
// samples.
#include "../ops/roi.h"

#include "roi.blocks.h"

namespace mmk::cpu::MMK_ISA {
namespace {

template <class T> using Places = Vec<typename detail::Integer<T>::type>;

// The first maximum, or the first NaN, lane by lane.
template <class T> struct Best {
    Vec<T> value;
    Places<T> place;

    MMK_MEMBER void consider(Vec<T> v, int64_t at) {
        const auto better = (v > value) | ((v != v) & (value == value));
        value = select(better, v, value);
        place = select(better, Places<T>(typename detail::Integer<T>::type(at)), place);
    }
};

// Sixteen channels of an image pixel by pixel, as both operators read them.
template <class T> struct Pixels {
    const T* at;
    int64_t pixel, line; // elements from one pixel, one line, to the next
    MMK_MEMBER Vec<T> operator()(int64_t h, int64_t w) const { return Vec<T>::load(at + h * line + w * pixel); }
};

// ---- what a bin chooses ---------------------------------------------------------------------------------------------

template <bool indexed, class T> struct Windows {
    RegionAxis<T> rows, columns;
    static int64_t scratch(const RegionGrid&, const RegionRules&) { return 0; }
    MMK_MEMBER Windows(const RegionRules& rules, const T* box, const RegionGrid& grid, void*)
        : rows(rules, box[2], box[4], grid.bins_y, grid.height),
          columns(rules, box[1], box[3], grid.bins_x, grid.width) {}

    MMK_MEMBER Best<T> best(const Pixels<T>& pixels, int64_t p, int64_t q) const {
        int64_t h0, h1, w0, w1;
        rows.window(p, h0, h1), columns.window(q, w0, w1);
        if (h0 >= h1 || w0 >= w1) return {Vec<T>::zero(), Places<T>(-1)};
        Best<T> best{pixels(h0, w0), Places<T>(typename detail::Integer<T>::type(h0 * columns.extent + w0))};
        for (int64_t h = h0; h < h1; ++h)
            for (int64_t w = w0; w < w1; ++w) {
                if constexpr (indexed)
                    best.consider(pixels(h, w), h * columns.extent + w);
                else
                    best.value = max(best.value, pixels(h, w));
            }
        return best;
    }
};

// A sample along an axis; `low` is -1 off the map.
template <class T> struct Sample {
    int64_t low;
    T beyond;
};
template <class T> struct SampledAxis {
    RegionAxis<T> axis;
    const Sample<T>* samples; // [bins][axis.count]

    MMK_MEMBER SampledAxis(const RegionAxis<T>& axis_, int64_t bins, Sample<T>* memory) : axis(axis_), samples(memory) {
        for (int64_t p = 0; p < bins; ++p)
            for (int64_t j = 0; j < axis.count; ++j, ++memory)
                if (!axis.place(axis.sample(p, j), memory->low, memory->beyond))
                    memory->low = -1, memory->beyond = T(0);
    }
    MMK_MEMBER const Sample<T>& at(int64_t p, int64_t j) const { return samples[p * axis.count + j]; }
};
template <bool corners, class T> struct Samples {
    SampledAxis<T> rows, columns;
    static int64_t most(const RegionRules& rules) { return rules.sampling > 0 ? rules.sampling : rules.most; }
    static int64_t scratch(const RegionGrid& grid, const RegionRules& rules) {
        return (grid.bins_y + grid.bins_x) * most(rules) * int64_t(sizeof(Sample<T>));
    }
    MMK_MEMBER Samples(const RegionRules& rules, const T* box, const RegionGrid& grid, void* memory)
        : rows(RegionAxis<T>(rules, box[2], box[4], grid.bins_y, grid.height), grid.bins_y,
               static_cast<Sample<T>*>(memory)),
          columns(RegionAxis<T>(rules, box[1], box[3], grid.bins_x, grid.width), grid.bins_x,
                  static_cast<Sample<T>*>(memory) + grid.bins_y * most(rules)) {}

    MMK_MEMBER Best<T> best(const Pixels<T>& pixels, int64_t p, int64_t q) const {
        Best<T> best{Vec<T>::zero(), Places<T>(-1)};
        bool first = true;
        const auto consider = [&](Vec<T> v, int64_t at) {
            if (first)
                best = {v, Places<T>(typename detail::Integer<T>::type(at))};
            else
                best.consider(v, at);
            first = false;
        };
        for (int64_t j = 0; j < rows.axis.count; ++j)
            for (int64_t i = 0; i < columns.axis.count; ++i) {
                const int64_t index = j * columns.axis.count + i;
                const Sample<T> row = rows.at(p, j), column = columns.at(q, i);
                const bool inside = row.low >= 0 && column.low >= 0;
                if constexpr (corners) {
                    for (int k = 0; k < 4; ++k) {
                        const T weight = inside ? (k / 2 ? row.beyond : T(1) - row.beyond) *
                                                      (k % 2 ? column.beyond : T(1) - column.beyond)
                                                : T(0);
                        consider(weight != T(0) ? Vec<T>(weight) * pixels(row.low + k / 2, column.low + k % 2)
                                                : Vec<T>::zero(),
                                 4 * index + k);
                    }
                } else {
                    Vec<T> sum = Vec<T>::zero();
                    for (int k = 0; k < 2 && inside; ++k) {
                        const T weight = k ? row.beyond : T(1) - row.beyond;
                        if (weight == T(0)) continue;
                        Vec<T> part =
                            fma(Vec<T>(T(1) - column.beyond), pixels(row.low + k, column.low), Vec<T>::zero());
                        if (column.beyond != T(0))
                            part = fma(Vec<T>(column.beyond), pixels(row.low + k, column.low + 1), part);
                        sum = fma(Vec<T>(weight), part, sum);
                    }
                    consider(sum, index);
                }
            }
        return best;
    }
};

// ---- forward --------------------------------------------------------------------------------------------------------

template <class T, class Choice, class Op> void choose(Context& context, const RegionRules& rules, const Op& op) {
    const RegionGrid grid{op.x.extent[2], op.x.extent[3], op.y.extent[2], op.y.extent[3]};
    const int64_t images = op.x.extent[0], channels = op.x.extent[1], regions = op.y.extent[0], bins = grid.bins();
    const bool channels_last = has_channels_last(op.x), direct = channels_last && channels % lanes == 0;
    context.chose(direct ? "pixels" : "blocks", direct ? "x is channels-last" : "sixteen planes at a time");
    const Tensor x_view = channels_last ? channels_last_view(op.x) : op.x;
    const Tensor y_view = channels_last ? channels_last_view(op.y) : op.y;
    const Tensor indices_view = channels_last && op.indices ? channels_last_view(op.indices) : op.indices;
    const Dense<T> x_data(context, x_view), boxes(context, op.boxes);
    const DenseOut<T> y_data(context, y_view);
    const DenseOut<int64_t> indices_data(context, indices_view);
    const RegionsByImage by_image(context, rules, boxes.get(), regions, 5, images);
    const Blocks<const T> x{x_data, channels, grid.height * grid.width, 1, channels_last};
    const Blocks<T> y{y_data, channels, bins, 1, channels_last};
    const Blocks<int64_t> indices{indices_data, channels, bins, 1, channels_last};
    using Place = typename detail::Integer<T>::type;
    const int64_t pixels_size = direct ? 0 : x.places * lanes;
    T* const pixels_memory = context.scratch<T>(pixels_size * context.threads);
    T* const values_memory = context.scratch<T>(bins * lanes * context.threads);
    Place* const places_memory = context.scratch<Place>(bins * lanes * context.threads);
    const int64_t choice_size = (Choice::scratch(grid, rules) + 63) / 64 * 64;
    char* const choice_memory = context.scratch<char>(choice_size * context.threads);
    const int64_t blocks = x.count(), tasks = images * blocks;
    const int64_t parts = tasks < 2 * context.threads ? 2 * context.threads : 1;
    parallel_for(context, tasks * parts, [&](int64_t task, int worker) {
        const int64_t part = task % parts, n = task / parts / blocks, index = task / parts % blocks;
        const int64_t count = by_image.first[n + 1] - by_image.first[n];
        const int64_t first = by_image.first[n] + count * part / parts,
                      end = by_image.first[n] + count * (part + 1) / parts;
        if (first == end) return;
        const Block<const T> from = x.block(n, index);
        T* const own = pixels_memory + worker * pixels_size;
        if (!direct) bring_block(from, x.places, own);
        const int64_t pixel = direct ? channels : lanes;
        const Pixels<T> pixels{direct ? from.data : own, pixel, pixel * grid.width};
        T* const values = values_memory + worker * bins * lanes;
        Place* const places = places_memory + worker * bins * lanes;
        for (int64_t i = first; i < end; ++i) {
            const int64_t r = by_image.order[i];
            const Choice choice(rules, boxes + 5 * r, grid, choice_memory + worker * choice_size);
            for (int64_t p = 0; p < grid.bins_y; ++p)
                for (int64_t q = 0; q < grid.bins_x; ++q) {
                    const Best<T> best = choice.best(pixels, p, q);
                    const int64_t at = (p * grid.bins_x + q) * lanes;
                    (best.value + Vec<T>::zero()).store(values + at);
                    if (op.indices) best.place.store(places + at);
                }
            take_block(values, bins, y.block(r, index));
            if (!op.indices) continue;
            const Block<int64_t> to = indices.block(r, index);
            for (int64_t k = 0; k < to.channels; ++k)
                for (int64_t b = 0; b < bins; ++b)
                    to.data[k * to.channel_step + b * to.step] = int64_t(places[b * lanes + k]);
        }
    });
    for (int64_t i = by_image.first[images]; i < by_image.first[images + 1]; ++i)
        for (int64_t k = by_image.order[i] * channels * bins; k < (by_image.order[i] + 1) * channels * bins; ++k) {
            y_data[k] = T(0);
            if (op.indices) indices_data[k] = -1;
        }
}

// ---- back to what was chosen, and from there: one plane at a time ---------------------------------------------------

// Elements and weights of what bin (p, q) of region r chose by `index`: body(place, weight).
template <class T> struct ChosenElement {
    int64_t size; // of a plane
    MMK_MEMBER void of_region(const T*) {}
    template <class Body> MMK_MEMBER void corners(int64_t, int64_t, int64_t index, Body&& body) const {
        if (uint64_t(index) < uint64_t(size)) body(index, T(1));
    }
};
template <class T> struct ChosenSample {
    RegionRules rules;
    RegionGrid grid;
    bool one_corner;
    RegionAxis<T> rows = {}, columns = {};

    MMK_MEMBER void of_region(const T* box) {
        rows = RegionAxis<T>(rules, box[2], box[4], grid.bins_y, grid.height);
        columns = RegionAxis<T>(rules, box[1], box[3], grid.bins_x, grid.width);
    }
    template <class Body> MMK_MEMBER void corners(int64_t p, int64_t q, int64_t index, Body&& body) const {
        const int64_t sample = one_corner && index >= 0 ? index / 4 : index;
        if (uint64_t(sample) >= uint64_t(rows.count * columns.count)) return;
        const Corners<T> around(rows, columns, rows.sample(p, sample / columns.count),
                                columns.sample(q, sample % columns.count));
        for (int k = 0; k < 4; ++k) {
            if (one_corner && k != index % 4) continue;
            const T weight = around.weight(k);
            if (weight != T(0)) body(around.row(k) * grid.width + around.column(k), weight);
        }
    }
};

template <class T, class Chosen> void scatter_chosen(Context& context, Chosen chosen, const Tensor& gradient,
                                                     const Tensor& boxes_operand, const Tensor& indices_operand,
                                                     const Tensor& result) {
    const Dense<T> gy(context, gradient), boxes(context, boxes_operand);
    const Dense<int64_t> indices(context, indices_operand);
    const DenseOut<T> gx(context, result);
    const int64_t images = result.extent[0], channels = result.extent[1], size = result.size(2, 4);
    const int64_t bins_y = gradient.extent[2], bins_x = gradient.extent[3];
    const RegionsByImage by_image(context, RegionRules{}, boxes.get(), gradient.extent[0], 5, images);
    // Some planes at once: what a region's channels chose follows one another in memory.
    constexpr int64_t group = 4;
    const int64_t groups = (channels + group - 1) / group, bins = bins_y * bins_x;
    parallel_for(context, images * groups, [&](int64_t task, int) {
        const int64_t n = task / groups, first = task % groups * group;
        const int64_t end = first + group < channels ? first + group : channels;
        std::memset(gx + (n * channels + first) * size, 0, size_t((end - first) * size) * sizeof(T));
        Chosen own = chosen;
        for (int64_t i = by_image.first[n]; i < by_image.first[n + 1]; ++i) {
            const int64_t r = by_image.order[i];
            own.of_region(boxes + 5 * r);
            for (int64_t c = first; c < end; ++c) {
                T* const to = gx + (n * channels + c) * size;
                const int64_t at = (r * channels + c) * bins;
                for (int64_t b = 0; b < bins; ++b)
                    own.corners(b / bins_x, b % bins_x, indices[at + b], [&](int64_t place, T weight) {
                        to[place] = fma_scalar(weight, gy[at + b], to[place]);
                    });
            }
        }
    });
}

template <class T, class Chosen> void gather_chosen(Context& context, Chosen chosen, const Tensor& map,
                                                    const Tensor& boxes_operand, const Tensor& indices_operand,
                                                    const Tensor& result) {
    const Dense<T> ggx(context, map), boxes(context, boxes_operand);
    const Dense<int64_t> indices(context, indices_operand);
    const DenseOut<T> y(context, result);
    const int64_t images = map.extent[0], channels = map.extent[1], size = map.size(2, 4);
    const int64_t bins_y = result.extent[2], bins_x = result.extent[3], bins = bins_y * bins_x;
    parallel_ranges(context, result.extent[0] * channels, 1 + 4096 / bins, [&](int64_t begin, int64_t end, int) {
        Chosen own = chosen;
        for (int64_t row = begin; row < end; ++row) {
            const int64_t r = row / channels, n = index_of(boxes[5 * r], images);
            const T* const from = ggx + (n * channels + row % channels) * size;
            own.of_region(boxes + 5 * r);
            for (int64_t b = 0; b < bins; ++b) {
                T sum = T(0);
                if (n >= 0)
                    own.corners(b / bins_x, b % bins_x, indices[row * bins + b],
                                [&](int64_t place, T weight) { sum = fma_scalar(weight, from[place], sum); });
                y[row * bins + b] = sum;
            }
        }
    });
}

template <class T, class Op> ChosenSample<T> chosen_sample(const Op& op, const Tensor& map, const Tensor& result) {
    return {visiting_rules(op), {map.extent[2], map.extent[3], result.extent[2], result.extent[3]}, op.corners != 0};
}

} // namespace

void roi_pool(const RoiPool& op, Context& context) {
    visit_float(op.y.dtype, [&](auto zero) {
        using T = decltype(zero);
        if (op.indices)
            choose<T, Windows<true, T>>(context, window_rules(op.spatial_scale, false), op);
        else
            choose<T, Windows<false, T>>(context, window_rules(op.spatial_scale, false), op);
    });
}
void roi_pool_grad(const RoiPoolGrad& op, Context& context) {
    visit_float(op.gx.dtype, [&](auto zero) {
        using T = decltype(zero);
        scatter_chosen<T>(context, ChosenElement<T>{op.gx.size(2, 4)}, op.gy, op.boxes, op.indices, op.gx);
    });
}
void roi_pool_gather(const RoiPoolGather& op, Context& context) {
    visit_float(op.y.dtype, [&](auto zero) {
        using T = decltype(zero);
        gather_chosen<T>(context, ChosenElement<T>{op.ggx.size(2, 4)}, op.ggx, op.boxes, op.indices, op.y);
    });
}

void roi_align_max(const RoiAlignMax& op, Context& context) {
    visit_float(op.y.dtype, [&](auto zero) {
        using T = decltype(zero);
        if (op.corners)
            choose<T, Samples<true, T>>(context, visiting_rules(op), op);
        else
            choose<T, Samples<false, T>>(context, visiting_rules(op), op);
    });
}
void roi_align_max_grad(const RoiAlignMaxGrad& op, Context& context) {
    visit_float(op.gx.dtype, [&](auto zero) {
        using T = decltype(zero);
        scatter_chosen<T>(context, chosen_sample<T>(op, op.gx, op.gy), op.gy, op.boxes, op.indices, op.gx);
    });
}
void roi_align_max_gather(const RoiAlignMaxGather& op, Context& context) {
    visit_float(op.y.dtype, [&](auto zero) {
        using T = decltype(zero);
        gather_chosen<T>(context, chosen_sample<T>(op, op.ggx, op.y), op.ggx, op.boxes, op.indices, op.y);
    });
}

} // namespace mmk::cpu::MMK_ISA
