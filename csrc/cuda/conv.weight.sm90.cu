// conv2d's weight gradient of float16 and bfloat16 on Hopper (products.sm90.cuh): rows are outputs, columns are (r, s, c),
// 64 channels of a tap at a time, and the products run over pixels.
//
// A step is a box of pixels, 64 at most: of gy for 64 outputs, and of x as it meets them at a tap. Both lie with pixels
// beneath each other, which wgmma reads as turned operands. Boxes divide the rows and columns of gy, so that none hangs
// over an edge of it, where x would go on; in samples they may, as both operands end there.
//
// Order: boxes along q, p, n, and the same within a box, 16 pixels at a time; parts of the sum are added in order. All
// of it follows from the extents.
#include "conv.sm90.cuh"
#include "conv.weight.cuh"

namespace mmk::cuda::conv {
namespace {

using hopper::atom, hopper::depth, hopper::Job;

template <class T> struct WeightProblem {
    using Element = T;
    static constexpr bool a_turned = true, b_turned = true, only_sums = true, ragged = false, has_residual = false;
    static constexpr int pieces = 1;
    CUtensorMap gy, x;
    int outputs, channels, taps;
    int stride[2], dilation[2], before[2];
    int width, height, deep, pixels; // of a box
    ShortDivisor by_boxes_across, by_boxes_down, by_blocks, by_taps;

    struct Place {
        int group, row, column;
    };
    template <class Shape> MMK_PTX Place place(const Job& job) const {
        return {int(job.at.batch), int(job.at.row), int(job.at.column)};
    }
    // Products past a box's pixels: zeros, for good.
    template <class Shape> MMK_PTX void prepare(char* stages) const {
        if (!MMK_DEFECT(conv_weight_sm90_missing_zeros))
            for (int i = 0; i < int(Shape::stages * Shape::stage / atom); ++i)
                for (int at = pixels * 128 + 16 * int(threadIdx.x); at < atom; at += 16 * hopper::threads)
                    *reinterpret_cast<uint4*>(stages + i * atom + at) = make_uint4(0, 0, 0, 0);
        fence_proxy_async();
    }
    MMK_PTX void prefetch() const { prefetch_tensor_map(gy), prefetch_tensor_map(x); }
    template <class Shape> MMK_PTX uint32_t bytes() const { return uint32_t(Shape::stage / atom * pixels * 128); }
    template <class Shape> MMK_PTX void load(char* left, uint64_t* full, const Place& place, int step) const {
        const int q = by_boxes_across.take(step) * width, p = by_boxes_down.take(step) * height, n = step * deep;
        for (int i = 0; i < Shape::rows / 64; ++i)
            tensor_load(left + i * atom, gy, full, place.row + 64 * i, place.group, q, p, n);
        for (int i = 0; i < Shape::columns / 64; ++i) {
            int r = place.column / 64 + i;
            int channel = by_blocks.take(r) * 64;
            if (r >= taps) channel = channels; // behind the last tap: nothing but zeros
            const int s = by_taps.take(r);
            tensor_load(left + Shape::left_bytes + i * atom, x, full, channel, place.group,
                        q * stride[1] + s * dilation[1] - before[1], p * stride[0] + r * dilation[0] - before[0], n);
        }
    }
    MMK_PTX int64_t row(const Place& place, int row) const {
        return place.row + row < outputs || MMK_DEFECT(conv_weight_sm90_ragged_rows) ? place.row + row : -1;
    }
};

// The fewest boxes that divide rows and columns; the widest of these.
BoxExtents divide_boxes(const Correlation& c) {
    BoxExtents best{};
    for (int64_t width = smaller(c.Q, smaller(depth, most_pixels(c.stride[2]))); width > 0; --width)
        for (int64_t height = smaller(c.P, smaller(depth / width, most_pixels(c.stride[1]))); height > 0; --height) {
            if (c.Q % width || c.P % height) continue;
            const int64_t deep = smaller(c.samples, depth / (width * height));
            const int64_t across = c.Q / width, down = c.P / height;
            const int64_t count = across * down * ceil_div(c.samples, deep);
            if (best.count == 0 || count < best.count) best = {int(width), int(height), int(deep), across, down, count};
        }
    return best;
}

template <class T> WeightProblem<T> problem_of(const Correlation& c, const T* x, const T* gy, const BoxExtents& boxes) {
    WeightProblem<T> p{{},
                       {},
                       int(c.outputs),
                       int(c.channels),
                       int(c.R * c.S),
                       {int(c.stride[1]), int(c.stride[2])},
                       {int(c.dilation[1]), int(c.dilation[2])},
                       {int(c.before[1]), int(c.before[2])},
                       boxes.width,
                       boxes.height,
                       boxes.deep,
                       boxes.width * boxes.height * boxes.deep,
                       ShortDivisor(boxes.across),
                       ShortDivisor(boxes.down),
                       ShortDivisor(ceil_div(c.channels, 64)),
                       ShortDivisor(c.S)};
    const Strides5 &s = c.source, &y = c.result;
    const int sh = int(c.stride[1]), sw = int(c.stride[2]), steps[5] = {1, 1, sw, sh, 1};
    hopper::encode<T, 5>(p.gy, gy, {c.outputs, c.groups, c.Q, c.P, c.samples}, {1, c.outputs, y.w, y.h, y.n},
                         {64, 1, boxes.width, boxes.height, boxes.deep});
    hopper::encode<T, 5>(p.x, x, {c.channels, c.groups, c.W, c.H, c.samples}, {1, c.channels, s.w, s.h, s.n},
                         {64, 1, (boxes.width - 1) * sw + 1, (boxes.height - 1) * sh + 1, boxes.deep}, steps);
    return p;
}

// As pixels_of_part() in conv.weight.cu, in steps.
int64_t steps_of_part(const ProductExtents& e, int64_t steps) {
    const int64_t tiles = e.batches * ceil_div(e.rows, 128) * ceil_div(e.columns, 128);
    return smaller(larger(8, ceil_div(steps, ceil_div(512, tiles))), tensor_slice / depth);
}

// Fewer channels, or fewer pixels in a box, would leave more than half of a step empty; where it is the only one, never
// mind.
bool serves(const Correlation& c, const BoxExtents& boxes) {
    return flat(c) && c.channels >= 32 && c.H * c.W > 0 && c.stride[1] <= 8 && c.stride[2] <= 8 &&
           (boxes.count == 1 || boxes.width * boxes.height * boxes.deep >= depth / 2);
}

} // namespace

template <class T>
bool weight_gradient_sm90(Context& context, const Correlation& c, const T* x, const T* gy, T* gweight) {
    if (!context.hopper()) return false;
    const BoxExtents boxes = divide_boxes(c);
    if (!serves(c, boxes)) return false;
    Correlation v = c;
    x = channel_vectors(context, x, source_extents(c), v.channels, v.source);
    gy = channel_vectors(context, gy, result_extents(c), v.outputs, v.result);
    x = walked_image(context, x, c.samples, c.groups * v.channels, c.H, c.W, v.source);
    gy = walked_image(context, gy, c.samples, c.groups * v.outputs, c.P, c.Q, v.result);
    const WeightProblem<T> problem = problem_of(v, x, gy, boxes);
    const int64_t padded = ceil_div(v.channels, 64) * 64;
    const WeightFinish<T> finish(c, gweight, padded, WeightOrder::channels);
    const ProductExtents e{c.groups, v.outputs, padded * c.R * c.S, boxes.count * depth};
    const int64_t part = steps_of_part(e, boxes.count);
    ProductExtents work = e;
    work.batches *= ceil_div(boxes.count, part);
    hopper::visit_shape(context, work, [&]<class Shape>(Shape) {
        in_slices<float>(context, finish, e, part * depth, Tiles<Shape>(e).count,
                         [&](const auto& sums, const ProductSlices& slices) {
                             const hopper::Schedule<Shape> schedule(e, int(boxes.count), slices);
                             hopper::launch_products(
                                 context, problem, schedule,
                                 {nullptr, 0, Activation::none, sums.sums, e.batches, e.rows, e.columns});
                         });
    });
    return true;
}

template bool weight_gradient_sm90<float16>(Context&, const Correlation&, const float16*, const float16*, float16*);
template bool weight_gradient_sm90<bfloat16>(Context&, const Correlation&, const bfloat16*, const bfloat16*, bfloat16*);

} // namespace mmk::cuda::conv
