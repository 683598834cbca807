//! The two CPUID leaves that show which TEE a guest runs in. The instruction is safe to execute anywhere on x86-64. It is
//! wrapped here so that callers see only plain integers.

use std::arch::x86_64::{__cpuid, __cpuid_count};

/// Leaf that returns the highest extended leaf, and leaf of memory encryption.
const EXTENDED: u32 = 0x8000_0000;
const ENCRYPTION: u32 = 0x8000_001f;
/// Leaf of TDX's identification (Intel TDX module specification, section "CPUID virtualization").
const TDX: u32 = 0x21;

/// CPUID values, as returned by the processor or by the software that intercepts the instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cpuid {
    /// EBX, EDX and ECX of leaf 0x21. Processors without this leaf return values of another leaf, which do not spell the
    /// name.
    pub tdx: [u8; 12],
    /// EAX of leaf 0x8000001F, or 0 if the leaf does not exist.
    pub sev: u32,
}

/// Reads both leaves.
pub fn read() -> Cpuid {
    let identity = __cpuid_count(TDX, 0);
    let mut tdx = [0; 12];
    for (place, register) in
        tdx.as_chunks_mut()
            .0
            .iter_mut()
            .zip([identity.ebx, identity.edx, identity.ecx])
    {
        *place = register.to_le_bytes();
    }
    // For an extended leaf that does not exist, a processor returns values of another leaf.
    let known = __cpuid(EXTENDED).eax >= ENCRYPTION;
    let sev = if known { __cpuid(ENCRYPTION).eax } else { 0 };
    Cpuid { tdx, sev }
}
