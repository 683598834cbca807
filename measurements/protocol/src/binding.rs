//! Bindings: the bytes that evidence commits to (SPEC.md §2). Boot and session bindings have the same layout and different
//! tags. The report data of the CPU's evidence are the SHA-512 digest of a binding.
//!
//! ```text
//! offset size field
//!      0   16 tag: "cocoon-boot-v1\0\0" or "cocoon-session-1"
//!     16    2 version, big-endian, 1
//!     18    1 TEE: 1 TDX, 2 SEV-SNP
//!     19    1 zero
//!     20   32 SHA-256 of the TLS leaf's SubjectPublicKeyInfo (DER)
//!     52   32 meter key (Ed25519 public key)
//!     84   32 manifest id: SHA-256 of the manifest's bytes
//!    116   32 model digest: dm-verity root of the model volume
//!    148   48 configuration digest: SHA-384 (TDX), or SHA-256 and 16 zero bytes (SNP)
//!     196   32 GPU digest: of the GPU section; in the boot binding of the GPUs' keys; zero without a GPU
//!    228   32 nonce, zero in the boot binding
//!    260   32 TLS exporter, zero in the boot binding
//!    292
//! ```

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256, Sha512};

use crate::bytes::{Hex, Hex32, Hex48, Hex64};

/// Length of an encoded binding, in bytes.
pub const BINDING_LEN: usize = 292;
/// Version of the layout described in the module's documentation.
pub const BINDING_VERSION: u16 = 1;
/// TLS exporter label for the session binding (RFC 5705, RFC 8446 §7.5). The exporter has no context and is 32 bytes long.
pub const EXPORTER_LABEL: &[u8] = b"EXPORTER-cocoon-session-binding";

const BOOT_TAG: &[u8; 16] = b"cocoon-boot-v1\0\0";
const SESSION_TAG: &[u8; 16] = b"cocoon-session-1";
/// Byte range of the GPU digest in a binding.
const GPU_DIGEST: std::ops::Range<usize> = 196..228;
const GPU_NONCE_TAG: &[u8; 16] = b"cocoon-gpu-nonce";

/// The kinds of trusted execution environment that the appliance runs in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tee {
    /// Intel Trust Domain Extensions.
    Tdx,
    /// AMD Secure Encrypted Virtualization with Secure Nested Paging.
    SevSnp,
}

impl Tee {
    /// Returns the number of this TEE in the binding.
    pub const fn code(self) -> u8 {
        match self {
            Tee::Tdx => 1,
            Tee::SevSnp => 2,
        }
    }
}

impl std::fmt::Display for Tee {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Tee::Tdx => "tdx",
            Tee::SevSnp => "sev-snp",
        })
    }
}

/// Claims: the part of a binding that stays the same from boot to shutdown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claims {
    /// The TEE that produced the evidence.
    pub tee: Tee,
    /// SHA-256 of the TLS leaf's SubjectPublicKeyInfo, DER.
    pub leaf_spki_sha256: Hex32,
    /// Ed25519 public key that signs receipts.
    pub meter_key: Hex32,
    /// SHA-256 of the manifest that the host named at boot. The guest cannot check it. The verifier compares it with the
    /// identity of its own manifest.
    pub manifest_id: Hex32,
    /// dm-verity root hash of the model volume, from the measured command line.
    pub model_digest: Hex32,
    /// Digest of the operator's configuration; see [`crate::config`].
    pub config_digest: Hex48,
    /// GPU digest: [`crate::gpu_section::GpuSection::digest`] in a session, [`crate::gpu_section::keys_digest`] at boot, zero
    /// if the machine has no GPU.
    pub gpu_section_digest: Hex32,
}

/// The fresh values of a session: the client's nonce and the exporter of the TLS session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Freshness {
    /// 32 bytes chosen by the client.
    pub nonce: Hex32,
    /// Exporter of the TLS session; see [`EXPORTER_LABEL`].
    pub exporter: Hex32,
}

