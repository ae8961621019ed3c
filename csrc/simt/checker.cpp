// Every access of an instrumented kernel, and every access of the runtime on a kernel's behalf: is it inside a buffer,
// may it write there, were the bytes written before, and is it ordered after what others did to them?
//
// Order is happens-before. A barrier of the whole block starts a new epoch and orders all that threads did before it.
// Inside an epoch threads carry vector clocks, joined by __syncwarp, named barriers, mbarriers and atomics after a
// fence; shuffles, ldmatrix and mma do not order memory. Agents (tensor cores, the copy engine) are only ordered by
// waiting for them. Blocks of one launch are ordered by atomics only: fence and atomic in one block, atomic on the same
// location in another ("the last block reduces").
#include "checker.h"

#include <algorithm>
#include <dlfcn.h>
#include <link.h>
#include <sys/mman.h>

namespace simt {

namespace {

constexpr uint16_t first_agent = max_threads;

uint32_t epoch = 1, first_of_block = 1, first_of_launch = 1;
std::vector<uint64_t> block_of_epoch; // from first_of_launch on
uint64_t block_number = 0;
std::array<uint32_t, agent_count> agent_ticks{};

// Sets of ticks of the readers of a byte: those of the threads in one epoch, then those of agents.
std::vector<uint32_t> read_sets, read_set_epochs;
std::vector<const Cell*> read_set_owners; // a byte keeps its set through a block
size_t read_set_size() { return size_t(thread_count) + agent_count; }

struct Release {
    uint32_t epoch, index;
    std::vector<uint32_t> threads;
};
struct AtomicLocation {
    std::unordered_map<uint64_t, Release> releases; // by block
    uint32_t count = 0;
    Meeting meeting;
};
std::unordered_map<uintptr_t, AtomicLocation> atomic_locations;
struct Acquired {
    const AtomicLocation* location;
    uint32_t count, epoch, tick;
    int thread;
};
std::vector<Acquired> acquired; // by this block
uint32_t fenced_epoch = 0;      // the first in which a thread of this block has executed a fence

// The module that holds the kernel: its tables may be read, and places are offsets into it.
const void* module_of = nullptr;
uintptr_t module_base = 0;
std::vector<std::pair<uintptr_t, uintptr_t>> module_segments;

int note_segments(dl_phdr_info* info, size_t, void*) {
    if (info->dlpi_addr != module_base && info->dlpi_addr != 0) return 0;
    for (int i = 0; i < info->dlpi_phnum; ++i) {
        const auto& header = info->dlpi_phdr[i];
        const uintptr_t begin = info->dlpi_addr + header.p_vaddr;
        if (header.p_type == PT_LOAD) module_segments.emplace_back(begin, begin + header.p_memsz);
    }
    return 0;
}

uint32_t packed(const void* place) { return uint32_t(uintptr_t(place) - module_base); }
std::string place_text(uint32_t place) {
    return place_in_source(reinterpret_cast<const void*>(module_base + uintptr_t(place)));
}

Clock& clock_of(Fiber& fiber) {
    if (fiber.clock.epoch != epoch) {
        fiber.clock.epoch = epoch;
        fiber.clock.threads.assign(size_t(thread_count), 0);
    }
    return fiber.clock;
}

void merge_agents(Clock& into, const Clock& from) {
    for (size_t i = 0; i < agent_count; ++i) into.agents[i] = std::max(into.agents[i], from.agents[i]);
}
void merge(Clock& into, const Clock& from) {
    merge_agents(into, from);
    if (from.epoch != epoch) return;
    if (into.epoch != epoch) {
        into.epoch = epoch, into.threads = from.threads;
        return;
    }
    for (size_t i = 0; i < into.threads.size(); ++i) into.threads[i] = std::max(into.threads[i], from.threads[i]);
}

bool ordered_by_atomics(Fiber& me, uint32_t then, uint16_t who, uint32_t tick) {
    const uint64_t block = block_of_epoch[then - first_of_launch];
    const Clock& clock = clock_of(me);
    for (const Acquired& seen : acquired) {
        if (seen.epoch == epoch && seen.thread != me.linear && clock.threads[size_t(seen.thread)] < seen.tick) continue;
        const auto found = seen.location->releases.find(block);
        if (found == seen.location->releases.end() || found->second.index > seen.count) continue;
        const Release& release = found->second;
        if (then < release.epoch) return true;
        if (then == release.epoch && who < first_agent && tick <= release.threads[who]) return true;
    }
    return false;
}

// Has what `who` did at `tick` of epoch `then` happened before what this thread does now?
bool ordered(Fiber& me, uint32_t then, uint16_t who, uint32_t tick) {
    if (then < first_of_launch) return true;
    if (then < first_of_block) return ordered_by_atomics(me, then, who, tick);
    if (who >= first_agent) return me.clock.agents[who - first_agent] >= tick;
    return then != epoch || who == me.linear || clock_of(me).threads[who] >= tick;
}

std::string who_text(uint16_t who, uint32_t then) {
    std::string text = who == first_agent + copies_in ? "a bulk copy"
                       : who == first_agent + store_reads || who == first_agent + store_writes
                           ? "a bulk copy to global memory"
                       : who >= first_agent ? "the tensor cores"
                                            : thread_name(who);
    if (then < first_of_block) text += " of block " + std::to_string(block_of_epoch[then - first_of_launch]);
    return text;
}

// Where an address is, in words.
std::string memory_text(uintptr_t address) {
    const Region* region = find_region(address);
    if (region != nullptr && region->kind == Region::shared) {
        const auto offset = uint32_t(address - region->begin);
        const SharedPiece* before = nullptr;
        for (const SharedPiece& piece : shared_pieces)
            if (piece.begin <= offset && (before == nullptr || piece.begin > before->begin)) before = &piece;
        if (before == nullptr) return "shared memory before the first array";
        if (offset < before->end) return "byte " + std::to_string(offset - before->begin) + " of " + before->name;
        return "shared memory " + std::to_string(offset - before->end) + " bytes past the end of " + before->name;
    }
    const bool outside = region == nullptr;
    if (outside) region = nearest_region(address);
    if (region == nullptr) return "memory that belongs to no buffer";
    const std::string buffer = "a buffer of " + std::to_string(region->end - region->begin) + " bytes";
    if (!outside) return "byte " + std::to_string(address - region->begin) + " of " + buffer;
    if (address < region->begin) return std::to_string(region->begin - address) + " bytes before " + buffer;
    return "memory " + std::to_string(address - region->end) + " bytes past the end of " + buffer;
}

constexpr const char* present[] = {"reads", "writes", "updates"};

// One access, as the checks of its bytes see it.
struct Visit {
    Fiber& me;
    uintptr_t address;
    Access access;
    const void* place;
    uint16_t who;
    uint32_t tick;
    Region& region;

