// The host's side of a device, in a few functions: runtime.cu has them of CUDA, csrc/simt/host.cpp of the emulator.
#pragma once

#include <cstddef>

namespace mmk::cuda::runtime {

// 0 where there is no driver or no device.
int device_count();
const char* device_name(int device); // until the next call of the thread
int multiprocessors(int device);
int capability(int device);    // 90 for Hopper
int shared_memory(int device); // bytes that a block may ask for
int current_device();
void set_device(int device);
// Copies on the stream and waits for it.
void copy_to_host(void* to, const void* from, size_t bytes, void* stream);
const char* error_text(int error);

} // namespace mmk::cuda::runtime
