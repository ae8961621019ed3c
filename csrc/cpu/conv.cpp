#include "../ops/conv.h"

#include "../core/layout.h"
#include "../core/products.h"

namespace mmk::cpu::MMK_ISA {

using namespace mmk::MMK_ISA;

namespace {

MMK_INLINE int64_t floor_divide(int64_t a, int64_t b) { return a / b - (a % b < 0); }
MMK_INLINE int64_t ceil_divide(int64_t a, int64_t b) { return -floor_divide(-a, b); }
MMK_INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
MMK_INLINE int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

// One axis of a bordered image, taken apart by the stride: phase f holds the elements at start(f), start(f) + step, ...
// of the image, zeros where it has none. A window's taps, at whatever stride, are then neighbours in their phases.
struct Axis {
    int64_t extent; // of the image
    int64_t before; // border before the image; negative: elements that no window meets
    int64_t step;   // stride of the windows
    int64_t dilation, taps;
    int64_t phases, count; // count: elements of each phase

    MMK_MEMBER Axis(int64_t extent_, int64_t before_, int64_t windows, int64_t step_, int64_t dilation_, int64_t taps_)
        : extent(extent_), before(before_), step(step_), dilation(dilation_), taps(taps_), phases(smaller(step, taps)),
          count(windows + (taps - 1) * dilation / step) {}
    // A window with fewer taps than strides needs only their phases.
    MMK_MEMBER int64_t start(int64_t phase) const { return (step <= taps ? phase : phase * dilation % step) - before; }
    MMK_MEMBER int64_t phase(int64_t tap) const { return step <= taps ? tap * dilation % step : tap; }
    MMK_MEMBER int64_t offset(int64_t tap) const { return tap * dilation / step; }
};

// Planes in scratch memory: [phase of rows][phase of columns][rows][columns].
struct Planes {
    Axis rows, columns;
    MMK_MEMBER int64_t pitch() const { return columns.count; }
    MMK_MEMBER int64_t image() const { return rows.count * columns.count; }
    MMK_MEMBER int64_t size() const { return rows.phases * columns.phases * image(); }
    MMK_MEMBER int64_t tap(int64_t r, int64_t s) const {
        return (rows.phase(r) * columns.phases + columns.phase(s)) * image() + rows.offset(r) * pitch() +
               columns.offset(s);
    }
};

template <class T> void fill_plane(const Planes& planes, const T* x, T* to) {
    const Axis &rows = planes.rows, &columns = planes.columns;
    const int64_t pitch = planes.pitch(), step = columns.step;
    for (int64_t a = 0; a < rows.phases; ++a)
        for (int64_t b = 0; b < columns.phases; ++b) {
            const int64_t start = columns.start(b);
            // elements [low, high) of a row exist
            const int64_t low = smaller(pitch, start >= 0 ? 0 : ceil_divide(-start, step));
            const int64_t high = larger(low, smaller(pitch, ceil_divide(columns.extent - start, step)));
            for (int64_t i = 0; i < rows.count; ++i, to += pitch) {
                const int64_t h = rows.start(a) + i * rows.step;
                const bool inside = h >= 0 && h < rows.extent;
                const int64_t from = inside ? low : pitch, until = inside ? high : pitch;
                for (int64_t j = 0; j < from; j += lanes) Vec<T>::zero().store(to + j, smaller(lanes, from - j));
                for (int64_t j = until; j < pitch; j += lanes) Vec<T>::zero().store(to + j, smaller(lanes, pitch - j));
                if (!inside) continue;
                const T* const row = x + h * columns.extent + start;
                if (step == 1)
                    for (int64_t j = low; j < high; j += lanes) Vec<T>::load(row + j, high - j).store(to + j, high - j);
                else
                    for (int64_t j = low; j < high; ++j) to[j] = row[j * step];
            }
        }
}
// Every plane of a tensor [N C H W], and zeros behind the last for kernels that read whole vectors.
template <class T> const T* bordered(Context& context, const Tensor& x, const Planes& planes) {
    const Dense<T> dense(context, x);
    const int64_t count = x.extent[0] * x.extent[1], size = planes.size();
    const int64_t slack = lanes * ProductShape<T>::pixel_vectors;
    T* const to = context.scratch<T>(count * size + slack);
    for (int64_t i = 0; i < slack; ++i) to[count * size + i] = T(0);
    parallel_ranges(context, count, 1 + 16384 / (1 + size), [&](int64_t begin, int64_t end, int) {
        for (int64_t i = begin; i < end; ++i)
            fill_plane(planes, dense + i * planes.rows.extent * planes.columns.extent, to + i * size);
    });
    return to;
}

// The sum over channels and taps of (plane element) * (weight), for each pixel of a grid, output and group.
template <class T> struct Correlation {
    int64_t samples, groups, outputs; // outputs of one group
    int64_t rows, columns;            // the grid
    int64_t depth, chunk;             // products
    const T* source;
    int64_t sample, group, pitch; // steps in the source; columns are 1 apart
    const int64_t* offset;        // of each product, from its pixel's place
    Finish<T> finish;             // results of one group are n_step apart
    int64_t y_sample, y_row, y_column, y_origin;
};

// pack(group, first output, count, width, panel) packs weights for lanes along outputs.
template <class T, class Pack> void correlate_outputs(Context& context, const Correlation<T>& c, Pack pack) {
    using Shape = ProductShape<T>;
    const int64_t panels = ceil_divide(c.outputs, Shape::width), panel_size = c.depth * Shape::width;
    T* const packed = context.scratch<T>(c.groups * panels * panel_size);
    parallel_for(context, c.groups * panels, [&](int64_t index, int) {
        const int64_t n0 = index % panels * Shape::width, count = smaller(Shape::width, c.outputs - n0);
        pack(index / panels, n0, count, count > lanes ? Shape::width : lanes, packed + index * panel_size);
    });

    const int64_t pixels = c.samples * c.rows * c.columns, image = c.rows * c.columns;
    const int64_t blocks = ceil_divide(pixels, Shape::block);
    T* const sums = context.scratch<T>(context.threads * (Shape::block + Shape::rows) * Shape::width);
    // as much of a panel as stays in the second-level cache while a block of pixels goes through it
    const int64_t slice = larger(1, 2304 / c.chunk) * c.chunk;
    parallel_for(context, c.groups * panels * blocks, [&](int64_t index, int worker) {
        const int64_t block = index % blocks, g = index / blocks / panels, n0 = index / blocks % panels * Shape::width;
        const int64_t count = smaller(Shape::width, c.outputs - n0), width = count > lanes ? Shape::width : lanes;
        const int64_t begin = pixels * block / blocks, end = pixels * (block + 1) / blocks;
        const T* row[Shape::block + Shape::rows];
        int64_t to[Shape::block];
        int64_t n = begin / image, i = begin % image / c.columns, j = begin % c.columns;
        for (int64_t k = 0; k < end - begin; ++k) {
            row[k] = c.source + n * c.sample + g * c.group + i * c.pitch + j;
            to[k] = n * c.y_sample + g * c.outputs * c.finish.n_step + c.y_origin + i * c.y_row + j * c.y_column;
            if (++j == c.columns) {
                j = 0;
                if (++i == c.rows) i = 0, ++n;
            }
        }
        TileWork<T> w;
        w.offset = c.offset;
        w.chunk = c.chunk;
        w.sums = sums + worker * (Shape::block + Shape::rows) * Shape::width;
        w.sums_stride = width;
        w.begin = 0;
        do {
            w.end = smaller(c.depth, w.begin + slice);
            w.first = w.begin == 0;
            w.b = packed + index / blocks * panel_size + w.begin * width;
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
    const int64_t most = ceil_divide((band - 1) * c.pitch + c.columns, lanes) * lanes;
    const int64_t sums_size = (c.outputs + Shape::pixel_rows) * most;
    T* const sums = context.scratch<T>(context.threads * sums_size);
    parallel_for(context, c.samples * c.groups * bands, [&](int64_t index, int worker) {
        const int64_t g = index / bands % c.groups, n = index / bands / c.groups;
        const int64_t first = index % bands * band, rows = smaller(band, c.rows - first);
        const int64_t length = ceil_divide((rows - 1) * c.pitch + c.columns, lanes);
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
                w.b = c.source + n * c.sample + g * c.group + first * c.pitch + v * lanes;
                w.sums = mine + k * most + v * lanes;
                tile(w);
                k += wanted;
            }
        const int64_t at = n * c.y_sample + g * c.outputs * c.finish.n_step + c.y_origin + first * c.y_row;
        visit_activation(c.finish.activation, [&](auto activate) {
            for (int64_t k = 0; k < c.outputs; ++k) {
                const T bias = c.finish.bias ? c.finish.bias[g * c.outputs + k] : T(0);
                for (int64_t i = 0; i < rows; ++i)
                    finish_run(c.finish, mine + k * most + i * c.pitch, at + k * c.finish.n_step + i * c.y_row,
                               c.y_column, c.columns, bias, activate);
            }
        });
    });
}

// Fewer outputs than these leave too many lanes without work.
constexpr int64_t few_outputs = 8;

template <class T> void forward(const Conv2d& op, Context& context) {
    const Tensor &x = op.x, &y = op.y;
    const int64_t C = op.weight.extent[1], R = op.weight.extent[2], S = op.weight.extent[3];
    const int64_t P = y.extent[2], Q = y.extent[3];
    const Planes planes{{x.extent[2], op.padding[0], P, op.stride[0], op.dilation[0], R},
                        {x.extent[3], op.padding[2], Q, op.stride[1], op.dilation[1], S}};
    const Dense<T> weight(context, op.weight), bias(context, op.bias), residual(context, op.residual);
    const DenseOut<T> out(context, y);

    Correlation<T> c;
    c.samples = y.extent[0], c.groups = op.groups, c.outputs = y.extent[1] / op.groups;
    c.rows = P, c.columns = Q;
    c.depth = C * R * S, c.chunk = chunk_channels(R * S) * R * S;
    c.source = bordered<T>(context, x, planes);
    c.sample = x.extent[1] * planes.size(), c.group = C * planes.size(), c.pitch = planes.pitch();
    int64_t* const offset = context.scratch<int64_t>(c.depth);
    for (int64_t k = 0, t = 0; k < C; ++k)
        for (int64_t r = 0; r < R; ++r)
            for (int64_t s = 0; s < S; ++s) offset[t++] = k * planes.size() + planes.tap(r, s);
    c.offset = offset;
    c.finish = {out, bias, residual, P * Q, op.activation};
    c.y_sample = y.extent[1] * P * Q, c.y_row = Q, c.y_column = 1, c.y_origin = 0;
    if (c.outputs <= few_outputs) {
        context.chose("direct, lanes along pixels", "a group has few output channels");
        correlate_pixels<T>(context, c, weight);
    } else {
        context.chose("direct, lanes along output channels", "a group has many output channels");
        correlate_outputs(context, c, [&](int64_t g, int64_t n0, int64_t count, int64_t width, T* panel) {
            pack_panel(weight + (g * c.outputs + n0) * c.depth, 1, c.depth, c.depth, count, width, panel);
        });
    }
}

template <class T> bool all_finite(const T* x, int64_t count) {
    Vec<T> sum = Vec<T>::zero(); // 0 * x is 0, or NaN where x is not finite
    for (int64_t i = 0; i < count; i += lanes) sum = fma(Vec<T>::load(x + i, count - i), Vec<T>::zero(), sum);
    return sum_lanes(sum) == T(0);
}

// The definition, tap by tap, for weights by which a zero may not be multiplied.
template <class T>
void input_gradient_by_definition(const Conv2dInputGrad& op, Context& context, const T* gy, const T* weight, T* gx) {
    const int64_t C = op.weight.extent[1], K = op.gy.extent[1] / op.groups, R = op.weight.extent[2],
                  S = op.weight.extent[3], P = op.gy.extent[2], Q = op.gy.extent[3], H = op.gx.extent[2],
                  W = op.gx.extent[3], channels = chunk_channels(R * S);
    context.chose("direct, tap by tap", "a weight is not finite");
    parallel_for(context, op.gx.extent[0] * op.gx.extent[1], [&](int64_t plane, int) {
        const int64_t n = plane / (C * op.groups), g = plane / C % op.groups, c = plane % C;
        for (int64_t h = 0; h < H; ++h)
            for (int64_t w = 0; w < W; ++w) {
                T total = T(0);
                for (int64_t k0 = 0; k0 < K; k0 += channels) {
                    T sum = T(0);
                    for (int64_t k = k0; k < smaller(K, k0 + channels); ++k)
                        for (int64_t r = 0; r < R; ++r)
                            for (int64_t s = 0; s < S; ++s) {
                                const int64_t p = h + op.padding[0] - r * op.dilation[0];
                                const int64_t q = w + op.padding[2] - s * op.dilation[1];
                                if (p < 0 || q < 0 || p % op.stride[0] || q % op.stride[1]) continue;
                                if (p / op.stride[0] >= P || q / op.stride[1] >= Q) continue;
                                const int64_t channel = g * K + k;
                                sum = fma_scalar(
                                    gy[((n * op.groups * K + channel) * P + p / op.stride[0]) * Q + q / op.stride[1]],
                                    weight[((channel * C + c) * R + r) * S + s], sum);
                            }
                    total = k0 == 0 ? sum : total + sum;
                }
                gx[(plane * H + h) * W + w] = total + T(0);
            }
    });
}

template <class T> void input_gradient(const Conv2dInputGrad& op, Context& context) {
    const int64_t C = op.weight.extent[1], K = op.gy.extent[1] / op.groups;
    const int64_t R = op.weight.extent[2], S = op.weight.extent[3], H = op.gx.extent[2], W = op.gx.extent[3];
    const int64_t sh = op.stride[0], sw = op.stride[1], top = op.padding[0], left = op.padding[2];
    const Dense<T> weight(context, op.weight);
    const DenseOut<T> out(context, op.gx);
    if (!all_finite(weight.get(), op.weight.size())) {
        const Dense<T> gy(context, op.gy);
        return input_gradient_by_definition<T>(op, context, gy, weight, out);
    }
    // outputs (p, q) that some (h, w) and tap meet
    const int64_t p0 = floor_divide(top - (R - 1) * op.dilation[0], sh), p1 = (H - 1 + top) / sh;
    const int64_t q0 = floor_divide(left - (S - 1) * op.dilation[1], sw), q1 = (W - 1 + left) / sw;
    const Planes planes{{op.gy.extent[2], -p0, p1 - p0 + 1, 1, 1, 1}, {op.gy.extent[3], -q0, q1 - q0 + 1, 1, 1, 1}};

    Correlation<T> c;
    c.samples = op.gy.extent[0], c.groups = op.groups, c.outputs = C;
    c.source = bordered<T>(context, op.gy, planes);
    c.sample = op.gy.extent[1] * planes.size(), c.group = K * planes.size(), c.pitch = planes.pitch();
    c.finish = {out, nullptr, nullptr, H * W, Activation::none};
    c.y_sample = op.gx.extent[1] * H * W, c.y_row = sh * W, c.y_column = sw;
    int64_t* const offset = context.scratch<int64_t>(K * R * S);
    int64_t* const place = context.scratch<int64_t>(K * R * S); // of each product's weight
    T* const weights = C <= few_outputs ? context.scratch<T>(op.groups * C * K * R * S) : nullptr;
    c.offset = offset;
    if (weights)
        context.chose("direct, lanes along pixels", "a group has few input channels");
    else
        context.chose("direct, lanes along input channels", "a group has many input channels");
    for (int64_t a = 0; a < smaller(sh, H); ++a)
        for (int64_t b = 0; b < smaller(sw, W); ++b) {
            c.rows = (H - a - 1) / sh + 1, c.columns = (W - b - 1) / sw + 1, c.y_origin = a * W + b;
            c.depth = 0;
            for (int64_t k = 0; k < K; ++k)
                for (int64_t r = 0; r < R; ++r)
                    for (int64_t s = 0; s < S; ++s) {
                        const int64_t p = a + top - r * op.dilation[0], q = b + left - s * op.dilation[1];
                        if (p % sh || q % sw) continue;
                        place[c.depth] = (k * C * R + r) * S + s;
                        offset[c.depth++] = k * planes.size() + (p / sh - p0) * c.pitch + q / sw - q0;
                    }
            c.chunk = larger(1, K ? chunk_channels(R * S) * (c.depth / K) : 1);
            const auto at = [&](int64_t g, int64_t n) { return weight + (g * K * C + n) * R * S; };
            if (weights) {
                for (int64_t g = 0; g < op.groups; ++g)
                    for (int64_t n = 0; n < C; ++n)
                        for (int64_t t = 0; t < c.depth; ++t) weights[(g * C + n) * c.depth + t] = at(g, n)[place[t]];
                correlate_pixels<T>(context, c, weights);
            } else
                correlate_outputs(context, c, [&](int64_t g, int64_t n0, int64_t count, int64_t width, T* panel) {
                    if (c.depth == K * R * S) // a stride of 1: the taps of one filter channel are neighbours
                        for (int64_t k = 0; k < K; ++k)
                            pack_panel(at(g, n0) + k * C * R * S, 1, R * S, R * S, count, width,
                                       panel + k * R * S * width);
                    else
                        for (int64_t t = 0; t < c.depth; ++t)
                            pack_panel(at(g, n0) + place[t], 1, R * S, 1, count, width, panel + t * width);
                });
        }
}

// What the ways to compute a weight gradient share. Products run over pixels of gy, n, p, q.
template <class T> struct WeightGradient {
    int64_t samples, groups, channels, outputs; // channels and outputs of one group
    int64_t columns, image, depth;              // of gy: columns, pixels of one sample, pixels of all
    int64_t taps, taps_width;                   // of one filter channel: all, in one row
    Planes planes;
    const T* source; // x with its border: [sample][group][channel][plane]
    const T* gy;     // [sample][group][output][pixel]
    T* gweight;      // [group][output][channel][tap]

    // The tables of one chunk after another: body(first product, count, offsets), an offset being that of a product's
    // pixel in planes of `step` numbers per element, samples `sample` elements apart.
    template <class Body> MMK_MEMBER void chunks(int64_t sample, int64_t step, Body&& body) const {
        int64_t offset[chunk_products];
        int64_t n = 0, p = 0, q = 0;
        for (int64_t t = 0;;) {
            const int64_t count = smaller(depth - t, chunk_products);
            for (int64_t k = 0; k < count; ++k) {
                offset[k] = (n * sample + p * planes.pitch() + q) * step;
                if (++q == columns) {
                    q = 0;
                    if (++p * columns == image) p = 0, ++n;
                }
            }
            body(t, count, offset);
            t += count;
            if (t >= depth) break; // an empty sum is one empty chunk
        }
    }
    MMK_MEMBER int64_t tap(int64_t index) const { return planes.tap(index / taps_width, index % taps_width); }
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
            row[k - begin] = g.source + (group * g.channels + k / g.taps) * g.planes.size() + g.tap(k % g.taps);
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
                    w.b = source + panel * g.samples * plane * width + g.tap(tap) * width;
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
            row[k - begin] = source + (panel * g.samples * plane + g.tap(k)) * lanes;
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

template <class T> void weight_gradient(const Conv2dWeightGrad& op, Context& context) {
    const Tensor &x = op.x, &gy = op.gy;
    const int64_t P = gy.extent[2], Q = gy.extent[3], R = op.gweight.extent[2], S = op.gweight.extent[3];
    const Planes planes{{x.extent[2], op.padding[0], P, op.stride[0], op.dilation[0], R},
                        {x.extent[3], op.padding[2], Q, op.stride[1], op.dilation[1], S}};
    const DenseOut<T> out(context, op.gweight);
    const Dense<T> dense(context, gy);
    const WeightGradient<T> g{gy.extent[0],
                              op.groups,
                              op.gweight.extent[1],
                              gy.extent[1] / op.groups,
                              Q,
                              P * Q,
                              gy.extent[0] * P * Q,
                              R * S,
                              S,
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

void conv2d(const Conv2d& op, Context& context) {
    visit_float(op.y.dtype, [&](auto zero) { forward<decltype(zero)>(op, context); });
}
void conv2d_input_grad(const Conv2dInputGrad& op, Context& context) {
    visit_float(op.gx.dtype, [&](auto zero) { input_gradient<decltype(zero)>(op, context); });
}
void conv2d_weight_grad(const Conv2dWeightGrad& op, Context& context) {
    visit_float(op.gweight.dtype, [&](auto zero) { weight_gradient<decltype(zero)>(op, context); });
}

} // namespace mmk::cpu::MMK_ISA
