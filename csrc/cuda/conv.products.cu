#include "conv.h"
#include "conv.implicit.cuh"

namespace mmk::cuda::conv {
namespace {

template <class Shape, class T, bool last>
void launch(Context& context, const Prepared<T>& prepared, const Correlation& c, const Operands<T>& o, bool skips) {
    const WindowOperand<T> window(prepared.c, prepared.source);
    const FilterOperand<T> filter(prepared.c, prepared.weight);
    const ImageFinish<T, last> finish(c, o, skips);
    const int64_t pixels = c.pixels(), taps = c.taps(), depth = c.channels * taps;
    const int64_t chunk = taps ? c.chunk * taps : 1;
    if constexpr (last)
        launch_chunked_register_products<Shape>(context, window, filter, finish, {c.groups, pixels, c.outputs, depth},
                                                chunk);
    else
        launch_chunked_register_products<Shape>(context, filter, window, finish, {c.groups, c.outputs, pixels, depth},
                                                chunk);
}
template <class T, bool last> void launch_shape(Context& context, const Prepared<T>& prepared, const Correlation& c,
                                                const Operands<T>& o, bool skips) {
    using Shapes = RegisterShapes<T>;
    const int64_t tiles = c.groups * ceil_div(c.outputs, 128) * ceil_div(c.pixels(), 128);
    if (c.outputs > 64 && tiles >= context.multiprocessors)
        launch<typename Shapes::Large, T, last>(context, prepared, c, o, skips);
    else
        launch<typename Shapes::Small, T, last>(context, prepared, c, o, skips);
}

} // namespace

template <class T> const T* image_planes(Context& context, const T* image, const Extents& e, Strides5& s) {
    const int64_t C = e.groups * e.channels, D = e.front + e.D + e.back, plane = e.H * e.W, slice = C * plane;
    if (D == e.D && (s.w == 1 || e.W == 1) && short_offsets({C, e.reach, e.H, e.W}, {s.c, s.d, s.h, s.w})) return image;
    T* const to = context.scratch<T>(e.N * D * slice);
    if (D != e.D && !MMK_DEFECT(conv_missing_slices)) fill_zero(context, to, e.N * D * slice * int64_t(sizeof(T)));
    copy_strided(context, view_of(to + e.front * slice, {e.N, C, e.D, e.H, e.W}, {D * slice, plane, slice, e.W, 1}),
                 view_of(image, {e.N, C, e.D, e.H, e.W}, {s.n, s.c, s.d, s.h, s.w}));
    s = {D * slice, plane, slice, e.W, 1};
    return to;
}
template <class T> Prepared<T> prepare_products(Context& context, const Correlation& c, const Operands<T>& o) {
    Prepared<T> p{c, o.source, o.weight};
    p.source = image_planes(context, o.source, source_extents(c), p.c.source);
    p.c.before[0] -= c.front();
    const Strides5& w = c.weight;
    if (short_offsets({c.groups, c.outputs, c.channels, c.T, c.R, c.S}, {c.weight_group, w.n, w.c, w.d, w.h, w.w}))
        return p;
    const Tensor packed = pack(context, view_of(o.weight, {c.groups, c.outputs, c.channels, c.T, c.R, c.S},
                                                {c.weight_group, w.n, w.c, w.d, w.h, w.w}));
    const int64_t* const s = packed.stride;
    p.c.weight_group = s[0], p.c.weight = {s[1], s[2], s[3], s[4], s[5]};
    p.weight = static_cast<const T*>(packed.data);
    return p;
}

template <class T> void correlate_products(Context& context, const Prepared<T>& prepared, const Correlation& c,
                                           const Operands<T>& o, bool skips) {
    if constexpr (sizeof(T) == 4)
        if (c.result.c == 1) return launch_shape<T, true>(context, prepared, c, o, skips);
    launch_shape<T, false>(context, prepared, c, o, skips);
}

#define MMK_PRODUCTS(T)                                                                                                \
    template const T* image_planes<T>(Context&, const T*, const Extents&, Strides5&);                                  \
    template Prepared<T> prepare_products<T>(Context&, const Correlation&, const Operands<T>&);                        \
    template void correlate_products<T>(Context&, const Prepared<T>&, const Correlation&, const Operands<T>&, bool);
MMK_PRODUCTS(float)
MMK_PRODUCTS(double)

} // namespace mmk::cuda::conv
