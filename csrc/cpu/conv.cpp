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
                    for (int64_t t = 0; t < c.depth; ++t)
                        pack_panel(at(g, n0) + place[t], 1, R * S, 1, count, width, panel + t * width);
                });
        }
}

template <class T> void weight_gradient(const Conv2dWeightGrad& op, Context& context) {
    using Shape = ProductShape<T>;
    const Tensor &x = op.x, &gy = op.gy;
    const int64_t N = gy.extent[0], P = gy.extent[2], Q = gy.extent[3], groups = op.groups;
    const int64_t C = op.gweight.extent[1], R = op.gweight.extent[2], S = op.gweight.extent[3];
    const int64_t outputs = gy.extent[1] / groups, taps = C * R * S, depth = N * P * Q;
    const Planes planes{{x.extent[2], op.padding[0], P, op.stride[0], op.dilation[0], R},
                        {x.extent[3], op.padding[2], Q, op.stride[1], op.dilation[1], S}};
    const DenseOut<T> out(context, op.gweight);
    const Dense<T> dense(context, gy);
    const T* const source = bordered<T>(context, x, planes);
    const int64_t sample = x.extent[1] * planes.size(), pitch = planes.pitch();

    const int64_t panels = ceil_divide(outputs, Shape::width), panel_size = depth * Shape::width;
    T* const packed = context.scratch<T>(groups * panels * panel_size);
    parallel_for(context, groups * panels * N, [&](int64_t index, int) {
        const int64_t n = index % N, panel = index / N, g = panel / panels, n0 = panel % panels * Shape::width;
        const int64_t count = smaller(Shape::width, outputs - n0), width = count > lanes ? Shape::width : lanes;
        pack_panel(dense + ((n * groups + g) * outputs + n0) * P * Q, 1, P * Q, P * Q, count, width,
                   packed + panel * panel_size + n * P * Q * width);
    });

    // Every row of a task walks through all pixels; the sums of its rows stay in cache.
    const int64_t tiles = ceil_divide(taps, Shape::rows);
    const int64_t parts =
        larger(ceil_divide(taps, Shape::block), smaller(tiles, ceil_divide(4 * context.threads, groups * panels)));
    T* const sums = context.scratch<T>(context.threads * (Shape::block + Shape::rows) * Shape::width);
    context.chose("direct, lanes along output channels", "the only one");
    parallel_for(context, groups * panels * parts, [&](int64_t index, int worker) {
        const int64_t part = index % parts, panel = index / parts, g = panel / panels,
                      n0 = panel % panels * Shape::width;
        const int64_t count = smaller(Shape::width, outputs - n0), width = count > lanes ? Shape::width : lanes;
        const int64_t begin = smaller(taps, tiles * part / parts * Shape::rows);
        const int64_t end = smaller(taps, tiles * (part + 1) / parts * Shape::rows);
        const T* row[Shape::block + 2 * Shape::rows];
        int64_t to[Shape::block + Shape::rows];
        for (int64_t k = begin; k < end; ++k) {
            row[k - begin] = source + (g * C + k / (R * S)) * planes.size() + planes.tap(k / S % R, k % S);
            to[k - begin] = g * outputs * taps + k;
        }
        int64_t offset[chunk_products];
        TileWork<T> w;
        w.offset = offset;
        w.chunk = chunk_products;
        w.sums = sums + worker * (Shape::block + Shape::rows) * Shape::width;
        w.sums_stride = width;
        w.begin = 0;
        int64_t n = 0, p = 0, q = 0;
        for (int64_t t = 0;;) {
            w.end = smaller(depth - t, chunk_products);
            for (int64_t k = 0; k < w.end; ++k) {
                offset[k] = n * sample + p * pitch + q;
                if (++q == Q) {
                    q = 0;
                    if (++p == P) p = 0, ++n;
                }
            }
            w.first = t == 0;
            w.b = packed + panel * panel_size + t * width;
            panel_rows(w, row, end - begin, width);
            t += w.end;
            if (t >= depth) break;
        }
        const Finish<T> finish{out, nullptr, nullptr, taps, Activation::none};
        finish_rows(finish, w.sums, width, to, end - begin, n0, count);
    });
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
