//! Attestation reports of versions 2, 3 and 5, 1184 bytes long (AMD 56860, SEV-SNP Firmware ABI Specification 1.58,
//! "ATTESTATION_REPORT"). Version 3 added the processor's CPUID and version 5 the mitigations. The TCB of Turin has another
//! layout.

use p384::ecdsa::signature::Signer;
use rand_core::{OsRng, RngCore};

use super::generation::Generation;
use crate::x509::{PrivateKey, X509Error};

/// Length of a report in bytes.
pub const REPORT_LEN: usize = 1184;
/// Number of bytes that the signature covers.
pub const SIGNED_LEN: usize = 0x2a0;
/// Policy of a valid guest: the bit that must be one, and SMT. Debugging and migration agents are not allowed.
pub const POLICY: u64 = 0x3_0000;
/// Id of a Milan chip that does not exist.
pub const CHIP_ID: [u8; 64] = Generation::Milan.chip_id();

/// ECDSA P-384 with SHA-384.
const SIGNATURE_ALGORITHM: u32 = 1;
/// SMT is on, and memory aliasing was checked at boot.
const PLATFORM_INFO: u64 = 0x21;
/// Build, minor and major version of the firmware, in this order.
const FIRMWARE: [u8; 3] = [37, 55, 1];

/// Security versions of the platform's components.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tcb {
    /// First mutable code (FMC). Only Turin has it, with another layout of the TCB.
    pub fmc: Option<u8>,
    /// Boot loader of the AMD secure processor.
    pub bootloader: u8,
    /// Operating system of the AMD secure processor.
    pub tee: u8,
    /// SNP firmware.
    pub snp: u8,
    /// Microcode.
    pub microcode: u8,
}

impl Tcb {
    /// TCB of the simulated Milan platform.
    pub const CURRENT: Self = Self {
        fmc: None,
        bootloader: 4,
        tee: 0,
        snp: 27,
        microcode: 222,
    };

    /// Returns the 8 bytes of `TCB_VERSION`.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; 8] {
        let Self {
            bootloader,
            tee,
            snp,
            microcode,
            ..
        } = self;
        match self.fmc {
            None => [bootloader, tee, 0, 0, 0, 0, snp, microcode],
            Some(fmc) => [fmc, bootloader, tee, snp, 0, 0, 0, microcode],
        }
    }
}

/// Key that signed a report, as the report states it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SigningKey {
    /// The chip's key.
    Vcek,
    /// A provider's key that is loaded into the chip.
    Vlek,
}

/// The fields of a report that verifiers check. Tests can set each of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnpReport {
    /// Version of the format: 2, 3 or 5.
    pub version: u32,
    /// Family, model and stepping of the processor. Not in version 2.
    pub cpuid: [u8; 3],
    /// Signing key that the report names.
    pub signing_key: SigningKey,
    /// Mitigations at the launch of the guest (`LAUNCH_MIT_VECTOR`). Only in version 5.
    pub launch_mitigations: u64,
    /// Mitigations of the platform now (`CURRENT_MIT_VECTOR`). Only in version 5.
    pub current_mitigations: u64,
    /// Security version of the guest from an ID block; zero, because there is none.
    pub guest_svn: u32,
    /// Guest policy.
    pub policy: u64,
    /// Privilege level of the request.
    pub vmpl: u32,
    /// Family of the guest from an ID block; zero, because there is none.
    pub family_id: [u8; 16],
    /// Image of the guest from an ID block; zero, because there is none.
    pub image_id: [u8; 16],
    /// TCB that the platform runs.
    pub current_tcb: Tcb,
    /// TCB from which the chip key is derived.
    pub reported_tcb: Tcb,
    /// TCB below which the platform cannot be rolled back.
    pub committed_tcb: Tcb,
    /// TCB at the launch of the guest.
    pub launch_tcb: Tcb,
    /// `PLATFORM_INFO`.
    pub platform_info: u64,
    /// Data that the guest binds.
    pub report_data: [u8; 64],
    /// Launch digest.
    pub measurement: [u8; 48],
    /// Digest of the operator's configuration.
    pub host_data: [u8; 32],
    /// Digest of the ID block's key; zero, because there is none.
    pub id_key_digest: [u8; 48],
    /// Digest of the author key; zero, because there is none.
    pub author_key_digest: [u8; 48],
    /// Id of this guest.
    pub report_id: [u8; 32],
    /// Id of the migration agent; all ones, because there is none.
    pub report_id_ma: [u8; 32],
    /// Id of the chip.
    pub chip_id: [u8; 64],
}