    [[noreturn]] void race(const char* did, uint32_t then, uint16_t other, uint32_t other_place) const {
        const char* actor = who >= first_agent ? "what it starts " : "this thread ";
        fail(place, "race: %s%s %s, which %s %s at %s, and nothing orders the two", actor, present[int(access)],
             memory_text(address).c_str(), who_text(other, then).c_str(), did, place_text(other_place).c_str());
    }

    // Other blocks' shared memory is not this one's.
    bool before(uint32_t then, uint16_t other, uint32_t its_tick) const {
        return (then < first_of_block && region.kind == Region::shared) || ordered(me, then, other, its_tick);
    }

    void check_undelivered(const Cell& cell) const {
        if (cell.undelivered && cell.write_epoch >= first_of_block)
            fail(place, "%s %s, where the asynchronous copy of %s has not arrived", present[int(access)],
                 memory_text(address).c_str(), place_text(cell.write_place).c_str());
    }

    void check_write_before(const Cell& cell) const {
        if (cell.write_atomic && access == Access::atomic) return;
        if (!before(cell.write_epoch, cell.write_thread, cell.write_tick))
            race(cell.write_atomic ? "updated" : "wrote", cell.write_epoch, cell.write_thread, cell.write_place);
    }

    void check_reads_before(const Cell& cell) const {
        if (cell.other_block_epoch >= first_of_launch && cell.other_block_epoch < first_of_block &&
            !before(cell.other_block_epoch, 0, ~0u))
            race("read", cell.other_block_epoch, 0, cell.other_block_place);
        if (!cell.read_by_several || cell.read_epoch < first_of_block) {
            if (!before(cell.read_epoch, cell.read_thread, cell.read_tick))
                race("read", cell.read_epoch, cell.read_thread, cell.read_place);
            return;
        }
        const uint32_t* ticks = read_sets.data() + cell.read_set * read_set_size();
        const uint32_t set_epoch = read_set_epochs[cell.read_set];
        for (size_t i = 0; i < read_set_size(); ++i) {
            if (ticks[i] == 0) continue;
            const auto other = uint16_t(i < size_t(thread_count) ? i : first_agent + i - size_t(thread_count));
            if (!before(set_epoch, other, ticks[i])) race("read", set_epoch, other, cell.read_place);
        }
    }

