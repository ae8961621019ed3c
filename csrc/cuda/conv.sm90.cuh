// What the convolutions for Hopper share: images that tensor copies can walk, and boxes of pixels.
#pragma once

#include "products.sm90.cuh"

#include "conv.h"
#include "conv.implicit.cuh"

namespace mmk::cuda::conv {

inline bool walks(int64_t extent, int64_t stride) { return extent <= 1 || (stride > 0 && stride % 8 == 0); }

// Two dimensions alone.
inline bool flat(const Correlation& c) { return c.D == 1 && c.O == 1 && c.T == 1 && c.front() + c.back() == 0; }
inline Strides5 in_one_slice(int64_t n, int64_t h, int64_t w) { return {n, 1, n, h, w}; }

// An image as channel_vectors() leaves it: copied where strides are not above 0.
template <class T>
const T* walked_image(Context& context, const T* image, int64_t N, int64_t pixel, int64_t H, int64_t W, Strides5& s) {
    if (walks(N, s.n) && walks(H, s.h) && walks(W, s.w)) return image;
    T* const to = context.scratch<T>(N * H * W * pixel);
    const Strides5 dense = in_one_slice(H * W * pixel, W * pixel, pixel);
    copy_strided(context, view_of(to, {N, H, W, pixel}, {dense.n, dense.h, dense.w, 1}),
                 view_of(image, {N, H, W, pixel}, {s.n, s.h, s.w, 1}));
    s = dense;
    return to;
}

struct BoxExtents {
    int width, height, deep; // of a box, in pixels
    int64_t across, down, count;
};
// What a tensor map takes of a row or column of pixels that lie `stride` apart: 256 elements with those between.
inline int64_t most_pixels(int64_t stride) { return 255 / stride + 1; }

} // namespace mmk::cuda::conv
