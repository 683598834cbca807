//! The manifest (SPEC.md §5): the contents of an image, and the measurements that the hardware must report when it runs.
//!
//! The identity of a manifest is the SHA-256 of its bytes. A verifier accepts a manifest only if keys that it pins have signed
//! it, or if it pins that identity.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::bytes::{Hex32, Hex48};

/// Version of the manifest's schema.
pub const MANIFEST_VERSION: u16 = 1;
/// Largest manifest, in bytes.
pub const MAX_MANIFEST_LEN: usize = 1024 * 1024;
/// Longest validity period of a manifest: 90 days, in seconds. Nothing else limits a rollback to an old image.
pub const MAX_MANIFEST_LIFE: u64 = 90 * 24 * 60 * 60;

/// Reference values with which a verifier compares evidence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Version of the schema: [`MANIFEST_VERSION`].
    pub version: u16,
    /// Release number of the image. It increases with each release, and verifiers keep a lower limit.
    pub release: u64,
    /// Name of the image's variant, such as `cpu`.
    pub variant: String,
    /// Git revision of the source, 40 hexadecimal digits, with the suffix `-dirty` if files were changed.
    pub source_revision: String,
    /// Start of the validity period, in seconds since 1970.
    pub not_before: u64,
    /// End of the validity period, in seconds since 1970, at most [`MAX_MANIFEST_LIFE`] after `not_before`.
    pub not_after: u64,
    /// SHA-256 of the lock file of the build's inputs.
    pub inputs_lock: Hex32,
    /// Inputs that differ from the lock file, each as `name locked-version found-version`. A manifest with any is `unlocked`,
    /// and a verifier refuses it unless its policy allows it.
    pub unlocked: Vec<String>,
    /// Whether the kernel keeps ACPI code of the host away from guest memory.
    pub aml_guard: bool,
    /// Artefacts by file name: `vmlinuz`, `initrd.img`, `cmdline`, `OVMF.tdx.fd`, `OVMF.snp.fd`, `model.img`, `sbom.spdx.json`,
    /// and `runtime.img` in an image with real GPUs.
    #[serde(deserialize_with = "crate::unique::names")]
    pub artefacts: BTreeMap<String, Artefact>,
    /// The exact kernel command line.
    pub cmdline: String,
    /// The model volume.
    pub model: Model,
    /// Additional contents of an image with real GPUs; absent in others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu: Option<GpuImage>,
    /// Expected TDX measurements.
    pub tdx: TdxReference,
    /// Expected SNP measurements.
    pub snp: SnpReference,
}

/// Digest and size of one file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Artefact {
    /// SHA-256 of the file's bytes.
    pub sha256: Hex32,
    /// Length of the file in bytes.
    pub size: u64,
}

/// The model volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// Identifier of the model in the API.
    pub id: String,
    /// dm-verity root hash: the model digest of the claims.
    pub verity_root: Hex32,
    /// dm-verity salt.
    pub verity_salt: Hex32,
    /// Number of data blocks of 4096 bytes. The hash tree follows them.
    pub verity_data_blocks: u64,
    /// Files in the volume, by name.
    #[serde(deserialize_with = "crate::unique::names")]
    pub files: BTreeMap<String, Artefact>,
}

/// Contents and missing protections of an image with real GPUs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GpuImage {
    /// Version of NVIDIA's driver, such as `550.163.01`.
    pub driver: String,
    /// The volume of programs and libraries that use the GPUs.
    pub runtime: Runtime,
    /// Protections of other images that this image lacks or gets later in its boot, each with the reason.
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
    /// Number of data blocks of 4096 bytes. The hash tree follows them.
    pub verity_data_blocks: u64,
    /// Files in the volume, by name.
    #[serde(deserialize_with = "crate::unique::names")]
    pub files: BTreeMap<String, Artefact>,
}

/// Reference values for TDX.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TdxReference {
    /// Measurement of the firmware, with pages added and extended in one pass (KVM since Linux 6.16).
    pub mrtd: Hex48,
    /// Kernel and boot events.
    pub rtmr1: Hex48,
    /// Command line and initrd.
    pub rtmr2: Hex48,
    /// Machine shapes, of which a verifier accepts any one.
    pub platforms: Vec<TdxPlatform>,
}

/// A machine shape: the events of RTMR0 in order, and the parameters that they depend on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TdxPlatform {
    /// Name for people, such as `simulated, 1024 MiB`.
    pub name: String,
    /// Guest memory in MiB, which determines the TD HOB.
    pub memory_mib: u64,
    /// Number of virtual CPUs, which ACPI and SMBIOS tables list. Absent if no table depends on it, as in the simulator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vcpus: Option<u32>,
    /// Size in MiB of the window for a GPU's BARs (`opt/ovmf/X-PciMmio64Mb`, measured by the firmware). Absent in machines
    /// without a GPU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mmio64_mib: Option<u32>,
    /// Origin of the values.
    pub source: PlatformSource,
    /// Expected events of RTMR0, in order.
    pub rtmr0_events: Vec<ReferenceEvent>,
}

/// Origin of a machine shape's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PlatformSource {
    /// Pinned from the simulator. Valid for simulated evidence only.
    Simulator,
    /// Computed from the artefacts, or pinned by the manifest's signers.
    Computed,
}

/// An expected event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReferenceEvent {
    /// Name for people: what the digest is over.
    pub name: String,
    /// SHA-384 digest that extends the register.
    pub digest: Hex48,
}

/// Reference values for SEV-SNP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnpReference {
    /// Guest features (`SEV_FEATURES`) that the digests assume.
    pub guest_features: u64,
    /// Launch digests by CPU model and number of vCPUs. Empty if the image is not released for SEV-SNP.
    pub launch: Vec<SnpLaunch>,
}

/// A launch digest and the machine that it belongs to.
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

/// Reason why bytes are not a valid manifest.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// The manifest is longer than [`MAX_MANIFEST_LEN`].
    #[error("manifest of {0} bytes exceeds the limit of {MAX_MANIFEST_LEN}")]
    TooLong(usize),
    /// The bytes are not JSON of the schema.
    #[error("manifest is not JSON of the expected schema")]
    Malformed(#[source] serde_json::Error),
    /// The manifest has another version of the schema.
    #[error("manifest has version {0}, this program knows version {MANIFEST_VERSION}: update it")]
    Version(u16),
    /// The validity period is longer than allowed, or ends before it begins.
    #[error(
        "manifest claims to be valid from {not_before} to {not_after}, more than the 90 days allowed or less than nothing"
    )]
    Life {
        /// Start of the validity period, in seconds since 1970.
        not_before: u64,
        /// End of the validity period, in seconds since 1970.
        not_after: u64,
    },
}

impl Manifest {
    /// Parses a manifest and checks its form. Its signatures decide whether it is trusted.
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

    /// Encodes the manifest: indented JSON with a final newline, maps in the order of their keys.
    pub fn to_json(&self) -> Vec<u8> {
        // Serialisation cannot fail: all map keys are strings, and all fields are plain.
        let mut bytes = serde_json::to_vec_pretty(self).unwrap_or_default();
        bytes.push(b'\n');
        bytes
    }
}

/// Returns the identity of a manifest: the SHA-256 of its bytes.
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

    /// Parsing is strict, and the identity depends on the bytes and not on their meaning.
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
        // A parser that kept the first of two entries would read another reason.
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
