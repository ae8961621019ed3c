#include "buffers.h"

#include <cstdlib>
#include <mutex>
#include <unordered_map>
#include <vector>

namespace mmk::bind {
namespace {

// Buffers are rounded up to a quarter of their power of two, so that a size is soon asked for again; the pool
// keeps at most `limit` bytes that nobody uses.
struct Pool {
    static constexpr size_t limit = size_t(512) << 20;
    std::mutex mutex;
    std::unordered_map<size_t, std::vector<void*>> idle;
    std::unordered_map<void*, size_t> sizes;
    size_t idle_bytes = 0;
};

Pool& pool() {
    static Pool* const leaked = new Pool; // arrays may be freed after static destruction
    return *leaked;
}

size_t rounded(size_t bytes) {
    size_t quarter = pooled_from / 4;
    while (quarter * 8 <= bytes) quarter *= 2;
    return (bytes + quarter - 1) / quarter * quarter;
}

} // namespace

void* take_buffer(size_t bytes) {
    bytes = rounded(bytes);
    Pool& p = pool();
    std::lock_guard<std::mutex> lock(p.mutex);
    std::vector<void*>& same = p.idle[bytes];
    if (!same.empty()) {
        void* buffer = same.back();
        same.pop_back();
        p.idle_bytes -= bytes;
        return buffer;
    }
    void* buffer = std::aligned_alloc(64, bytes);
    if (buffer) p.sizes[buffer] = bytes;
    return buffer;
}

void give_buffer(void* buffer) {
    Pool& p = pool();
    std::lock_guard<std::mutex> lock(p.mutex);
    const size_t bytes = p.sizes[buffer];
    if (p.idle_bytes + bytes <= Pool::limit) {
        p.idle[bytes].push_back(buffer);
        p.idle_bytes += bytes;
    } else {
        p.sizes.erase(buffer);
        std::free(buffer);
    }
}

} // namespace mmk::bind
