// Boxes of tensors: where their elements lie in global and in shared memory.
#include <algorithm>

#include "asynchronous.h"
#include "swizzle.h"

namespace simt {

namespace {

constexpr uint32_t chunk = 16; // swizzles move pieces of this many bytes

struct Box {
    std::vector<Segment> segments;
    uint32_t bytes = 0;
};

// Row after row, the innermost extent contiguous; rows lie apart by the box's width, or by the swizzle's if there is
// one. Swizzles work on bits of the shared address itself. Elements outside the tensor have no global address.
Box box_of(const CUtensorMap& map, char* shared, const int* coordinates, bool with_outside) {
    Box box;
    const uint32_t size = map.element_bytes, width = map.box[0] * size;
    const uint32_t pitch = map.swizzle_bytes != 0 ? map.swizzle_bytes : width;
    uint32_t counts[5] = {1, 1, 1, 1, 1}, rows = 1;
    for (int i = 1; i < map.rank; ++i) {
        counts[i] = (map.box[i] + map.steps[i] - 1u) / map.steps[i];
        rows *= counts[i];
    }
    const auto origin = uint32_t(shared - arena);
    const auto add = [&](uint32_t to, char* from, uint32_t bytes) {
        if (from != nullptr || with_outside) box.segments.push_back({arena + to, from, bytes});
    };
    for (uint32_t row = 0; row < rows; ++row) {
        const char* line = map.base;
        bool inside = true;
        uint32_t rest = row;
        for (int i = 1; i < map.rank; ++i) {
            const int64_t at = coordinates[i] + int64_t(rest % counts[i]) * map.steps[i];
            rest /= counts[i];
            inside = inside && at >= 0 && uint64_t(at) < map.extents[i];
            line += at * int64_t(map.strides[i]);
        }
        for (uint32_t byte = 0; byte < width; byte += chunk) {
            const uint32_t to = swizzled(origin + row * pitch + byte, map.swizzle_bytes);
            const int64_t first = coordinates[0] + int64_t(byte / size), last = first + chunk / size;
            if (inside && first >= 0 && uint64_t(last) <= map.extents[0]) {
                add(to, const_cast<char*>(line) + first * size, chunk);
                continue;
            }
            for (uint32_t i = 0; i < chunk / size; ++i) {
                const int64_t at = first + i;
                const bool there = inside && at >= 0 && uint64_t(at) < map.extents[0];
                add(to + i * size, there ? const_cast<char*>(line) + at * size : nullptr, size);
            }
        }
    }
    box.bytes = rows * width;
    return box;
}

void check_map(const CUtensorMap& map, int rank, const char* what, const void* place) {
    if (map.encoded != 1) fail(place, "%s: the tensor map was not encoded", what);
    if (map.rank != rank) fail(place, "%s of %d coordinates; the map's tensor has %d", what, rank, map.rank);
}

uint32_t span(const CUtensorMap& map) {
    uint32_t rows = 1;
    for (int i = 1; i < map.rank; ++i) rows *= (map.box[i] + map.steps[i] - 1u) / map.steps[i];
    return rows * (map.swizzle_bytes != 0 ? map.swizzle_bytes : uint32_t(map.box[0]) * map.element_bytes);
}

} // namespace

// The rules of cuTensorMapEncodeTiled; false where the driver would refuse.
bool encode_tiled(CUtensorMap& map, int element_bytes, int rank, const void* base, const uint64_t* extents,
                  const uint64_t* strides, const uint32_t* box, const uint32_t* steps, int swizzle_bytes) {
    map = {};
    if (rank < 1 || rank > 5 || uintptr_t(base) % 16 != 0) return false;
    for (int i = 0; i < rank; ++i) {
        const uint64_t stride = i == 0 ? uint64_t(element_bytes) : strides[i - 1];
        if (extents[i] == 0 || extents[i] > uint64_t(1) << 32 || box[i] == 0 || box[i] > 256) return false;
        if (steps[i] == 0 || steps[i] > 8) return false;
        if (i > 0 && (stride % 16 != 0 || stride >= uint64_t(1) << 40)) return false;
        map.extents[i] = extents[i], map.strides[i] = stride;
        map.box[i] = uint16_t(box[i]), map.steps[i] = uint16_t(steps[i]);
    }
    const uint32_t width = box[0] * uint32_t(element_bytes);
    if (width % 16 != 0 || (swizzle_bytes != 0 && width > uint32_t(swizzle_bytes))) return false;
    map.base = static_cast<const char*>(base);
    map.rank = uint8_t(rank), map.element_bytes = uint8_t(element_bytes), map.swizzle_bytes = uint8_t(swizzle_bytes);
    map.encoded = 1;
    return true;
}

void tensor_load(void* shared, const CUtensorMap& map, const int* coordinates, int rank, uint64_t* barrier) {
    const void* place = SIMT_CALLER;
    check_map(map, rank, "a tensor load", place);
    need_shared(shared, span(map), 128, "a tensor load", place);
    Box box = box_of(map, static_cast<char*>(shared), coordinates, true);
    start_load(std::move(box.segments), box.bytes, barrier, place);
}

void tensor_store(const CUtensorMap& map, const void* shared, const int* coordinates, int rank) {
    const void* place = SIMT_CALLER;
    check_map(map, rank, "a tensor store", place);
    need_shared(shared, span(map), 128, "a tensor store", place);
    for (int i = 0; i < rank; ++i)
        if (coordinates[i] < 0) fail(place, "a tensor store starts at coordinate %d", coordinates[i]);
    auto* from = static_cast<char*>(const_cast<void*>(shared));
    start_store(std::move(box_of(map, from, coordinates, false).segments), place);
}

} // namespace simt
