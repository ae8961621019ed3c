// The thread pool: lazily started, safe after fork, and never waiting for a worker that has not begun.
#pragma once

#include "compiler.h"

namespace mmk {

// Calls task(state, index, worker) for every index in [0, count), on at most `threads` threads.
// worker is in [0, threads) and tells scratch regions apart. Which worker runs which index is not defined.
// A nested call, or a call while another thread owns the pool, runs on the caller alone.
using Task = void (*)(void* state, int64_t index, int worker);
void run_tasks(int threads, int64_t count, Task task, void* state);

int num_threads();
void set_num_threads(int threads); // threads >= 1

} // namespace mmk
