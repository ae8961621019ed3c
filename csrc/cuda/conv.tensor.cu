#include "products.tensor.cuh"

#include "conv.h"
#include "conv.implicit.cuh"

namespace mmk::cuda::conv {
namespace {

// Whether pieces of eight channels lie at multiples of 16 bytes.
bool in_eights(const void* data, int64_t channels, int64_t channel_step, std::initializer_list<int64_t> steps) {
    bool fits = aligned(data, 16) && channels % 8 == 0 && channel_step == 1;
    for (const int64_t s : steps) fits = fits && s % 8 == 0;
    return fits;
}
template <class T> T* zeroed(Context& context, int64_t count, bool needed) {
    T* const to = context.scratch<T>(count);
    if (needed && !MMK_DEFECT(conv_missing_zeros)) fill_zero(context, to, count * int64_t(sizeof(T)));
    return to;
}

template <class Shape, class T, bool last>
void launch(Context& context, const Prepared<T>& prepared, const Correlation& c, const Operands<T>& o, bool skips) {
    const WindowVectors<T> window(prepared.c, prepared.source);
    const FilterVectors<T> filter(prepared.c, prepared.weight);
    const ImageFinish<T, last> finish(c, o, skips);
    const int64_t pixels = c.samples * c.P * c.Q, depth = prepared.c.channels * c.R * c.S;
    if constexpr (last)
        launch_tensor_products<Shape, SmallTensorShape>(context, window, filter, finish,
                                                        {c.groups, pixels, c.outputs, depth});
    else
        launch_tensor_products<Shape, SmallTensorShape>(context, filter, window, finish,
                                                        {c.groups, c.outputs, pixels, depth});
}
template <class T, bool last> void launch_shape(Context& context, const Prepared<T>& prepared, const Correlation& c,
                                                const Operands<T>& o, bool skips) {
    const int64_t tiles = c.groups * ceil_div(c.outputs, 128) * ceil_div(c.samples * c.P * c.Q, 128);
    if (c.outputs > 64 && tiles >= context.multiprocessors)
        launch<LargeTensorShape, T, last>(context, prepared, c, o, skips);
    else
        launch<SmallTensorShape, T, last>(context, prepared, c, o, skips);
}

} // namespace

template <class T> const T* channel_vectors(Context& context, const T* image, int64_t N, int64_t groups,
                                            int64_t& channels, int64_t H, int64_t W, Strides4& s) {
    if (in_eights(image, channels, s.c, {N > 1 ? s.n : 0, H > 1 ? s.h : 0, W > 1 ? s.w : 0}) &&
        short_offsets({groups * channels, H, W}, {s.c, s.h, s.w}))
        return image;
    const int64_t padded = ceil_div(channels, 8) * 8, pixel = groups * padded;
    T* const to = zeroed<T>(context, N * H * W * pixel, padded != channels);
    copy_strided(context, view_of(to, {N, H, W, groups, channels}, {H * W * pixel, W * pixel, pixel, padded, 1}),
                 view_of(image, {N, H, W, groups, channels}, {s.n, s.h, s.w, channels * s.c, s.c}));
    s = strides4(H * W * pixel, 1, W * pixel, pixel);
    channels = padded;
    return to;
}

template <class T> Prepared<T> prepare_products(Context& context, const Correlation& c, const Operands<T>& o) {
    Prepared<T> p{c, o.source, o.weight};
    p.source = channel_vectors(context, o.source, c.samples, c.groups, p.c.channels, c.H, c.W, p.c.source);
    const Strides4& w = c.weight;
    if (in_eights(o.weight, c.channels, w.c,
                  {c.outputs > 1 ? w.n : 0, c.R > 1 ? w.h : 0, c.S > 1 ? w.w : 0, c.groups > 1 ? c.weight_group : 0}) &&
        short_offsets({c.groups, c.outputs, c.channels, c.R, c.S}, {c.weight_group, w.n, w.c, w.h, w.w}))
        return p;
    const int64_t row = p.c.channels * c.S, filter = row * c.R;
    T* const to = zeroed<T>(context, c.groups * c.outputs * filter, p.c.channels != c.channels);
    copy_strided(
        context,
        view_of(to, {c.groups, c.outputs, c.R, c.S, c.channels}, {c.outputs * filter, filter, row, p.c.channels, 1}),
        view_of(o.weight, {c.groups, c.outputs, c.R, c.S, c.channels}, {c.weight_group, w.n, w.h, w.w, w.c}));
    p.c.weight = strides4(filter, 1, row, p.c.channels);
    p.c.weight_group = c.outputs * filter;
    p.weight = to;
    return p;
}

template <class T> void correlate_products(Context& context, const Prepared<T>& prepared, const Correlation& c,
                                           const Operands<T>& o, bool skips) {
    if (c.result.c == 1)
        launch_shape<T, true>(context, prepared, c, o, skips);
    else
        launch_shape<T, false>(context, prepared, c, o, skips);
}

#define MMK_TENSOR(T)                                                                                                  \
    template const T* channel_vectors<T>(Context&, const T*, int64_t, int64_t, int64_t&, int64_t, int64_t, Strides4&); \
    template Prepared<T> prepare_products<T>(Context&, const Correlation&, const Operands<T>&);                        \
    template void correlate_products<T>(Context&, const Prepared<T>&, const Correlation&, const Operands<T>&, bool);
MMK_TENSOR(float16)
MMK_TENSOR(bfloat16)

} // namespace mmk::cuda::conv
