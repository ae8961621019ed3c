#include "deform.cuh"

namespace mmk::cuda {
namespace {

using namespace deform;

// columns[channel * taps + tap][pixel - first] = mask * sample, pixels being counted through all samples of the batch.
template <class T> struct Columns {
    Sampling<T> s;
    const T* x; // dense
    T* columns;
    int64_t channels, first, count; // channels of x; pixels
    int64_t set_channels, parts;    // of a group of offsets; a thread takes channels_each of them
    Divisor by_pixel, by_tap, by_part, by_image;
};
constexpr int channels_each = 16; // a thread finds the place of a sample once for so many channels
template <class T> __global__ void __launch_bounds__(threads) sample_columns(Columns<T> c, int64_t work) {
    for (int64_t i = int64_t(blockIdx.x) * threads + threadIdx.x; i < work; i += int64_t(gridDim.x) * threads) {
        int64_t set = i;
        const int64_t column = c.by_pixel.take(set), tap = c.by_tap.take(set), part = c.by_part.take(set);
        int64_t n = c.first + column;
        const int64_t pixel = c.by_image.take(n);
        const BilinearPlace<T> p = c.s.place(n, MMK_DEFECT(deform_first_set) ? 0 : set, tap, pixel);
        const CornerOffsets corners(p, c.s.H, c.s.W, c.s.W, 1);
        const Vec<T> mask(c.s.factor(n, set, tap, pixel));
        const int64_t begin = part * channels_each, left = c.set_channels - begin;
        const int64_t channel = set * c.set_channels + begin, size = c.s.H * c.s.W;
        const T* plane = c.x + (n * c.channels + channel) * size;
        T* to = c.columns + (channel * c.s.taps + tap) * c.count + column;
        for (int k = 0; k < channels_each && (k < left || MMK_DEFECT(deform_channels_behind));
             ++k, plane += size, to += c.s.taps * c.count) {
            const Vec<T> value = bilinear_sample(p.top * p.left, p.top * p.right, p.bottom * p.left, p.bottom * p.right,
                                                 corners.value(plane, 0), corners.value(plane, 1),
                                                 corners.value(plane, 2), corners.value(plane, 3));
            *to = (c.s.mask && !MMK_DEFECT(deform_lost_mask) ? mask * value : value).v;
        }
    }
}

template <class T> class ColumnMaker final : public MakeColumns {
  public:
    ColumnMaker(Context& context, const Sampling<T>& s, const T* x, int64_t channels)
        : context_(context), columns_{s, x, nullptr, channels, 0, 0, 0, 0, {}, {}, {}, {}} {}

    // How many pixels are written down at a time.
    int64_t at_once(int64_t pixels) const {
        const int64_t each = columns_.channels * columns_.s.taps * int64_t(sizeof(T));
        const int64_t fit = slab_bytes / each / 128 * 128;
        return pixels < fit ? pixels : fit > 128 ? fit : 128;
    }
    const void* operator()(int64_t first, int64_t count) override {
        Columns<T>& c = columns_;
        if (count > room_) c.columns = context_.scratch<T>(c.channels * c.s.taps * (room_ = count));
        c.first = first, c.count = count;
        c.set_channels = c.channels / c.s.sets, c.parts = ceil_div(c.set_channels, channels_each);
        c.by_pixel = Divisor(count), c.by_tap = Divisor(c.s.taps), c.by_part = Divisor(c.parts),
        c.by_image = Divisor(c.s.pixels());
        const int64_t work = count * c.s.taps * c.parts * c.s.sets;
        MMK_LAUNCH(context_, (sample_columns<T>), grid_of(ceil_div(work, threads)), threads, 0, c, work);
        return c.columns;
    }

  private:
    Context& context_;
    Columns<T> columns_;
    int64_t room_ = 0;
};

template <class T> void forward(const DeformConv2d& op, Context& context) {
    const int64_t C = op.x.extent[1], K = op.weight.extent[0] / op.groups;
    const int64_t D = op.weight.extent[1], R = op.weight.extent[2], S = op.weight.extent[3], taps = R * S;
    const Dense<T> x(context, op.x), offset(context, op.offset), mask(context, op.mask), weight(context, op.weight),
        bias(context, op.bias);
    DenseOut<T> y(context, op.y);
    const Sampling<T> s(op, op.x.extent[2], op.x.extent[3], R, S, offset, mask);
    ColumnMaker<T> make(context, s, x, C);
    const int64_t pixels = op.y.extent[0] * s.pixels(), at_once = make.at_once(pixels);
    context.chose("samples written down, register tiles", "the only one");
    for (int64_t first = 0; first < pixels; first += at_once) {
        const int64_t count = pixels - first < at_once ? pixels - first : at_once;
        const void* const columns = make(first, count);
        multiply_filters<T>(context, {weight.get(), K * D * taps, steps(D * taps), steps(1)},
                            {columns, D * taps * count, steps(1), steps(count)},
                            {y.get(), K * s.pixels(), s.pixels(),
                             runs(first, s.pixels(), op.groups * K * s.pixels(), 1), bias.get(), op.activation},
                            {op.groups, K, count, D * taps}, chunk_channels(taps) * taps);
    }
    y.finish();
}

template <class T> void weight_gradient(const DeformConv2dWeightGrad& op, Context& context) {
    const int64_t N = op.x.extent[0], C = op.x.extent[1], D = op.gweight.extent[1], K = op.gy.extent[1] / op.groups;
    const int64_t R = op.gweight.extent[2], S = op.gweight.extent[3], taps = R * S;
    const Dense<T> x(context, op.x), offset(context, op.offset), mask(context, op.mask), gy(context, op.gy);
    DenseOut<T> gweight(context, op.gweight);
    const Sampling<T> s(op, op.x.extent[2], op.x.extent[3], R, S, offset, mask);
    const int64_t pixels = N * s.pixels();
    context.chose("samples written down, register tiles", "the only one");
    if (pixels == 0) {
        fill_zero(context, gweight.get(), op.gweight.size() * int64_t(sizeof(T)));
    } else {
        ColumnMaker<T> make(context, s, x, C);
        multiply_pixels<T>(
            context, {gy.get(), K * s.pixels(), steps(s.pixels()), runs(0, s.pixels(), op.groups * K * s.pixels(), 1)},
            {nullptr, D * taps, steps(1), steps(1)},
            {gweight.get(), K * D * taps, D * taps, steps(1), nullptr, Activation::none},
            {op.groups, K, D * taps, pixels}, make);
    }
    gweight.finish();
}

} // namespace

void deform_conv2d(const DeformConv2d& op, Context& context) {
    using Op = DeformConv2d;
    in_wide(context, op, op.y.dtype, [&](auto zero, const Op& o) { forward<decltype(zero)>(o, context); },
            {&Op::x, &Op::offset, &Op::weight, &Op::bias, &Op::mask}, {&Op::y});
}
void deform_conv2d_weight_grad(const DeformConv2dWeightGrad& op, Context& context) {
    using Op = DeformConv2dWeightGrad;
    in_wide(context, op, op.gweight.dtype, [&](auto zero, const Op& o) { weight_gradient<decltype(zero)>(o, context); },
            {&Op::x, &Op::offset, &Op::gy, &Op::mask}, {&Op::gweight});
}

} // namespace mmk::cuda
