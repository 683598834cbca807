// Fills device memory, and counts the bytes in it that are not zero.
//
// Both kernels use the same tiles: TILE bytes between addresses that are multiples of 128, so that a range consists of whole
// vectors except for its ends, whatever its start. Tiles are dealt out to blocks in turn.
#include "ranges.h"

constexpr u32 THREADS = 256;
constexpr u32 UNROLL = 8;
constexpr u64 TILE = 64 * 1024;
constexpr u64 TILE_ALIGNMENT = 128;

// The bytes of one tile that belong to its range: [from, to), and of these [body, end) as whole vectors.
struct Piece {
    u64 from, body, end, to;
    u32 range;
};

DEVICE Piece piece(const Range *ranges, u32 count, u64 tile) {
    Piece p;
    p.range = last_not_above(count, tile, [=](u32 i) { return ranges[i].first_tile; });
    const Range range = ranges[p.range];
    const u64 start = (range.address & ~(TILE_ALIGNMENT - 1)) + (tile - range.first_tile) * TILE;
    p.from = higher(start, range.address);
    p.to = lower(start + TILE, range.address + range.length);
    p.body = lower((p.from + VECTOR - 1) & ~u64(VECTOR - 1), p.to);
    p.end = higher(p.to & ~u64(VECTOR - 1), p.body);
    return p;
}

// Returns the address of this thread's byte among the at most 2 * (VECTOR - 1) bytes beside the vectors, or 0 if it has none.
DEVICE u64 odd_byte(const Piece &p) {
    const u64 head = p.body - p.from, index = thread();
    if (index < head) {
        return p.from + index;
    }
    return index - head < p.to - p.end ? p.end + (index - head) : 0;
}

// Fills the ranges with `pattern`, which is one byte repeated four times.
KERNEL(THREADS, 8) sm90_scrub_fill(const Range *ranges, u32 count, u64 tiles, u32 pattern) {
    const Vector v = {{pattern, pattern, pattern, pattern}};
    for (u64 tile = block(); tile < tiles; tile += blocks()) {
        const Piece p = piece(ranges, count, tile);
        Vector *const body = reinterpret_cast<Vector *>(p.body);
        const u32 vectors = static_cast<u32>((p.end - p.body) / VECTOR);
        if (vectors == TILE / VECTOR) {
#pragma unroll UNROLL
            for (u32 i = 0; i < TILE / VECTOR / THREADS; i++) {
                store_once(body + i * THREADS + thread(), v);
            }
        } else {
            for (u32 i = thread(); i < vectors; i += THREADS) {
                store_once(body + i, v);
            }
        }
        if (const u64 address = odd_byte(p)) {
            *reinterpret_cast<u8 *>(address) = static_cast<u8>(pattern);
        }
    }
}

// Returns how many of a word's four bytes are not zero. The carry out of its low seven bits, or its top bit, marks such a byte.
DEVICE u32 dirty_bytes(u32 word) {
    return ones((((word & 0x7f7f7f7fu) + 0x7f7f7f7fu) | word) & 0x80808080u);
}

DEVICE u32 dirty_bytes(const Vector &v) {
    return dirty_bytes(v.word[0]) + dirty_bytes(v.word[1]) + dirty_bytes(v.word[2]) + dirty_bytes(v.word[3]);
}

DEVICE u32 any_bit(const Vector &v) { return v.word[0] | v.word[1] | v.word[2] | v.word[3]; }

// Adds the number of non-zero bytes of each range to `dirty[range]`, and the number of all bytes read to `examined`. A pass
// that did not take place can therefore not be mistaken for one that found nothing.
KERNEL(THREADS, 4) sm90_scrub_count(const Range *ranges, u32 count, u64 tiles, u64 *dirty, u64 *examined) {
    u64 seen = 0;
    for (u64 tile = block(); tile < tiles; tile += blocks()) {
        const Piece p = piece(ranges, count, tile);
        const Vector *const body = reinterpret_cast<const Vector *>(p.body);
        const u32 vectors = static_cast<u32>((p.end - p.body) / VECTOR);
        u32 found = 0, looked = 0;
        if (vectors == TILE / VECTOR) {
#pragma unroll 1
            for (u32 i = 0; i < TILE / VECTOR / THREADS; i += UNROLL) {
                Vector v[UNROLL];
                u32 bits = 0;
#pragma unroll
                for (u32 k = 0; k < UNROLL; k++) {
                    v[k] = load_once(body + (i + k) * THREADS + thread());
                }
#pragma unroll
                for (u32 k = 0; k < UNROLL; k++) {
                    bits |= any_bit(v[k]);
                }
                if (bits != 0) {
#pragma unroll
                    for (u32 k = 0; k < UNROLL; k++) {
                        found += dirty_bytes(v[k]);
                    }
                }
                looked += UNROLL * VECTOR;
            }
        } else {
            for (u32 i = thread(); i < vectors; i += THREADS) {
                found += dirty_bytes(load_once(body + i));
                looked += VECTOR;
            }
        }
        if (const u64 address = odd_byte(p)) {
            found += *reinterpret_cast<const u8 *>(address) != 0;
            looked += 1;
        }
        seen += looked;
        // All threads of the block work on the same tile, so whole warps get here.
        if (any_in_warp(found != 0)) {
            const u32 sum = sum_in_warp(found);
            if (thread() % WARP == 0) {
                add(dirty + p.range, sum);
            }
        }
    }
    // One addition per warp. A thread reads less than 2^48 bytes, so neither half of the sum overflows.
    const u32 low = sum_in_warp(static_cast<u32>(seen & 0xffffff)), high = sum_in_warp(static_cast<u32>(seen >> 24));
    if (thread() % WARP == 0) {
        add(examined, (static_cast<u64>(high) << 24) + low);
    }
}
