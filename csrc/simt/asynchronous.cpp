// Copies that a thread starts and somebody else does, and the barriers that tell when they have arrived. Late ones
// happen when they are waited for (loads that complete an mbarrier: when every thread waits), early ones at once; both
// are legal, and a kernel must not tell the difference. Until then the destination holds NaN.
#include "asynchronous.h"

#include <algorithm>
#include <cinttypes>
#include <cstdio>

namespace simt {

namespace {

struct MBarrier {
    uint32_t count = 0;
    int64_t pending = 0, transactions = 0; // arrivals and bytes that are missing
    uint32_t phase = 0;
    Meeting gathering, completed;
    std::vector<Fiber*> waiting;
};

// A bulk load, or the arrival that follows a thread's cp.async copies.
struct Load {
    std::vector<Segment> segments;
    uint32_t bytes, tick;
    uint64_t* barrier;
    Fiber* copies_of; // null for a bulk load
    uint64_t copies_end;
};

std::unordered_map<const uint64_t*, MBarrier> mbarriers;
std::vector<Load> loads;
uint32_t last_load = 0; // its tick

constexpr int64_t most_transactions = (1 << 20) - 1;

// cp.async copies of one thread complete in order, so that a number tells which have.
void finish_copies(Fiber& fiber, uint64_t end, bool by_its_own_wait) {
    for (; fiber.copies_done < end; ++fiber.copies_done) {
        const AsyncCopy& copy = fiber.copies.front();
        if (settings.late) copy_now(copy);
        if (settings.check && by_its_own_wait)
            delivered_by_thread(copy.to, size_t(copy.bytes), copy.place);
        else
            set_undelivered(copy.to, size_t(copy.bytes), false);
        fiber.copies.pop_front();
    }
}

MBarrier& live_mbarrier(uint64_t* address, const void* place) {
    const auto found = mbarriers.find(address);
    if (found == mbarriers.end())
        fail(place, "the mbarrier at shared address %u is not initialised", shared_address(address));
    access(address, sizeof *address, Access::atomic, place);
    return found->second;
}

void complete_phase(MBarrier& barrier) {
    if (barrier.pending != 0 || barrier.transactions != 0) return;
    ++barrier.phase;
    barrier.pending = barrier.count;
    pass_on(barrier.gathering, barrier.completed);
    for (Fiber* fiber : std::exchange(barrier.waiting, {})) make_ready(fiber);
}

void complete_load(size_t index) {
    const Load load = std::move(loads[index]);
    loads.erase(loads.begin() + long(index));
    const auto found = mbarriers.find(load.barrier);
    if (found == mbarriers.end()) return; // invalidated while it was under way
    MBarrier& barrier = found->second;
    if (load.copies_of != nullptr) {
        finish_copies(*load.copies_of, load.copies_end, false);
        --barrier.pending;
    } else {
        for (const Segment& segment : load.segments) {
            copy_to_shared(segment);
            set_undelivered(segment.shared, segment.bytes, false);
        }
        barrier.transactions -= load.bytes;
        agent_seen(barrier.gathering, copies_in, load.tick);
    }
    complete_phase(barrier);
}

void expect(MBarrier& barrier, int64_t bytes, const void* place) {
    barrier.transactions += bytes;
    if (barrier.transactions > most_transactions)
        fail(place, "an mbarrier expects %" PRId64 " bytes in one phase; at most 2^20 - 1 can be counted",
             barrier.transactions);
}

void arrive(MBarrier& barrier, uint32_t count, const void* place) {
    if (count > barrier.pending)
        fail(place, "an mbarrier of %u arrivals receives more in one phase: %" PRId64 " are missing, %u arrive",
             barrier.count, barrier.pending, count);
    leave_clock(*self(), barrier.gathering);
    barrier.pending -= count;
    complete_phase(barrier);
}

} // namespace

// ---- cp.async ------------------------------------------------------------------------------------------------------

void copy_now(const AsyncCopy& copy) {
    std::memcpy(copy.to, copy.from, size_t(copy.valid));
    std::memset(copy.to + copy.valid, 0, size_t(copy.bytes - copy.valid));
}

void cp_async(void* shared, const void* global, int bytes, int valid) {
    const void* place = SIMT_CALLER;
    if (!in_arena(shared, size_t(bytes))) fail(place, "cp.async: the destination is not in shared memory");
    if (in_arena(global, 1)) fail(place, "cp.async: the source is in shared memory");
    if ((uintptr_t(shared) | uintptr_t(global)) % unsigned(bytes) != 0)
        fail(place, "cp.async: an address is not a multiple of %d", bytes);
    if (valid < 0 || valid > bytes) fail(place, "cp.async of %d bytes is given %d valid ones", bytes, valid);
    const AsyncCopy copy{static_cast<char*>(shared), static_cast<const char*>(global), bytes, valid, place};
    access(global, size_t(valid), Access::read, place);
    access(shared, size_t(bytes), Access::write, place);
    set_undelivered(shared, size_t(bytes), true);
    if (settings.late)
        std::memset(shared, 0xff, size_t(bytes));
    else
        copy_now(copy);
    self()->copies.push_back(copy);
    ++self()->copies_issued;
}

void cp_async_commit() { self()->copy_groups.push_back(self()->copies_issued); }

void cp_async_wait(int pending) {
    Fiber& fiber = *self();
    while (int(fiber.copy_groups.size()) > pending) {
        finish_copies(fiber, fiber.copy_groups.front(), true);
        fiber.copy_groups.pop_front();
    }
}

void cp_async_arrive(uint64_t* address) {
    const void* place = SIMT_CALLER;
    MBarrier& barrier = live_mbarrier(address, place);
    if (barrier.pending == 0) fail(place, "an mbarrier of %u arrivals receives more in one phase", barrier.count);
    leave_clock(*self(), barrier.gathering);
    loads.push_back({{}, 0, 0, address, self(), self()->copies_issued});
    if (!settings.late) complete_load(loads.size() - 1);
}

// ---- mbarrier ------------------------------------------------------------------------------------------------------

void mbarrier_init(uint64_t* address, uint32_t count) {
    const void* place = SIMT_CALLER;
    need_shared(address, sizeof *address, sizeof *address, "mbarrier.init", place);
    if (count == 0 || count > most_transactions) fail(place, "mbarrier.init with a count of %u", count);
    access(address, sizeof *address, Access::write, place);
    if (mbarriers.count(address) != 0) fail(place, "mbarrier.init of a live mbarrier: invalidate it first");
    MBarrier& barrier = mbarriers[address];
    barrier.count = count, barrier.pending = count;
    *address = 0;
}

void mbarrier_invalidate(uint64_t* address) {
    const void* place = SIMT_CALLER;
    const MBarrier& barrier = live_mbarrier(address, place);
    if (!barrier.waiting.empty()) fail(place, "mbarrier.inval while %zu threads wait", barrier.waiting.size());
    mbarriers.erase(address);
}

void mbarrier_expect(uint64_t* address, uint32_t bytes) {
    const void* place = SIMT_CALLER;
    expect(live_mbarrier(address, place), bytes, place);
}

void mbarrier_arrive(uint64_t* address, uint32_t count) {
    const void* place = SIMT_CALLER;
    arrive(live_mbarrier(address, place), count, place);
}

// True if the phase of this parity is the one before the current.
bool mbarrier_test(uint64_t* address, uint32_t parity) {
    MBarrier& barrier = live_mbarrier(address, SIMT_CALLER);
    if ((barrier.phase & 1) == (parity & 1)) {
        yield();
        return false;
    }
    take_clock(*self(), barrier.completed);
    return true;
}

void mbarrier_wait(uint64_t* address, uint32_t parity) {
    const void* place = SIMT_CALLER;
    MBarrier& barrier = live_mbarrier(address, place);
    while ((barrier.phase & 1) == (parity & 1)) {
        barrier.waiting.push_back(self());
        park(Wait::mbarrier, place);
    }
    take_clock(*self(), barrier.completed);
}

std::string describe_mbarriers() {
    std::string text;
    for (const auto& [address, barrier] : mbarriers) {
        if (barrier.waiting.empty()) continue;
        char line[160];
        snprintf(line, sizeof line,
                 "; the mbarrier at shared address %u misses %" PRId64 " of %u arrivals and %" PRId64 " bytes",
                 uint32_t(uintptr_t(address) - uintptr_t(arena)), barrier.pending, barrier.count, barrier.transactions);
        text += line;
    }
    return text;
}

// ---- bulk copies ---------------------------------------------------------------------------------------------------

void copy_to_shared(const Segment& segment) {
    if (segment.global != nullptr)
        std::memcpy(segment.shared, segment.global, segment.bytes);
    else
        std::memset(segment.shared, 0, segment.bytes);
}

void start_load(std::vector<Segment> segments, uint32_t bytes, uint64_t* address, const void* place) {
    live_mbarrier(address, place);
    const uint32_t tick = last_load = agent_tick(copies_in);
    for (const Segment& segment : segments) {
        if (segment.global != nullptr) access(segment.global, segment.bytes, Access::read, place);
        access(segment.shared, segment.bytes, Access::write, place, copies_in);
        set_undelivered(segment.shared, segment.bytes, true);
        if (settings.late) std::memset(segment.shared, 0xff, segment.bytes);
    }
    loads.push_back({std::move(segments), bytes, tick, address, nullptr, 0});
    if (!settings.late) complete_load(loads.size() - 1);
}

namespace {

void read_sources(BulkStore& store) {
    if (store.read) return;
    store.read = true;
    for (const Segment& segment : store.segments)
        store.data.insert(store.data.end(), segment.shared, segment.shared + segment.bytes);
}

void write_results(BulkStore& store) {
    read_sources(store);
    const char* from = store.data.data();
    for (const Segment& segment : store.segments) {
        std::memcpy(segment.global, from, segment.bytes);
        from += segment.bytes;
    }
    store.segments.clear();
}

} // namespace

void start_store(std::vector<Segment> segments, const void* place) {
    BulkStore store;
    store.read_tick = agent_tick(store_reads), store.write_tick = agent_tick(store_writes);
    for (const Segment& segment : segments) {
        access(segment.shared, segment.bytes, Access::read, place, store_reads);
        access(segment.global, segment.bytes, Access::write, place, store_writes);
    }
    store.segments = std::move(segments);
    store.place = place;
    if (!settings.late) write_results(store);
    self()->open_stores.push_back(std::move(store));
}

void bulk_commit() { self()->store_groups.push_back(std::exchange(self()->open_stores, {})); }

void bulk_wait(int pending, bool sources_only) {
    Fiber& fiber = *self();
    auto& groups = fiber.store_groups;
    for (size_t i = 0; i + size_t(pending) < groups.size(); ++i)
        for (BulkStore& store : groups[i]) {
            read_sources(store);
            store.waited_for = true;
            agent_seen(fiber, store_reads, store.read_tick);
            if (sources_only) continue;
            write_results(store);
            agent_seen(fiber, store_writes, store.write_tick);
        }
    while (!sources_only && int(groups.size()) > pending) groups.pop_front();
}

void bulk_load(void* shared, const void* global, uint32_t bytes, uint64_t* barrier) {
    const void* place = SIMT_CALLER;
    need_shared(shared, bytes, 16, "cp.async.bulk", place);
    if (uintptr_t(global) % 16 != 0 || bytes % 16 != 0)
        fail(place, "cp.async.bulk: source address and size (%u) must be multiples of 16", bytes);
    auto* from = const_cast<char*>(static_cast<const char*>(global));
    start_load({{static_cast<char*>(shared), from, bytes}}, bytes, barrier, place);
}

void bulk_store(void* global, const void* shared, uint32_t bytes) {
    const void* place = SIMT_CALLER;
    need_shared(shared, bytes, 16, "cp.async.bulk", place);
    if (uintptr_t(global) % 16 != 0 || bytes % 16 != 0)
        fail(place, "cp.async.bulk: destination address and size (%u) must be multiples of 16", bytes);
    auto* from = const_cast<char*>(static_cast<const char*>(shared));
    start_store({{from, static_cast<char*>(global), bytes}}, place);
}

// ---- blocks --------------------------------------------------------------------------------------------------------

void begin_block_copies() {
    mbarriers.clear();
    loads.clear();
    last_load = 0;
    for (int i = 0; i < thread_count; ++i) {
        Fiber& fiber = *fibers[size_t(i)];
        fiber.copies.clear(), fiber.copy_groups.clear();
        fiber.copies_issued = fiber.copies_done = 0;
        fiber.open_stores.clear(), fiber.store_groups.clear();
    }
}

bool end_block_copies() {
    bool clean = true;
    const void* unread = nullptr;
    for (int i = 0; i < thread_count; ++i) {
        Fiber& fiber = *fibers[size_t(i)];
        fiber.store_groups.push_back(std::move(fiber.open_stores));
        for (auto& group : fiber.store_groups)
            for (BulkStore& store : group) {
                if (!store.waited_for) unread = store.place;
                write_results(store);
            }
        fiber.store_groups.clear();
    }
    if (unread != nullptr) {
        report_on_host("a block ends before the bulk copy at %s is known to have read its shared memory",
                       place_in_source(unread).c_str());
        clean = false;
    }
    // it may have arrived, but without a wait nobody knows
    uint32_t seen = 0;
    for (int i = 0; i < thread_count; ++i) seen = std::max(seen, fibers[size_t(i)]->clock.agents[copies_in]);
    bool under_way = settings.check && last_load > seen;
    for (const Load& load : loads) under_way = under_way || load.copies_of == nullptr;
    if (under_way) {
        report_on_host("a block ends while a bulk copy to its shared memory is under way");
        return false;
    }
    return clean;
}

bool step_copies() {
    if (loads.empty()) return false;
    complete_load(settings.order == Order::random ? random_bits() % loads.size() : 0);
    return true;
}

} // namespace simt
