// Operations of a whole warp that move values between lanes, and atomics.
#include "runtime.h"

namespace simt {

namespace {

struct Shuffle {
    uint64_t in, out;
    int source;
    const void* place;
};
void run_shuffle(uint32_t lanes, void* const* operands) {
    for (int lane = 0; lane < warp_lanes; ++lane) {
        if ((lanes >> lane & 1) == 0) continue;
        auto& shuffle = *static_cast<Shuffle*>(operands[lane]);
        if (operands[shuffle.source] == nullptr)
            fail(shuffle.place, "__shfl_sync: lane %d reads lane %d, which takes no part (lanes %08x do)", lane,
                 shuffle.source, lanes);
        shuffle.out = static_cast<const Shuffle*>(operands[shuffle.source])->in;
    }
}
constexpr Collective shuffle_operation{"__shfl_sync", run_shuffle, false, false};

struct Vote {
    bool predicate;
    uint32_t result;
};
void run_vote(uint32_t lanes, void* const* operands) {
    uint32_t result = 0;
    for (int lane = 0; lane < warp_lanes; ++lane)
        if ((lanes >> lane & 1) != 0 && static_cast<const Vote*>(operands[lane])->predicate) result |= 1u << lane;
    for (int lane = 0; lane < warp_lanes; ++lane)
        if ((lanes >> lane & 1) != 0) static_cast<Vote*>(operands[lane])->result = result;
}
constexpr Collective vote_operation{"__ballot_sync", run_vote, false, false};

constexpr Collective barrier_operation{"__syncwarp", nullptr, false, true};

template <class T, class Signed> T combined(Atomic what, T old, T value, T expected) {
    switch (what) {
    case Atomic::add: return old + value;
    case Atomic::exchange: return value;
    case Atomic::compare_and_swap: return old == expected ? value : old;
    case Atomic::bit_and: return old & value;
    case Atomic::bit_or: return old | value;
    case Atomic::bit_xor: return old ^ value;
    case Atomic::min_signed: return Signed(value) < Signed(old) ? value : old;
    case Atomic::max_signed: return Signed(old) < Signed(value) ? value : old;
    case Atomic::min: return value < old ? value : old;
    case Atomic::max: return old < value ? value : old;
    }
    return old;
}

template <class T, class Signed> T update(Atomic what, void* address, T value, T expected) {
    T old;
    std::memcpy(&old, address, sizeof old);
    const T now = combined<T, Signed>(what, old, value, expected);
    std::memcpy(address, &now, sizeof now);
    return old;
}

} // namespace

uint64_t shuffle(uint32_t mask, uint64_t value, int source) {
    Shuffle operand{value, value, source & (warp_lanes - 1), SIMT_CALLER};
    collective(mask, shuffle_operation, &operand, SIMT_CALLER);
    return operand.out;
}

uint32_t ballot(uint32_t mask, bool predicate) {
    Vote operand{predicate, 0};
    collective(mask, vote_operation, &operand, SIMT_CALLER);
    return operand.result;
}

void warp_barrier(uint32_t mask) { collective(mask, barrier_operation, nullptr, SIMT_CALLER); }

uint64_t atomic(Atomic what, void* address, int bytes, uint64_t value, uint64_t expected) {
    const void* place = SIMT_CALLER;
    if (uintptr_t(address) % unsigned(bytes) != 0) fail(place, "misaligned atomic of %d bytes", bytes);
    access(address, size_t(bytes), Access::atomic, place);
    if (settings.check) atomic_meets(address);
    if (bytes == 4) return update<uint32_t, int32_t>(what, address, uint32_t(value), uint32_t(expected));
    return update<uint64_t, int64_t>(what, address, value, expected);
}

} // namespace simt