/// Returns the boot binding, which commits to the claims alone and never authorises a prompt.
pub fn boot(claims: &Claims) -> [u8; BINDING_LEN] {
    encode(BOOT_TAG, claims, &Hex32::ZERO, &Hex32::ZERO)
}

/// Returns the session binding, which commits to the claims, the client's nonce and the TLS session.
pub fn session(claims: &Claims, fresh: &Freshness) -> [u8; BINDING_LEN] {
    encode(SESSION_TAG, claims, &fresh.nonce, &fresh.exporter)
}

/// Returns the 64 bytes of report data for a binding: its SHA-512 digest.
pub fn report_data(binding: &[u8; BINDING_LEN]) -> Hex64 {
    Hex64::from_digest(Sha512::digest(binding).into())
}

/// Returns the GPUs' nonce: SHA-256 over a tag and `committed`. These are the bytes of which the report data would be the
/// SHA-512 digest if every GPU digest were zero: a binding, or the 52 bytes of a batch.
pub(crate) fn nonce_over(committed: &[u8]) -> Hex32 {
    let hash = Sha256::new().chain_update(GPU_NONCE_TAG);
    Hex(hash.chain_update(committed).finalize().into())
}

/// Returns the GPUs' nonce for a binding outside a batch. The GPU digest of `binding` is set to zero first, because the GPUs'
/// evidence does not exist when they are asked.
pub fn gpu_nonce(binding: &[u8; BINDING_LEN]) -> Hex32 {
    nonce_over(&without_gpus(binding))
}

/// Returns the binding with its GPU digest set to zero.
pub(crate) fn without_gpus(binding: &[u8; BINDING_LEN]) -> [u8; BINDING_LEN] {
    let mut bare = *binding;
    bare[GPU_DIGEST].fill(0);
    bare
}

impl Hex64 {
    pub(crate) const fn from_digest(digest: [u8; 64]) -> Self {
        Self(digest)
    }
}

