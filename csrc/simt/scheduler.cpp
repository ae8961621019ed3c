// One fiber for each CUDA thread of a block; blocks run one after another. A fiber that waits switches straight to
// the next one that is ready, so a switch costs what it takes to exchange seven registers.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <sys/mman.h>

#include "checker.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif
#if !defined(__x86_64__) || defined(SIMT_UCONTEXT)
#include <ucontext.h>
#define SIMT_USES_UCONTEXT 1
#else
#define SIMT_USES_UCONTEXT 0
#endif

namespace simt {

Thread* current = nullptr;
Geometry geometry;
Settings settings;
Counts totals{};
std::mutex launching;
std::vector<std::unique_ptr<Fiber>> fibers;
Launch running;
int thread_count = 0;
uint64_t launch_number = 0;
bool abandoned = false;

namespace {

constexpr size_t stack_bytes = 128 << 10, guard_bytes = 4 << 10;

struct Warp {
    uint32_t alive = 0, waiting = 0; // in an operation of the warp
    uint32_t mask = 0;               // that all of them gave, unless there are several
    bool several_masks = false;
};
struct Barrier {
    int arrived = 0, needed = 0;
    std::vector<Fiber*> waiting;
    Meeting meeting;
};
struct BlockBarrier {
    int arrived = 0, all = 1, any = 0, count = 0, result = 0;
    Reduction reduction = Reduction::none;
    const char* file = nullptr;
    int line = 0;
};

Fiber host;
std::vector<Fiber*> ready; // a ring
size_t first_ready = 0, ready_count = 0;
std::vector<Warp> warps;
std::array<Barrier, barrier_count> barriers;
BlockBarrier block_meeting;
int alive_count = 0;
uint64_t random_state = 1;

#if SIMT_USES_UCONTEXT
// Portable, and ten times slower: each switch saves the signal mask by a system call.
void exchange(void** save, void* to) { swapcontext(static_cast<ucontext_t*>(*save), static_cast<ucontext_t*>(to)); }
#else
extern "C" void simt_exchange(void** save, void* to);
asm(R"(
    .text
    .globl simt_exchange
    .hidden simt_exchange
    .type simt_exchange, @function
simt_exchange:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size simt_exchange, .-simt_exchange
)");
void exchange(void** save, void* to) { simt_exchange(save, to); }
#endif

void switch_to(Fiber* fiber) {
    Fiber* from = current != nullptr ? self() : &host;
    if (from == fiber) return;
    ++totals.switches;
    current = fiber == &host ? nullptr : fiber;
    exchange(&from->stack_pointer, fiber->stack_pointer);
}

Fiber* next_ready() {
    const size_t size = ready.size();
    if (settings.order == Order::random && ready_count > 1)
        std::swap(ready[first_ready], ready[(first_ready + random_bits() % ready_count) % size]);
    Fiber* fiber = ready[first_ready];
    first_ready = (first_ready + 1) % size;
    --ready_count;
    return fiber;
}

const char* what_it_waits_for(const Fiber& fiber) {
    switch (fiber.wait) {
    case Wait::barrier: return fiber.barrier == 0 ? "__syncthreads" : "a named barrier";
    case Wait::warp:
    case Wait::group: return fiber.collective->name;
    case Wait::mbarrier: return "an mbarrier";
    default: return "nothing";
    }
}

[[noreturn]] void fail_stuck() {
    std::string text;
    const void* first_place = nullptr;
    int told = 0, waiting = 0;
    std::vector<std::pair<const void*, Wait>> seen;
    for (int i = 0; i < thread_count; ++i) {
        const Fiber& fiber = *fibers[size_t(i)];
        if (fiber.wait == Wait::finished) continue;
        ++waiting;
        const std::pair<const void*, Wait> kind(fiber.place, fiber.wait);
        if (told == 4 || std::find(seen.begin(), seen.end(), kind) != seen.end()) continue;
        seen.push_back(kind), ++told;
        if (first_place == nullptr) first_place = fiber.place;
        text += "; " + thread_name(i) + " waits for " + what_it_waits_for(fiber);
        char mask[32];
        snprintf(mask, sizeof mask, " of lanes %08x", fiber.mask);
        if (fiber.wait == Wait::warp) text += mask;
        text += " at " + place_in_source(fiber.place);
    }
    fail(first_place, "deadlock: %d of %d threads wait for what nobody will do%s%s", waiting, thread_count,
         text.c_str(), describe_mbarriers().c_str());
}

void run_next() {
    if (settings.order == Order::random && (random_bits() & 15) == 0) step_copies();
    while (ready_count == 0)
        if (!step_copies()) fail_stuck();
    switch_to(next_ready());
}

void release_block_barrier() {
    BlockBarrier& meeting = block_meeting;
    switch (meeting.reduction) {
    case Reduction::none: break;
    case Reduction::both: meeting.result = meeting.all; break;
    case Reduction::any: meeting.result = meeting.any; break;
    case Reduction::count: meeting.result = meeting.count; break;
    }
    meeting.arrived = meeting.any = meeting.count = 0, meeting.all = 1;
    if (settings.check) whole_block_met();
    for (int i = 0; i < thread_count; ++i) {
        Fiber* fiber = fibers[size_t(i)].get();
        if (fiber->wait == Wait::barrier && fiber->barrier == 0) make_ready(fiber);
    }
}

// Runs the operation if every lane of the mask that has not exited waits for it.
void try_collective(Fiber* fiber) {
    Warp& warp = warps[size_t(fiber->warp)];
    const uint32_t lanes = fiber->mask & warp.alive;
    if ((warp.waiting & lanes) != lanes) return;
    const size_t base = size_t(fiber->warp) * warp_lanes;
    for (int lane = 0; warp.several_masks && lane < warp_lanes; ++lane)
        if ((lanes >> lane & 1) != 0 && fibers[base + size_t(lane)]->mask != fiber->mask) return;
    const Collective& what = *fiber->collective;
    void* operands[warp_lanes] = {};
    Fiber* who[warp_lanes];
    int count = 0;
    for (int lane = 0; lane < warp_lanes; ++lane) {
        if ((lanes >> lane & 1) == 0) continue;
        Fiber* other = fibers[base + size_t(lane)].get();
        if (other->collective != &what)
            fail(other->place, "lane %d comes to %s while lane %d of the same mask is at %s", lane,
                 other->collective->name, fiber->lane, what.name);
        operands[lane] = other->operand;
        who[count++] = other;
    }
    if (what.aligned && lanes != 0xffffffffu)
        fail(fiber->place, "%s needs all 32 lanes; lanes %08x have exited or do not exist", what.name, ~lanes);
    if (what.run != nullptr) what.run(lanes, operands);
    if (what.orders) clocks_meet(who, count);
    warp.waiting &= ~lanes;
    for (int i = 0; i < count; ++i) make_ready(who[i]);
}

void finish() {
    Fiber* fiber = self();
    fiber->wait = Wait::finished;
    --alive_count;
    warps[size_t(fiber->warp)].alive &= ~(1u << fiber->lane);
    // those who wait need not wait for this one any longer
    if (block_meeting.arrived != 0 && block_meeting.arrived == alive_count) release_block_barrier();
    for (int lane = 0; lane < warp_lanes; ++lane) {
        const size_t index = size_t(fiber->warp) * warp_lanes + size_t(lane);
        if (index >= size_t(thread_count)) break;
        Fiber* other = fibers[index].get();
        if (other->wait == Wait::warp && (other->mask >> fiber->lane & 1) != 0) try_collective(other);
    }
    if (alive_count == 0)
        switch_to(&host);
    else
        run_next();
}

void fiber_main() {
    for (;;) {
        running.call(running.arguments);
        finish();
    }
}

void reset_stack(Fiber& fiber) {
    if (fiber.stack_low == nullptr) {
        void* memory = mmap(nullptr, stack_bytes + guard_bytes, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (memory == MAP_FAILED) std::abort();
        mprotect(memory, guard_bytes, PROT_NONE);
        fiber.stack_low = static_cast<char*>(memory) + guard_bytes;
        // tops at different places, or all stacks would share a few sets of the cache
        fiber.stack_high = fiber.stack_low + stack_bytes - fiber.linear % 61 * 128;
    }
#if SIMT_USES_UCONTEXT
    if (fiber.stack_pointer == nullptr) fiber.stack_pointer = new ucontext_t;
    auto* context = static_cast<ucontext_t*>(fiber.stack_pointer);
    getcontext(context);
    context->uc_stack.ss_sp = fiber.stack_low;
    context->uc_stack.ss_size = size_t(fiber.stack_high - fiber.stack_low);
    context->uc_link = nullptr;
    makecontext(context, fiber_main, 0);
#else
    void** top = reinterpret_cast<void**>(fiber.stack_high);
    *--top = nullptr; // a return address for fiber_main, which never returns: the stack is aligned as after a call
    *--top = reinterpret_cast<void*>(fiber_main);
    for (int i = 0; i < 6; ++i) *--top = nullptr;
    fiber.stack_pointer = top;
#endif
}

void begin_fibers() {
    while (int(fibers.size()) < thread_count) {
        auto fiber = std::make_unique<Fiber>();
        fiber->linear = int(fibers.size());
        fiber->lane = fiber->linear % warp_lanes, fiber->warp = fiber->linear / warp_lanes;
        reset_stack(*fiber);
        fibers.push_back(std::move(fiber));
    }
#if SIMT_USES_UCONTEXT
    if (host.stack_pointer == nullptr) host.stack_pointer = new ucontext_t;
#endif
    ready.assign(size_t(thread_count), nullptr);
    const dim3& block = running.block;
    for (int i = 0; i < thread_count; ++i) {
        const unsigned n = unsigned(i);
        fibers[size_t(i)]->index = {n % block.x, n / block.x % block.y, n / block.x / block.y};
    }
}

void run_block(uint64_t number) {
    const dim3& grid = running.grid;
    geometry.block_index = {unsigned(number % grid.x), unsigned(number / grid.x % grid.y),
                            unsigned(number / grid.x / grid.y)};
    first_ready = ready_count = 0;
    alive_count = thread_count;
    warps.assign(size_t(thread_count + warp_lanes - 1) / warp_lanes, Warp{});
    block_meeting = {};
    for (Barrier& barrier : barriers) barrier.arrived = barrier.needed = 0, barrier.waiting.clear();
    begin_block_memory();
    begin_block_copies();
    begin_block_warpgroups();
    if (settings.check) begin_block_check();
    for (int i = 0; i < thread_count; ++i) {
        Fiber* fiber = fibers[size_t(i)].get();
        warps[size_t(fiber->warp)].alive |= 1u << fiber->lane;
        make_ready(fiber);
    }
    switch_to(next_ready());
    current = nullptr;
    if (abandoned) return;
    const bool copies_clean = end_block_copies();
    if (!shared_red_zones_intact() || !copies_clean) abandoned = true;
}

bool shape_is_legal() {
    const dim3 &grid = running.grid, &block = running.block;
    const uint64_t threads = uint64_t(block.x) * block.y * block.z;
    if (threads == 0 || threads > max_threads || block.z > 64)
        report_on_host("a block of (%u,%u,%u) threads is refused", block.x, block.y, block.z);
    else if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535)
        report_on_host("a grid of (%u,%u,%u) blocks is refused", grid.x, grid.y, grid.z);
    else if (running.shared > arena_bytes - first_shared)
        report_on_host("%zu bytes of dynamic shared memory are refused", running.shared);
    else
        return true;
    return false;
}

int run_launch() {
    if (!shape_is_legal()) return 1;
    abandoned = false;
    thread_count = int(running.block.x * running.block.y * running.block.z);
    geometry.block_extent = {running.block.x, running.block.y, running.block.z};
    geometry.grid_extent = {running.grid.x, running.grid.y, running.grid.z};
    begin_launch_memory();
    begin_fibers();
    if (settings.check) begin_launch_check();

    const uint64_t blocks = uint64_t(running.grid.x) * running.grid.y * running.grid.z;
    std::vector<uint32_t> shuffled;
    if (settings.order == Order::random) {
        for (uint64_t i = 0; i < blocks; ++i) shuffled.push_back(uint32_t(i));
        for (uint64_t i = blocks; i > 1; --i) std::swap(shuffled[i - 1], shuffled[random_bits() % i]);
    }
    for (uint64_t i = 0; i < blocks && !abandoned; ++i)
        run_block(!shuffled.empty() ? shuffled[i] : settings.order == Order::reverse ? blocks - 1 - i : i);

    if (abandoned)
        for (int i = 0; i < thread_count; ++i) reset_stack(*fibers[size_t(i)]);
    if (!settings.check) forget_writes();
    return abandoned || !red_zones_intact();
}

} // namespace

void configure(const Settings& chosen) {
    const std::lock_guard lock(launching);
    settings = chosen;
    random_state = chosen.seed * 0x9e3779b97f4a7c15u + 0x2545f4914f6cdd1du;
    if (random_state == 0) random_state = 1;
}

Counts counts() {
    const std::lock_guard lock(launching);
    return totals;
}

uint64_t random_bits() { // xorshift64*
    random_state ^= random_state >> 12, random_state ^= random_state << 25, random_state ^= random_state >> 27;
    return random_state * 0x2545f4914f6cdd1du >> 16;
}

void make_ready(Fiber* fiber) {
    const size_t size = ready.size();
    fiber->wait = Wait::none;
    if (settings.order == Order::reverse) {
        first_ready = (first_ready + size - 1) % size;
        ready[first_ready] = fiber;
    } else {
        ready[(first_ready + ready_count) % size] = fiber;
    }
    ++ready_count;
}

void park(Wait wait, const void* place) {
    Fiber* fiber = self();
    fiber->wait = wait, fiber->place = place;
    run_next();
}

void run_others() { run_next(); }

// To the end of the queue, whichever end the others join at: a thread that spins must not be the only one to run.
void yield() {
    Fiber* fiber = self();
    if (ready_count == 0) {
        step_copies();
        return;
    }
    ready[(first_ready + ready_count) % ready.size()] = fiber;
    ++ready_count;
    run_next();
}

void abandon() {
    abandoned = true;
    switch_to(&host);
    __builtin_unreachable();
}

void collective(uint32_t mask, const Collective& what, void* operand, const void* place) {
    Fiber* fiber = self();
    if ((mask >> fiber->lane & 1) == 0)
        fail(place, "%s: lane %d is not in its own mask %08x", what.name, fiber->lane, mask);
    Warp& warp = warps[size_t(fiber->warp)];
    if (warp.waiting == 0)
        warp.mask = mask, warp.several_masks = false;
    else if (warp.mask != mask)
        warp.several_masks = true;
    for (int lane = 0; warp.several_masks && lane < warp_lanes; ++lane) {
        if ((warp.waiting & mask & 1u << lane) == 0) continue;
        const Fiber& other = *fibers[size_t(fiber->warp) * warp_lanes + size_t(lane)];
        if (other.mask != mask && (other.mask >> fiber->lane & 1) != 0)
            fail(place, "%s: lane %d gives mask %08x, lane %d waits with %08x at %s", what.name, fiber->lane, mask,
                 lane, other.mask, place_in_source(other.place).c_str());
    }
    warp.waiting |= 1u << fiber->lane;
    fiber->collective = &what, fiber->operand = operand, fiber->mask = mask;
    fiber->wait = Wait::warp, fiber->place = place;
    try_collective(fiber);
    run_next();
}

int block_barrier(Reduction reduction, int predicate, const char* file, int line) {
    Fiber* fiber = self();
    BlockBarrier& meeting = block_meeting;
    if (meeting.arrived == 0) {
        meeting.reduction = reduction, meeting.file = file, meeting.line = line;
    } else if (meeting.line != line || (meeting.file != file && std::strcmp(meeting.file, file) != 0) ||
               meeting.reduction != reduction) {
        fail(SIMT_CALLER, "divergent barrier: this thread comes to line %d while others of its block wait at line %d",
             line, meeting.line);
    }
    ++meeting.arrived;
    meeting.all &= predicate != 0, meeting.any |= predicate != 0, meeting.count += predicate != 0;
    fiber->wait = Wait::barrier, fiber->barrier = 0, fiber->place = SIMT_CALLER;
    if (meeting.arrived == alive_count) release_block_barrier();
    run_next();
    return meeting.result;
}

namespace {

Barrier& arrive_at(int number, int threads, const void* place) {
    if (number < 0 || number >= barrier_count) fail(place, "barrier %d does not exist: there are 16", number);
    if (threads <= 0 || threads % warp_lanes != 0)
        fail(place, "barrier %d: %d threads; expected a multiple of 32", number, threads);
    Barrier& barrier = barriers[size_t(number)];
    if (barrier.arrived == 0) barrier.needed = threads, barrier.meeting = {};
    if (barrier.needed != threads)
        fail(place, "barrier %d: this thread expects %d threads, others expect %d", number, threads, barrier.needed);
    if (++barrier.arrived > barrier.needed)
        fail(place, "barrier %d: more threads than the %d expected", number, threads);
    leave_clock(*self(), barrier.meeting);
    return barrier;
}

void release_if_complete(Barrier& barrier) {
    if (barrier.arrived != barrier.needed) return;
    barrier.arrived = 0;
    for (Fiber* fiber : barrier.waiting) {
        take_clock(*fiber, barrier.meeting);
        make_ready(fiber);
    }
    barrier.waiting.clear();
}

} // namespace

void barrier_sync(int number, int threads) {
    Fiber* fiber = self();
    Barrier& barrier = arrive_at(number, threads, SIMT_CALLER);
    fiber->wait = Wait::barrier, fiber->barrier = number == 0 ? -1 : number, fiber->place = SIMT_CALLER;
    barrier.waiting.push_back(fiber);
    release_if_complete(barrier);
    run_next();
}

void barrier_arrive(int number, int threads) { release_if_complete(arrive_at(number, threads, SIMT_CALLER)); }

int launch(const Launch& request) {
    const std::lock_guard lock(launching);
    running = request;
    std::string name = request.kernel;
    if (name.size() > 2 && name.front() == '(' && name.back() == ')') name = name.substr(1, name.size() - 2);
    running.kernel = name.c_str();
    ++totals.launches, ++launch_number;
#if defined(__x86_64__)
    // the device has no mode: subnormals are kept and everything rounds to nearest, whatever the caller has set
    const unsigned mode = _mm_getcsr();
    _mm_setcsr(0x1f80);
#endif
    const bool check = settings.check;
    settings.check = check && request.instrumented;
    const int result = run_launch();
    settings.check = check;
#if defined(__x86_64__)
    _mm_setcsr(mode);
#endif
    return result;
}

} // namespace simt
