// Maxima over the bins of regions, and what goes back to the elements that they chose.
#include "roi.scatter.cuh"

namespace mmk::cuda {
namespace {

// ---- forward: a bin of a channel per thread -------------------------------------------------------------------------

template <class T> struct Choices {
    Regions<Compute<T>> regions;
    Order4 order;
    Strides4 x_strides, y_strides, index_strides;
    const T* x;
    T* y;
    int64_t* indices; // null if they are not wanted
    bool corners;
};
template <class C> struct BestPlace {
    C value = C(0);
    int64_t place = -1;
    __device__ void consider(C v, int64_t at) {
        const bool better = place < 0 || v > value || (v != v && value == value);
        value = better ? v : value, place = better ? at : place;
    }
};
template <class T>
__device__ inline void store_choice(const Choices<T>& m, const Place4& at, const BestPlace<Compute<T>>& best) {
    m.y[m.y_strides.at(at.n, at.c, at.h, at.w)] = narrow<T>(best.value + Compute<T>(0));
    if (m.indices) m.indices[m.index_strides.at(at.n, at.c, at.h, at.w)] = best.place;
}

template <class T> __global__ void __launch_bounds__(place_threads, 4) choose_elements(Choices<T> m) {
    using C = Compute<T>;
    for_places(m.order, [&](const Place4& at) {
        const int64_t image = m.regions.image(at.n);
        BestPlace<C> best;
        if (image >= 0) {
            int64_t h0, h1, w0, w1;
            m.regions.rows(at.n).window(at.h, h0, h1), m.regions.columns(at.n).window(at.w, w0, w1);
            if (MMK_DEFECT(roi_window_end)) ++w1;
            const T* const map = m.x + m.x_strides.at(image, at.c, 0, 0);
            for (int64_t h = h0; h < h1; ++h)
                for (int64_t w = w0; w < w1; ++w)
                    best.consider(widen(map[h * m.x_strides.h + w * m.x_strides.w]), h * m.regions.width + w);
        }
        store_choice(m, at, best);
    });
}

// A sample's value, as the mean of one.
template <class T> __device__ inline Compute<T> sample_value(const Corners<Compute<T>>& around, const T* map,
                                                             int64_t h_step, int64_t w_step) {
    using C = Compute<T>;
    C sum = C(0);
#pragma unroll
    for (int j = 0; j < 2; ++j) {
        if (!around.inside || around.row_weights[j] == C(0)) continue;
        C part = C(0);
#pragma unroll
        for (int i = 0; i < 2; ++i)
            if (around.column_weights[i] != C(0))
                part = fma_scalar(around.column_weights[i],
                                  widen(map[around.rows[j] * h_step + around.columns[i] * w_step]), part);
        sum = fma_scalar(around.row_weights[j], part, sum);
    }
    return sum;
}
template <class T> __global__ void __launch_bounds__(place_threads, 3) choose_samples(Choices<T> m) {
    using C = Compute<T>;
    for_places(m.order, [&](const Place4& at) {
        const int64_t image = m.regions.image(at.n);
        BestPlace<C> best;
        if (image >= 0) {
            const RegionAxis<C> rows = m.regions.rows(at.n), columns = m.regions.columns(at.n);
            const T* const map = m.x + m.x_strides.at(image, at.c, 0, 0);
            for (int64_t index = 0; index < rows.count * columns.count; ++index) {
                const Corners<C> around(rows, columns, rows.sample(at.h, index / columns.count),
                                        columns.sample(at.w, index % columns.count));
                if (!m.corners) {
                    best.consider(sample_value(around, map, m.x_strides.h, m.x_strides.w), index);
                    continue;
                }
                for (int k = 0; k < 4; ++k) {
                    const C weight = around.weight(k);
                    C value = C(0);
                    if (weight != C(0))
                        value = weight * widen(map[around.row(k) * m.x_strides.h + around.column(k) * m.x_strides.w]);
                    best.consider(value, 4 * index + k);
                }
            }
        }
        store_choice(m, at, best);
    });
}

template <class T, class Op> Choices<T> choices_of(const Op& op, const RegionRules& rules, const Compute<T>* boxes) {
    return {regions_of<T>(rules, boxes, op.x, op.y),
            Order4(op.y, has_channels_last(op.y), 1),
            Strides4(op.x),
            Strides4(op.y),
            Strides4(op.indices),
            static_cast<const T*>(op.x.data),
            static_cast<T*>(op.y.data),
            static_cast<int64_t*>(op.indices.data),
            false};
}

// ---- what a bin has chosen ------------------------------------------------------------------------------------------

// An element, by its index; or a sample, by its number in the bin, which has four elements around it.
template <class C> struct Chosen {
    Regions<C> regions;
    bool samples, corners;

    // Neighbour k (of one, or of four) of what bin (p, q) of region r chose by `index`.
    __device__ bool neighbour(int64_t r, int64_t p, int64_t q, int64_t index, int k, C& weight, int64_t& place) const {
        if (!samples) {
            weight = C(1), place = index;
            return uint64_t(index) < uint64_t(regions.height * regions.width);
        }
        if (corners && (index < 0 || k != index % 4)) return false;
        const int64_t sample = corners ? index / 4 : index;
        const RegionAxis<C> rows = regions.rows(r), columns = regions.columns(r);
        if (uint64_t(sample) >= uint64_t(rows.count * columns.count)) return false;
        const Corners<C> around(rows, columns, rows.sample(p, sample / columns.count),
                                columns.sample(q, sample % columns.count));
        weight = around.weight(k);
        place = around.row(k) * regions.width + around.column(k);
        return weight != C(0);
    }
};

template <class T> struct ChosenEntries {
    Chosen<Compute<T>> chosen;
    const T* gy;
    const int64_t* indices; // both [regions][channels][bins]
    int64_t channels;

    __device__ int64_t bins() const { return chosen.regions.bins_y * chosen.regions.bins_x; }
    __device__ int64_t count(int64_t) const { return bins() * (chosen.samples ? 4 : 1); }
    __device__ bool entry(int64_t r, int64_t c, int64_t number, Compute<T>& weight, Compute<T>& gradient,
                          int64_t& place) const {
        const int64_t bin = chosen.samples ? number / 4 : number, at = (r * channels + c) * bins() + bin;
        gradient = widen(gy[at]);
        return chosen.neighbour(r, bin / chosen.regions.bins_x, bin % chosen.regions.bins_x, indices[at],
                                chosen.samples ? int(number % 4) : 0, weight, place);
    }
};

template <class T> struct Gathering {
    Chosen<Compute<T>> chosen;
    Order4 order;
    Strides4 ggx_strides, index_strides, y_strides;
    const T* ggx;
    const int64_t* indices;
    T* y;
};
template <class T> __global__ void __launch_bounds__(place_threads, 3) gather_chosen(Gathering<T> g) {
    using C = Compute<T>;
    for_places(g.order, [&](const Place4& at) {
        const int64_t image = g.chosen.regions.image(at.n), width = g.chosen.regions.width;
        const int64_t index = g.indices[g.index_strides.at(at.n, at.c, at.h, at.w)];
        C sum = C(0);
        for (int k = 0; k < (g.chosen.samples ? 4 : 1) && image >= 0; ++k) {
            C weight;
            int64_t place;
            if (!g.chosen.neighbour(at.n, at.h, at.w, index, k, weight, place)) continue;
            if (MMK_DEFECT(roi_gather_row)) ++place;
            sum = fma_scalar(weight, widen(g.ggx[g.ggx_strides.at(image, at.c, place / width, place % width)]), sum);
        }
        g.y[g.y_strides.at(at.n, at.c, at.h, at.w)] = narrow<T>(sum);
    });
}

template <class Op>
void scatter_chosen(const Op& op, Context& context, const RegionRules& rules, bool samples, bool corners) {
    visit_storage(op.gx.dtype, [&](auto type) {
        using T = typename decltype(type)::type;
        const Dense<Compute<T>> boxes(context, op.boxes);
        const Dense<T> gy(context, op.gy);
        const Dense<int64_t> indices(context, op.indices);
        const ChosenEntries<T> entries{
            {regions_of<T>(rules, boxes, op.gx, op.gy), samples, corners}, gy, indices, op.gx.extent[1]};
        scatter_of<T>(context, entries, boxes, 5, op.gy.extent[0], false, op.gx);
    });
}
template <class Op>
void gather_of_chosen(const Op& op, Context& context, const RegionRules& rules, bool samples, bool corners) {
    visit_storage(op.y.dtype, [&](auto type) {
        using T = typename decltype(type)::type;
        const Dense<Compute<T>> boxes(context, op.boxes);
        const Gathering<T> g{{regions_of<T>(rules, boxes, op.ggx, op.y), samples, corners},
                             Order4(op.y, has_channels_last(op.y), 1),
                             Strides4(op.ggx),
                             Strides4(op.indices),
                             Strides4(op.y),
                             static_cast<const T*>(op.ggx.data),
                             static_cast<const int64_t*>(op.indices.data),
                             static_cast<T*>(op.y.data)};
        MMK_LAUNCH(context, (gather_chosen<T>), grid_of_places(g.order), place_threads, 0, g);
    });
}

} // namespace

void roi_pool(const RoiPool& op, Context& context) {
    visit_storage(op.y.dtype, [&](auto type) {
        using T = typename decltype(type)::type;
        const Dense<Compute<T>> boxes(context, op.boxes);
        const Choices<T> m = choices_of<T>(op, window_rules(op.spatial_scale, false), boxes);
        MMK_LAUNCH(context, (choose_elements<T>), grid_of_places(m.order), place_threads, 0, m);
    });
}
void roi_align_max(const RoiAlignMax& op, Context& context) {
    visit_storage(op.y.dtype, [&](auto type) {
        using T = typename decltype(type)::type;
        const Dense<Compute<T>> boxes(context, op.boxes);
        Choices<T> m = choices_of<T>(op, visiting_rules(op), boxes);
        m.corners = op.corners != 0;
        MMK_LAUNCH(context, (choose_samples<T>), grid_of_places(m.order), place_threads, 0, m);
    });
}
void roi_pool_grad(const RoiPoolGrad& op, Context& context) {
    scatter_chosen(op, context, RegionRules(), false, false);
}
void roi_align_max_grad(const RoiAlignMaxGrad& op, Context& context) {
    scatter_chosen(op, context, visiting_rules(op), true, op.corners != 0);
}
void roi_pool_gather(const RoiPoolGather& op, Context& context) {
    gather_of_chosen(op, context, RegionRules(), false, false);
}
void roi_align_max_gather(const RoiAlignMaxGather& op, Context& context) {
    gather_of_chosen(op, context, visiting_rules(op), true, op.corners != 0);
}

} // namespace mmk::cuda
