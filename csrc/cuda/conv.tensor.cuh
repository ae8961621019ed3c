// Convolution by tensor cores: conv.tensor.cu (16 bits) and conv.tf32.cu.
#pragma once

#include "products.tensor.cuh"

#include "conv.h"
#include "conv.implicit.cuh"

namespace mmk::cuda::conv {
// Whether pieces of channels lie at multiples of 16 bytes.
template <class T>
bool in_pieces(const void* data, int64_t channels, int64_t channel_step, std::initializer_list<int64_t> steps) {
    bool fits = aligned(data, 16) && channels % piece<T> == 0 && channel_step == 1;
    for (const int64_t s : steps) fits = fits && s % piece<T> == 0;
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
    const int64_t pixels = c.pixels(), depth = prepared.c.channels * c.taps();
    if constexpr (last)
        launch_tensor_products<Shape, SmallTensorShape>(context, window, filter, finish,
                                                        {c.groups, pixels, c.outputs, depth});
    else
        launch_tensor_products<Shape, SmallTensorShape>(context, filter, window, finish,
                                                        {c.groups, c.outputs, pixels, depth});
}
template <class T, bool last> void launch_shape(Context& context, const Prepared<T>& prepared, const Correlation& c,
                                                const Operands<T>& o, bool skips) {
    const int64_t tiles = c.groups * ceil_div(c.outputs, 128) * ceil_div(c.pixels(), 128);
    if (c.outputs > 64 && tiles >= context.multiprocessors)
        launch<LargeTensorShape, T, last>(context, prepared, c, o, skips);
    else
        launch<SmallTensorShape, T, last>(context, prepared, c, o, skips);
}

template <class T>
const T* channel_vectors(Context& context, const T* image, const Extents& e, int64_t& channels, Strides5& s) {
    const int64_t D = e.front + e.D + e.back;
    if (D == e.D &&
        in_pieces<T>(image, channels, s.c,
                     {e.N > 1 ? s.n : 0, e.D > 1 ? s.d : 0, e.H > 1 ? s.h : 0, e.W > 1 ? s.w : 0}) &&
        short_offsets({e.groups * channels, e.reach, e.H, e.W}, {s.c, s.d, s.h, s.w}))
        return image;
    const int64_t padded = ceil_div(channels, piece<T>) * piece<T>, pixel = e.groups * padded,
                  slice = e.H * e.W * pixel;
    T* const to = zeroed<T>(context, e.N * D * slice, padded != channels || D != e.D);
    copy_strided(context,
                 view_of(to + e.front * slice, {e.N, e.D, e.H, e.W, e.groups, channels},
                         {D * slice, slice, e.W * pixel, pixel, padded, 1}),
                 view_of(image, {e.N, e.D, e.H, e.W, e.groups, channels}, {s.n, s.d, s.h, s.w, channels * s.c, s.c}));
    s = {D * slice, 1, slice, e.W * pixel, pixel};
    channels = padded;
    return to;
}

template <class T> Prepared<T> prepare_products(Context& context, const Correlation& c, const Operands<T>& o) {
    Prepared<T> p{c, o.source, o.weight};
    p.source = channel_vectors(context, o.source, source_extents(c), p.c.channels, p.c.source);
    p.c.before[0] -= c.front();
    const Strides5& w = c.weight;
    if (in_pieces<T>(o.weight, c.channels, w.c,
                     {c.outputs > 1 ? w.n : 0, c.T > 1 ? w.d : 0, c.R > 1 ? w.h : 0, c.S > 1 ? w.w : 0,
                      c.groups > 1 ? c.weight_group : 0}) &&
        short_offsets({c.groups, c.outputs, c.channels, c.T, c.R, c.S}, {c.weight_group, w.n, w.c, w.d, w.h, w.w}))
        return p;
    const int64_t row = p.c.channels * c.S, slice = row * c.R, filter = slice * c.T;
    T* const to = zeroed<T>(context, c.groups * c.outputs * filter, p.c.channels != c.channels);
    copy_strided(
        context,
        view_of(to, {c.groups, c.outputs, c.T, c.R, c.S, c.channels},
                {c.outputs * filter, filter, slice, row, p.c.channels, 1}),
        view_of(o.weight, {c.groups, c.outputs, c.T, c.R, c.S, c.channels}, {c.weight_group, w.n, w.d, w.h, w.w, w.c}));
    p.c.weight = {filter, 1, slice, row, p.c.channels};
    p.c.weight_group = c.outputs * filter;
    p.weight = to;
    return p;
}

template <class T> void correlate_products(Context& context, const Prepared<T>& prepared, const Correlation& c,
                                           const Operands<T>& o, bool skips) {
    if constexpr (sizeof(T) == 2)
        if (correlate_products_sm90(context, prepared, c, o, skips)) return;
    if (c.result.c == 1)
        launch_shape<T, true>(context, prepared, c, o, skips);
    else
        launch_shape<T, false>(context, prepared, c, o, skips);
}

} // namespace mmk::cuda::conv
