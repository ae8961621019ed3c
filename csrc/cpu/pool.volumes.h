// The engine of what pooling computes in one, two or three axes: for each result the elements that it reads, sixteen
// channels of a pixel or sixteen planes at a time. A kernel is one function of a window.
#pragma once

#include "../core/products.h"
#include "../core/windows.h"
#include "pool.lines.h"

namespace mmk::cpu::MMK_ISA {

using Axis3 = PoolAxis[3];

// What result i of each axis reads: tables, made once per call.
struct Grid {
    int64_t outputs[3], inputs[3];
    const Reach* reach[3];

    MMK_MEMBER int64_t size() const { return outputs[0] * outputs[1] * outputs[2]; }
    MMK_MEMBER int64_t input_size() const { return inputs[0] * inputs[1] * inputs[2]; }
};
// backward: the results are elements and what they read is windows.
MMK_INLINE Grid grid_of(Context& context, const Axis3& axes, bool backward) {
    Grid grid;
    for (int i = 0; i < 3; ++i) {
        const PoolAxis& axis = axes[i];
        grid.outputs[i] = backward ? axis.extent : axis.outputs;
        grid.inputs[i] = backward ? axis.outputs : axis.extent;
        Reach* const table = context.scratch<Reach>(grid.outputs[i]);
        for (int64_t k = 0; k < grid.outputs[i]; ++k) table[k] = backward ? axis.read_by(k) : axis.reads(k);
        grid.reach[i] = table;
    }
    return grid;
}

// One result of each lane: where it is and what it reads. The lanes are channels or planes, or else neighbours in a line
// of one plane's results that read as many elements.
template <class T, bool neighbours = false> struct Window {
    const Grid* grid;
    int64_t at[3];
    int64_t plane, planes; // number of the first of those that are made together; of all
    const T* source[2];    // element i of the plane is at [(i - origin) * pitch], one per lane
    const T* own;          // the same place of another operand that has the results' extents
    int64_t origin, pitch, lanes_used;
    int64_t apart[neighbours ? lanes : 1] = {}; // of neighbours: what each reads less what the first one reads

    MMK_MEMBER int64_t number() const { return (at[0] * grid->outputs[1] + at[1]) * grid->outputs[2] + at[2]; }
    // Of the results of all planes, lane k's; for k below results().
    MMK_MEMBER int64_t result(int64_t k) const {
        return neighbours ? plane * grid->size() + number() + k : (plane + k) * grid->size() + number();
    }
    MMK_MEMBER int64_t results() const { return neighbours ? lanes_used : smaller(lanes_used, planes - plane); }
    MMK_MEMBER Vec<T> load(int64_t i, int which = 0) const {
        if constexpr (neighbours) {
            T s[lanes];
            for (int k = 0; k < lanes; ++k) s[k] = source[which][i + apart[k]];
            return Vec<T>::load(s);
        } else
            return Vec<T>::load(source[which] + (i - origin) * pitch, lanes_used);
    }
    // How much further each lane's elements are than the first one's.
    template <class I> MMK_MEMBER Vec<I> shifts() const {
        I s[lanes] = {};
        for (int k = 0; neighbours && k < lanes; ++k) s[k] = I(apart[k]);
        return Vec<I>::load(s);
    }
    // body(i, d, h, w) for the elements of the plane that are read, in scan order.
    template <class Body> MMK_MEMBER void each(Body&& body) const {
        const Reach &a = grid->reach[0][at[0]], &b = grid->reach[1][at[1]], &c = grid->reach[2][at[2]];
        for (int64_t k = 0, d = a.begin; k < a.count; ++k, d += a.step)
            for (int64_t l = 0, h = b.begin; l < b.count; ++l, h += b.step) {
                const int64_t line = (d * grid->inputs[1] + h) * grid->inputs[2];
                for (int64_t m = 0, w = c.begin; m < c.count; ++m, w += c.step) body(line + w, d, h, w);
            }
    }
    MMK_MEMBER bool empty() const {
        return grid->reach[0][at[0]].count == 0 || grid->reach[1][at[1]].count == 0 || grid->reach[2][at[2]].count == 0;
    }
};

// Operands as volumes: what is read, once or twice, what lies beside the results, the results, and their indices.
struct Pooled {
    Tensor sources[2], own, y, indices;
};

MMK_INLINE Tensor volume_channels_last(const Tensor& x) {
    Tensor t = x;
    for (int i = 1; i < 5; ++i) t.extent[i] = x.extent[i < 4 ? i + 1 : 1], t.stride[i] = x.stride[i < 4 ? i + 1 : 1];
    return t;
}

constexpr int64_t volume_grain = 16384; // elements read for which a second thread pays

// Elements that a result reads, on average.
MMK_INLINE int64_t reads_of(const Grid& grid) {
    double each = 1;
    for (int i = 0; i < 3; ++i) {
        int64_t sum = 0;
        for (int64_t k = 0; k < grid.outputs[i]; ++k) sum += grid.reach[i][k].count;
        each *= double(sum) / double(larger(grid.outputs[i], 1));
    }
    return 1 + int64_t(each);
}

template <class T, class Kernel>
void pool_channels(Context& context, const Grid& grid, const Pooled& p, const Kernel& kernel) {
    const Tensor view[5] = {volume_channels_last(p.sources[0]),
                            p.sources[1] ? volume_channels_last(p.sources[1]) : Tensor(),
                            p.own ? volume_channels_last(p.own) : Tensor(), volume_channels_last(p.y),
                            p.indices ? volume_channels_last(p.indices) : Tensor()};
    const Dense<T> first(context, view[0]), second(context, view[1]), own(context, view[2]);
    const DenseOut<T> y(context, view[3]);
    const DenseOut<int64_t> indices(context, view[4]);
    const int64_t channels = p.y.extent[1], blocks = (channels + lanes - 1) / lanes, size = grid.size();
    const int64_t rows = p.y.extent[0] * grid.outputs[0] * grid.outputs[1], width = grid.outputs[2];
    // pixel by pixel, all channels of each; where rows are few, their channels are dealt out too
    const int64_t groups = rows < 4 * context.threads ? blocks : 1, group = blocks / groups;
    const int64_t lines = grid.outputs[0] * grid.outputs[1];
    const int64_t each = 1 + volume_grain / (1 + width * reads_of(grid) * lanes * group);
    parallel_ranges(context, rows * groups, each, [&](int64_t begin, int64_t end, int) {
        for (int64_t task = begin; task < end; ++task) {
            const int64_t row = task / groups, line = row % lines, sample = row / lines;
            const int64_t first_block = task % groups * group;
            Window<T> w{&grid,
                        {line / grid.outputs[1], line % grid.outputs[1], 0},
                        0,
                        p.y.size(0, 2),
                        {},
                        nullptr,
                        0,
                        channels,
                        smaller(channels, lanes)};
            for (w.at[2] = 0; w.at[2] < width; ++w.at[2])
                for (int64_t block = first_block; block < first_block + group; ++block) {
                    const int64_t c = channels < lanes ? 0 : smaller(block * lanes, channels - lanes);
                    const int64_t from = sample * grid.input_size() * channels + c;
                    const int64_t at = (sample * size + w.number()) * channels + c;
                    w.plane = sample * channels + c;
                    w.source[0] = first + from;
                    if (second.get()) w.source[1] = second + from;
                    if (own.get()) w.own = own + at;
                    kernel(w, y + at, indices.get() ? indices + at : nullptr);
                }
        }
    });
}

// Outputs [low, high) of an axis, and what they read of it.
struct Slab {
    int64_t low, high, begin, end;
};
MMK_INLINE Slab slab_of(const Grid& grid, int axis, int64_t low, int64_t high) {
    Slab slab{low, high, grid.inputs[axis], 0};
    for (int64_t k = low; k < high; ++k) {
        const Reach& r = grid.reach[axis][k];
        if (r.count == 0) continue;
        slab.begin = smaller(slab.begin, r.begin), slab.end = larger(slab.end, r.begin + (r.count - 1) * r.step + 1);
    }
    if (slab.end <= slab.begin) slab.begin = slab.end = 0;
    return slab;
}

MMK_INLINE int outermost_axis(const Grid& grid) {
    int axis = 0;
    while (axis < 2 && grid.inputs[axis] <= 1 && grid.outputs[axis] <= 1) ++axis;
    return axis;
}
// Elements of sixteen planes that `chunk` outputs of the outermost axis read at most.
MMK_INLINE int64_t held_for(const Grid& grid, int64_t chunk) {
    const int axis = outermost_axis(grid);
    int64_t most = 0, inner = 1;
    for (int i = axis + 1; i < 3; ++i) inner *= grid.inputs[i];
    for (int64_t low = 0; low < grid.outputs[axis]; low += chunk) {
        const Slab s = slab_of(grid, axis, low, smaller(low + chunk, grid.outputs[axis]));
        most = larger(most, s.end - s.begin);
    }
    return larger(1, most * inner) * lanes;
}

// Sixteen planes abreast: lanes[i][k] = plane k's element i, and back.
template <class T> void bring_abreast(const T* planes, int64_t pitch, int64_t count, int64_t n, T* abreast) {
    pack_panel(planes, 1, pitch, count, n, lanes, abreast);
}
template <class T> void bring_back(const T* abreast, int64_t count, int64_t n, T* planes, int64_t pitch) {
    for (int64_t i = 0; i < count; i += lanes) {
        const int64_t some = smaller(lanes, count - i);
        Vec<T> v[lanes];
        for (int64_t k = 0; k < lanes; ++k) v[k] = k < some ? Vec<T>::load(abreast + (i + k) * lanes) : Vec<T>::zero();
        transpose(v);
        for (int64_t k = 0; k < n; ++k) v[k].store(planes + k * pitch + i, some);
    }
}

// Contiguous planes, sixteen abreast, as many outputs of the outermost axis at a time as keep what they read in the
// second-level cache.
template <class T, class Kernel>
void pool_planes(Context& context, const Grid& grid, const Pooled& p, const Kernel& kernel) {
    const Dense<T> first(context, p.sources[0]), second(context, p.sources[1]), own(context, p.own);
    const DenseOut<T> y(context, p.y);
    const DenseOut<int64_t> indices(context, p.indices);
    constexpr int64_t budget = int64_t(1) << 18;
    const int64_t planes = p.y.size(0, 2), size = grid.size(), input_size = grid.input_size();
    const int axis = outermost_axis(grid);
    int64_t inner_outputs = 1, inner_inputs = 1;
    for (int i = axis + 1; i < 3; ++i) inner_outputs *= grid.outputs[i], inner_inputs *= grid.inputs[i];
    const int64_t outer = grid.outputs[axis];
    int64_t chunk = 1;
    while (chunk < outer && held_for(grid, 2 * chunk) * int64_t(sizeof(T)) <= budget) chunk *= 2;
    chunk = smaller(chunk, outer);
    const int64_t held = held_for(grid, chunk), made = chunk * inner_outputs * lanes;
    struct Scratch {
        T *first, *second, *own, *y;
        int64_t* places;
    };
    Scratch* const scratch = context.scratch<Scratch>(context.threads);
    for (int i = 0; i < context.threads; ++i)
        scratch[i] = {context.scratch<T>(held), p.sources[1] ? context.scratch<T>(held) : nullptr,
                      p.own ? context.scratch<T>(made) : nullptr, context.scratch<T>(made),
                      p.indices ? context.scratch<int64_t>(made) : nullptr};
    const int64_t blocks = (planes + lanes - 1) / lanes, chunks = (outer + chunk - 1) / chunk;
    const int64_t each = 1 + volume_grain / (1 + made * reads_of(grid));
    parallel_ranges(context, blocks * chunks, each, [&](int64_t begin, int64_t end, int worker) {
        const Scratch& s = scratch[worker];
        for (int64_t task = begin; task < end; ++task) {
            const int64_t plane = task / chunks * lanes, n = smaller(lanes, planes - plane),
                          low = task % chunks * chunk;
            const Slab slab = slab_of(grid, axis, low, smaller(low + chunk, outer));
            const int64_t origin = slab.begin * inner_inputs, count = (slab.end - slab.begin) * inner_inputs;
            const int64_t done = low * inner_outputs, some = (slab.high - low) * inner_outputs;
            bring_abreast(first + plane * input_size + origin, input_size, count, n, s.first);
            if (s.second) bring_abreast(second + plane * input_size + origin, input_size, count, n, s.second);
            if (s.own) bring_abreast(own + plane * size + done, size, some, n, s.own);
            Window<T> w{&grid, {}, plane, planes, {s.first, s.second}, nullptr, origin, lanes, lanes};
            int64_t from[3] = {}, to[3] = {grid.outputs[0], grid.outputs[1], grid.outputs[2]};
            from[axis] = low, to[axis] = slab.high;
            int64_t i = 0;
            for (w.at[0] = from[0]; w.at[0] < to[0]; ++w.at[0])
                for (w.at[1] = from[1]; w.at[1] < to[1]; ++w.at[1])
                    for (w.at[2] = from[2]; w.at[2] < to[2]; ++w.at[2], i += lanes) {
                        if (s.own) w.own = s.own + i;
                        kernel(w, s.y + i, s.places ? s.places + i : nullptr);
                    }
            bring_back(s.y, some, n, y + plane * size + done, size);
            if (s.places)
                for (int64_t k = 0; k < n; ++k)
                    for (i = 0; i < some; ++i) indices[(plane + k) * size + done + i] = s.places[i * lanes + k];
        }
    });
}

// Of the results from q on, how many read as many elements along the line as q does, sixteen at most.
MMK_INLINE int64_t alike(const Grid& grid, int64_t q) {
    int64_t n = 1;
    const Reach* const reach = grid.reach[2] + q;
    while (n < lanes && q + n < grid.outputs[2] && reach[n].count == reach[0].count) ++n;
    return n;
}
// Contiguous planes, one at a time, sixteen neighbouring results abreast.
template <class T, class Kernel>
void pool_neighbours(Context& context, const Grid& grid, const Pooled& p, const Kernel& kernel) {
    const Dense<T> x(context, p.sources[0]);
    const DenseOut<T> y(context, p.y);
    const DenseOut<int64_t> indices(context, p.indices);
    constexpr int64_t piece = 64 * lanes; // of a line that one task makes
    const int64_t width = grid.outputs[2], lines = grid.outputs[0] * grid.outputs[1];
    const int64_t pieces = (width + piece - 1) / piece, planes = p.y.size(0, 2);
    const int64_t each = 1 + volume_grain / (1 + smaller(width, piece) * reads_of(grid));
    parallel_ranges(context, planes * lines * pieces, each, [&](int64_t begin, int64_t end, int) {
        for (int64_t task = begin; task < end; ++task) {
            const int64_t first = task % pieces * piece, line = task / pieces % lines, plane = task / pieces / lines;
            Window<T, true> w{};
            w.grid = &grid, w.plane = plane, w.planes = planes, w.pitch = 1;
            w.at[0] = line / grid.outputs[1], w.at[1] = line % grid.outputs[1], w.at[2] = first;
            w.source[0] = x + plane * grid.input_size();
            for (; w.at[2] < smaller(width, first + piece); w.at[2] += w.lanes_used) {
                w.lanes_used = smaller(alike(grid, w.at[2]), first + piece - w.at[2]);
                const Reach* const reach = grid.reach[2] + w.at[2];
                for (int64_t k = 0; k < lanes; ++k) w.apart[k] = k < w.lanes_used ? reach[k].begin - reach[0].begin : 0;
                kernel(w, y + w.result(0), indices.get() ? indices + w.result(0) : nullptr);
            }
        }
    });
}
// Whether planes are so few that more lanes have work along the lines.
MMK_INLINE bool few_planes(const Grid& grid, int64_t planes) {
    int64_t groups = 0;
    for (int64_t q = 0; q < grid.outputs[2]; q += alike(grid, q)) ++groups;
    return planes < lanes / 2 &&
           grid.outputs[2] >= 2 * planes * groups; // a lane of its own costs twice as much to fill
}

// kernel(window, to, places): lanes_used results to `to`, and their indices.
template <class T, class Kernel>
void pool_grid(Context& context, const Grid& grid, const Pooled& p, const Kernel& kernel) {
    const Tensor& x = p.sources[0];
    constexpr int64_t most_scratch = int64_t(1) << 23; // of one thread: a window may be a whole plane
    if ((!x.contiguous() && volume_channels_last(x).contiguous()) ||
        held_for(grid, 1) * int64_t(sizeof(T)) > most_scratch) {
        context.chose("channels", "x is channels-last, or a window too large to turn sixteen planes abreast");
        return pool_channels<T>(context, grid, p, kernel);
    }
    context.chose("planes abreast", "x is not channels-last");
    pool_planes<T>(context, grid, p, kernel);
}
// The results are elements, and what they read is windows.
template <class T, class Kernel>
void pool_backward(Context& context, const Axis3& axes, const Pooled& p, const Kernel& kernel) {
    pool_grid<T>(context, grid_of(context, axes, true), p, kernel);
}
template <class T, class Kernel>
void pool_forward(Context& context, const Axis3& axes, const Pooled& p, const Kernel& kernel) {
    const Grid grid = grid_of(context, axes, false);
    if (p.sources[0].contiguous() && few_planes(grid, p.y.size(0, 2))) {
        context.chose("neighbours abreast", "there are few planes");
        return pool_neighbours<T>(context, grid, p, kernel);
    }
    pool_grid<T>(context, grid, p, kernel);
}

} // namespace mmk::cpu::MMK_ISA
