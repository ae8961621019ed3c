// Context: what a host function may use besides its operands: threads and scratch memory.
#pragma once

#include <utility>

#include "isa.h"
#include "tensor.h"
#include "threads.h"

namespace mmk {

class Context {
  public:
    explicit Context(Isa isa, int threads);
    ~Context(); // gives the scratch memory back to this thread's arena
    Context(const Context&) = delete;
    Context& operator=(const Context&) = delete;

    Isa isa;
    int threads;

    // 64-byte aligned, not initialised, valid until the host function returns. Throws std::bad_alloc.
    void* scratch_bytes(int64_t bytes);
    template <class T> MMK_MEMBER T* scratch(int64_t count) {
        return static_cast<T*>(scratch_bytes(count * int64_t(sizeof(T))));
    }
    // Tells mmk.plan() and MMK_LOG=1 which way was chosen and why. Both are string literals.
    void chose(const char* variant, const char* reason);

    const char* variant = "plain";
    const char* reason = "the only one";
    int64_t scratch_used = 0;
};

// body(index, worker) for every index in [0, count): see run_tasks.
template <class Body> MMK_INLINE void parallel_for(Context& context, int64_t count, Body&& body) {
    using B = std::remove_reference_t<Body>;
    run_tasks(
        context.threads, count,
        [](void* state, int64_t index, int worker) { (*static_cast<B*>(state))(index, worker); },
        const_cast<void*>(static_cast<const void*>(&body)));
}

// body(begin, end, worker) over [0, count) in pieces of at least `grain`: for cheap elements.
template <class Body> MMK_INLINE void parallel_ranges(Context& context, int64_t count, int64_t grain, Body&& body) {
    int64_t pieces = (count + grain - 1) / grain;
    if (pieces > 4 * context.threads) pieces = 4 * context.threads;
    if (pieces <= 1) {
        if (count > 0) body(int64_t(0), count, 0);
        return;
    }
    const int64_t each = (count + pieces - 1) / pieces;
    auto piece = [&](int64_t index, int worker) {
        const int64_t begin = index * each, end = begin + each < count ? begin + each : count;
        if (begin < end) body(begin, end, worker);
    };
    parallel_for(context, pieces, piece);
}

} // namespace mmk
