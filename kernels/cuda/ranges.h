// Where a block finds its piece of work in a list of ranges.
#pragma once
#include "device.h"

// `length` bytes at `address`; the tiles of all ranges are numbered through, and `first_tile` is this one's first.
// Layout shared with ranges.rs.
struct Range {
    u64 address;
    u64 length;
    u64 first_tile;
};

// The last of `count` (at least 1) entries whose first number is not above `wanted`, where `first(i)` rises with i.
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
