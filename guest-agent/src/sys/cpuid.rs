//! The two CPUID leaves that tell a guest which TEE it runs in. The instruction is safe to execute
//! anywhere on x86-64; it is here because nothing but plain integers shall cross the boundary.

use std::arch::x86_64::{__cpuid, __cpuid_count};

/// Highest extended leaf, and the one of memory encryption.
const EXTENDED: u32 = 0x8000_0000;
const ENCRYPTION: u32 = 0x8000_001f;
/// TDX's identification (Intel TDX module specification, section "CPUID virtualization").
const TDX: u32 = 0x21;

/// What the processor, or whoever answers for it, says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cpuid {
    /// EBX, EDX, ECX of leaf 0x21. Processors without that leaf answer with another one's numbers,
    /// which do not spell the name.
    pub tdx: [u8; 12],
    /// EAX of leaf 0x8000001F, or 0 where that leaf does not exist.
    pub sev: u32,
}

/// Asks.
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
    // Asked for an extended leaf that it does not have, a processor answers with something else.
    let known = __cpuid(EXTENDED).eax >= ENCRYPTION;
    let sev = if known { __cpuid(ENCRYPTION).eax } else { 0 };
    Cpuid { tdx, sev }
}
