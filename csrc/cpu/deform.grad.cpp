#include "deform.sample.h"

#include "../core/reduce.h"

namespace mmk::cpu::MMK_ISA {
namespace {

// A vector of channels of one sample goes to an element of the plane, or nowhere.
template <class T> MMK_INLINE void add_to(T* to, T weight, const T* z, int64_t count) {
    for (int64_t c = 0; c < count; c += lanes)
        fma(Vec<T>(weight), Vec<T>::load(z + c, count - c), Vec<T>::load(to + c, count - c)).store(to + c, count - c);
}

// z of one sample to its corners; a pixel of the plane has `width` channels.
template <class T> MMK_INLINE void add_sample(const Sampling<T>& s, const Places<T>& p, int64_t i, const T* z,
                                              int64_t channels, T* plane, int64_t width) {
    if (p.row[i] == s.H) return; // outside
    const T rows[2] = {p.top[i], p.bottom[i]}, columns[2] = {p.left[i], p.right[i]};
    for (int a = 0; a < 2; ++a)
        for (int b = 0; b < 2; ++b) {
            const int64_t h = p.row[i] + a, w = p.column[i] + b;
            if (h < 0 || h >= s.H || w < 0 || w >= s.W) continue;
            const T corner = rows[a] * columns[b];
            add_to(plane + (h * s.W + w) * width, s.mask ? corner * p.mask[i] : corner, z, channels);
        }
}

// A task has the plane of a panel of channels; samples come in their order.
template <class T> void input_gradient(const DeformConv2dInputGrad& op, Context& context) {
    using Shape = ProductShape<T>;
    const int64_t N = op.gx.extent[0], C = op.gx.extent[1], H = op.gx.extent[2], W = op.gx.extent[3], D = C / op.groups;
    const Dense<T> offset(context, op.offset), mask(context, op.mask);
    const DenseOut<T> gx(context, op.gx);
    const Sampling<T> s(op, H, W, op.weight.extent[2], op.weight.extent[3], offset, mask);
    const PulledBack<T> pulled(context, op.weight, op.gy, op.groups);
    constexpr int64_t width = Shape::width, tile = 4 * Shape::rows;
    const int64_t tasks = N * op.groups * pulled.panels, workers = smaller(context.threads, tasks);
    T* const planes = context.scratch<T>(workers * H * W * width);
    const int64_t z_size = (tile + Shape::rows) * s.taps * width;
    T* const z_tiles = context.scratch<T>(workers * z_size);
    auto* const all_places = context.scratch<Places<T>>(workers * s.taps);
    context.chose("a plane for each panel of channels", "the only one");
    parallel_for(context, tasks, [&](int64_t index, int worker) {
        const int64_t panel = index % pulled.panels, g = index / pulled.panels % op.groups;
        const int64_t n = index / pulled.panels / op.groups, c0 = panel * width, count = smaller(width, D - c0);
        T *const plane = planes + worker * H * W * width, *const z = z_tiles + worker * z_size;
        Places<T>* const places = all_places + worker * s.taps;
        for (int64_t i = 0; i < H * W * width; i += lanes) Vec<T>::zero().store(plane + i);
        for (int64_t first = 0; first < s.pixels(); first += tile) {
            const int64_t some = smaller(tile, s.pixels() - first);
            pulled(n, g, panel, first, some, z, s.taps * width, width);
            for_sets(C / s.sets, g * D + c0, g * D + c0 + count, [&](int64_t low, int64_t high, int64_t set) {
                for (int64_t tap = 0; tap < s.taps; ++tap) find_places(s, n, set, tap, first, some, places[tap]);
                const int64_t at = low - g * D - c0;
                for (int64_t i = 0; i < some; ++i)
                    for (int64_t tap = 0; tap < s.taps; ++tap)
                        add_sample(s, places[tap], i, z + (i * s.taps + tap) * width + at, high - low, plane + at,
                                   width);
            });
        }
        const Finish<T> finish{gx, nullptr, nullptr, H * W, Activation::none};
        for (int64_t i = 0; i < H * W; i += most_places) {
            const int64_t some = smaller(most_places, H * W - i);
            int64_t to[most_places];
            for (int64_t k = 0; k < some; ++k) to[k] = (n * C + g * D) * H * W + i + k;
            finish_rows(finish, plane + i * width, width, to, some, c0, count);
        }
    });
}

// The long sums of z times the slopes and the sample, over the channels of one group of offsets.
template <class T> struct SampleSums {
    T y, x, sample;
};
template <class T>
SampleSums<T> sum_channels(const Corners<T>& corners, const Places<T>& p, int64_t i, const T* z, int64_t channels) {
    const Vec<T> top(p.top[i]), bottom(p.bottom[i]), left(p.left[i]), right(p.right[i]);
    const Vec<T> w00 = top * left, w01 = top * right, w10 = bottom * left, w11 = bottom * right;
    ChunkTree<T> along_y, along_x, samples;
    for (int64_t begin = 0; begin < channels; begin += sum_chunk) {
        const int64_t end = smaller(channels, begin + sum_chunk);
        Vec<T> y = Vec<T>::zero(), x = y, sample = y;
        for (int64_t c = begin; c < end; c += lanes) {
            const int64_t some = end - c; // those behind belong to others: missing elements are +0
            const Vec<T> factor = Vec<T>::load(z + c, some);
            const Vec<T> v00 = Vec<T>::load(corners.v00 + c, some),
                         v01 = Vec<T>::load(corners.v00 + corners.pixel + c, some),
                         v10 = Vec<T>::load(corners.v10 + c, some),
                         v11 = Vec<T>::load(corners.v10 + corners.pixel + c, some);
            y = y + factor * slope_along_y(left, right, v00, v01, v10, v11);
            x = x + factor * slope_along_x(top, bottom, v00, v01, v10, v11);
            sample = sample + factor * bilinear_sample(w00, w01, w10, w11, v00, v01, v10, v11);
        }
        along_y.add(y), along_x.add(x), samples.add(sample);
    }
    return {sum_lanes(along_y.total()), sum_lanes(along_x.total()), sum_lanes(samples.total())};
}

// A task has a tile of pixels and makes z for all channels there. goffset or gmask may be missing.
template <class T> void offset_gradient(const DeformConv2dOffsetGrad& op, Context& context) {
    using Shape = ProductShape<T>;
    const int64_t N = op.x.extent[0], C = op.x.extent[1], channels = C / op.offset_groups;
    const Dense<T> offset(context, op.offset), mask(context, op.mask);
    const DenseOut<T> goffset(context, op.goffset), gmask(context, op.gmask);
    const Sampling<T> s(op, op.x.extent[2], op.x.extent[3], op.weight.extent[2], op.weight.extent[3], offset, mask);
    const Image<T> image = channels_innermost<T>(context, op.x);
    const PulledBack<T> pulled(context, op.weight, op.gy, op.groups);
    constexpr int64_t tile = 4 * Shape::rows;
    const int64_t tap_step = C + Shape::width, pixel_step = s.taps * tap_step,
                  z_size = (tile + Shape::rows) * pixel_step;
    const int64_t tiles = ceil_divide(s.pixels(), tile);
    T* const z_tiles = context.scratch<T>(context.threads * z_size);
    auto* const all_places = context.scratch<Places<T>>(context.threads);
    context.chose("tiles of pixels, lanes along channels", "the only one");
    parallel_for(context, N * tiles, [&](int64_t index, int worker) {
        const int64_t n = index / tiles, first = index % tiles * tile, some = smaller(tile, s.pixels() - first);
        T* const z = z_tiles + worker * z_size;
        Places<T>& places = all_places[worker];
        for (int64_t g = 0; g < op.groups; ++g) // a panel may write behind its group, where the next one writes later
            for (int64_t panel = 0; panel < pulled.panels; ++panel)
                pulled(n, g, panel, first, some, z + g * pulled.channels + panel * Shape::width, pixel_step, tap_step);
        for (int64_t set = 0; set < s.sets; ++set)
            for (int64_t tap = 0; tap < s.taps; ++tap) {
                find_places(s, n, set, tap, first, some, places);
                const int64_t plane = (n * s.sets + set) * s.taps + tap, at = plane * s.pixels() + first;
                for (int64_t i = 0; i < some; ++i) {
                    const Corners<T> corners(image, n, places, i, set * channels);
                    const SampleSums<T> sums = sum_channels(
                        corners, places, i, z + i * pixel_step + tap * tap_step + set * channels, channels);
                    if (gmask) gmask[at + i] = sums.sample;
                    if (!goffset) continue;
                    const int64_t along_y = at + plane * s.pixels() + i;
                    goffset[along_y] = s.mask ? places.mask[i] * sums.y : sums.y;
                    goffset[along_y + s.pixels()] = s.mask ? places.mask[i] * sums.x : sums.x;
                }
            }
    });
}

} // namespace

void deform_conv2d_input_grad(const DeformConv2dInputGrad& op, Context& context) {
    visit_float(op.gx.dtype, [&](auto zero) { input_gradient<decltype(zero)>(op, context); });
}
void deform_conv2d_offset_grad(const DeformConv2dOffsetGrad& op, Context& context) {
    visit_float(op.goffset.dtype, [&](auto zero) { offset_gradient<decltype(zero)>(op, context); });
}
void deform_conv2d_mask_grad(const DeformConv2dMaskGrad& op, Context& context) {
    DeformConv2dOffsetGrad both;
    both.x = op.x, both.offset = op.offset, both.weight = op.weight, both.gy = op.gy, both.gmask = op.gmask;
    for (int i = 0; i < 2; ++i) both.stride[i] = op.stride[i], both.dilation[i] = op.dilation[i];
    for (int i = 0; i < 4; ++i) both.padding[i] = op.padding[i];
    both.groups = op.groups, both.offset_groups = op.offset_groups;
    visit_float(op.gmask.dtype, [&](auto zero) { offset_gradient<decltype(zero)>(both, context); });
}

} // namespace mmk::cpu::MMK_ISA
