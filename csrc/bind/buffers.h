// A bounded pool of aligned buffers for large results: fresh pages cost more than most kernels.
#pragma once

#include <cstddef>

namespace mmk::bind {

inline constexpr size_t pooled_from = size_t(1) << 18; // smaller results come from NumPy's own allocator

void* take_buffer(size_t bytes); // 64-byte aligned; null if there is no memory
void give_buffer(void* buffer);

} // namespace mmk::bind
