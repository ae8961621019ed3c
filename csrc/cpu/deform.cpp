#include "deform.sample.h"

namespace mmk::cpu::MMK_ISA {
namespace {

// The panels of weights that a convolution multiplies with: lanes along outputs, [group][panel][depth][width].
template <class T> struct Filters {
    using Shape = ProductShape<T>;
    int64_t groups, outputs, depth, panels; // of one group
    const T* packed;

    MMK_MEMBER Filters(Context& context, const Tensor& weight, int64_t groups_)
        : groups(groups_), outputs(weight.extent[0] / groups_), depth(weight.size(1, 4)),
          panels(ceil_divide(outputs, Shape::width)) {
        const Dense<T> dense(context, weight);
        T* const to = context.scratch<T>(groups * panels * depth * Shape::width);
        parallel_for(context, groups * panels, [&](int64_t index, int) {
            const int64_t n0 = index % panels * Shape::width, count = smaller(Shape::width, outputs - n0);
            pack_panel(dense + (index / panels * outputs + n0) * depth, 1, depth, depth, count, width(n0),
                       to + index * depth * Shape::width);
        });
        packed = to;
    }
    MMK_MEMBER int64_t width(int64_t n0) const { return outputs - n0 > lanes ? Shape::width : lanes; }
};

template <class T> void forward(const DeformConv2d& op, Context& context) {
    using Shape = ProductShape<T>;
    const int64_t N = op.y.extent[0], K = op.y.extent[1], D = op.weight.extent[1];
    const Dense<T> offset(context, op.offset), mask(context, op.mask), bias(context, op.bias);
    const DenseOut<T> y(context, op.y);
    const Sampling<T> s(op, op.x.extent[2], op.x.extent[3], op.weight.extent[2], op.weight.extent[3], offset, mask);
    const Image<T> image = channels_innermost<T>(context, op.x);
    const Filters<T> filters(context, op.weight, op.groups);

    // Samples of a tile: two chunks' channels or so at a time, about half a megabyte.
    const int64_t whole = chunk_channels(s.taps), slice = smaller(D, whole * larger(1, 512 / (whole * s.taps)));
    const int64_t tap_step = tap_room(slice), pixel_step = s.taps * tap_step;
    int64_t* const products = context.scratch<int64_t>(slice * s.taps);
    for (int64_t c = 0; c < slice; ++c)
        for (int64_t tap = 0; tap < s.taps; ++tap) products[c * s.taps + tap] = tap * tap_step + c;

    const int64_t all = N * s.pixels();
    const int64_t blocks =
        larger(ceil_divide(all, Shape::block), smaller(2 * context.threads, ceil_divide(all, Shape::rows)));
    const int64_t sums_size = (Shape::block + Shape::rows) * Shape::width;
    T* const samples = context.scratch<T>(context.threads * Shape::block * pixel_step);
    T* const sums = context.scratch<T>(context.threads * filters.panels * sums_size);
    auto* const places = context.scratch<Places<T>>(context.threads);
    context.chose("sampled tiles, lanes along output channels", "the only one");
    parallel_for(context, blocks, [&](int64_t block, int worker) {
        const int64_t begin = all * block / blocks, end = all * (block + 1) / blocks, count = end - begin;
        T* const tile = samples + worker * Shape::block * pixel_step;
        const T* row[Shape::block + Shape::rows];
        int64_t to[Shape::block];
        for (int64_t i = 0; i < count; ++i) {
            row[i] = tile + i * pixel_step;
            to[i] = (begin + i) / s.pixels() * K * s.pixels() + (begin + i) % s.pixels();
        }
        TileWork<T> w;
        w.offset = products;
        w.begin = 0;
        w.chunk = whole * s.taps;
        for (int64_t g = 0; g < op.groups; ++g) {
            for (int64_t c = 0; c < D; c += slice) {
                const int64_t channels = smaller(slice, D - c);
                for_runs(begin, end, s.pixels(), [&](int64_t n, int64_t first, int64_t some, int64_t done) {
                    sample_channels(image, s, n, first, some, g * D + c, g * D + c + channels, places[worker],
                                    tile + done * pixel_step, pixel_step, tap_step);
                });
                w.end = channels * s.taps;
                w.first = c == 0;
                for (int64_t panel = 0; panel < filters.panels; ++panel) {
                    w.sums_stride = filters.width(panel * Shape::width);
                    w.sums = sums + (worker * filters.panels + panel) * sums_size;
                    w.b = filters.packed + (g * filters.panels + panel) * filters.depth * Shape::width +
                          c * s.taps * w.sums_stride;
                    panel_rows(w, row, count, w.sums_stride);
                }
            }
            const int64_t first = g * filters.outputs * s.pixels();
            const Finish<T> finish{y + first, bias ? bias + g * filters.outputs : nullptr, nullptr, s.pixels(),
                                   op.activation};
            for (int64_t panel = 0; panel < filters.panels; ++panel) {
                const int64_t n0 = panel * Shape::width;
                finish_rows(finish, sums + (worker * filters.panels + panel) * sums_size, filters.width(n0), to, count,
                            n0, smaller(Shape::width, filters.outputs - n0));
            }
        }
    });
}

// Rows are (tap, channel), lanes stand for outputs; products run over pixels, whose samples are made chunk by chunk.
template <class T> void weight_gradient(const DeformConv2dWeightGrad& op, Context& context) {
    using Shape = ProductShape<T>;
    const int64_t N = op.x.extent[0], K = op.gy.extent[1] / op.groups, D = op.x.extent[1] / op.groups;
    const Dense<T> offset(context, op.offset), mask(context, op.mask), gy(context, op.gy);
    const DenseOut<T> gweight(context, op.gweight);
    const Sampling<T> s(op, op.x.extent[2], op.x.extent[3], op.gweight.extent[2], op.gweight.extent[3], offset, mask);
    const Image<T> image = channels_innermost<T>(context, op.x);
    const int64_t pixels = s.pixels(), depth = N * pixels, panels = ceil_divide(K, Shape::width);
    const auto width = [&](int64_t panel) { return K - panel * Shape::width > lanes ? Shape::width : lanes; };
    T* const packed = context.scratch<T>(op.groups * panels * depth * Shape::width);
    parallel_for(context, op.groups * panels * N, [&](int64_t index, int) {
        const int64_t n = index % N, panel = index / N % panels, g = index / N / panels, n0 = panel * Shape::width;
        pack_panel(gy + ((n * op.groups + g) * K + n0) * pixels, 1, pixels, pixels, smaller(Shape::width, K - n0),
                   width(panel), packed + (g * panels + panel) * depth * Shape::width + n * pixels * width(panel));
    });

    // A task has some channels of a group, all taps: their samples of 256 pixels are about 300 kilobytes.
    const int64_t some = smaller(D, s.taps > 16 || D * op.groups < 32 * context.threads ? lanes : 2 * lanes);
    const int64_t parts = ceil_divide(D, some), tap_step = tap_room(some), pixel_step = s.taps * tap_step;
    const int64_t rows = s.taps * some, sums_size = (rows + Shape::rows) * Shape::width;
    int64_t steps[chunk_products];
    for (int64_t t = 0; t < chunk_products; ++t) steps[t] = t * pixel_step;
    T* const samples = context.scratch<T>(context.threads * chunk_products * pixel_step);
    T* const sums = context.scratch<T>(context.threads * panels * sums_size);
    const T** const row_table = context.scratch<const T*>(context.threads * (rows + Shape::rows));
    int64_t* const to_table = context.scratch<int64_t>(context.threads * rows);
    auto* const places = context.scratch<Places<T>>(context.threads);
    context.chose("sampled chunks, lanes along output channels", "the only one");
    parallel_for(context, op.groups * parts, [&](int64_t index, int worker) {
        const int64_t g = index / parts, begin = index % parts * some, end = smaller(D, begin + some);
        T* const chunk = samples + worker * chunk_products * pixel_step;
        const T** const row = row_table + worker * (rows + Shape::rows);
        int64_t* const to = to_table + worker * rows;
        int64_t count = 0;
        for (int64_t tap = 0; tap < s.taps; ++tap)
            for (int64_t c = begin; c < end; ++c, ++count) {
                row[count] = chunk + tap * tap_step + c - begin;
                to[count] = c * s.taps + tap;
            }
        TileWork<T> w;
        w.offset = steps;
        w.begin = 0;
        w.chunk = chunk_products;
        int64_t t = 0;
        do { // an empty sum is one empty chunk
            w.end = smaller(chunk_products, depth - t);
            w.first = t == 0;
            for_runs(t, t + w.end, pixels, [&](int64_t n, int64_t first, int64_t run, int64_t done) {
                sample_channels(image, s, n, first, run, g * D + begin, g * D + end, places[worker],
                                chunk + done * pixel_step, pixel_step, tap_step);
            });
            for (int64_t panel = 0; panel < panels; ++panel) {
                w.sums_stride = width(panel);
                w.sums = sums + (worker * panels + panel) * sums_size;
                w.b = packed + (g * panels + panel) * depth * Shape::width + t * w.sums_stride;
                panel_rows(w, row, count, w.sums_stride);
            }
            t += chunk_products;
        } while (t < depth);
        const Finish<T> finish{gweight + g * K * D * s.taps, nullptr, nullptr, D * s.taps, Activation::none};
        for (int64_t panel = 0; panel < panels; ++panel)
            for (int64_t tap = 0; tap < s.taps; ++tap) { // places of one call must rise
                const int64_t n0 = panel * Shape::width, first = tap * (end - begin);
                finish_rows(finish, sums + (worker * panels + panel) * sums_size + first * width(panel), width(panel),
                            to + first, end - begin, n0, smaller(Shape::width, K - n0));
            }
    });
}

} // namespace

void deform_conv2d(const DeformConv2d& op, Context& context) {
    visit_float(op.y.dtype, [&](auto zero) { forward<decltype(zero)>(op, context); });
}
void deform_conv2d_weight_grad(const DeformConv2dWeightGrad& op, Context& context) {
    visit_float(op.gweight.dtype, [&](auto zero) { weight_gradient<decltype(zero)>(op, context); });
}

} // namespace mmk::cpu::MMK_ISA
