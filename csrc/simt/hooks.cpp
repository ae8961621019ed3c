// Kernels compiled with -fsanitize=thread,bounds,alignment call these functions before every load and store, and
// where an index or an alignment is wrong. No sanitizer's library is linked.
#include <cstdio>

#include "runtime.h"

namespace simt {

namespace {

// On a fiber's stack: host functions of the same files are instrumented as well, and may run on other threads meanwhile.
inline bool on_fiber() {
    const Fiber* fiber = self();
    const char* here = static_cast<const char*>(__builtin_frame_address(0));
    return fiber != nullptr && here >= fiber->stack_low && here < fiber->stack_high;
}

inline bool in_kernel() {
    if (!on_fiber()) return false;
    if (settings.preempt != 0 && random_bits() % settings.preempt == 0) yield();
    return true;
}

void hooked(const void* pointer, size_t bytes, Access kind, bool aligned, const void* place) {
    if (!in_kernel() || !settings.check) return;
    // at 16 bytes the compiler only promises 8; there -fsanitize=alignment speaks
    if (aligned && bytes <= 8 && uintptr_t(pointer) % bytes != 0) fail(place, "misaligned access of %zu bytes", bytes);
    access_checked(pointer, bytes, kind, place, by_thread);
}

} // namespace

} // namespace simt

using simt::Access;
using simt::hooked;

extern "C" {

#define SIMT_HOOKS(n)                                                                                                  \
    void __tsan_read##n(void* p) { hooked(p, n, Access::read, true, SIMT_CALLER); }                                    \
    void __tsan_write##n(void* p) { hooked(p, n, Access::write, true, SIMT_CALLER); }                                  \
    void __tsan_unaligned_read##n(void* p) { hooked(p, n, Access::read, false, SIMT_CALLER); }                         \
    void __tsan_unaligned_write##n(void* p) { hooked(p, n, Access::write, false, SIMT_CALLER); }                       \
    void __tsan_volatile_read##n(void* p) { hooked(p, n, Access::read, true, SIMT_CALLER); }                           \
    void __tsan_volatile_write##n(void* p) { hooked(p, n, Access::write, true, SIMT_CALLER); }
SIMT_HOOKS(1)
SIMT_HOOKS(2)
SIMT_HOOKS(4)
SIMT_HOOKS(8)
SIMT_HOOKS(16)
#undef SIMT_HOOKS
void __tsan_read_range(void* p, size_t bytes) { hooked(p, bytes, Access::read, false, SIMT_CALLER); }
void __tsan_write_range(void* p, size_t bytes) { hooked(p, bytes, Access::write, false, SIMT_CALLER); }
void __tsan_vptr_update(void*, void*) {}
void __tsan_vptr_read(void*) {}
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_atomic_thread_fence(int) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }

// std::atomic and the guards of static variables, in host functions of the same files.
#define SIMT_HOST_ATOMICS(bits, T)                                                                                     \
    T __tsan_atomic##bits##_load(const volatile T* p, int) { return __atomic_load_n(p, __ATOMIC_SEQ_CST); }            \
    void __tsan_atomic##bits##_store(volatile T* p, T v, int) { __atomic_store_n(p, v, __ATOMIC_SEQ_CST); }            \
    T __tsan_atomic##bits##_exchange(volatile T* p, T v, int) { return __atomic_exchange_n(p, v, __ATOMIC_SEQ_CST); }  \
    T __tsan_atomic##bits##_fetch_add(volatile T* p, T v, int) { return __atomic_fetch_add(p, v, __ATOMIC_SEQ_CST); }  \
    T __tsan_atomic##bits##_fetch_sub(volatile T* p, T v, int) { return __atomic_fetch_sub(p, v, __ATOMIC_SEQ_CST); }  \
    T __tsan_atomic##bits##_fetch_or(volatile T* p, T v, int) { return __atomic_fetch_or(p, v, __ATOMIC_SEQ_CST); }    \
    T __tsan_atomic##bits##_fetch_and(volatile T* p, T v, int) { return __atomic_fetch_and(p, v, __ATOMIC_SEQ_CST); }  \
    int __tsan_atomic##bits##_compare_exchange_strong(volatile T* p, T* expected, T v, int, int) {                     \
        return __atomic_compare_exchange_n(p, expected, v, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);                 \
    }                                                                                                                  \
    int __tsan_atomic##bits##_compare_exchange_weak(volatile T* p, T* expected, T v, int, int) {                       \
        return __atomic_compare_exchange_n(p, expected, v, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);                 \
    }
SIMT_HOST_ATOMICS(8, uint8_t)
SIMT_HOST_ATOMICS(16, uint16_t)
SIMT_HOST_ATOMICS(32, uint32_t)
SIMT_HOST_ATOMICS(64, uint64_t)
#undef SIMT_HOST_ATOMICS

struct SimtSource {
    const char* file;
    uint32_t line, column;
};

void __ubsan_handle_out_of_bounds(const SimtSource* source, void* index) {
    if (simt::on_fiber())
        simt::fail(SIMT_CALLER, "array index %ld is out of bounds at %s:%u", long(intptr_t(index)), source->file,
                   source->line);
    fprintf(stderr, "array index out of bounds on the host at %s:%u\n", source->file, source->line);
}
void __ubsan_handle_type_mismatch_v1(const SimtSource* source, void* pointer) {
    if (simt::on_fiber())
        simt::fail(SIMT_CALLER, "misaligned access at address %p at %s:%u", pointer, source->file, source->line);
    fprintf(stderr, "misaligned access on the host at %s:%u\n", source->file, source->line);
}
void __ubsan_handle_out_of_bounds_abort(const SimtSource* source, void* index) {
    __ubsan_handle_out_of_bounds(source, index);
}
void __ubsan_handle_type_mismatch_v1_abort(const SimtSource* source, void* pointer) {
    __ubsan_handle_type_mismatch_v1(source, pointer);
}

} // extern "C"
