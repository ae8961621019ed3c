// noise — random numbers that are functions of a key and a position alone: Philox4x32-10 and what is made of it.
// Computes   philox4x32      the four words of each counter under its key
//            philox_fold_in  words 0 (low) and 1 (high) of the counter (data low, data high, 0, 1): a new key
//            philox_uniform  element i of a sample is (word & 0xffffff) 2^-24, word i % 4 of counter offset + i / 4
//            philox_normal   the same counters; Box and Muller's pairs of words (0, 1) and (2, 3): elements 0, 1 and
//                            2, 3 of a counter are (R cos, R sin); operations and error in core/philox.h
// Shapes     counter [N 4], key [N 2]; key and data broadcast; keys [N] -> [N *extents], i the logical index
// Types      uint32, uint64; results of uniform and normal are float32
// Limits     extents of a sample: at most 7; counters wrap at 2^64
// Algorithm  16 counters at a time, 64 elements; a block of a sample per task
// CUDA       a thread makes the four elements of a counter; threads stand on several samples where samples are short
// Order      none: every element is computed alone, so sizes, batches, threads and layouts cannot matter
// Source     Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011; Box and Muller 1958
// Moves      writes the result once
#pragma once

#include "../core/dispatch.h"

namespace mmk {

struct Philox {
    Tensor counter, key, words;
    MMK_FIELDS(Philox, counter, key, words)
};
struct PhiloxFold {
    Tensor key, data, folded;
    MMK_FIELDS(PhiloxFold, key, data, folded)
};
struct PhiloxDraw {
    Tensor keys, y;
    int64_t offset = 0; // counters that come before element 0's
    MMK_FIELDS(PhiloxDraw, keys, y, offset)
};

MMK_OPERATOR(philox4x32, Philox)
MMK_OPERATOR(philox_fold_in, PhiloxFold)
MMK_OPERATOR(philox_uniform, PhiloxDraw)
MMK_OPERATOR(philox_normal, PhiloxDraw)

} // namespace mmk
