// Compiles the hashing kernels for the emulator.
#include "../../cuda/sm90_blake3.cu"

ENTRY(sm90_blake3_leaves)
ENTRY(sm90_blake3_join)
