// N C H W operands whose memory has the channels last, and loops over channels, sixteen at a time.
#pragma once

#include "../core/layout.h"
#include "../core/simd.h"

namespace mmk::cpu::MMK_ISA {

using namespace mmk::MMK_ISA;

// The tensor with its channels last: N H W C.
MMK_INLINE Tensor channels_last_view(const Tensor& x) {
    Tensor t = x;
    for (int i = 1; i < 4; ++i) {
        t.extent[i] = x.extent[i < 3 ? i + 1 : 1];
        t.stride[i] = x.stride[i < 3 ? i + 1 : 1];
    }
    return t;
}
// Whether the channels of a pixel are neighbours in memory, and the pixels of a line are not.
MMK_INLINE bool has_channels_last(const Tensor& x) { return !x.contiguous() && channels_last_view(x).contiguous(); }

// Sixteen channels at a time, the last block reaching back where it can: body(channel, count).
template <class Body> MMK_INLINE void for_channel_blocks(int64_t channels, Body&& body) {
    if (channels < lanes) return body(int64_t(0), channels);
    int64_t c = 0;
    for (; c + lanes <= channels; c += lanes) body(c, int64_t(lanes));
    if (c < channels) body(channels - lanes, int64_t(lanes));
}
// Half a kilobyte of float32 of a pixel at a time, which memory delivers up to six times faster than sixteen channels of
// each of several pixels, then sixteen: body.operator()<vectors>(channel, count of each vector).
template <class Body> MMK_INLINE void for_wide_channel_blocks(int64_t channels, Body&& body) {
    int64_t done = 0;
    for (; done + 8 * lanes <= channels; done += 8 * lanes) body.template operator()<8>(done, int64_t(lanes));
    if (done == channels) return;
    for_channel_blocks(channels - done, [&](int64_t c, int64_t n) { body.template operator()<1>(done + c, n); });
}

} // namespace mmk::cpu::MMK_ISA
