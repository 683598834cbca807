// Compiles the scrubbing kernels for the emulator.
#include "../../cuda/sm90_scrub.cu"

ENTRY(sm90_scrub_fill)
ENTRY(sm90_scrub_count)
