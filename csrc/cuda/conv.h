// The rooms of this family that are compiled by themselves.
#pragma once

#include "conv.geometry.cuh"

namespace mmk::cuda::conv {

// Tells whether it covers the correlation, and if so has launched it.
template <class T, bool skips> bool correlate_depthwise(Context& context, const Correlation& c, const Operands<T>& o);

// For one channel and one output a group, offsets and pixels of 31 bits.
template <class T> void correlate_single(Context& context, const Correlation& c, const Operands<T>& o, bool skips);

// A correlation as tiles of a matrix product read it: the same source and weights, perhaps copied into another layout,
// with channels of a group counted by pieces of 16 bytes for tensor cores. `skips`: as in conv.direct.cuh.
template <class T> struct Prepared {
    Correlation c;
    const T* source;
    const T* weight;
};
// Depends on nothing but extents that are not free, as tensor cores sum in an order of their own.
template <class T> bool products_cover(const Correlation& c) {
    constexpr int64_t whole = int64_t(1) << 30; // offsets of 32 bits
    return c.outputs > 16 && c.channels * (on_tensor_cores<T> ? 8 : c.taps()) > 16 && Positions::fit(c) &&
           c.groups * c.outputs * (c.channels + 8) * c.taps() < whole &&
           c.groups * (c.channels + 8) * c.window_slices() * c.H * c.W < whole &&
           c.groups * (c.outputs + 8) * c.P * c.Q < whole;
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
// On Hopper; false where it does not serve the correlation. conv.sm90.cu
template <class T> bool correlate_products_sm90(Context& context, const Prepared<T>& prepared, const Correlation& c,
                                                const Operands<T>& o, bool skips);

template <class T> void weight_gradient(Context& context, const Correlation& c, const T* x, const T* gy, T* gweight);
template <class T> // as correlate_products_sm90(); conv.weight.sm90.cu
bool weight_gradient_sm90(Context& context, const Correlation& c, const T* x, const T* gy, T* gweight);

// Copies where it must: pixels as neighbours, for register tiles; channels of a group as neighbours, counted by pieces
// of 16 bytes, for tensor cores; slices of zeros before and behind. 32 bits hold the offsets within `reach` slices of one sample.
struct Extents {
    int64_t N, groups, channels, D, H, W, front, back, reach;
};
template <class T> const T* image_planes(Context& context, const T* image, const Extents& e, Strides5& s);
template <class T>
const T* channel_vectors(Context& context, const T* image, const Extents& e, int64_t& channels, Strides5& s);

// What gives every slice that a tap meets a place in memory.
inline Extents source_extents(const Correlation& c) {
    return {c.samples, c.groups, c.channels, c.D, c.H, c.W, c.front(), c.back(), c.window_slices()};
}
inline Extents result_extents(const Correlation& c) { return {c.samples, c.groups, c.outputs, c.O, c.P, c.Q, 0, 0, 1}; }

} // namespace mmk::cuda::conv
