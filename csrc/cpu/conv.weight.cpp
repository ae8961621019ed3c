#include "conv.correlation.h"

namespace mmk::cpu::MMK_ISA {

namespace {

// What the ways to compute a weight gradient share. Products run over pixels of gy, n, o, p, q.
template <class T> struct WeightGradient {
    int64_t samples, groups, channels, outputs; // channels and outputs of one group
    int64_t rows, columns, image, depth;        // of gy: rows, columns, pixels of one sample, pixels of all
    int64_t taps;                               // of one filter channel
    Planes planes;
    const T* source; // x with its border: [sample][group][channel][plane]
    const T* gy;     // [sample][group][output][pixel]
    T* gweight;      // [group][output][channel][tap]

    // The tables of one chunk after another: body(first product, count, offsets), an offset being that of a product's
    // pixel in planes of `step` numbers per element, samples `sample` elements apart.
    template <class Body> MMK_MEMBER void chunks(int64_t sample, int64_t step, Body&& body) const {
        int64_t offset[chunk_products];
        int64_t n = 0, o = 0, p = 0, q = 0;
        for (int64_t t = 0;;) {
            const int64_t count = smaller(depth - t, chunk_products);
            for (int64_t k = 0; k < count; ++k) {
                offset[k] = (n * sample + o * planes.slice() + p * planes.pitch() + q) * step;
                if (++q < columns) continue;
                q = 0;
                if (++p < rows) continue;
                p = 0;
                if (++o * rows * columns == image) o = 0, ++n;
            }
            body(t, count, offset);
            t += count;
            if (t >= depth) break; // an empty sum is one empty chunk
        }
    }
};

// Lanes along outputs: rows are (c, r, s), gy is packed.
template <class T> void gradient_by_outputs(Context& context, const WeightGradient<T>& g) {
    using Shape = ProductShape<T>;
    const int64_t panels = ceil_divide(g.outputs, Shape::width), panel_size = g.depth * Shape::width;
    T* const packed = context.scratch<T>(g.groups * panels * panel_size);
    parallel_for(context, g.groups * panels * g.samples, [&](int64_t index, int) {
        const int64_t n = index % g.samples, panel = index / g.samples, n0 = panel % panels * Shape::width;
        const int64_t count = smaller(Shape::width, g.outputs - n0), width = count > lanes ? Shape::width : lanes;
        pack_panel(g.gy + ((n * g.groups + panel / panels) * g.outputs + n0) * g.image, 1, g.image, g.image, count,
                   width, packed + panel * panel_size + n * g.image * width);
    });

    // Every row of a task walks through all pixels; the sums of its rows stay in cache.
    const int64_t rows = g.channels * g.taps, tiles = ceil_divide(rows, Shape::rows);
    const int64_t parts =
        larger(ceil_divide(rows, Shape::block), smaller(tiles, ceil_divide(4 * context.threads, g.groups * panels)));
    constexpr int64_t sums_size = (Shape::block + Shape::rows) * Shape::width;
    T* const sums = context.scratch<T>(context.threads * sums_size);
    parallel_for(context, g.groups * panels * parts, [&](int64_t index, int worker) {
        const int64_t part = index % parts, panel = index / parts, group = panel / panels;
        const int64_t n0 = panel % panels * Shape::width, count = smaller(Shape::width, g.outputs - n0);
        const int64_t begin = smaller(rows, tiles * part / parts * Shape::rows);
        const int64_t end = smaller(rows, tiles * (part + 1) / parts * Shape::rows);
        const T* row[Shape::block + 2 * Shape::rows];
        int64_t to[Shape::block + Shape::rows];
        for (int64_t k = begin; k < end; ++k) {
            row[k - begin] = g.source + (group * g.channels + k / g.taps) * g.planes.size() + g.planes.tap(k % g.taps);
            to[k - begin] = group * g.outputs * rows + k;
        }
        TileWork<T> w;
        w.chunk = chunk_products;
        w.sums = sums + worker * sums_size;
        w.sums_stride = count > lanes ? Shape::width : lanes;
        w.begin = 0;
        g.chunks(g.groups * g.channels * g.planes.size(), 1, [&](int64_t t, int64_t products, const int64_t* offset) {
            w.end = products;
            w.offset = offset;
            w.first = t == 0;
            w.b = packed + panel * panel_size + t * w.sums_stride;
            panel_rows(w, row, end - begin, w.sums_stride);
        });
        const Finish<T> finish{g.gweight, nullptr, nullptr, rows, Activation::none};
        finish_rows(finish, w.sums, w.sums_stride, to, end - begin, n0, count);
    });
}

// Panels of planes with channels innermost: [panel][sample][element][width], channels counted through all groups, each
// panel inside a group of `channels`.
template <class T> const T* channels_innermost(Context& context, const WeightGradient<T>& g, int64_t groups,
                                               int64_t channels, int64_t width) {
    const int64_t panels = ceil_divide(channels, width), plane = g.planes.size();
    T* const to = context.scratch<T>(groups * panels * g.samples * plane * width);
    parallel_for(context, groups * panels * g.samples, [&](int64_t index, int) {
        const int64_t n = index % g.samples, panel = index / g.samples, c0 = panel % panels * width;
        pack_panel(g.source + ((n * groups + panel / panels) * channels + c0) * plane, 1, plane, plane,
                   smaller(width, channels - c0), width, to + index * plane * width);
    });
    return to;
}

// Lanes along channels, for few outputs: rows are outputs.
template <class T> void gradient_by_channels(Context& context, const WeightGradient<T>& g) {
    using Shape = ProductShape<T>;
    const int64_t width = lanes * smaller(Shape::pixel_vectors, ceil_divide(g.channels, lanes));
    const int64_t panels = ceil_divide(g.channels, width), plane = g.planes.size();
    const T* const source = channels_innermost(context, g, g.groups, g.channels, width);
    T* const gy = context.scratch<T>(g.groups * g.outputs * g.depth); // [group][output][sample][pixel]
    parallel_for(context, g.groups * g.outputs * g.samples, [&](int64_t index, int) {
        const int64_t n = index % g.samples, k = index / g.samples;
        const T* const from = g.gy + (n * g.groups * g.outputs + k) * g.image;
        for (int64_t i = 0; i < g.image; i += lanes)
            Vec<T>::load(from + i, g.image - i).store(gy + index * g.image + i, g.image - i);
    });
    const int64_t parts = smaller(g.taps, ceil_divide(4 * context.threads, g.groups * panels));
    const int64_t most = ceil_divide(g.taps, parts) * (g.outputs + Shape::pixel_rows);
    T* const sums = context.scratch<T>(context.threads * most * width);
    parallel_for(context, g.groups * panels * parts, [&](int64_t index, int worker) {
        const int64_t part = index % parts, panel = index / parts, group = panel / panels, c0 = panel % panels * width;
        const int64_t begin = g.taps * part / parts, end = g.taps * (part + 1) / parts;
        T* const mine = sums + worker * most * width;
        TileWork<T> w;
        w.chunk = chunk_products;
        w.sums_stride = width;
        w.begin = 0;
        g.chunks(plane, width, [&](int64_t t, int64_t products, const int64_t* offset) {
            w.end = products;
            w.offset = offset;
            w.first = t == 0;
            for (int64_t tap = begin; tap < end; ++tap)
                for (int64_t k = 0; k < g.outputs; k += Shape::pixel_rows) {
                    int64_t rows = smaller(Shape::pixel_rows, g.outputs - k);
                    const Tile<T> tile = pixel_tile_for<T>(rows, width / lanes);
                    const T* row[Shape::pixel_rows];
                    for (int64_t i = 0; i < rows; ++i)
                        row[i] = gy + (group * g.outputs + smaller(k + i, g.outputs - 1)) * g.depth + t;
                    w.row = row;
                    w.b = source + panel * g.samples * plane * width + g.planes.tap(tap) * width;
                    w.sums = mine + ((tap - begin) * (g.outputs + Shape::pixel_rows) + k) * width;
                    tile(w);
                }
        });
        const Finish<T> finish{g.gweight, nullptr, nullptr, g.taps, Activation::none};
        for (int64_t tap = begin; tap < end; ++tap)
            for (int64_t k = 0; k < g.outputs; ++k) {
                const int64_t to = (group * g.outputs + k) * g.channels * g.taps + tap;
                finish_rows(finish, mine + ((tap - begin) * (g.outputs + Shape::pixel_rows) + k) * width, width, &to, 1,
                            c0, smaller(width, g.channels - c0));
            }
    });
}

// Lanes along groups of one channel and one output each: rows are taps.
template <class T> void gradient_by_groups(Context& context, const WeightGradient<T>& g) {
    using Shape = ProductShape<T>;
    const int64_t panels = ceil_divide(g.groups, lanes), plane = g.planes.size();
    const T* const source = channels_innermost(context, g, 1, g.groups, lanes);
    T* const gy = context.scratch<T>(panels * g.depth * lanes); // [panel][sample][pixel][16]
    parallel_for(context, panels * g.samples, [&](int64_t index, int) {
        const int64_t n = index % g.samples, c0 = index / g.samples * lanes;
        pack_panel(g.gy + (n * g.groups + c0) * g.image, 1, g.image, g.image, smaller(lanes, g.groups - c0), lanes,
                   gy + index * g.image * lanes);
    });
    const int64_t parts = ceil_divide(g.taps, Shape::block);
    constexpr int64_t sums_size = (Shape::block + Shape::rows) * lanes;
    T* const sums = context.scratch<T>(context.threads * sums_size);
    parallel_for(context, panels * parts, [&](int64_t index, int worker) {
        const int64_t part = index % parts, panel = index / parts;
        const int64_t begin = g.taps * part / parts, end = g.taps * (part + 1) / parts;
        const T* row[Shape::block + Shape::rows];
        int64_t to[Shape::block];
        for (int64_t k = begin; k < end; ++k) {
            row[k - begin] = source + (panel * g.samples * plane + g.planes.tap(k)) * lanes;
            to[k - begin] = k;
        }
        TileWork<T> w;
        w.chunk = chunk_products;
        w.sums = sums + worker * sums_size;
        w.sums_stride = lanes;
        w.begin = 0;
        g.chunks(plane, lanes, [&](int64_t t, int64_t products, const int64_t* offset) {
            w.end = products;
            w.offset = offset;
            w.first = t == 0;
            w.b = gy + (panel * g.depth + t) * lanes;
            rows_in_tiles(w, row, end - begin, [](int64_t& rows) { return lane_tile_for<T>(rows); });
        });
        const Finish<T> finish{g.gweight, nullptr, nullptr, g.taps, Activation::none};
        finish_rows(finish, w.sums, lanes, to, end - begin, panel * lanes, smaller(lanes, g.groups - panel * lanes));
    });
}

template <class T> void weight_gradient(const Conv3dWeightGrad& op, Context& context) {
    const Tensor x = factors(context, op.x, op.algorithm), gy = factors(context, op.gy, op.algorithm);
    const Tensor& gw = op.gweight;
    const Planes planes{{x.extent[2], op.padding[0], gy.extent[2], op.stride[0], op.dilation[0], gw.extent[2]},
                        {x.extent[3], op.padding[2], gy.extent[3], op.stride[1], op.dilation[1], gw.extent[3]},
                        {x.extent[4], op.padding[4], gy.extent[4], op.stride[2], op.dilation[2], gw.extent[4]}};
    const DenseOut<T> out(context, gw);
    const Dense<T> dense(context, gy);
    const WeightGradient<T> g{gy.extent[0],
                              op.groups,
                              gw.extent[1],
                              gy.extent[1] / op.groups,
                              gy.extent[3],
                              gy.extent[4],
                              gy.size(2, 5),
                              gy.extent[0] * gy.size(2, 5),
                              gw.size(2, 5),
                              planes,
                              bordered<T>(context, x, planes),
                              dense,
                              out};
    if (g.channels == 1 && g.outputs == 1 && g.groups > 1) {
        context.chose("direct, lanes along groups", "a group is one channel");
        gradient_by_groups(context, g);
    } else if (g.outputs <= few_outputs / 2 && g.channels > g.outputs) {
        context.chose("direct, lanes along input channels", "a group has few output channels");
        gradient_by_channels(context, g);
    } else {
        context.chose("direct, lanes along output channels", "a group has many output channels");
        gradient_by_outputs(context, g);
    }
}

} // namespace

#define MMK_WEIGHT_GRADIENT(dims)                                                                                      \
    void conv##dims##d_weight_grad(const Conv##dims##dWeightGrad& op, Context& context) {                              \
        visit_float(op.gweight.dtype, [&](auto zero) { weight_gradient<decltype(zero)>(in_volumes(op), context); });   \
    }
MMK_WEIGHT_GRADIENT(1)
MMK_WEIGHT_GRADIENT(2)
MMK_WEIGHT_GRADIENT(3)

} // namespace mmk::cpu::MMK_ISA
