// Memory that kernels may touch: the host's allocations and the block's shared memory, with red zones.
#include <algorithm>
#include <cstdlib>
#include <new>
#include <sys/mman.h>

#include "checker.h"

namespace simt {

char* arena = nullptr;
std::vector<SharedPiece> shared_pieces; // of the running launch

namespace {

constexpr size_t alignment = 256, outer_zone = 512;
constexpr unsigned char nan_byte = 0xff;

std::map<uintptr_t, std::unique_ptr<Region>> allocations; // by their end
Region shared_region{Region::shared, 0, 0, false, true, {}, nullptr};
uint32_t shared_end = 0; // of what this launch has handed out

// Every byte equals the next one, and the first is as it was.
bool untouched(const char* from, size_t bytes) {
    return bytes == 0 || ((unsigned char)(*from) == nan_byte && std::memcmp(from, from + 1, bytes - 1) == 0);
}

size_t rounded_up(size_t bytes) { return (bytes + alignment - 1) / alignment * alignment; }

Region* holding(const void* pointer) {
    Region* region = find_region(uintptr_t(pointer));
    return region != nullptr && region->kind == Region::global ? region : nullptr;
}

void map_arena() {
    void* memory = mmap(nullptr, arena_bytes + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) std::abort();
    arena = static_cast<char*>(memory);
    shared_region.begin = uintptr_t(arena), shared_region.end = uintptr_t(arena) + arena_bytes;
    std::memset(arena, nan_byte, arena_bytes);
}

} // namespace

void* allocate(size_t bytes) {
    const std::lock_guard lock(launching);
    const size_t total = rounded_up(bytes) + 2 * outer_zone;
    auto* memory = static_cast<char*>(::operator new(total, std::align_val_t(alignment)));
    std::memset(memory, nan_byte, total);
    auto region = std::make_unique<Region>();
    region->kind = Region::global;
    region->begin = uintptr_t(memory) + outer_zone, region->end = region->begin + bytes;
    region->read_only = false, region->cells = nullptr;
    region->known = settings.check;
    if (region->known) region->written.assign(bytes, 0);
    char* data = memory + outer_zone;
    // an empty allocation still has an address of its own
    allocations.emplace(region->end + (bytes == 0), std::move(region));
    return data;
}

void release(void* pointer) {
    if (pointer == nullptr) return;
    const std::lock_guard lock(launching);
    const auto found = std::find_if(allocations.begin(), allocations.end(),
                                    [&](const auto& entry) { return entry.second->begin == uintptr_t(pointer); });
    if (found == allocations.end()) return;
    release_cells(*found->second);
    ::operator delete(static_cast<char*>(pointer) - outer_zone, std::align_val_t(alignment));
    allocations.erase(found);
}

void mark_written(const void* pointer, size_t bytes) {
    const std::lock_guard lock(launching);
    Region* region = holding(pointer);
    if (region == nullptr || !region->known) return;
    const size_t from = uintptr_t(pointer) - region->begin;
    std::fill_n(region->written.begin() + long(from), std::min(bytes, region->written.size() - from), 1);
}

void set_read_only(const void* pointer, bool read_only) {
    const std::lock_guard lock(launching);
    if (Region* region = holding(pointer)) region->read_only = read_only;
}

Region* find_region(uintptr_t address) {
    if (address >= shared_region.begin && address < shared_region.end) return &shared_region;
    const auto next = allocations.upper_bound(address);
    if (next == allocations.end() || address < next->second->begin) return nullptr;
    return next->second.get();
}

// The allocation whose red zone the address is in, or null.
Region* nearest_region(uintptr_t address) {
    const auto next = allocations.upper_bound(address);
    if (next != allocations.end() && next->second->begin - address <= outer_zone) return next->second.get();
    if (next == allocations.begin()) return nullptr;
    Region* before = std::prev(next)->second.get();
    return address - before->end < outer_zone + alignment ? before : nullptr;
}

void begin_launch_memory() {
    if (arena == nullptr) map_arena();
    shared_pieces.clear();
    shared_end = first_shared;
    if (running.shared != 0) {
        shared_end += uint32_t(running.shared);
        shared_pieces.push_back({"dynamic shared memory", first_shared, shared_end});
    }
}

void begin_block_memory() { std::memset(arena, nan_byte, std::min(shared_end + red_zone, arena_bytes)); }

void* dynamic_shared() { return arena + first_shared; }

void* shared_array(SharedSlot& slot, const char* name, size_t bytes, size_t alignment) {
    if (slot.launch != launch_number) {
        const size_t begin = (shared_end + red_zone + alignment - 1) / alignment * alignment, end = begin + bytes;
        size_t fixed = bytes;
        for (const SharedPiece& piece : shared_pieces)
            if (piece.begin != first_shared || running.shared == 0) fixed += piece.end - piece.begin;
        // red zones are the emulator's, and take nothing from the kernel's share
        if (fixed > 48 << 10) fail(SIMT_CALLER, "SHARED arrays take %zu bytes; at most 48 KB may be static", fixed);
        if (fixed + running.shared > arena_bytes - first_shared || end + red_zone > arena_bytes)
            fail(SIMT_CALLER, "%zu bytes of shared memory; a block has %u", fixed + running.shared,
                 arena_bytes - first_shared);
        std::memset(arena + shared_end, nan_byte, end + red_zone - shared_end);
        slot.launch = launch_number, slot.offset = uint32_t(begin);
        shared_pieces.push_back({name, uint32_t(begin), uint32_t(end)});
        shared_end = uint32_t(end);
    }
    return arena + slot.offset;
}

uint32_t shared_address(const void* pointer) {
    if (!in_arena(pointer, 0)) fail(SIMT_CALLER, "%p is not in shared memory", pointer);
    return uint32_t(uintptr_t(pointer) - uintptr_t(arena));
}

void need_shared(const void* pointer, size_t bytes, size_t alignment, const char* what, const void* place) {
    if (!in_arena(pointer, bytes)) fail(place, "%s: %p is not in shared memory", what, pointer);
    if ((uintptr_t(pointer) - uintptr_t(arena)) % alignment != 0)
        fail(place, "%s: shared address %u is not a multiple of %zu", what, shared_address(pointer), alignment);
}

bool red_zones_intact() {
    bool intact = true;
    for (const auto& [end, region] : allocations) {
        const auto* data = reinterpret_cast<const char*>(region->begin);
        const size_t bytes = region->end - region->begin;
        char* after = const_cast<char*>(data) + bytes;
        const size_t rest = rounded_up(bytes) - bytes + outer_zone;
        const bool low = untouched(data - outer_zone, outer_zone), high = untouched(after, rest);
        if (low && high) continue;
        intact = false;
        report_on_host("wrote %s a buffer of %zu bytes", low ? "past the end of" : "before the start of", bytes);
        std::memset(const_cast<char*>(data) - outer_zone, nan_byte, outer_zone);
        std::memset(after, nan_byte, rest);
    }
    return intact;
}

bool shared_red_zones_intact() {
    uint32_t gap = 0;
    for (size_t i = 0; i <= shared_pieces.size(); ++i) {
        const bool last = i == shared_pieces.size();
        const uint32_t to = last ? std::min(gap + red_zone, arena_bytes) : shared_pieces[i].begin;
        if (!untouched(arena + gap, to - gap)) {
            const char* name = last ? shared_pieces[i - 1].name : shared_pieces[i].name;
            report_on_host("block (%u,%u,%u) wrote %s shared array %s", geometry.block_index.x, geometry.block_index.y,
                           geometry.block_index.z, last ? "past the end of" : "before the start of", name);
            return false;
        }
        if (!last) gap = shared_pieces[i].end;
    }
    return true;
}

// An unchecked launch may have written anything that it was allowed to.
void forget_writes() {
    for (const auto& [end, region] : allocations)
        if (!region->read_only) region->known = false, region->written = {};
}

} // namespace simt
