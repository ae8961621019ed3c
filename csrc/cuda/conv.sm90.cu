// conv2d of float16 and bfloat16 and its input gradient on Hopper (products.sm90.cuh), as products of windows that are
// never written down.
//
// Rows of a tile are boxes of pixels: `width` x `height` of `deep` samples, 64 at most. For a tap and some channels a
// tensor copy brings the box of the image that the pixels meet there: strides are the map's, and what lies outside the
// image arrives as zeros. A step is 64 channels of one tap; or twice 32 where the last 64 would be half empty.
//
// Order: r, s, c, 16 channels at a time, those past the end being zeros; cut after every 256 steps. Which boxes and tiles
// show in no bit, and what decides whether this kernel runs is no free extent and no layout: images and weights are
// channels-last copies where they do not lie so, results are copied where tensor copies cannot write them.
#include "conv.sm90.cuh"

namespace mmk::cuda::conv {
namespace {

using hopper::atom, hopper::depth, hopper::group_rows, hopper::Job;

template <class T, int pieces_> struct ImageProblem {
    using Element = T;
    static constexpr bool a_turned = false, b_turned = false, only_sums = false, ragged = false, has_residual = true;
    static constexpr int pieces = pieces_, channels_at_once = depth / pieces;
    CUtensorMap source, weight, results;
    const T* residual;
    Strides5 residual_strides;
    int64_t residual_step;
    int samples, P, Q, outputs, taps, channels;
    int stride[2], dilation[2], before[2];
    int width, height, deep, pixels; // of a box
    ShortDivisor by_blocks, by_taps, by_boxes_across, by_boxes_down, by_width, by_height, by_row, by_column;

    struct Box { // its first pixel
        int n, p, q;
    };
    struct Place {
        int group, column;
        Box upper, lower;
    };
    MMK_PTX Box box(int index) const {
        const int q = by_boxes_across.take(index), p = by_boxes_down.take(index);
        return {index * deep, p * height, q * width};
    }
    template <class Shape> MMK_PTX Place place(const Job& job) const {
        const int first = int(job.at.row / group_rows);
        return {int(job.at.batch), int(job.at.column), box(first), Shape::stacked ? box(first + 1) : Box{}};
    }
    // The rows behind a box's pixels take part in products of which nobody takes the sums.
    template <class Shape> MMK_PTX void prepare(char* stages) const {
        const int boxes = Shape::rows / group_rows * pieces, bytes = atom / pieces, used = bytes / group_rows * pixels;
        for (int i = 0; i < Shape::stages * boxes; ++i) {
            char* const to = stages + i / boxes * Shape::stage + i % boxes * bytes;
            if (MMK_DEFECT(conv_sm90_missing_zeros)) break;
            for (int at = used + 16 * int(threadIdx.x); at < bytes; at += 16 * hopper::threads)
                *reinterpret_cast<uint4*>(to + at) = make_uint4(0, 0, 0, 0);
        }
        fence_proxy_async();
    }
    MMK_PTX void prefetch() const { prefetch_tensor_map(source), prefetch_tensor_map(weight); }
    template <class Shape> MMK_PTX uint32_t bytes() const {
        const int used = MMK_DEFECT(conv_sm90_whole_boxes) ? group_rows : pixels;
        return uint32_t(Shape::rows / group_rows * used * 128) + Shape::right_bytes;
    }
    MMK_PTX void load_box(char* to, uint64_t* full, int group, const Box& box, int channel, int r, int s) const {
        const int left = MMK_DEFECT(conv_sm90_left_border) ? 0 : before[1];
        tensor_load(to, source, full, channel, group, box.q * stride[1] + s * dilation[1] - left,
                    box.p * stride[0] + r * dilation[0] - before[0], box.n);
    }
    template <class Shape> MMK_PTX void load(char* left, uint64_t* full, const Place& place, int step) const {
#pragma unroll
        for (int i = 0; i < pieces; ++i) {
            int r = step * pieces + i;
            int channel = by_blocks.take(r) * channels_at_once;
            if (r >= taps) channel = channels; // behind the last tap: nothing but zeros
            const int s = by_taps.take(r);
            char* const to = left + i * (Shape::left_bytes / pieces);
            load_box(to, full, place.group, place.upper, channel, r, s);
            if constexpr (Shape::stacked) load_box(to + atom / pieces, full, place.group, place.lower, channel, r, s);
            tensor_load(left + Shape::left_bytes + i * (Shape::right_bytes / pieces), weight, full, channel, s, r,
                        place.column, place.group);
        }
    }
    MMK_PTX int64_t row(const Place& place, int row) const {
        const Box first = row < group_rows ? place.upper : place.lower;
        int n = row % group_rows;
        if (n >= pixels) return -1;
        const int q = first.q + by_width.take(n), p = first.p + by_height.take(n);
        n += first.n;
        return q < Q && p < P && n < samples ? (int64_t(n) * P + p) * Q + q : -1;
    }
    MMK_PTX const T* residual_at(int64_t group, int64_t row, int64_t column) const {
        int n = int(row);
        const int q = by_row.take(n), p = by_column.take(n);
        return residual + residual_strides.at(n, group * outputs + column, p, q);
    }
    MMK_PTX void store(const char* box, const Place& place, int row, int column) const {
        const Box first = row < group_rows ? place.upper : place.lower;
        if (first.n < samples) tensor_store(results, box, column, place.group, first.q, first.p, first.n);
    }
};

// The image and the weights where tensor copies can walk them.
template <class T> Prepared<T> prepare_walks(Context& context, const Prepared<T>& prepared) {
    Prepared<T> p = prepared;
    Correlation& c = p.c;
    const Strides5 w = c.weight;
    const int64_t pixel = c.groups * c.channels, row = c.channels * c.S, filter = row * c.R;
    p.source = walked_image(context, p.source, c.samples, pixel, c.H, c.W, c.source);
    if (!walks(c.groups, c.weight_group) || !walks(c.outputs, w.n) || !walks(c.R, w.h) || !walks(c.S, w.w)) {
        T* const to = context.scratch<T>(c.groups * c.outputs * filter);
        copy_strided(
            context,
            view_of(to, {c.groups, c.outputs, c.R, c.S, c.channels}, {c.outputs * filter, filter, row, c.channels, 1}),
            view_of(p.weight, {c.groups, c.outputs, c.R, c.S, c.channels}, {c.weight_group, w.n, w.h, w.w, 1}));
        c.weight = in_one_slice(filter, row, c.channels), c.weight_group = c.outputs * filter;
        p.weight = to;
    }
    return p;
}

// The fewest boxes that cover all pixels; the widest of these.
BoxExtents choose_boxes(const Correlation& c) {
    BoxExtents best{};
    for (int64_t width = smaller(c.Q, smaller(group_rows, most_pixels(c.stride[2]))); width > 0; --width)
        for (int64_t height = smaller(c.P, smaller(group_rows / width, most_pixels(c.stride[1]))); height > 0;
             --height) {
            const int64_t deep = smaller(c.samples, group_rows / (width * height));
            const int64_t across = ceil_div(c.Q, width), down = ceil_div(c.P, height);
            const int64_t count = across * down * ceil_div(c.samples, deep);
            if (best.count == 0 || count < best.count) best = {int(width), int(height), int(deep), across, down, count};
        }
    return best;
}

// Results that tensor copies write: channels last, 8 at a time.
template <class T> struct Target {
    T* data;
    Strides5 strides;
    int64_t group;
};
template <class T> Target<T> target_of(Context& context, const Correlation& c, T* result) {
    const Strides5& s = c.result;
    if (s.c == 1 && aligned(result, 16) && (c.groups == 1 || c.outputs % 8 == 0) && walks(c.samples, s.n) &&
        walks(c.P, s.h) && walks(c.Q, s.w))
        return {result, s, c.outputs};
    const int64_t group = ceil_div(c.outputs, 8) * 8, pixel = c.groups * group;
    T* const to = context.scratch<T>(c.samples * c.P * c.Q * pixel);
    return {to, in_one_slice(c.P * c.Q * pixel, c.Q * pixel, pixel), group};
}
template <class T> void copy_results(Context& context, const Correlation& c, const Target<T>& from, T* result) {
    if (from.data == result) return;
    const Strides5 &s = from.strides, &to = c.result;
    copy_strided(
        context,
        view_of(result, {c.samples, c.groups, c.outputs, c.P, c.Q}, {to.n, c.outputs * to.c, to.c, to.h, to.w}),
        view_of(from.data, {c.samples, c.groups, c.outputs, c.P, c.Q}, {s.n, from.group, 1, s.h, s.w}));
}

// The input gradient has no border: where its zeros have met weights that are not finite, results are NaN that the
// definition may not have.
struct Places {
    Divisor outputs, groups, row, column;
    int64_t count;
};
template <class T> __global__ void __launch_bounds__(direct_threads, 4)
    without_border(Correlation c, Operands<T> o, Target<T> y, Places places) {
    for (int64_t i = int64_t(blockIdx.x) * direct_threads + threadIdx.x; i < places.count;
         i += int64_t(gridDim.x) * direct_threads) {
        int64_t n = i;
        const int64_t k = places.outputs.take(n), group = places.groups.take(n);
        const int64_t q = places.row.take(n), p = places.column.take(n);
        T* const at = y.data + group * y.group + y.strides.at(n, k, p, q);
        const float value = widen(*at);
        if (value != value) *at = narrow<T>(correlation_sum(c, o.source, o.weight, true, n, group, k, 0, p, q));
    }
}
template <class T>
void repair_border(Context& context, const Correlation& c, const Operands<T>& o, const Target<T>& y) {
    const int64_t count = c.results();
    MMK_LAUNCH(context, (without_border<T>), grid_of(ceil_div(count, direct_threads)), direct_threads, 0, c, o, y,
               Places{Divisor(c.outputs), Divisor(c.groups), Divisor(c.Q), Divisor(c.P), count});
}

template <class Shape, class P, class T>
void encode_maps(P& p, const Prepared<T>& prepared, const Target<T>* to, const BoxExtents& boxes) {
    const Correlation& c = prepared.c;
    const Strides5 &s = c.source, &w = c.weight;
    const int at_once = P::channels_at_once, sh = int(c.stride[1]), sw = int(c.stride[2]);
    const int steps[5] = {1, 1, sw, sh, 1};
    const Swizzle swizzle = P::pieces == 1 ? Swizzle::bytes128 : Swizzle::bytes64;
    hopper::encode<T, 5>(
        p.source, prepared.source, {c.channels, c.groups, c.W, c.H, c.samples}, {1, c.channels, s.w, s.h, s.n},
        {at_once, 1, (boxes.width - 1) * sw + 1, (boxes.height - 1) * sh + 1, boxes.deep}, steps, swizzle);
    hopper::encode<T, 5>(p.weight, prepared.weight, {c.channels, c.S, c.R, c.outputs, c.groups},
                         {1, w.w, w.h, w.n, c.weight_group}, {at_once, 1, 1, Shape::columns, 1}, nullptr, swizzle);
    if (to)
        hopper::encode<T, 5>(p.results, to->data, {c.outputs, c.groups, c.Q, c.P, c.samples},
                             {1, to->group, to->strides.w, to->strides.h, to->strides.n},
                             {hopper::box_columns, 1, boxes.width, boxes.height, boxes.deep});
}
template <class Shape, int pieces, class T> ImageProblem<T, pieces>
problem_of(const Prepared<T>& prepared, const Target<T>* to, const Operands<T>& o, const BoxExtents& boxes) {
    const Correlation& c = prepared.c;
    const Strides5& residual = o.ending.residual_strides;
    using P = ImageProblem<T, pieces>;
    P p{{},
        {},
        {},
        o.ending.residual,
        residual,
        residual.c,
        int(c.samples),
        int(c.P),
        int(c.Q),
        int(c.outputs),
        int(c.R * c.S),
        int(c.channels),
        {int(c.stride[1]), int(c.stride[2])},
        {int(c.dilation[1]), int(c.dilation[2])},
        {int(c.before[1]), int(c.before[2])},
        boxes.width,
        boxes.height,
        boxes.deep,
        boxes.width * boxes.height * boxes.deep,
        ShortDivisor(ceil_div(c.channels, P::channels_at_once)),
        ShortDivisor(c.S),
        ShortDivisor(boxes.across),
        ShortDivisor(boxes.down),
        ShortDivisor(boxes.width),
        ShortDivisor(boxes.height),
        ShortDivisor(c.Q),
        ShortDivisor(c.P)};
    encode_maps<Shape>(p, prepared, to, boxes);
    return p;
}

template <int pieces, class T>
void launch(Context& context, const Prepared<T>& prepared, const Correlation& c, const Operands<T>& o, bool skips) {
    const BoxExtents boxes = choose_boxes(c);
    const ProductExtents tiled{c.groups, boxes.count * group_rows, c.outputs, depth};
    const int64_t pixels = c.samples * c.P * c.Q;
    const int steps =
        int(ceil_div(c.R * c.S * ceil_div(prepared.c.channels, ImageProblem<T, pieces>::channels_at_once), pieces));
    const bool sliced = steps * depth > tensor_slice;
    const Target<T> to = sliced ? Target<T>{} : target_of(context, c, o.result);
    hopper::visit_shape(context, tiled, [&]<class Shape>(Shape) {
        const auto problem = problem_of<Shape, pieces>(prepared, sliced ? nullptr : &to, o, boxes);
        const auto run = [&](float* sums, const ProductSlices& slices) {
            const hopper::Schedule<Shape> schedule(tiled, steps, slices);
            hopper::launch_products(context, problem, schedule,
                                    {o.ending.bias, c.outputs, o.ending.activation, sums, c.groups, pixels, c.outputs});
        };
        if (!sliced) return run(nullptr, {int64_t(steps) * depth, 0, 1});
        in_slices<float>(context, ImageFinish<T, true>(c, o, skips),
                         {c.groups, pixels, c.outputs, int64_t(steps) * depth}, tensor_slice, Tiles<Shape>(tiled).count,
                         [&](const auto& sums, const ProductSlices& slices) { run(sums.sums, slices); });
    });
    if (sliced) return;
    if (skips) repair_border(context, c, o, to);
    copy_results(context, c, to, o.result);
}

// Fewer than 32 channels would leave half of every copy empty.
bool serves(const Correlation& c) {
    return flat(c) && c.channels >= 32 && c.R * c.S > 0 && c.H * c.W > 0 && c.stride[1] <= 8 && c.stride[2] <= 8;
}

} // namespace

template <class T> bool correlate_products_sm90(Context& context, const Prepared<T>& prepared, const Correlation& c,
                                                const Operands<T>& o, bool skips) {
    if (!serves(prepared.c) || !context.hopper()) return false;
    const Prepared<T> p = prepare_walks(context, prepared);
    const int64_t rest = p.c.channels % depth;
    if (rest > 0 && rest <= depth / 2)
        launch<2>(context, p, c, o, skips);
    else
        launch<1>(context, p, c, o, skips);
    return true;
}

template bool correlate_products_sm90<float16>(Context&, const Prepared<float16>&, const Correlation&,
                                               const Operands<float16>&, bool);
template bool correlate_products_sm90<bfloat16>(Context&, const Prepared<bfloat16>&, const Correlation&,
                                                const Operands<bfloat16>&, bool);

} // namespace mmk::cuda::conv
