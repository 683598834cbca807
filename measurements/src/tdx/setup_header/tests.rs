//! Every patched byte of the setup header, and refused kernels and settings.

use std::borrow::Cow;

use sha2::{Digest as _, Sha384};

use super::{KernelForm, Loading, SetupHeaderError, measured};
use crate::{bytes::Truncated, tdx::rtmr::Edk2};

/// A kernel of boot protocol 2.15 whose initrd may lie anywhere below 4 GiB.
fn kernel() -> Vec<u8> {
    let mut kernel = vec![0x11; 0x1000];
    let mut put = |at: usize, bytes: &[u8]| kernel[at..at + bytes.len()].copy_from_slice(bytes);
    put(0x1f1, &[1]);
    put(0x202, b"HdrS");
    put(0x206, &[0x0f, 0x02]);
    put(0x211, &[0x01]);
    put(0x22c, &0x7fff_ffff_u32.to_le_bytes());
    put(0x236, &[0x02, 0x00]);
    kernel
}

fn patched(kernel: &[u8], loading: &Loading<'_>) -> Result<Vec<u8>, SetupHeaderError> {
    measured(kernel, KernelForm::SetupHeaderPatched, loading).map(Cow::into_owned)
}

const PLAIN: Loading<'static> = Loading {
    memory: 2 << 30,
    initrd: Some(0x12_3456),
    command_line: "console=ttyS0",
};

/// Returns each change as (offset, bytes), in order.
fn changes(kernel: &[u8], loading: &Loading<'_>) -> Vec<(usize, Vec<u8>)> {
    let after = patched(kernel, loading).unwrap();
    assert_eq!(after.len(), kernel.len());
    let fields = [
        (0x1fa, 2),
        (0x210, 1),
        (0x211, 1),
        (0x218, 4),
        (0x21c, 4),
        (0x224, 2),
        (0x228, 4),
    ];
    let mut rest = after.clone();
    for (offset, length) in fields {
        rest[offset..offset + length].copy_from_slice(&kernel[offset..offset + length]);
    }
    assert_eq!(
        rest, kernel,
        "a byte outside the boot loader's fields changed"
    );
    fields
        .into_iter()
        .filter(|(offset, length)| {
            after[*offset..offset + length] != kernel[*offset..offset + length]
        })
        .map(|(offset, length)| (offset, after[offset..offset + length].to_vec()))
        .collect()
}

#[test]
fn exactly_the_boot_loaders_fields_change() {
    // 2 GiB - 0x28000 - 1 - 0x123456, rounded down to a page.
    let expected = [
        (0x210, vec![0xb0]),
        (0x211, vec![0x81]),
        (0x218, vec![0x00, 0x40, 0xeb, 0x7f]),
        (0x21c, vec![0x56, 0x34, 0x12, 0x00]),
        (0x224, vec![0x00, 0xfe]),
        (0x228, vec![0x00, 0x00, 0x02, 0x00]),
    ];
    assert_eq!(changes(&kernel(), &PLAIN), expected);
}

/// The digests are SHA-384 of what QEMU 10.0.13 offers to older firmware (fw_cfg's setup and kernel data) for these
/// arguments.
#[test]
fn the_bytes_are_qemus() {
    let digest = |loading| hex::encode(Sha384::digest(patched(&kernel(), loading).unwrap()));
    assert_eq!(
        digest(&PLAIN),
        "d71379ec45e44b6e66edf7aefbac480da5a8897b2fd3e7849e5de5ac8b77624dddc4d4d968e1b4418e2553a1f315f4ea"
    );
    let other = Loading {
        memory: 4 << 30,
        command_line: "a vga=0x317 b",
        ..PLAIN
    };
    assert_eq!(
        digest(&other),
        "163a477e9e41403fa333ab1707a5209cb73bd1236371dea4716e012d4d8d9b12df5eb407825a769ac4e4f4ceb5c8a413"
    );
}

