//! The manifest (SPEC.md §5): what an image is and what hardware must report when it runs.
//!
//! Its identity is the SHA-256 of its bytes. It counts only when signed by signers that the
//! verifier pins, or when pinned by that identity.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::bytes::{Hex32, Hex48};

/// Version of the schema.
pub const MANIFEST_VERSION: u16 = 1;
/// Largest manifest, in bytes.
pub const MAX_MANIFEST_LEN: usize = 1024 * 1024;
/// Longest life of a manifest: 90 days, in seconds. Nothing else bounds a rollback to an old image.
pub const MAX_MANIFEST_LIFE: u64 = 90 * 24 * 60 * 60;

/// Everything a verifier compares evidence with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`MANIFEST_VERSION`].
    pub version: u16,
    /// Release this image belongs to, rising; verifiers keep a floor.
    pub release: u64,
    /// Name of the image's variant, such as `cpu`.
    pub variant: String,
    /// Git revision of the source, 40 hexadecimal digits, with `-dirty` when files were changed.
    pub source_revision: String,
    /// Seconds since 1970: when the manifest begins to count.
    pub not_before: u64,
    /// Seconds since 1970: when it stops counting, at most [`MAX_MANIFEST_LIFE`] later.
    pub not_after: u64,
    /// SHA-256 of the lock file that the image was built from.
    pub inputs_lock: Hex32,
    /// Inputs that were not the locked ones, each `name locked-version found-version`. Not empty
    /// means `unlocked`: a verifier refuses the manifest unless told otherwise.
    pub unlocked: Vec<String>,
    /// Whether the kernel keeps host-supplied ACPI code away from guest memory.
    pub aml_guard: bool,
    /// Artefacts by file name: `vmlinuz`, `initrd.img`, `cmdline`, `OVMF.tdx.fd`, `OVMF.snp.fd`, `model.img`, `sbom.spdx.json`,
    /// and `runtime.img` in an image with real GPUs.
    #[serde(deserialize_with = "crate::unique::names")]
    pub artefacts: BTreeMap<String, Artefact>,
    /// The kernel command line, exactly.
    pub cmdline: String,
    /// The model.
    pub model: Model,
    /// What an image with real GPUs has besides; absent in others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu: Option<GpuImage>,
    /// Expected TDX measurements.
    pub tdx: TdxReference,
    /// Expected SNP measurements.
    pub snp: SnpReference,
}

/// One file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Artefact {
    /// SHA-256 of its bytes.
    pub sha256: Hex32,
    /// Its length in bytes.
    pub size: u64,
}

/// The model volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// Identifier in the API.
    pub id: String,
    /// The model digest of the claims: dm-verity root hash.
    pub verity_root: Hex32,
    /// dm-verity salt.
    pub verity_salt: Hex32,
    /// Data blocks of 4096 bytes; the hash tree begins behind them.
    pub verity_data_blocks: u64,
    /// The files in the volume.
    #[serde(deserialize_with = "crate::unique::names")]
    pub files: BTreeMap<String, Artefact>,
}

/// What an image with real GPUs has, and what it is without.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GpuImage {
    /// Version of NVIDIA's driver, such as `550.163.01`.
    pub driver: String,
    /// The volume with the programs and libraries that use the GPUs.
    pub runtime: Runtime,
    /// Protections that images without GPUs have and this one has not, or later, each with the reason.
    #[serde(deserialize_with = "crate::unique::names")]
    pub without: BTreeMap<String, String>,
}

/// The runtime volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Runtime {
    /// dm-verity root hash.
    pub verity_root: Hex32,
    /// dm-verity salt.
    pub verity_salt: Hex32,
    /// Data blocks of 4096 bytes; the hash tree begins behind them.
    pub verity_data_blocks: u64,
    /// The files in the volume.
    #[serde(deserialize_with = "crate::unique::names")]
    pub files: BTreeMap<String, Artefact>,
}

/// Reference values for TDX.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TdxReference {
    /// The firmware's measurement, pages added and extended in one pass (KVM from 6.16).
    pub mrtd: Hex48,
    /// Kernel and boot events.
    pub rtmr1: Hex48,
    /// Command line and initrd.
    pub rtmr2: Hex48,
    /// Accepted machine shapes; a verifier accepts any one of them.
    pub platforms: Vec<TdxPlatform>,
}

