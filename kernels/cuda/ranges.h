// Finds the range that a block's tile belongs to.
#pragma once
#include "device.h"

// `length` bytes at `address`. Tiles are numbered consecutively over all ranges; `first_tile` is the number of this range's
// first tile. Layout shared with ranges.rs.
struct Range {
    u64 address;
    u64 length;
    u64 first_tile;
};

// Returns the last index below `count` (at least 1) with `first(i) <= wanted`, where `first(i)` increases with i.
template <typename First> DEVICE u32 last_not_above(u32 count, u64 wanted, First first) {
    u32 low = 0, high = count;
    while (high - low > 1) {
        const u32 middle = low + (high - low) / 2;
        if (first(middle) <= wanted) {
            low = middle;
        } else {
            high = middle;
        }
    }
    return low;
}
