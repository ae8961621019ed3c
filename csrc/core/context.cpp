#include "context.h"

#include <cstdlib>
#include <new>
#include <vector>

namespace mmk {
namespace {

// One per calling thread: a stack of blocks, rewound when the host function returns.
struct Arena {
    struct Block {
        char* memory;
        int64_t size;
    };
    static constexpr int64_t kept = int64_t(256) << 20; // more than this goes back to the system

    std::vector<Block> blocks;
    int64_t used = 0; // of the last block
    int depth = 0;

    ~Arena() { release(); }

    void release() {
        for (Block& block : blocks) std::free(block.memory);
        blocks.clear();
        used = 0;
    }

    void* take(int64_t bytes) {
        bytes = (bytes + 63) / 64 * 64;
        if (blocks.empty() || used + bytes > blocks.back().size) {
            int64_t size = blocks.empty() ? int64_t(1) << 20 : 2 * blocks.back().size;
            if (size < bytes) size = bytes;
            char* memory = static_cast<char*>(std::aligned_alloc(64, size_t(size)));
            if (!memory) throw std::bad_alloc();
            blocks.push_back({memory, size});
            used = 0;
        }
        void* p = blocks.back().memory + used;
        used += bytes;
        return p;
    }

    void rewind() {
        int64_t total = 0;
        for (const Block& block : blocks) total += block.size;
        used = 0;
        if (blocks.size() <= 1 && total <= kept) return;
        release();
        if (total > kept) return;
        if (char* memory = static_cast<char*>(std::aligned_alloc(64, size_t(total)))) blocks.push_back({memory, total});
    }
};

thread_local Arena arena;

} // namespace

Context::Context(Isa isa_, int threads_) : isa(isa_), threads(threads_) { ++arena.depth; }

Context::~Context() {
    if (--arena.depth == 0) arena.rewind();
}

void* Context::scratch_bytes(int64_t bytes) {
    scratch_used += bytes;
    return arena.take(bytes);
}

void Context::chose(const char* variant_, const char* reason_) {
    variant = variant_;
    reason = reason_;
}

} // namespace mmk
