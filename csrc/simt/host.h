// The host's side of the emulator: memory that kernels may touch, how launches are scheduled, what was found.
#pragma once

#include <cstddef>
#include <cstdint>

namespace simt {

// in_order: threads and blocks by number, breadth first. reverse: from the last, each thread as far as it can go.
enum class Order { in_order, reverse, random };

struct Settings {
    Order order = Order::in_order;
    uint64_t seed = 1;
    bool late = true;     // asynchronous copies and wgmma happen as late as they may, else at once
    unsigned preempt = 0; // in instrumented kernels, one access in so many lets another thread run first
    bool check = false;   // in instrumented kernels, every access is checked; others run unchecked
};
void configure(const Settings& settings);

// Registered memory, aligned to 256 bytes, with a red zone on both sides, filled with NaN (bytes 0xff), unwritten.
void* allocate(size_t bytes);
void release(void* pointer);
// The host has filled these bytes.
void mark_written(const void* pointer, size_t bytes);
// Kernels may only read the allocation that holds this address.
void set_read_only(const void* pointer, bool read_only);

struct Counts {
    uint64_t launches, switches, accesses;
};
Counts counts();

} // namespace simt
