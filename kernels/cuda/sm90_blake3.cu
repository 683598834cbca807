// Standard BLAKE3 (hash mode, 32 bytes) of messages in device memory.
//
// A tile is 128 chunks of 1024 bytes of one message. All tiles but the last are complete subtrees of BLAKE3's tree. A block
// hashes a tile, one chunk per thread, and joins the 128 chaining values to one. `sm90_blake3_join` then joins up to 256 of
// a message's values at a time, until one is left. Each level joins neighbours and passes on an odd last value. This gives
// the tree of the specification, whose left subtrees are the largest complete ones.
#include "ranges.h"

constexpr u32 CHUNK = 1024;
constexpr u32 BLOCK = 64;
constexpr u32 CHUNKS = 128;           // per tile, and threads of sm90_blake3_leaves
constexpr u32 NODES = 256;            // values joined by one block of sm90_blake3_join, which has half as many threads
constexpr u32 STAGE = 128;            // bytes of each chunk that are fetched at a time
constexpr u32 ROW = STAGE + VECTOR;   // a stride of 36 banks, so that eight rows read at once use each bank once
constexpr u32 ROW_VECTORS = ROW / VECTOR;

constexpr u32 CHUNK_START = 1, CHUNK_END = 2, PARENT = 4, ROOT = 8;

// A chaining value, or a root hash, whose bytes are its words in little-endian order.
struct alignas(16) Value {
    u32 word[8];
};

// Values of one message that remain to be joined. Layout shared with sm90_blake3/tree.rs.
struct Branch {
    u64 first_value; // index in `from`
    u64 values;      // at least 2
    u64 first_group; // number of its first group; groups of NODES values are numbered over all branches
    u64 message;     // index of the root in `roots`, if one group holds all values
};

DEVICE Value start() {
    return {{0x6a09e667u, 0xbb67ae85u, 0x3c6ef372u, 0xa54ff53au, 0x510e527fu, 0x9b05688cu, 0x1f83d9abu, 0x5be0cd19u}};
}

DEVICE void mix(u32 &a, u32 &b, u32 &c, u32 &d, u32 x, u32 y) {
    a = a + b + x;
    d = rotate_right(d ^ a, 16);
    c = c + d;
    b = rotate_right(b ^ c, 12);
    a = a + b + y;
    d = rotate_right(d ^ a, 8);
    c = c + d;
    b = rotate_right(b ^ c, 7);
}

// The compression function, truncated to a chaining value (section 2.2 of the BLAKE3 paper).
DEVICE Value compress(const Value &in, const u32 (&message)[16], u64 counter, u32 length, u32 flags) {
    constexpr u32 ORDER[7][16] = {
        {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}, {2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8},
        {3, 4, 10, 12, 13, 2, 7, 14, 6, 5, 9, 0, 11, 15, 8, 1}, {10, 7, 12, 9, 14, 3, 13, 15, 4, 0, 11, 2, 5, 8, 1, 6},
        {12, 13, 9, 11, 15, 10, 14, 8, 7, 2, 5, 3, 0, 1, 6, 4}, {9, 14, 11, 5, 8, 12, 15, 1, 13, 3, 0, 10, 2, 6, 4, 7},
        {11, 15, 5, 0, 1, 9, 8, 6, 14, 10, 2, 12, 3, 4, 7, 13}};
    const Value iv = start();
    u32 v[16];
#pragma unroll
    for (u32 i = 0; i < 8; i++) {
        v[i] = in.word[i];
    }
#pragma unroll
    for (u32 i = 0; i < 4; i++) {
        v[8 + i] = iv.word[i];
    }
    v[12] = static_cast<u32>(counter);
    v[13] = static_cast<u32>(counter >> 32);
    v[14] = length;
    v[15] = flags;
#pragma unroll
    for (u32 r = 0; r < 7; r++) {
        const u32(&m)[16] = ORDER[r];
        mix(v[0], v[4], v[8], v[12], message[m[0]], message[m[1]]);
        mix(v[1], v[5], v[9], v[13], message[m[2]], message[m[3]]);
        mix(v[2], v[6], v[10], v[14], message[m[4]], message[m[5]]);
        mix(v[3], v[7], v[11], v[15], message[m[6]], message[m[7]]);
        mix(v[0], v[5], v[10], v[15], message[m[8]], message[m[9]]);
        mix(v[1], v[6], v[11], v[12], message[m[10]], message[m[11]]);
        mix(v[2], v[7], v[8], v[13], message[m[12]], message[m[13]]);
        mix(v[3], v[4], v[9], v[14], message[m[14]], message[m[15]]);
    }
    Value out;
#pragma unroll
    for (u32 i = 0; i < 8; i++) {
        out.word[i] = v[i] ^ v[8 + i];
    }
    return out;
}

