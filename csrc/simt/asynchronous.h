// Pieces of bulk copies, which tensor_maps.cpp computes and asynchronous.cpp moves.
#pragma once

#include "runtime.h"

namespace simt {

void copy_now(const AsyncCopy& copy);
void copy_to_shared(const Segment& segment);
void start_load(std::vector<Segment> segments, uint32_t bytes, uint64_t* barrier, const void* place);
void start_store(std::vector<Segment> segments, const void* place);

} // namespace simt