    size_t slot(uint16_t id) const { return id < first_agent ? id : size_t(thread_count) + id - first_agent; }

    void take_read_set(Cell& cell) const {
        if (cell.read_set < read_set_owners.size() && read_set_owners[cell.read_set] == &cell) {
            std::fill_n(read_sets.data() + cell.read_set * read_set_size(), read_set_size(), 0);
        } else {
            cell.read_set = uint32_t(read_set_owners.size());
            read_set_owners.push_back(&cell);
            read_set_epochs.push_back(0);
            read_sets.resize(read_sets.size() + read_set_size(), 0);
        }
        read_set_epochs[cell.read_set] = epoch;
    }

    void note_read(Cell& cell) const {
        if (cell.read_epoch >= first_of_launch && cell.read_epoch < first_of_block)
            cell.other_block_epoch = cell.read_epoch, cell.other_block_place = cell.read_place;
        const bool of_block = cell.read_epoch >= first_of_block;
        // who read before, and must still be remembered: threads of this epoch, agents of this block
        const bool several = of_block && cell.read_by_several;
        const bool other = of_block && !several && cell.read_thread != who &&
                           (cell.read_thread >= first_agent || cell.read_epoch == epoch);
        if (several || other) {
            if (other) {
                take_read_set(cell);
                read_sets[cell.read_set * read_set_size() + slot(cell.read_thread)] = cell.read_tick;
                cell.read_by_several = true;
            }
            uint32_t* ticks = read_sets.data() + cell.read_set * read_set_size();
            if (read_set_epochs[cell.read_set] != epoch) {
                std::fill_n(ticks, thread_count, 0);
                read_set_epochs[cell.read_set] = epoch;
            }
            ticks[slot(who)] = tick;
        } else {
            cell.read_by_several = false;
            cell.read_thread = who, cell.read_tick = tick;
        }
        cell.read_epoch = epoch, cell.read_place = packed(place);
    }

    void note_write(Cell& cell) const {
        cell.write_epoch = epoch, cell.write_tick = tick, cell.write_place = packed(place), cell.write_thread = who;
        cell.write_atomic = access == Access::atomic, cell.undelivered = false;
        // an update does not order later ones after the reads before it, but those were checked against it
        cell.read_epoch = cell.other_block_epoch = 0, cell.read_by_several = false;
    }