impl SnpReport {
    /// Returns a valid version 3 report of a Milan guest with these measurements and without report data.
    #[must_use]
    pub fn good(measurement: [u8; 48], host_data: [u8; 32]) -> Self {
        Self::of(Generation::Milan, 3, measurement, host_data)
    }

    /// Returns a valid report of a guest on `generation`, in the given version.
    #[must_use]
    pub fn of(
        generation: Generation,
        version: u32,
        measurement: [u8; 48],
        host_data: [u8; 32],
    ) -> Self {
        let mut report_id = [0; 32];
        OsRng.fill_bytes(&mut report_id);
        let tcb = generation.tcb();
        Self {
            version,
            cpuid: generation.cpuid(),
            signing_key: SigningKey::Vcek,
            launch_mitigations: 0,
            current_mitigations: 0,
            guest_svn: 0,
            policy: POLICY,
            vmpl: 0,
            family_id: [0; 16],
            image_id: [0; 16],
            current_tcb: tcb,
            reported_tcb: tcb,
            committed_tcb: tcb,
            launch_tcb: tcb,
            platform_info: PLATFORM_INFO,
            report_data: [0; 64],
            measurement,
            host_data,
            id_key_digest: [0; 48],
            author_key_digest: [0; 48],
            report_id,
            report_id_ma: [0xff; 32],
            chip_id: generation.chip_id(),
        }
    }

    /// Returns the report with an empty signature.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; REPORT_LEN] {
        let mut bytes = [0; REPORT_LEN];
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        put(0x000, &self.version.to_le_bytes());
        put(0x004, &self.guest_svn.to_le_bytes());
        put(0x008, &self.policy.to_le_bytes());
        put(0x010, &self.family_id);
        put(0x020, &self.image_id);
        put(0x030, &self.vmpl.to_le_bytes());
        put(0x034, &SIGNATURE_ALGORITHM.to_le_bytes());
        put(0x038, &self.current_tcb.to_bytes());
        put(0x040, &self.platform_info.to_le_bytes());
        // SIGNING_KEY is in bits 2 to 4. The lower bits, AUTHOR_KEY_EN and MASK_CHIP_KEY, are clear.
        put(0x048, &[(self.signing_key as u8) << 2]);
        put(0x050, &self.report_data);
        put(0x090, &self.measurement);
        put(0x0c0, &self.host_data);
        put(0x0e0, &self.id_key_digest);
        put(0x110, &self.author_key_digest);
        put(0x140, &self.report_id);
        put(0x160, &self.report_id_ma);
        put(0x180, &self.reported_tcb.to_bytes());
        if self.version >= 3 {
            put(0x188, &self.cpuid);
        }
        if self.version >= 5 {
            put(0x1f8, &self.launch_mitigations.to_le_bytes());
            put(0x200, &self.current_mitigations.to_le_bytes());
        }
        put(0x1a0, &self.chip_id);
        put(0x1e0, &self.committed_tcb.to_bytes());
        put(0x1f0, &self.launch_tcb.to_bytes());
        // Current and committed version.
        for at in [0x1e8, 0x1ec] {
            put(at, &FIRMWARE);
        }
        bytes
    }
}

/// Signs bytes as a report. `r` and `s` are little-endian, with 72 bytes each.
pub(super) fn sign(mut bytes: [u8; REPORT_LEN], key: &PrivateKey) -> Result<Vec<u8>, X509Error> {
    let PrivateKey::P384(key) = key else {
        return Err(X509Error::Key {
            operation: "use",
            reason: "the chip key is not on P-384".into(),
        });
    };
    let signature: p384::ecdsa::Signature = key.sign(&bytes[..SIGNED_LEN]);
    let (r, s) = signature.split_bytes();
    for (at, number) in [(SIGNED_LEN, r), (SIGNED_LEN + 72, s)] {
        for (target, byte) in bytes[at..].iter_mut().zip(number.iter().rev()) {
            *target = *byte;
        }
    }
    Ok(bytes.to_vec())
}
