#include "conv.h"
#include "conv.implicit.cuh"

namespace mmk::cuda::conv {
namespace {

template <class Shape, class T, bool last>
void launch(Context& context, const Prepared<T>& prepared, const Correlation& c, const Operands<T>& o, bool skips) {
    const WindowOperand<T> window(prepared.c, prepared.source);
    const FilterOperand<T> filter(prepared.c, prepared.weight);
    const ImageFinish<T, last> finish(c, o, skips);
    const int64_t pixels = c.samples * c.P * c.Q, taps = c.R * c.S, depth = c.channels * taps;
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
    const int64_t tiles = c.groups * ceil_div(c.outputs, 128) * ceil_div(c.samples * c.P * c.Q, 128);
    if (c.outputs > 64 && tiles >= context.multiprocessors)
        launch<typename Shapes::Large, T, last>(context, prepared, c, o, skips);
    else
        launch<typename Shapes::Small, T, last>(context, prepared, c, o, skips);
}

} // namespace

template <class T>
const T* image_planes(Context& context, const T* image, int64_t N, int64_t C, int64_t H, int64_t W, Strides4& s) {
    if ((s.w == 1 || W == 1) && short_offsets({C, H, W}, {s.c, s.h, s.w})) return image;
    const Tensor packed = pack(context, view_of(image, {N, C, H, W}, {s.n, s.c, s.h, s.w}));
    s = Strides4(packed);
    return static_cast<const T*>(packed.data);
}
template <class T> Prepared<T> prepare_products(Context& context, const Correlation& c, const Operands<T>& o) {
    Prepared<T> p{c, o.source, o.weight};
    p.source = image_planes(context, o.source, c.samples, c.groups * c.channels, c.H, c.W, p.c.source);
    const Strides4& w = c.weight;
    if (short_offsets({c.groups, c.outputs, c.channels, c.R, c.S}, {c.weight_group, w.n, w.c, w.h, w.w})) return p;
    const Tensor packed = pack(
        context, view_of(o.weight, {c.groups, c.outputs, c.channels, c.R, c.S}, {c.weight_group, w.n, w.c, w.h, w.w}));
    p.c.weight_group = packed.stride[0];
    p.c.weight = strides4(packed.stride[1], packed.stride[2], packed.stride[3], packed.stride[4]);
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
    template const T* image_planes<T>(Context&, const T*, int64_t, int64_t, int64_t, int64_t, Strides4&);              \
    template Prepared<T> prepare_products<T>(Context&, const Correlation&, const Operands<T>&);                        \
    template void correlate_products<T>(Context&, const Prepared<T>&, const Correlation&, const Operands<T>&, bool);
MMK_PRODUCTS(float)
MMK_PRODUCTS(double)

} // namespace mmk::cuda::conv