/// What RTMR0 may be on one machine shape: its events in order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TdxPlatform {
    /// For people, such as `simulated, 1024 MiB`.
    pub name: String,
    /// Guest memory in MiB, which decides the TD HOB.
    pub memory_mib: u64,
    /// Virtual CPUs, which ACPI and SMBIOS tables list; absent where no table depends on them, as in the simulator's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vcpus: Option<u32>,
    /// Window for the BARs of a GPU in MiB (`opt/ovmf/X-PciMmio64Mb`, which firmware measures); absent in machines
    /// without a GPU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mmio64_mib: Option<u32>,
    /// Where the values come from.
    pub source: PlatformSource,
    /// Expected events, in order.
    pub rtmr0_events: Vec<ReferenceEvent>,
}

/// Where a machine shape's values come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PlatformSource {
    /// Pinned from the simulator: counts for simulated evidence only.
    Simulator,
    /// Computed from the artefacts, or pinned by the manifest's signers.
    Computed,
}

/// One expected event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReferenceEvent {
    /// For people: what it hashes.
    pub name: String,
    /// SHA-384 that extends the register.
    pub digest: Hex48,
}

/// Reference values for SEV-SNP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnpReference {
    /// Guest features (`SEV_FEATURES`) that the digests assume.
    pub guest_features: u64,
    /// Launch digests by CPU model and vCPU count; none where the image is not released for SEV-SNP.
    pub launch: Vec<SnpLaunch>,
}

/// One launch digest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnpLaunch {
    /// QEMU's name of the CPU model, such as `EPYC-v4`.
    pub cpu_model: String,
    /// Number of vCPUs.
    pub vcpus: u32,
    /// Launch digest.
    pub digest: Hex48,
}

/// Why bytes are not a manifest.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Longer than [`MAX_MANIFEST_LEN`].
    #[error("manifest of {0} bytes exceeds the limit of {MAX_MANIFEST_LEN}")]
    TooLong(usize),
    /// Not JSON of the schema.
    #[error("manifest is not JSON of the expected schema")]
    Malformed(#[source] serde_json::Error),
    /// Another version.
    #[error("manifest has version {0}, this program knows version {MANIFEST_VERSION}: update it")]
    Version(u16),
    /// Lives longer than allowed, or ends before it begins.
    #[error(
        "manifest claims to be valid from {not_before} to {not_after}, more than the 90 days allowed or less than nothing"
    )]
    Life {
        /// Seconds since 1970.
        not_before: u64,
        /// Seconds since 1970.
        not_after: u64,
    },
}

impl Manifest {
    /// Parses and checks form; whether it may be believed is decided by its signatures.
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        if bytes.len() > MAX_MANIFEST_LEN {
            return Err(ManifestError::TooLong(bytes.len()));
        }
        let manifest: Self = serde_json::from_slice(bytes).map_err(ManifestError::Malformed)?;
        if manifest.version != MANIFEST_VERSION {
            return Err(ManifestError::Version(manifest.version));
        }
        let life = manifest.not_after.checked_sub(manifest.not_before);
        if life.is_none_or(|life| life > MAX_MANIFEST_LIFE) {
            return Err(ManifestError::Life {
                not_before: manifest.not_before,
                not_after: manifest.not_after,
            });
        }
        Ok(manifest)
    }

    /// The manifest's bytes: indented JSON with a final newline, maps in key order.
    pub fn to_json(&self) -> Vec<u8> {
        // Maps with string keys and plain fields: serialisation cannot fail.
        let mut bytes = serde_json::to_vec_pretty(self).unwrap_or_default();
        bytes.push(b'\n');
        bytes
    }
}

