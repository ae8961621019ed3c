// The checker's shadow of memory.
#pragma once

#include "runtime.h"

namespace simt {

// The last write and the last reads of one byte. An epoch is a stretch of one block between two barriers of the whole
// block; its number grows through all blocks and launches, so it also tells which block an access belongs to.
struct Cell {
    uint32_t write_epoch, read_epoch, other_block_epoch; // the last: a read by an earlier block of this launch
    uint32_t write_tick, read_tick;
    uint32_t write_place, read_place, other_block_place; // offsets into the kernel's module
    uint32_t read_set;                                   // of the ticks of all who read, if several did
    uint16_t write_thread, read_thread;                  // agents follow the threads
    bool write_atomic, read_by_several, undelivered;
};

void release_cells(Region& region);
// Report what they find.
bool shared_red_zones_intact();

} // namespace simt
