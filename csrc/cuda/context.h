// Context of the CUDA floor: what a host function may use besides its operands: a stream and scratch memory.
#pragma once

#include "../core/tensor.h"

namespace mmk::cuda {

class Context {
  public:
    // Gives device memory of the caller's library, which stays until the call returns and is then reused in stream
    // order. Throws std::bad_alloc.
    using Allocate = void* (*)(void* state, int64_t bytes);

    Context(int device_, void* stream_, Allocate allocate, void* state);

    int device;
    void* stream;
    // For grids that only have to fill the device and for what is held on chip; never for anything that shows in a result.
    int multiprocessors;
    int shared_memory; // bytes that a block may ask for: 99 to 227 KB from sm_80 on

    // 256-byte aligned, not initialised, valid until the host function returns.
    void* scratch_bytes(int64_t bytes);
    template <class T> T* scratch(int64_t count) { return static_cast<T*>(scratch_bytes(count * int64_t(sizeof(T)))); }
    // Tells mmk.plan() and MMK_LOG=1 which way was chosen and why. Both are string literals.
    void chose(const char* variant_, const char* reason_) { variant = variant_, reason = reason_; }

    const char* variant = "plain";
    const char* reason = "the only one";
    int64_t scratch_used = 0;

    // Whether the kernels of <family>.sm90.cu may serve a call: MMK_CUDA_ARCH is sm_90a, and so is the device. Asked at
    // every call, so that tests can switch.
    bool hopper() const;

  private:
    Allocate allocate_;
    void* state_;
};

} // namespace mmk::cuda
