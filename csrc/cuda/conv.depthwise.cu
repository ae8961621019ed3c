#include "conv.depthwise.cuh"

#include "conv.h"

namespace mmk::cuda::conv {
namespace {

template <class T> bool vectors_fit(const Correlation& c, const Operands<T>& o) {
    constexpr int vector = depthwise_vector<T>;
    const auto fits = [](const Strides5& s) {
        return s.c == 1 && s.n % vector == 0 && s.h % vector == 0 && s.w % vector == 0;
    };
    return fits(c.source) && fits(c.result) && c.groups % vector == 0 && aligned(o.source, 16) && aligned(o.result, 16);
}

template <class T, int taps, int step, bool skips>
void launch(Context& context, const Correlation& c, const Operands<T>& o) {
    if (vectors_fit(c, o)) {
        context.chose("depthwise, lanes along channels", "a group is one channel, channels are neighbours");
        constexpr int64_t strips_at_once = depthwise_threads / depthwise_lanes,
                          most = 4096; // blocks: weights are reused
        const int64_t slices = ceil_div(c.groups, depthwise_lanes * depthwise_vector<T>);
        const int64_t strips = c.samples * c.P * ceil_div(c.Q, depthwise_columns),
                      walks = ceil_div(strips, strips_at_once);
        const int64_t blocks = walks * slices <= most ? walks : ceil_div(most, slices);
        MMK_LAUNCH(context, (depthwise_channels<T, taps, step, skips>), grid_of(blocks * slices), depthwise_threads, 0,
                   c, o);
    } else {
        context.chose("depthwise, lanes along columns", "a group is one channel");
        const int64_t threads = c.samples * c.groups * ceil_div(c.P, depthwise_rows<taps>) * c.Q;
        MMK_LAUNCH(context, (depthwise_planes<T, taps, step, skips>), grid_of(ceil_div(threads, depthwise_threads)),
                   depthwise_threads, 0, c, o);
    }
}
template <class T, int taps, bool skips>
bool launch_step(Context& context, const Correlation& c, const Operands<T>& o) {
    const int64_t stride = c.stride[1], dilation = c.dilation[1];
    if (c.stride[2] != stride || c.dilation[2] != dilation) return false;
    if constexpr (skips) {
        if (stride != 1 || dilation != -1) return false;
        return launch<T, taps, -1, skips>(context, c, o), true;
    } else {
        if (stride > 2 || dilation != 1) return false;
        stride == 1 ? launch<T, taps, 1, skips>(context, c, o) : launch<T, taps, 2, skips>(context, c, o);
        return true;
    }
}

} // namespace

template <class T, bool skips> bool correlate_depthwise(Context& context, const Correlation& c, const Operands<T>& o) {
    const bool in_images = c.T == 1 && c.first_slice >= 0 && c.last_slice < c.D;
    if (c.channels != 1 || c.outputs != 1 || c.R != c.S || !in_images) return false;
    if (c.O > 1) { // slices as samples, a batch as so many calls
        Correlation slices = c;
        slices.samples = c.O, slices.D = slices.O = 1, slices.first_slice = slices.last_slice = 0;
        slices.source.n = c.stride[0] * c.source.d, slices.result.n = c.result.d;
        bool covered = true;
        for (int64_t n = 0; n < c.samples && covered; ++n) {
            Operands<T> part = o;
            part.source += n * c.source.n + c.first_slice * c.source.d, part.result += n * c.result.n;
            if (part.ending.residual) part.ending.residual += n * o.ending.residual_strides.n;
            part.ending.residual_strides.n = o.ending.residual_strides.d;
            covered = correlate_depthwise<T, skips>(context, slices, part);
        }
        return covered;
    }
    if (c.R == 3) return launch_step<T, 3, skips>(context, c, o);
    if (c.R == 5) return launch_step<T, 5, skips>(context, c, o);
    return false;
}
#define MMK_DEPTHWISE(T)                                                                                               \
    template bool correlate_depthwise<T, false>(Context&, const Correlation&, const Operands<T>&);                     \
    template bool correlate_depthwise<T, true>(Context&, const Correlation&, const Operands<T>&);
MMK_DEPTHWISE(float)
MMK_DEPTHWISE(float16)
MMK_DEPTHWISE(bfloat16)

} // namespace mmk::cuda::conv