fn encode(tag: &[u8; 16], claims: &Claims, nonce: &Hex32, exporter: &Hex32) -> [u8; BINDING_LEN] {
    let version = BINDING_VERSION.to_be_bytes();
    let fields: [&[u8]; 12] = [
        tag,
        &version,
        &[claims.tee.code()],
        &[0],
        &claims.leaf_spki_sha256.0,
        &claims.meter_key.0,
        &claims.manifest_id.0,
        &claims.model_digest.0,
        &claims.config_digest.0,
        &claims.gpu_section_digest.0,
        &nonce.0,
        &exporter.0,
    ];
    let mut out = [0; BINDING_LEN];
    let mut at = 0;
    for field in fields {
        out[at..at + field.len()].copy_from_slice(field);
        at += field.len();
    }
    debug_assert_eq!(at, BINDING_LEN);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims() -> Claims {
        Claims {
            tee: Tee::Tdx,
            leaf_spki_sha256: Hex([1; 32]),
            meter_key: Hex([2; 32]),
            manifest_id: Hex([3; 32]),
            model_digest: Hex([4; 32]),
            config_digest: Hex([5; 48]),
            gpu_section_digest: Hex([6; 32]),
        }
    }

    #[test]
    fn cocoon_bind_1() {
        let fresh = Freshness {
            nonce: Hex([7; 32]),
            exporter: Hex([8; 32]),
        };
        let bytes = session(&claims(), &fresh);
        assert_eq!(&bytes[..16], b"cocoon-session-1");
        assert_eq!(&bytes[16..20], &[0, 1, 1, 0]);
        for (at, len, value) in [
            (20, 32, 1),
            (52, 32, 2),
            (84, 32, 3),
            (116, 32, 4),
            (148, 48, 5),
            (196, 32, 6),
            (228, 32, 7),
            (260, 32, 8),
        ] {
            assert_eq!(
                bytes[at..at + len],
                vec![value; len],
                "field at offset {at}"
            );
        }
    }

    #[test]
    fn cocoon_bind_2() {
        let fresh = Freshness {
            nonce: Hex32::ZERO,
            exporter: Hex32::ZERO,
        };
        assert_ne!(boot(&claims()), session(&claims(), &fresh));
        assert_ne!(
            report_data(&boot(&claims())),
            report_data(&session(&claims(), &fresh))
        );
    }

    #[test]
    fn cocoon_bind_3() {
        let base = report_data(&boot(&claims()));
        let edits: [fn(&mut Claims); 7] = [
            |c| c.tee = Tee::SevSnp,
            |c| c.leaf_spki_sha256.0[31] ^= 1,
            |c| c.meter_key.0[0] ^= 1,
            |c| c.manifest_id.0[0] ^= 1,
            |c| c.model_digest.0[31] ^= 1,
            |c| c.config_digest.0[47] ^= 1,
            |c| c.gpu_section_digest.0[0] ^= 1,
        ];
        for edit in edits {
            let mut changed = claims();
            edit(&mut changed);
            assert_ne!(report_data(&boot(&changed)), base);
        }
    }

    #[test]
    fn cocoon_bind_4() {
        assert_eq!(EXPORTER_LABEL, b"EXPORTER-cocoon-session-binding");
        let fresh = Freshness {
            nonce: Hex([7; 32]),
            exporter: Hex([8; 32]),
        };
        let base = report_data(&session(&claims(), &fresh));
        let other = Freshness {
            exporter: Hex([9; 32]),
            ..fresh
        };
        assert_ne!(report_data(&session(&claims(), &other)), base);
        let other = Freshness {
            nonce: Hex([9; 32]),
            ..fresh
        };
        assert_ne!(report_data(&session(&claims(), &other)), base);
    }

    /// Test vector for other implementations: SHA-512 of the session binding of the layout test.
    #[test]
    fn report_data_of_the_example() {
        let fresh = Freshness {
            nonce: Hex([7; 32]),
            exporter: Hex([8; 32]),
        };
        assert_eq!(
            report_data(&session(&claims(), &fresh)).to_string(),
            EXAMPLE_SESSION
        );
        assert_eq!(report_data(&boot(&claims())).to_string(), EXAMPLE_BOOT);
    }

    /// The examples of SPEC.md §2.2, whose values come from an independent implementation. The example of a batch is tested
    /// with the batches.
    #[test]
    fn cocoon_gpu_16() {
        let fresh = Freshness {
            nonce: Hex([7; 32]),
            exporter: Hex([8; 32]),
        };
        let asked = |binding| gpu_nonce(&binding).to_string();
        let nonce = "0d58bb12db6b1e8ace2ffc7febb02360ce91845ea7d81088be22190dffc2ced9";
        assert_eq!(asked(session(&claims(), &fresh)), nonce);
        assert_eq!(
            asked(boot(&claims())),
            "911ff6a551c803a082e153045d48c4341aa6d9383c4225de14806a4bac1c5014"
        );
        // The nonce cannot depend on the digest of the GPUs' evidence, which answers it. It depends on every other field.
        let answered = Claims {
            gpu_section_digest: Hex32::ZERO,
            ..claims()
        };
        assert_eq!(asked(session(&answered, &fresh)), nonce);
        let other = Claims {
            meter_key: Hex32::ZERO,
            ..claims()
        };
        assert_ne!(asked(session(&other, &fresh)), nonce);
        for other in [
            Freshness {
                nonce: Hex32::ZERO,
                ..fresh
            },
            Freshness {
                exporter: Hex32::ZERO,
                ..fresh
            },
        ] {
            assert_ne!(asked(session(&claims(), &other)), nonce);
        }
    }

    const EXAMPLE_SESSION: &str = "104e39425646fd9232e8ca660092371d1475368b15a4df662220dae29d887af48a50f33c88b7766b6b4f02a45605e086b061d4f7104cc4af18bb078e4727c02a";
    const EXAMPLE_BOOT: &str = "542435532aa9fd5a544a142ce0fe864e76ec4ca5b7ac21bad4311a278888ba6b7bb824ebc95fe8c1be1ca753e63c83f1d3bf9259daaeb925940efc906c450f5b";
}