/// The identity of a manifest: SHA-256 of its bytes.
pub fn manifest_id(bytes: &[u8]) -> Hex32 {
    Hex32::sha256(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bytes::Hex;

    fn manifest() -> Manifest {
        Manifest {
            version: MANIFEST_VERSION,
            release: 1,
            variant: "cpu".into(),
            source_revision: "0".repeat(40),
            not_before: 1000,
            not_after: 1000 + MAX_MANIFEST_LIFE,
            inputs_lock: Hex([1; 32]),
            unlocked: Vec::new(),
            aml_guard: false,
            artefacts: BTreeMap::new(),
            cmdline: "quiet".into(),
            model: Model {
                id: "m".into(),
                verity_root: Hex([2; 32]),
                verity_salt: Hex([3; 32]),
                verity_data_blocks: 1,
                files: BTreeMap::new(),
            },
            gpu: None,
            tdx: TdxReference {
                mrtd: Hex([4; 48]),
                rtmr1: Hex([5; 48]),
                rtmr2: Hex([6; 48]),
                platforms: vec![TdxPlatform {
                    name: "simulated, 1024 MiB".into(),
                    memory_mib: 1024,
                    vcpus: None,
                    mmio64_mib: None,
                    source: PlatformSource::Simulator,
                    rtmr0_events: vec![ReferenceEvent {
                        name: "separator".into(),
                        digest: Hex([7; 48]),
                    }],
                }],
            },
            snp: SnpReference {
                guest_features: 1,
                launch: vec![SnpLaunch {
                    cpu_model: "EPYC-v4".into(),
                    vcpus: 2,
                    digest: Hex([8; 48]),
                }],
            },
        }
    }

    /// Strict reading, and an identity of the bytes, not of what they mean.
    #[test]
    fn cocoon_manifest_10() {
        let bytes = manifest().to_json();
        assert_eq!(Manifest::parse(&bytes).unwrap(), manifest());
        let spaced = [b" ", bytes.as_slice()].concat();
        assert_eq!(Manifest::parse(&spaced).unwrap(), manifest());
        assert_ne!(manifest_id(&spaced), manifest_id(&bytes));
        assert_eq!(manifest_id(&bytes), Hex32::sha256(&bytes));
        let text = String::from_utf8(bytes).unwrap();
        for absent in ["\"gpu\"", "\"mmio64_mib\"", "\"vcpus\": null"] {
            assert!(!text.contains(absent), "{absent}");
        }
        let mut sized = manifest();
        sized.tdx.platforms[0].vcpus = Some(4);
        sized.tdx.platforms[0].mmio64_mib = Some(262_144);
        assert_eq!(Manifest::parse(&sized.to_json()).unwrap(), sized);
        for (from, to) in [
            ("\"version\"", "\"extra\": 1, \"version\""),
            ("\"memory_mib\"", "\"extra\": 1, \"memory_mib\""),
            ("\"vcpus\": 2", "\"vcpus\": -2"),
            ("\"simulator\"", "\"hardware\""),
        ] {
            assert!(text.contains(from));
            let error = Manifest::parse(text.replacen(from, to, 1).as_bytes()).unwrap_err();
            assert!(
                matches!(error, ManifestError::Malformed(_)),
                "{to}: {error}"
            );
        }
        let newer = text.replacen("\"version\": 1", "\"version\": 2", 1);
        assert_eq!(
            Manifest::parse(newer.as_bytes()).unwrap_err().to_string(),
            "manifest has version 2, this program knows version 1: update it"
        );
    }

    #[test]
    fn an_image_with_gpus_says_what_it_is_without() {
        let runtime = Runtime {
            verity_root: Hex([2; 32]),
            verity_salt: Hex([3; 32]),
            verity_data_blocks: 1,
            files: BTreeMap::new(),
        };
        let gpu = GpuImage {
            driver: "550.163.01".into(),
            runtime,
            without: BTreeMap::from([("a lock".into(), "no key".into())]),
        };
        let with = Manifest {
            gpu: Some(gpu),
            ..manifest()
        };
        assert_eq!(Manifest::parse(&with.to_json()).unwrap(), with);
        let text = String::from_utf8(with.to_json()).unwrap();
        let more = text.replacen("\"driver\"", "\"extra\": 1, \"driver\"", 1);
        let error = Manifest::parse(more.as_bytes()).unwrap_err();
        assert!(matches!(error, ManifestError::Malformed(_)), "{error}");
        // Whoever read the first of two would read another reason.
        let twice = text.replacen("\"a lock\"", "\"a lock\": \"first\", \"a lock\"", 1);
        let Err(ManifestError::Malformed(reason)) = Manifest::parse(twice.as_bytes()) else {
            panic!("{twice}");
        };
        let shown = reason.to_string();
        assert!(shown.starts_with("\"a lock\" stands twice"), "{shown}");
    }

    #[test]
    fn a_life_is_at_most_ninety_days() {
        let life = |not_after| {
            Manifest::parse(
                &Manifest {
                    not_after,
                    ..manifest()
                }
                .to_json(),
            )
        };
        assert!(life(1000).is_ok());
        assert!(life(1000 + MAX_MANIFEST_LIFE).is_ok());
        for wrong in [999, 1000 + MAX_MANIFEST_LIFE + 1, u64::MAX] {
            assert!(
                matches!(life(wrong), Err(ManifestError::Life { not_before: 1000, not_after }) if not_after == wrong)
            );
        }
    }
}
