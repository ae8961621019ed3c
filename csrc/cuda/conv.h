// The rooms of this family that are compiled by themselves.
#pragma once

#include "conv.geometry.cuh"

namespace mmk::cuda::conv {

// Tells whether it covers the correlation, and if so has launched it.
template <class T, bool skips> bool correlate_depthwise(Context& context, const Correlation& c, const Operands<T>& o);

// A correlation as tiles of a matrix product read it: the same source and weights, perhaps copied into another layout,
// with channels of a group counted by 8 for tensor cores. `skips`: as in conv.direct.cuh.
template <class T> struct Prepared {
    Correlation c;
    const T* source;
    const T* weight;
};
// Depends on nothing but extents that are not free, as tensor cores sum in an order of their own.
template <class T> bool products_cover(const Correlation& c) {
    constexpr int64_t most = int64_t(1) << 14, whole = int64_t(1) << 30; // positions of 16 bits, offsets of 32
    const auto fits = [](int64_t extent, int64_t step) { return extent < most / (step < 0 ? -step : step); };
    return c.outputs > 16 && c.channels * (sizeof(T) == 2 ? 8 : c.R * c.S) > 16 && c.H < most && c.W < most &&
           fits(c.P, c.stride[0]) && fits(c.Q, c.stride[1]) && fits(c.R, c.dilation[0]) && fits(c.S, c.dilation[1]) &&
           c.before[0] < most && c.before[1] < most && c.groups * c.outputs * (c.channels + 8) * c.R * c.S < whole &&
           c.groups * (c.channels + 8) * c.H * c.W < whole && c.groups * (c.outputs + 8) * c.P * c.Q < whole;
}
// Whether 32 bits hold offsets within these extents; operands of other strides are copied.
inline bool short_offsets(std::initializer_list<int64_t> extents, std::initializer_list<int64_t> strides) {
    int64_t reach = 0;
    for (auto e = extents.begin(), s = strides.begin(); e != extents.end(); ++e, ++s)
        reach += (*e - 1) * (*s < 0 ? -*s : *s);
    return reach < int64_t(1) << 31;
}
template <class T> Prepared<T> prepare_products(Context& context, const Correlation& c, const Operands<T>& o);
template <class T> void correlate_products(Context& context, const Prepared<T>& prepared, const Correlation& c,
                                           const Operands<T>& o, bool skips);

template <class T> void weight_gradient(Context& context, const Correlation& c, const T* x, const T* gy, T* gweight);

// Copies where it must: pixels as neighbours, for register tiles; channels of a group as neighbours, counted by 8, for
// tensor cores.
template <class T>
const T* image_planes(Context& context, const T* image, int64_t N, int64_t C, int64_t H, int64_t W, Strides4& s);
template <class T> const T* channel_vectors(Context& context, const T* image, int64_t N, int64_t groups,
                                            int64_t& channels, int64_t H, int64_t W, Strides4& s);

} // namespace mmk::cuda::conv
