// The sum that a convolution and its input gradient share, as tasks for the tiles of core/products.h.
#pragma once

#include "conv.planes.h"

namespace mmk::cpu::MMK_ISA {

// The sum over channels and taps of (plane element) * (weight), for each pixel of a grid, output and group.
template <class T> struct Correlation {
    int64_t samples, groups, outputs; // outputs of one group
    int64_t slices, rows, columns;    // the grid
    int64_t depth, chunk;             // products
    int64_t lines;                    // of an image, through all channels, that the window of a pixel meets
    const T* source;
    int64_t sample, group, slice, pitch; // steps in the source; columns are 1 apart
    const int64_t* offset;               // of each product, from its pixel's place
    Finish<T> finish;                    // results of one group are n_step apart
    int64_t y_sample, y_slice, y_row, y_column, y_origin;

    MMK_MEMBER int64_t panels() const { return ceil_divide(outputs, ProductShape<T>::width); } // of one group
};

// Weights for lanes along outputs, [group][panel][product][width of the panel]: pack(group, first output, count, width,
// number of the panel, worker) fills one.
template <class T, class Pack> void pack_panels(Context& context, int64_t groups, int64_t outputs, Pack pack) {
    using Shape = ProductShape<T>;
    const int64_t panels = ceil_divide(outputs, Shape::width);
    parallel_for(context, groups * panels, [&](int64_t index, int worker) {
        const int64_t n0 = index % panels * Shape::width, count = smaller(Shape::width, outputs - n0);
        pack(index / panels, n0, count, count > lanes ? Shape::width : lanes, index, worker);
    });
}
// From weights [group][output][product].
template <class T> const T* pack_filters(Context& context, const Correlation<T>& c, const T* weight) {
    const int64_t panel_size = c.depth * ProductShape<T>::width;
    T* const packed = context.scratch<T>(c.groups * c.panels() * panel_size);
    const auto pack = [&](int64_t g, int64_t n0, int64_t count, int64_t width, int64_t index, int) {
        pack_panel(weight + (g * c.outputs + n0) * c.depth, 1, c.depth, c.depth, count, width,
                   packed + index * panel_size);
    };
    pack_panels<T>(context, c.groups, c.outputs, pack);
    return packed;
}

// Lanes along outputs.
template <class T> void correlate_outputs(Context& context, const Correlation<T>& c, const T* packed) {
    using Shape = ProductShape<T>;
    const int64_t panels = c.panels(), panel_size = c.depth * Shape::width;
    const int64_t image = c.rows * c.columns, pixels = c.samples * c.slices * image;
    const int64_t blocks = ceil_divide(pixels, Shape::block);
    T* const sums = context.scratch<T>(context.threads * (Shape::block + Shape::rows) * Shape::width);
    // as much of a panel as stays in the second-level cache while a block of pixels goes through it
    const int64_t stretch = larger(1, 2304 / c.chunk) * c.chunk;
    // What a task shares with the next stays in cache, the rest comes from memory: the larger one is shared, a panel or
    // what a block of pixels reads. Windows of one tap, or of several in depth alone, read much and reuse little.
    const bool share_pixels = c.lines * smaller(pixels, Shape::block) > 2 * panel_size;
    parallel_for(context, c.groups * panels * blocks, [&](int64_t index, int worker) {
        const int64_t block = share_pixels ? index / panels % blocks : index % blocks;
        const int64_t panel = share_pixels ? index % panels : index / blocks % panels, g = index / blocks / panels;
        const int64_t n0 = panel * Shape::width;
        const int64_t count = smaller(Shape::width, c.outputs - n0), width = count > lanes ? Shape::width : lanes;
        const int64_t begin = pixels * block / blocks, end = pixels * (block + 1) / blocks;
        const T* row[Shape::block + Shape::rows];
        int64_t to[Shape::block];
        int64_t slice = begin / image, i = begin % image / c.columns, j = begin % c.columns;
        int64_t n = slice / c.slices;
        slice %= c.slices;
        for (int64_t k = 0; k < end - begin; ++k) {
            row[k] = c.source + n * c.sample + g * c.group + slice * c.slice + i * c.pitch + j;
            to[k] = n * c.y_sample + g * c.outputs * c.finish.n_step + c.y_origin + slice * c.y_slice + i * c.y_row +
                    j * c.y_column;
            if (++j < c.columns) continue;
            j = 0;
            if (++i < c.rows) continue;
            i = 0;
            if (++slice == c.slices) slice = 0, ++n;
        }
        TileWork<T> w;
        w.offset = c.offset;
        w.chunk = c.chunk;
        w.sums = sums + worker * (Shape::block + Shape::rows) * Shape::width;
        w.sums_stride = width;
        w.begin = 0;
        do {
            w.end = smaller(c.depth, w.begin + stretch);
            w.first = w.begin == 0;
            w.b = packed + (g * panels + panel) * panel_size + w.begin * width;
            panel_rows(w, row, end - begin, width);
            w.begin = w.end;
        } while (w.end < c.depth);
        Finish<T> finish = c.finish;
        if (finish.bias) finish.bias += g * c.outputs;
        finish_rows(finish, w.sums, width, to, end - begin, n0, count);
    });
}

// Lanes along the pixels of one image, its rows and what lies between them walked as one. weights:
// [group][output][depth].
template <class T> void correlate_pixels(Context& context, const Correlation<T>& c, const T* weights) {
    using Shape = ProductShape<T>;
    constexpr int64_t vectors = Shape::pixel_vectors;
    const int64_t band = larger(1, smaller(c.rows, 512 / c.pitch)), bands = ceil_divide(c.rows, band);
    // long rows, as of one dimension, in segments
    const int64_t segment = c.columns > 1024 ? 512 : c.columns, segments = ceil_divide(c.columns, segment);
    const int64_t most = ceil_divide((band - 1) * c.pitch + segment, lanes) * lanes;
    const int64_t sums_size = (c.outputs + Shape::pixel_rows) * most;
    T* const sums = context.scratch<T>(context.threads * sums_size);
    parallel_for(context, c.samples * c.groups * c.slices * bands * segments, [&](int64_t index, int worker) {
        const int64_t j = index % segments * segment, columns = smaller(segment, c.columns - j);
        const int64_t first = index / segments % bands * band, rows = smaller(band, c.rows - first);
        const int64_t slice = index / segments / bands % c.slices, plane = index / segments / bands / c.slices;
        const int64_t g = plane % c.groups, n = plane / c.groups;
        const int64_t length = ceil_divide((rows - 1) * c.pitch + columns, lanes);
        T* const mine = sums + worker * sums_size;
        TileWork<T> w;
        w.offset = c.offset;
        w.begin = 0;
        w.end = c.depth;
        w.chunk = c.chunk;
        w.sums_stride = most;
        w.first = true;
        for (int64_t v = 0; v < length; v += vectors)
            for (int64_t k = 0; k < c.outputs;) {
                const int64_t wanted = smaller(Shape::pixel_rows, c.outputs - k);
                int64_t tile_rows = wanted;
                const Tile<T> tile = pixel_tile_for<T>(tile_rows, smaller(vectors, length - v));
                const T* row[Shape::pixel_rows];
                for (int64_t i = 0; i < tile_rows; ++i)
                    row[i] = weights + (g * c.outputs + smaller(k + i, c.outputs - 1)) * c.depth;
                w.row = row;
                w.b = c.source + n * c.sample + g * c.group + slice * c.slice + first * c.pitch + j + v * lanes;
                w.sums = mine + k * most + v * lanes;
                tile(w);
                k += wanted;
            }
        const int64_t at = n * c.y_sample + g * c.outputs * c.finish.n_step + c.y_origin + slice * c.y_slice +
                           first * c.y_row + j * c.y_column;
        visit_activation(c.finish.activation, [&](auto activate) {
            for (int64_t k = 0; k < c.outputs; ++k) {
                const T bias = c.finish.bias ? c.finish.bias[g * c.outputs + k] : T(0);
                for (int64_t i = 0; i < rows; ++i)
                    finish_run(c.finish, mine + k * most + i * c.pitch, at + k * c.finish.n_step + i * c.y_row,
                               c.y_column, columns, bias, activate);
            }
        });
    });
}

// Fewer outputs than these leave too many lanes without work.
constexpr int64_t few_outputs = 8;

} // namespace mmk::cpu::MMK_ISA
