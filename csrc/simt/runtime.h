// What the parts of the runtime know of each other. The runtime is never instrumented: it acts for the kernels, and
// asks the checker itself about the memory that it touches on their behalf.
#pragma once

#include <array>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "simt.h"

#define SIMT_CALLER __builtin_return_address(0)

namespace simt {

inline constexpr int max_threads = 1024, warp_lanes = 32, group_threads = 128, barrier_count = 16;
// Shared memory as a block of an H200 sees it: 1 KB is the system's, 227 KB the block's. Dynamic memory comes first.
inline constexpr uint32_t arena_bytes = 228 << 10, first_shared = 1 << 10, red_zone = 64;

// Whoever reads and writes behind the threads' backs: the tensor cores for each warpgroup, and the copy engine.
// A store has two, because its source is free before its results are there.
inline constexpr int copies_in = 8, store_reads = 9, store_writes = 10, agent_count = 11;

// How far one thread has seen the others. Threads count from 0 again in each epoch (a stretch between two barriers of
// the whole block), because such a barrier orders everything that threads did; it does not order what agents do.
struct Clock {
    uint64_t epoch = 0;
    std::vector<uint32_t> threads;
    std::array<uint32_t, agent_count> agents{};
};

struct AsyncCopy {
    char* to;
    const char* from;
    int bytes, valid;
    const void* place;
};
// A piece of a bulk copy; without a global address it stands for zeros.
struct Segment {
    char *shared, *global;
    uint32_t bytes;
};
struct BulkStore {
    std::vector<Segment> segments;
    std::vector<char> data; // once the source was read
    uint32_t read_tick = 0, write_tick = 0;
    bool read = false, waited_for = false;
    const void* place = nullptr;
};
struct Collective;

enum class Wait : uint8_t { none, barrier, warp, group, mbarrier, finished };

struct Fiber : Thread {
    void* stack_pointer = nullptr;
    char *stack_low = nullptr, *stack_high = nullptr;
    Wait wait = Wait::none;
    const void* place = nullptr; // where it waits
    int barrier = 0;             // which one it waits at

    // an open warp or warpgroup operation
    const Collective* collective = nullptr;
    void* operand = nullptr;
    uint32_t mask = 0;

    // cp.async: those not yet done, how many were issued and done, and how many each group ends at
    std::deque<AsyncCopy> copies;
    uint64_t copies_issued = 0, copies_done = 0;
    std::deque<uint64_t> copy_groups;
    // bulk copies to global memory
    std::vector<BulkStore> open_stores;
    std::deque<std::vector<BulkStore>> store_groups;

    // the checker's
    Clock clock;
    uint32_t tick = 1;
    bool fenced = false;
};

// Operands of all lanes; those of lanes that take no part are null.
struct Collective {
    const char* name;
    void (*run)(uint32_t lanes, void* const* operands);
    bool aligned; // all 32 lanes must be there
    bool orders;  // memory, too
};

// scheduler.cpp
extern Settings settings;
extern Counts totals;
extern std::mutex launching;
extern std::vector<std::unique_ptr<Fiber>> fibers;
extern Launch running;
extern int thread_count;
extern uint64_t launch_number;
extern bool abandoned;
inline Fiber* self() { return static_cast<Fiber*>(current); }
uint64_t random_bits();
void make_ready(Fiber* fiber);
// Parks the running fiber until somebody makes it ready.
void park(Wait wait, const void* place);
// The running fiber has said what it waits for, and may be ready again already.
void run_others();
[[noreturn]] void abandon();
void collective(uint32_t mask, const Collective& what, void* operand, const void* place);

// memory.cpp
struct Cell;
struct Region {
    enum Kind { global, shared, constant } kind;
    uintptr_t begin, end;
    bool read_only;
    bool known;                   // false: nothing is known of which bytes were written
    std::vector<uint8_t> written; // one flag per byte of global memory
    Cell* cells;                  // the checker's shadow, one per byte
};
struct SharedPiece {
    const char* name;
    uint32_t begin, end;
};
extern char* arena;
extern std::vector<SharedPiece> shared_pieces;
Region* find_region(uintptr_t address);
Region* nearest_region(uintptr_t address);
void begin_launch_memory();
void begin_block_memory();
bool red_zones_intact();
void forget_writes();
inline bool in_arena(const void* pointer, size_t bytes) {
    const uintptr_t address = uintptr_t(pointer), base = uintptr_t(arena);
    return address >= base && address - base + bytes <= arena_bytes;
}
void need_shared(const void* pointer, size_t bytes, size_t alignment, const char* what, const void* place);

// checker.cpp
enum class Access : uint8_t { read, write, atomic };
inline constexpr int by_thread = -1; // otherwise an agent
void access_checked(const void* pointer, size_t bytes, Access access, const void* place, int agent);
inline void access(const void* pointer, size_t bytes, Access access, const void* place, int agent = by_thread) {
    if (settings.check) access_checked(pointer, bytes, access, place, agent);
}
void begin_launch_check();
void begin_block_check();
void whole_block_met();
struct Meeting { // of clocks
    Clock clock;
};
void leave_clock(Fiber& fiber, Meeting& meeting);
void take_clock(Fiber& fiber, const Meeting& meeting);
void pass_on(const Meeting& from, Meeting& to);
void clocks_meet(Fiber* const* who, int count);
void set_undelivered(const void* pointer, size_t bytes, bool undelivered);
void delivered_by_thread(const void* pointer, size_t bytes, const void* place);
uint32_t agent_tick(int agent);
void agent_seen(Fiber& fiber, int agent, uint32_t tick);
void agent_seen(Meeting& meeting, int agent, uint32_t tick);
void atomic_meets(void* address);

// asynchronous.cpp
void begin_block_copies();
bool end_block_copies(); // false: something was reported
bool step_copies();
std::string describe_mbarriers();

// warpgroup.cpp
void begin_block_warpgroups();

// report.cpp
[[noreturn]] void fail(const void* place, const char* format, ...) __attribute__((format(printf, 2, 3)));
void report_on_host(const char* format, ...) __attribute__((format(printf, 1, 2)));
std::string place_in_source(const void* place);
std::string thread_name(int linear);

} // namespace simt