#[test]
fn memory_counts_only_below_the_split_and_the_kernels_limit_does() {
    let address = |kernel: &[u8], memory| {
        let after = patched(kernel, &Loading { memory, ..PLAIN }).unwrap();
        u32::from_le_bytes(after[0x218..0x21c].try_into().unwrap())
    };
    // 2816 MiB and more keep 2 GiB below 4 GiB.
    assert_eq!(address(&kernel(), 0xb000_0000), 0x7feb_4000);
    assert_eq!(address(&kernel(), 64 << 30), 0x7feb_4000);
    assert_eq!(address(&kernel(), 1 << 30), 0x3feb_4000);
    assert_eq!(address(&kernel(), 0xafff_f000), 0xafeb_3000);
    let mut limited = kernel();
    limited[0x236] = 0;
    assert_eq!(address(&limited, 0xafff_f000), 0x7fed_c000);
    limited[0x206] = 0x02;
    assert_eq!(address(&limited, 2 << 30), 0x37ed_c000);
}

#[test]
fn a_video_mode_is_stored_and_no_initrd_leaves_its_fields() {
    let with = |command_line| {
        let loading = Loading {
            initrd: None,
            command_line,
            ..PLAIN
        };
        let changes = changes(&kernel(), &loading);
        assert!(
            changes
                .iter()
                .all(|(offset, _)| !matches!(offset, 0x218 | 0x21c))
        );
        changes
            .iter()
            .find(|(offset, _)| *offset == 0x1fa)
            .map(|(_, bytes)| u16::from_le_bytes(bytes[..].try_into().unwrap()))
    };
    assert_eq!(with("quiet"), None);
    for (command_line, mode) in [
        ("vga=normal", 0xffff),
        ("a vga=ext b", 0xfffe),
        ("vga=ask", 0xfffd),
        ("vga=791", 791),
        ("vga=0x317 quiet", 0x317),
    ] {
        assert_eq!(with(command_line), Some(mode), "{command_line}");
    }
}

#[test]
fn what_qemu_refuses_is_named() {
    let with = |at: usize, bytes: &[u8]| {
        let mut kernel = kernel();
        kernel[at..at + bytes.len()].copy_from_slice(bytes);
        patched(&kernel, &PLAIN).unwrap_err()
    };
    assert_eq!(
        with(0x202, b"abcd"),
        SetupHeaderError::Magic { found: 0x6463_6261 }
    );
    let protocol = |version, flags| SetupHeaderError::Protocol { version, flags };
    assert_eq!(with(0x206, &[1, 2]), protocol(0x0201, 1));
    assert_eq!(with(0x211, &[0]), protocol(0x020f, 0));
    assert_eq!(
        patched(&kernel()[..0x237], &PLAIN),
        Err(SetupHeaderError::Truncated(Truncated {
            structure: "Linux setup header",
            offset: 0x236,
            needed: 2,
            available: 1
        }))
    );
    let large = Loading {
        initrd: Some(2 << 30),
        ..PLAIN
    };
    assert_eq!(
        patched(&kernel(), &large),
        Err(SetupHeaderError::Initrd {
            initrd: 2 << 30,
            limit: 0x7ffd_7fff
        })
    );
    let wrong = Loading {
        command_line: "vga=big",
        ..PLAIN
    };
    assert_eq!(
        patched(&kernel(), &wrong),
        Err(SetupHeaderError::VideoMode { mode: "big".into() })
    );
}

#[test]
fn the_form_follows_from_both_versions() {
    for (qemu, edk2, form) in [
        (10, Edk2::Stable202502, KernelForm::Unchanged),
        (11, Edk2::Stable202508, KernelForm::Unchanged),
        (9, Edk2::Stable202508, KernelForm::SetupHeaderPatched),
        (10, Edk2::Stable202411, KernelForm::SetupHeaderPatched),
    ] {
        assert_eq!(KernelForm::of(qemu, edk2), form, "{qemu} {edk2:?}");
    }
    let kernel = kernel();
    let unchanged = measured(&kernel, KernelForm::Unchanged, &PLAIN).unwrap();
    assert_eq!(unchanged, kernel);
}