    void visit(Cell& cell) const {
        check_undelivered(cell);
        check_write_before(cell);
        if (access == Access::read) {
            note_read(cell);
            return;
        }
        check_reads_before(cell);
        note_write(cell);
    }
};

void map_cells(Region& region) {
    const size_t bytes = (region.end - region.begin) * sizeof(Cell);
    void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) std::abort();
    region.cells = static_cast<Cell*>(memory);
}

bool inside(uintptr_t address, size_t bytes, uintptr_t begin, uintptr_t end) {
    return address >= begin && address < end && bytes <= end - address;
}

// What is no buffer: the thread's own locals, the launch's arguments, tables in the kernel's module.
void check_other_memory(Fiber& me, uintptr_t address, size_t bytes, Access access, const void* place) {
    for (int i = 0; i < thread_count; ++i)
        if (inside(address, bytes, uintptr_t(fibers[size_t(i)]->stack_low), uintptr_t(fibers[size_t(i)]->stack_high)))
            fail(place, "%s a local variable of %s", present[int(access)], thread_name(i).c_str());
    const auto arguments = uintptr_t(running.arguments);
    bool readable = inside(address, bytes, arguments, arguments + running.argument_bytes);
    for (const auto& [begin, end] : module_segments) readable = readable || inside(address, bytes, begin, end);
    if (readable && access == Access::read) return;
    (void)me;
    fail(place, "out of bounds: %s %s", present[int(access)],
         readable ? "host memory, which kernels may only read" : memory_text(address).c_str());
}

void check_bounds(Region& region, uintptr_t address, size_t bytes, Access access, const void* place) {
    if (region.kind != Region::shared) {
        if (bytes <= region.end - address) return;
        fail(place, "out of bounds: %s %zu bytes from %s", present[int(access)], bytes, memory_text(address).c_str());
    }
    static size_t last = 0;
    const auto offset = uint32_t(address - region.begin);
    if (last < shared_pieces.size() && inside(offset, bytes, shared_pieces[last].begin, shared_pieces[last].end))
        return;
    for (last = 0; last < shared_pieces.size(); ++last)
        if (inside(offset, bytes, shared_pieces[last].begin, shared_pieces[last].end)) return;
    fail(place, "out of bounds: %s %zu bytes from %s", present[int(access)], bytes, memory_text(address).c_str());
}

void check_initialised(const Region& region, uintptr_t address, size_t bytes, const void* place) {
    const size_t offset = address - region.begin;
    for (size_t i = 0; i < bytes; ++i) {
        const bool written = region.kind == Region::shared ? region.cells[offset + i].write_epoch >= first_of_block
                                                           : !region.known || region.written[offset + i] != 0;
        if (!written)
            fail(place, "uninitialised: reads %s, which nobody has written", memory_text(address + i).c_str());
    }
}

} // namespace

void access_checked(const void* pointer, size_t bytes, Access access, const void* place, int agent) {
    if (bytes == 0) return;
    ++totals.accesses;
    Fiber& me = *self();
    const auto address = uintptr_t(pointer);
    if (inside(address, bytes, uintptr_t(me.stack_low), uintptr_t(me.stack_high))) return;
    static Region* last = nullptr;
    static uint64_t last_launch = 0;
    if (last_launch != launch_number || last == nullptr || address < last->begin || address >= last->end)
        last = find_region(address), last_launch = launch_number;
    if (last == nullptr) return check_other_memory(me, address, bytes, access, place);
    Region& region = *last;
    check_bounds(region, address, bytes, access, place);
    if (region.cells == nullptr) map_cells(region);
    if (access != Access::write) check_initialised(region, address, bytes, place);
    if (region.read_only) {
        if (access == Access::read) return; // nobody can have written
        fail(place, "%s %s, which is an input", present[int(access)], memory_text(address).c_str());
    }
    const auto who = uint16_t(agent == by_thread ? me.linear : first_agent + agent);
    const uint32_t tick = agent == by_thread ? me.tick : agent_ticks[size_t(agent)];
    Cell* cells = region.cells + (address - region.begin);
    Visit visit{me, address, access, place, who, tick, region};
    for (size_t i = 0; i < bytes; ++i, ++visit.address) visit.visit(cells[i]);
    if (access != Access::read && region.kind == Region::global && region.known)
        std::fill_n(region.written.begin() + long(address - region.begin), bytes, uint8_t(1));
}

void release_cells(Region& region) {
    if (region.cells != nullptr) munmap(region.cells, (region.end - region.begin) * sizeof(Cell));
    region.cells = nullptr;
}

void begin_launch_check() {
    if (module_of != running.code) {
        module_of = running.code;
        Dl_info module;
        module_base = dladdr(running.code, &module) != 0 ? uintptr_t(module.dli_fbase) : 0;
        module_segments.clear();
        dl_iterate_phdr(note_segments, nullptr);
    }
    block_of_epoch.clear();
    atomic_locations.clear();
    first_of_launch = epoch + 1;
}

