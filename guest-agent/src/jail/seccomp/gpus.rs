//! System calls that an engine with GPUs may make in addition.

use nix::libc;

use super::{Allowed, any, when};

/// Mask for arguments of type `int`, of which the kernel reads only 32 bits.
const LOW: u64 = 0xffff_ffff;
const AF_UNIX: u64 = 1;
const SO_PASSCRED: u64 = 16;
const MFD_EXEC: u64 = 0x10;

/// Additional calls of NVIDIA's library, derived from the imports and strings of R550's `libcuda`. The library has not been
/// run under this filter. With GPUs, calls that are not listed fail; without GPUs they kill the engine.
pub(super) const WITH_GPUS: &[Allowed] = &[
    any(
        libc::SYS_mmap,
        "the loader maps libraries to be executed, the driver maps the GPU's registers",
    ),
    any(
        libc::SYS_mprotect,
        "libraries are relocated, then made executable",
    ),
    when(
        libc::SYS_ioctl,
        &[
            (1, 0xff00, 0x4600),
            (1, 0xffff_ff00, 0),
            (1, 0xffff_fffe, 0x3000_0000),
            (1, 0xffff_ffff, 0x3000_0002),
        ],
        "the driver's calls (type 'F'), and those of managed memory, which are small numbers and two large ones",
    ),
    any(libc::SYS_fcntl, "the library locks nothing, but asks"),
    any(libc::SYS_pipe, "waking between the library's threads"),
    any(libc::SYS_dup, "copies of device files"),
    any(libc::SYS_dup2, "the same, to a number of its choice"),
    any(libc::SYS_dup3, "the same, closed on execution"),
    when(
        libc::SYS_socket,
        &[(0, LOW, AF_UNIX)],
        "cuInit offers its managed memory on an abstract name, cuda-uvmfd-…, and fails where it cannot; the network \
         namespace, which such names belong to, is the cell's own",
    ),
    any(libc::SYS_bind, "that name; there are AF_UNIX sockets alone"),
    any(
        libc::SYS_listen,
        "on that socket; nobody connects, for connect is refused",
    ),
    when(
        libc::SYS_setsockopt,
        &[(2, LOW, SO_PASSCRED)],
        "on that socket: who would be there",
    ),
    when(
        libc::SYS_memfd_create,
        &[(1, MFD_EXEC, 0)],
        "cuInit since R570; never to be executed, which vm.memfd_noexec sees to, and this to whoever asks otherwise",
    ),
    any(
        libc::SYS_ftruncate,
        "size of shared memory: the cell's own /dev/shm, and files without a name",
    ),
    any(
        libc::SYS_unlink,
        "shared memory; everything else is read-only",
    ),
    any(libc::SYS_msync, "memory shared with the driver"),
    any(libc::SYS_getppid, "which process it is"),
    any(libc::SYS_getpgrp, "which process it is"),
    any(
        libc::SYS_sched_get_priority_max,
        "range of priorities, which are not changed",
    ),
    any(
        libc::SYS_sched_get_priority_min,
        "range of priorities, which are not changed",
    ),
];
