#include "threads.h"

#include <pthread.h>
#include <sched.h>

#include <atomic>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <thread>

#include "float_mode.h"

namespace mmk {
namespace {

struct Region {
    Task task;
    void* state;
    int64_t count;
    int slots; // workers 1 .. slots-1 may join; the caller is worker 0
    std::atomic<int64_t> next{0};

    void drain(int worker) {
        for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < count;) task(state, i, worker);
    }
};

void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

class Pool {
  public:
    void run(Region& region) {
        std::unique_lock<std::mutex> owner(owner_, std::try_to_lock);
        if (!owner || inside_region) return region.drain(0);
        inside_region = true;
        start(region.slots - 1);
        region_.store(&region);
        {
            std::lock_guard<std::mutex> lock(sleep_);
            generation_.fetch_add(1);
        }
        wake_.notify_all();
        region.drain(0);
        // From here no worker can join; those that have joined are counted in active_.
        region_.store(nullptr);
        while (active_.load() != 0) pause();
        inside_region = false;
    }

    static thread_local bool inside_region;

  private:
    void start(int wanted) {
        while (started_ < wanted) {
            const int index = ++started_;
            std::thread([this, index] { work(index); }).detach();
        }
    }

    void work(int index) {
        inside_region = true; // a nested call from a task runs serially
        uint64_t seen = 0;
        FloatMode mode;
        for (;;) {
            // About 20 us of spinning covers the gap between two operators of one model; then sleep.
            for (int spin = 0; spin < 1000 && generation_.load() == seen; ++spin) pause();
            if (generation_.load() == seen) {
                std::unique_lock<std::mutex> lock(sleep_);
                wake_.wait(lock, [&] { return generation_.load() != seen; });
            }
            seen = generation_.load();
            active_.fetch_add(1);
            Region* region = region_.load();
            if (region && index < region->slots) region->drain(index);
            active_.fetch_sub(1);
        }
    }

    std::mutex owner_, sleep_;
    std::condition_variable wake_;
    std::atomic<uint64_t> generation_{0};
    std::atomic<Region*> region_{nullptr};
    std::atomic<int> active_{0};
    int started_ = 0;
};

thread_local bool Pool::inside_region = false;

// Leaked on purpose: workers may outlive static destruction. A forked child has no workers and may have copied
// locked mutexes, so it takes a new pool and forgets the old one.
std::atomic<Pool*> pool{nullptr};

Pool& current_pool() {
    Pool* p = pool.load(std::memory_order_acquire);
    if (p) return *p;
    static std::once_flag once;
    std::call_once(once, [] { pthread_atfork(nullptr, nullptr, [] { pool.store(new Pool); }); });
    Pool* fresh = new Pool;
    if (pool.compare_exchange_strong(p, fresh)) return *fresh;
    delete fresh;
    return *p;
}

// The processors that this process may use: affinity, then the control group's quota.
int processors() {
    cpu_set_t set;
    int n = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : int(std::thread::hardware_concurrency());
    if (FILE* file = std::fopen("/sys/fs/cgroup/cpu.max", "r")) {
        long quota = 0, period = 0;
        if (std::fscanf(file, "%ld %ld", &quota, &period) == 2 && quota > 0 && period > 0) {
            const int limit = int((quota + period - 1) / period);
            if (limit < n) n = limit;
        }
        std::fclose(file);
    }
    return n < 1 ? 1 : n;
}

std::atomic<int> limit{0};

} // namespace

int num_threads() {
    int n = limit.load(std::memory_order_relaxed);
    if (n == 0) {
        const char* text = std::getenv("MMK_NUM_THREADS");
        n = text ? std::atoi(text) : 0;
        if (n < 1) n = processors();
        limit.store(n, std::memory_order_relaxed);
    }
    return n;
}

void set_num_threads(int threads) { limit.store(threads, std::memory_order_relaxed); }

void run_tasks(int threads, int64_t count, Task task, void* state) {
    if (count < threads) threads = int(count);
    if (threads <= 1 || Pool::inside_region) {
        for (int64_t i = 0; i < count; ++i) task(state, i, 0);
        return;
    }
    Region region{task, state, count, threads};
    current_pool().run(region);
}

} // namespace mmk