void begin_block_check() {
    const uint3 &block = geometry.block_index, &grid = geometry.grid_extent;
    block_number = block.x + uint64_t(grid.x) * (block.y + uint64_t(grid.y) * block.z);
    ++epoch;
    first_of_block = epoch;
    block_of_epoch.push_back(block_number);
    read_sets.clear(), read_set_epochs.clear(), read_set_owners.clear();
    acquired.clear();
    fenced_epoch = ~0u;
    for (int i = 0; i < thread_count; ++i) {
        Fiber& fiber = *fibers[size_t(i)];
        fiber.clock = {}, fiber.tick = 1, fiber.fenced = false;
    }
}

void whole_block_met() {
    ++epoch;
    block_of_epoch.push_back(block_number);
    Clock all;
    for (int i = 0; i < thread_count; ++i) merge_agents(all, fibers[size_t(i)]->clock);
    for (int i = 0; i < thread_count; ++i) fibers[size_t(i)]->clock.agents = all.agents;
}

void leave_clock(Fiber& fiber, Meeting& meeting) {
    if (!settings.check) return;
    Clock& clock = clock_of(fiber);
    clock.threads[size_t(fiber.linear)] = fiber.tick++;
    merge(meeting.clock, clock);
}

void take_clock(Fiber& fiber, const Meeting& meeting) {
    if (!settings.check) return;
    clock_of(fiber);
    merge(fiber.clock, meeting.clock);
}

void pass_on(const Meeting& from, Meeting& to) {
    if (settings.check) merge(to.clock, from.clock);
}

void clocks_meet(Fiber* const* who, int count) {
    if (!settings.check) return;
    Meeting meeting;
    for (int i = 0; i < count; ++i) leave_clock(*who[i], meeting);
    for (int i = 0; i < count; ++i) take_clock(*who[i], meeting);
}

void fence() {
    self()->fenced = true;
    fenced_epoch = std::min(fenced_epoch, epoch);
}

// Acquires what was released here, and releases if a fence came before.
void atomic_meets(void* address) {
    Fiber& me = *self();
    const bool releases = me.fenced || fenced_epoch < epoch;
    const auto found = atomic_locations.find(uintptr_t(address));
    if (found == atomic_locations.end() && !releases) return;
    AtomicLocation& location = found != atomic_locations.end() ? found->second : atomic_locations[uintptr_t(address)];
    if (location.meeting.clock.epoch >= first_of_block) take_clock(me, location.meeting);
    if (location.count != 0) acquired.push_back({&location, location.count, epoch, me.tick, me.linear});
    if (!releases) return;
    Release& release = location.releases[block_number];
    Clock& clock = clock_of(me);
    clock.threads[size_t(me.linear)] = me.tick;
    release = {epoch, ++location.count, clock.threads};
    leave_clock(me, location.meeting);
}

void set_undelivered(const void* pointer, size_t bytes, bool undelivered) {
    if (!settings.check) return;
    Region* region = find_region(uintptr_t(pointer));
    Cell* cells = region->cells + (uintptr_t(pointer) - region->begin);
    for (size_t i = 0; i < bytes; ++i) cells[i].undelivered = undelivered;
}

// From here on it is as if the thread had written them.
void delivered_by_thread(const void* pointer, size_t bytes, const void* place) {
    Region* region = find_region(uintptr_t(pointer));
    Cell* cells = region->cells + (uintptr_t(pointer) - region->begin);
    const Fiber& me = *self();
    for (size_t i = 0; i < bytes; ++i) {
        cells[i].undelivered = false;
        cells[i].write_epoch = epoch, cells[i].write_tick = me.tick, cells[i].write_thread = uint16_t(me.linear);
        cells[i].write_place = packed(place);
    }
}

uint32_t agent_tick(int agent) { return ++agent_ticks[size_t(agent)]; }

void agent_seen(Fiber& fiber, int agent, uint32_t tick) {
    uint32_t& seen = fiber.clock.agents[size_t(agent)];
    seen = std::max(seen, tick);
}
void agent_seen(Meeting& meeting, int agent, uint32_t tick) {
    uint32_t& seen = meeting.clock.agents[size_t(agent)];
    seen = std::max(seen, tick);
}

} // namespace simt
