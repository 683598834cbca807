//! A virtual processor's save area (VMSA) at reset, as KVM builds it for QEMU and the secure processor measures it.
//!
//! The layout is that of AMD's Architecture Programmer's Manual 24593, volume 2, table B-4. The values are KVM's reset state.

/// Instruction pointer at which the first processor starts.
pub(super) const RESET_EIP: u32 = 0xffff_fff0;

const PAGE: usize = 4096;

/// Returns the save area of a processor that starts at `eip`.
pub(super) fn page(eip: u32, cpu_signature: u32, features: u64) -> [u8; PAGE] {
    let mut page = [0; PAGE];
    let segments = [
        (0x00, 0, 0x93, 0),                                 // ES
        (0x10, 0xf000, 0x9b, u64::from(eip & 0xffff_0000)), // CS
        (0x20, 0, 0x93, 0),                                 // SS
        (0x30, 0, 0x93, 0),                                 // DS
        (0x40, 0, 0x93, 0),                                 // FS
        (0x50, 0, 0x93, 0),                                 // GS
        (0x60, 0, 0, 0),                                    // GDTR
        (0x70, 0, 0x82, 0),                                 // LDTR
        (0x80, 0, 0, 0),                                    // IDTR
        (0x90, 0, 0x8b, 0),                                 // TR
    ];
    for (offset, selector, attributes, base) in segments {
        put(&mut page, offset, &u16::to_le_bytes(selector));
        put(&mut page, offset + 2, &u16::to_le_bytes(attributes));
        put(&mut page, offset + 4, &0xffff_u32.to_le_bytes());
        put(&mut page, offset + 8, &base.to_le_bytes());
    }
    let registers = [
        (0x0d0, 0x1000),                   // EFER: secure virtual machine
        (0x148, 0x40),                     // CR4: machine-check enable
        (0x158, 0x10),                     // CR0: extension type
        (0x160, 0x400),                    // DR7
        (0x168, 0xffff_0ff0),              // DR6
        (0x170, 2),                        // RFLAGS
        (0x178, u64::from(eip & 0xffff)),  // RIP
        (0x268, 0x0007_0406_0007_0406),    // G_PAT
        (0x310, u64::from(cpu_signature)), // RDX
        (0x3b0, features),                 // SEV_FEATURES
        (0x3e8, 1),                        // XCR0
    ];
    for (offset, value) in registers {
        put(&mut page, offset, &u64::to_le_bytes(value));
    }
    put(&mut page, 0x408, &0x1f80_u32.to_le_bytes()); // MXCSR
    put(&mut page, 0x410, &0x037f_u16.to_le_bytes()); // x87 control word
    page
}

/// Writes a value. Never panics, because all offsets are the constants above, far below the end of the page.
fn put(page: &mut [u8; PAGE], offset: usize, value: &[u8]) {
    page[offset..offset + value.len()].copy_from_slice(value);
}
