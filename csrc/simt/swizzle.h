// The pattern that tensor copies and wgmma share: 16-byte chunks exchanged by bits of the shared address.
#pragma once

#include <cstdint>

namespace simt {

// Width 128, 64 or 32 bytes (0: none): bits 4 to 6 of the address are combined with bits 7 to 9, 7 to 8 or 7.
inline uint32_t swizzled(uint32_t address, uint32_t width) {
    const uint32_t bits = width < 32 ? 0 : width / 16 - 1;
    return address ^ (address >> 7 & bits) << 4;
}

} // namespace simt