DEVICE Value join(const Value &left, const Value &right, u32 flags) {
    u32 message[16];
#pragma unroll
    for (u32 i = 0; i < 8; i++) {
        message[i] = left.word[i];
        message[8 + i] = right.word[i];
    }
    return compress(start(), message, 0, BLOCK, PARENT | flags);
}

// Joins the first `count` of `values` (at most two per thread) level by level, until one is left in the first place.
// `whole` means that they are all values of a message, so that the last join makes its root.
DEVICE void join_all(Value *values, u32 count, bool whole) {
    while (count > 1) {
        const u32 pairs = count / 2, left = count - pairs;
        Value mine = {};
        if (thread() < pairs) {
            mine = join(values[2 * thread()], values[2 * thread() + 1], whole && count == 2 ? ROOT : 0);
        } else if (thread() < left) {
            mine = values[2 * thread()];
        }
        barrier();
        if (thread() < left) {
            values[thread()] = mine;
        }
        barrier();
        count = left;
    }
}

// Returns VECTOR bytes from offset `at` of the `bytes` bytes at `address`, filled up with zeros beyond their end.
DEVICE Vector gather(u64 address, u32 bytes, u32 at) {
    const u64 first = (address + at) & ~u64(3), end = (address + at + VECTOR + 3) & ~u64(3);
    Vector v = {};
    if (first >= address && end <= address + bytes) {
        // Reads the aligned words around them; each pair of neighbours contains one word of the result.
        const u32 *const words = reinterpret_cast<const u32 *>(first);
        const u32 shift = static_cast<u32>(address + at) % 4 * 8;
        u32 low = words[0];
#pragma unroll
        for (u32 i = 0; i < 4; i++) {
            const u32 high = i < 3 || shift != 0 ? words[i + 1] : 0;
            v.word[i] = shift_pair(low, high, shift);
            low = high;
        }
        return v;
    }
#pragma unroll
    for (u32 i = 0; i < VECTOR; i++) {
        if (at + i < bytes) {
            v.word[i / 4] |= static_cast<u32>(*reinterpret_cast<const u8 *>(address + at + i)) << (i % 4 * 8);
        }
    }
    return v;
}

// Fetches STAGE bytes of each chunk of a tile to the chunk's row; neighbouring threads fetch neighbouring vectors.
DEVICE void fetch(Vector *rows, u64 address, u32 bytes, u32 stage) {
    constexpr u32 COLUMNS = STAGE / VECTOR;
    const bool aligned = address % VECTOR == 0;
    if (aligned && bytes == CHUNKS * CHUNK) {
#pragma unroll
        for (u32 k = 0; k < COLUMNS; k++) {
            const u32 i = k * CHUNKS + thread(), row = i / COLUMNS, column = i % COLUMNS;
            const u64 from = address + (row * CHUNK + stage * STAGE + column * VECTOR);
            copy_async(rows + row * ROW_VECTORS + column, reinterpret_cast<const Vector *>(from));
        }
        return;
    }
    // The last block of a message is filled up with zeros, and an empty message is one block of them.
    const u32 needed = bytes == 0 ? BLOCK : (bytes + BLOCK - 1) / BLOCK * BLOCK;
#pragma unroll 1
    for (u32 k = 0; k < COLUMNS; k++) {
        const u32 i = k * CHUNKS + thread(), row = i / COLUMNS, column = i % COLUMNS;
        const u32 at = row * CHUNK + stage * STAGE + column * VECTOR;
        Vector *const to = rows + row * ROW_VECTORS + column;
        if (aligned && at + VECTOR <= bytes) {
            copy_async(to, reinterpret_cast<const Vector *>(address + at));
        } else if (at < needed) {
            *to = gather(address, bytes, at);
        }
    }
}

