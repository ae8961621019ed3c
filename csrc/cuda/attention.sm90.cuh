// What attention's kernels for Hopper share: blocks of a producer and two consumer warpgroups of 64 rows each, rings of
// tiles, tensor maps.
#pragma once

#include "attention.cuh"

namespace mmk::cuda::flash {

inline constexpr int consumers = 2, group_rows = 64, block_rows = consumers * group_rows;
inline constexpr int hopper_threads = 128 * (1 + consumers);
inline constexpr int atom = 64; // columns that lie in one swizzled row of 128 bytes

// A tile's place in a ring, from the number of tiles before it: stages are a power of two, so the count may wrap.
template <int stages> struct Slot {
    int stage;
    uint32_t parity;
    explicit MMK_PTX Slot(uint32_t count) : stage(int(count % stages)), parity(count / stages % 2) {}
};

template <class T> MMK_PTX uint32_t pack_pair(float low, float high) {
    if constexpr (std::is_same_v<T, float16>)
        return pack_f16(low, high);
    else
        return pack_bf16(low, high);
}

// Whether something but mask, bias and causal is asked for, or leading extents are several.
template <class Op> bool has_options(const Op& op) {
    return op.q.rank != 4 || op.slopes || op.table || op.offset || op.key_lengths || op.query_lengths ||
           op.softcap != 0 || op.window[0] >= 0 || op.window[1] >= 0;
}

// What tensor maps can walk: rows of 16-byte pieces, strides above 0.
inline bool lies_in_rows(const Tensor& x) {
    bool good = aligned(x.data, 16) && x.stride[3] == 1;
    for (int axis = 0; axis < 3; ++axis)
        good &= x.extent[axis] == 1 || (x.stride[axis] > 0 && x.stride[axis] % 8 == 0 && x.stride[axis] >> 39 == 0);
    return good;
}

template <class T> CUtensorMap map_of(const Tensor& x, int rows) {
    uint64_t extents[4], strides[3];
    for (int i = 0; i < 4; ++i) extents[i] = uint64_t(x.extent[3 - i]);
    for (int i = 0; i < 3; ++i) strides[i] = 2 * uint64_t(x.extent[2 - i] == 1 ? x.extent[3] : x.stride[2 - i]);
    const uint32_t box[4] = {atom, uint32_t(rows), 1, 1};
    CUtensorMap map;
    if (!encode_tensor_map(map, static_cast<const T*>(x.data), 4, extents, strides, box, Swizzle::bytes128))
        fail("the driver does not encode a tensor map of attention");
    return map;
}

} // namespace mmk::cuda::flash
