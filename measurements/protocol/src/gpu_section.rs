//! The GPU section of an attestation document (SPEC.md §2.2): evidence of every GPU of the machine. The digest of its
//! canonical bytes is a field of the binding.
//!
//! ```text
//! size field
//!   16 tag: "cocoon-gpu-v1\0\0\0"
//!    2 version, big-endian, 1
//!    2 GPUs that the guest counted itself, big-endian
//!    2 GPUs that follow, big-endian
//! each GPU:
//!    4 length of the report, big-endian, and the report
//!    4 length of the certificates in PEM, big-endian, and the certificates
//!    1 bit 0 confidential computing, bit 1 developer mode, bit 2 protected PCIe
//!    1 length of the driver's version, and the version
//!    1 length of the VBIOS version, and the version
//! ```

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::binding::BINDING_VERSION;
use crate::bytes::{Hex, Hex32};
use crate::gpu::{CollectedGpu, GpuError, MAX_GPUS};

const SECTION_TAG: &[u8; 16] = b"cocoon-gpu-v1\0\0\0";
const KEYS_TAG: &[u8; 16] = b"cocoon-gpu-keys1";

/// Evidence of the GPUs of a guest, for one session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GpuSection {
    /// Number of GPUs that the guest counted on its PCI bus. There must be evidence of as many.
    pub functions: u16,
    /// Evidence of each GPU.
    pub gpus: Vec<CollectedGpu>,
    /// In a batch, the inclusion proof of this session's binding with zero as GPU digest, in the tree over which the GPUs'
    /// nonce was computed. Leaves and index are those of the document's `batch`. The path is not part of the digest, because
    /// the nonce in the reports authenticates it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub path: Vec<Hex32>,
}

/// Reason why a GPU section is malformed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SectionError {
    /// The number of GPUs is out of range. A guest without GPUs has no section.
    #[error("a GPU section has 1 to {MAX_GPUS} GPUs, this one has {0}")]
    Gpus(usize),
    /// The evidence of one GPU is malformed.
    #[error("evidence of GPU {place}: {error}")]
    Gpu {
        /// Index of the GPU, from zero.
        place: usize,
        /// What is wrong.
        error: GpuError,
    },
    /// There is a path although the document has no position in a batch.
    #[error("the GPU section has a path, and the document no place in a batch")]
    Path,
}

impl GpuSection {
    /// Checks the form, not whether the evidence can be trusted. `batched` says whether the document has a position in a
    /// batch.
    ///
    /// # Errors
    /// [`SectionError`] for a wrong number of GPUs, malformed evidence, or a path without a batch.
    pub fn check(&self, batched: bool) -> Result<(), SectionError> {
        if !(1..=MAX_GPUS).contains(&self.gpus.len()) {
            return Err(SectionError::Gpus(self.gpus.len()));
        }
        for (place, gpu) in self.gpus.iter().enumerate() {
            gpu.check()
                .map_err(|error| SectionError::Gpu { place, error })?;
        }
        // The length of the path is checked where the nonce is computed from it.
        match self.path.is_empty() || batched {
            true => Ok(()),
            false => Err(SectionError::Path),
        }
    }

    /// Returns the GPU digest of a session's claims: SHA-256 of the canonical bytes.
    pub fn digest(&self) -> Hex32 {
        let mut hash = Sha256::new();
        hash.update(SECTION_TAG);
        hash.update(BINDING_VERSION.to_be_bytes());
        hash.update(self.functions.to_be_bytes());
        hash.update(short(self.gpus.len()).to_be_bytes());
        for CollectedGpu {
            report,
            chain,
            driver,
        } in &self.gpus
        {
            for field in [report.as_ref(), chain.as_bytes()] {
                hash.update(u32::try_from(field.len()).unwrap_or(u32::MAX).to_be_bytes());
                hash.update(field);
            }
            hash.update([u8::from(driver.confidential_computing)
                | u8::from(driver.developer_mode) << 1
                | u8::from(driver.protected_pcie) << 2]);
            for version in [&driver.driver_version, &driver.vbios_version] {
                hash.update([u8::try_from(version.len()).unwrap_or(u8::MAX)]);
                hash.update(version.as_bytes());
            }
        }
        Hex(hash.finalize().into())
    }
}