// Hashes every tile of the messages. Writes the root of a message of one tile to `roots`, or else the tile's value to `values`.
KERNEL(CHUNKS, 6) sm90_blake3_leaves(const Range *messages, u32 count, u64 tiles, Value *values, Value *roots) {
    SHARED(Vector, rows, 2 * CHUNKS * ROW_VECTORS);
    for (u64 tile = block(); tile < tiles; tile += blocks()) {
        const u32 index = last_not_above(count, tile, [=](u32 i) { return messages[i].first_tile; });
        const Range message = messages[index];
        const u64 offset = (tile - message.first_tile) * (CHUNKS * CHUNK);
        const u64 address = message.address + offset;
        const u32 bytes = static_cast<u32>(lower(message.length - offset, CHUNKS * CHUNK));
        const bool whole = message.length <= CHUNKS * CHUNK;
        const u32 chunks = bytes == 0 ? 1 : (bytes + CHUNK - 1) / CHUNK;
        const u32 stages = chunks > 1 ? CHUNK / STAGE : bytes == 0 ? 1 : (bytes + STAGE - 1) / STAGE;

        // This thread's chunk: its number of bytes, and the index of its last block.
        const bool busy = thread() < chunks;
        const u32 mine = busy ? static_cast<u32>(lower(bytes - thread() * CHUNK, CHUNK)) : 0;
        const u32 last = mine == 0 ? 0 : (mine - 1) / BLOCK;
        Value value = start();
        fetch(rows, address, bytes, 0);
        commit();
#pragma unroll 1
        for (u32 stage = 0; stage < stages; stage++) {
            if (stage + 1 < stages) {
                fetch(rows + (stage + 1) % 2 * (CHUNKS * ROW_VECTORS), address, bytes, stage + 1);
            }
            // The group is empty after the last fetch, so that `arrived<1>` always waits for the group of this stage.
            commit();
            arrived<1>();
            barrier();
            const Vector *const row = rows + stage % 2 * (CHUNKS * ROW_VECTORS) + thread() * ROW_VECTORS;
#pragma unroll 1
            for (u32 half = 0; half < STAGE / BLOCK; half++) {
                const u32 number = stage * (STAGE / BLOCK) + half;
                if (busy && number <= last) {
                    u32 words[16];
#pragma unroll
                    for (u32 i = 0; i < BLOCK / VECTOR; i++) {
                        const Vector v = load_shared(row + half * (BLOCK / VECTOR) + i);
#pragma unroll
                        for (u32 k = 0; k < 4; k++) {
                            words[4 * i + k] = v.word[k];
                        }
                    }
                    u32 flags = number == 0 ? CHUNK_START : 0;
                    flags |= number == last ? CHUNK_END | (whole && chunks == 1 ? ROOT : 0) : 0;
                    const u32 length = static_cast<u32>(lower(mine - number * BLOCK, BLOCK));
                    value = compress(value, words, offset / CHUNK + thread(), length, flags);
                }
            }
            // The next iteration fetches into the rows that were read here.
            barrier();
        }
        Value *const nodes = reinterpret_cast<Value *>(rows);
        if (busy) {
            nodes[thread()] = value;
        }
        barrier();
        join_all(nodes, chunks, whole);
        if (thread() == 0) {
            (whole ? roots[index] : values[tile]) = nodes[0];
        }
        barrier();
    }
}

// Joins groups of at most NODES values of `from`. Writes the root of a message to `roots`, or else the group's value to `to`.
KERNEL(NODES / 2, 8) sm90_blake3_join(const Branch *branches, u32 count, u64 groups, const Value *from, Value *to, Value *roots) {
    SHARED(Value, nodes, NODES);
    for (u64 group = block(); group < groups; group += blocks()) {
        const u32 index = last_not_above(count, group, [=](u32 i) { return branches[i].first_group; });
        const Branch branch = branches[index];
        const u64 first = (group - branch.first_group) * NODES;
        const u32 here = static_cast<u32>(lower(branch.values - first, NODES));
        const bool whole = branch.values <= NODES;
        for (u32 i = thread(); i < here; i += NODES / 2) {
            nodes[i] = from[branch.first_value + first + i];
        }
        barrier();
        join_all(nodes, here, whole);
        if (thread() == 0) {
            (whole ? roots[branch.message] : to[group]) = nodes[0];
        }
        barrier();
    }
}