/// Returns the GPU digest of a boot's claims. It is the SHA-256 of tag, version, number of keys, and the SHA-256 digest of
/// each GPU's attestation key (SubjectPublicKeyInfo, DER) in the order of the section. These keys do not change while the
/// guest runs.
pub fn keys_digest(attestation_keys: &[Hex32]) -> Hex32 {
    let mut hash = Sha256::new();
    hash.update(KEYS_TAG);
    hash.update(BINDING_VERSION.to_be_bytes());
    hash.update(short(attestation_keys.len()).to_be_bytes());
    for key in attestation_keys {
        hash.update(key);
    }
    Hex(hash.finalize().into())
}

/// Converts a length, which [`GpuSection::check`] limits to far less than `u16::MAX`.
fn short(length: usize) -> u16 {
    u16::try_from(length).unwrap_or(u16::MAX)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::bytes::Blob;
    use crate::gpu::DriverState;

    pub(crate) fn section() -> GpuSection {
        GpuSection {
            functions: 1,
            gpus: vec![CollectedGpu {
                report: Blob(vec![1, 2, 3]),
                chain: "PEM".into(),
                driver: DriverState {
                    confidential_computing: true,
                    developer_mode: false,
                    protected_pcie: false,
                    driver_version: "550.144.03".into(),
                    vbios_version: "96.00.5E.00.01".into(),
                },
            }],
            path: Vec::new(),
        }
    }

    /// The digest is the hash of the canonical bytes, which are written out here, and covers every field.
    #[test]
    fn cocoon_gpu_17() {
        let bytes = [
            b"cocoon-gpu-v1\0\0\0\0\x01\0\x01\0\x01".as_slice(),
            b"\0\0\0\x03\x01\x02\x03\0\0\0\x03PEM\x01",
            b"\x0a550.144.03\x0e96.00.5E.00.01",
        ]
        .concat();
        assert_eq!(section().digest(), Hex32::sha256(&bytes));
        assert_eq!(section().digest().to_string(), EXAMPLE);
        let edits: [fn(&mut GpuSection); 9] = [
            |s| s.functions = 2,
            |s| s.gpus.push(s.gpus[0].clone()),
            |s| s.gpus[0].report.0[0] ^= 1,
            |s| s.gpus[0].chain.push('\n'),
            |s| s.gpus[0].driver.confidential_computing = false,
            |s| s.gpus[0].driver.developer_mode = true,
            |s| s.gpus[0].driver.protected_pcie = true,
            |s| s.gpus[0].driver.driver_version.push('1'),
            |s| s.gpus[0].driver.vbios_version.push('1'),
        ];
        for edit in edits {
            let mut changed = section();
            edit(&mut changed);
            assert_ne!(changed.digest(), section().digest());
        }
        // The path is different in each session of a batch. It is not part of the shared section's digest.
        let mut elsewhere = section();
        elsewhere.path.push(Hex32::ZERO);
        assert_eq!(elsewhere.digest(), section().digest());
    }

    #[test]
    fn keys_have_their_order_and_number() {
        let (one, other) = (Hex([1; 32]), Hex([2; 32]));
        assert_eq!(
            keys_digest(&[one]),
            Hex32::sha256(&[b"cocoon-gpu-keys1\0\x01\0\x01".as_slice(), &[1; 32]].concat())
        );
        assert_ne!(keys_digest(&[one, other]), keys_digest(&[other, one]));
        assert_ne!(keys_digest(&[one]), keys_digest(&[one, one]));
    }

    #[test]
    fn a_section_has_gpus_of_the_form() {
        assert_eq!(section().check(false), Ok(()));
        let refused = |edit: fn(&mut GpuSection)| {
            let mut changed = section();
            edit(&mut changed);
            changed.check(false).unwrap_err().to_string()
        };
        assert_eq!(
            refused(|s| s.gpus.clear()),
            "a GPU section has 1 to 16 GPUs, this one has 0"
        );
        assert_eq!(
            refused(|s| s.gpus = vec![s.gpus[0].clone(); 17]),
            "a GPU section has 1 to 16 GPUs, this one has 17"
        );
        assert_eq!(
            refused(|s| s.gpus[0].report.0.clear()),
            "evidence of GPU 0: no bytes of GPU report, where there must be some"
        );
        assert_eq!(
            refused(|s| s.path.push(Hex32::ZERO)),
            "the GPU section has a path, and the document no place in a batch"
        );
    }

    const EXAMPLE: &str = "ecc88f8c09be02a38829a2c7c75de18873f14d670e885e6690c04bc523cbdee2";
}
