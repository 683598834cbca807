//! QEMU's EPYC CPU models and their CPUID signatures, which are part of the launch digest.

use std::{fmt, str::FromStr};

use thiserror::Error;

/// A CPU model of QEMU, with its newest version (`-v1` to `-vN`) in QEMU 11.
struct Generation {
    name: &'static str,
    versions: u8,
    family: u32,
    model: u32,
    stepping: u32,
}

/// From QEMU's `target/i386/cpu.c`. The versions of a model differ in features, but not in signature.
const GENERATIONS: [Generation; 5] = [
    Generation {
        name: "EPYC",
        versions: 5,
        family: 23,
        model: 1,
        stepping: 2,
    },
    Generation {
        name: "EPYC-Rome",
        versions: 5,
        family: 23,
        model: 49,
        stepping: 0,
    },
    Generation {
        name: "EPYC-Milan",
        versions: 3,
        family: 25,
        model: 1,
        stepping: 1,
    },
    Generation {
        name: "EPYC-Genoa",
        versions: 2,
        family: 25,
        model: 17,
        stepping: 0,
    },
    Generation {
        name: "EPYC-Turin",
        versions: 2,
        family: 26,
        model: 0,
        stepping: 0,
    },
];

/// Former name of `EPYC-v2`.
const IBPB: &str = "EPYC-IBPB";

/// One of QEMU's EPYC models, by its exact name (`-cpu EPYC-v4`).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CpuModel {
    name: String,
    signature: u32,
}

/// The name is not one of QEMU's EPYC models.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "unknown CPU model {name:?}: expected EPYC, EPYC-Rome, EPYC-Milan, EPYC-Genoa or EPYC-Turin, with or without -vN"
)]
pub struct UnknownCpu {
    /// The unknown name.
    pub name: String,
}

impl CpuModel {
    /// Returns the name as given to QEMU.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the CPUID signature (Fn0000_0001_EAX). A processor holds it in RDX at reset, where SNP measures it.
    #[must_use]
    pub const fn signature(&self) -> u32 {
        self.signature
    }

    /// Returns all known models.
    pub fn all() -> impl Iterator<Item = Self> {
        let versions = GENERATIONS.iter().flat_map(|generation| {
            let versioned =
                (1..=generation.versions).map(|version| format!("{}-v{version}", generation.name));
            std::iter::once(generation.name.to_owned()).chain(versioned)
        });
        versions
            .chain([IBPB.to_owned()])
            .filter_map(|name| name.parse().ok())
    }
}

impl FromStr for CpuModel {
    type Err = UnknownCpu;

    fn from_str(name: &str) -> Result<Self, UnknownCpu> {
        let generation = GENERATIONS.iter().find(|generation| {
            let Some(rest) = name.strip_prefix(generation.name) else {
                return false;
            };
            let version =
                |version: &str| (1..=generation.versions).any(|known| known.to_string() == version);
            rest.is_empty() || rest.strip_prefix("-v").is_some_and(version) || name == IBPB
        });
        let generation = generation.ok_or_else(|| UnknownCpu {
            name: name.to_owned(),
        })?;
        Ok(Self {
            name: name.to_owned(),
            signature: generation.signature(),
        })
    }
}

impl fmt::Display for CpuModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl Generation {
    /// Encodes the signature as in AMD's CPUID specification 25481, where families above 15 are split in two fields.
    const fn signature(&self) -> u32 {
        (self.family - 15) << 20
            | (self.model >> 4) << 16
            | 15 << 8
            | (self.model & 15) << 4
            | self.stepping
    }
}

#[cfg(test)]
mod tests {
    use super::{CpuModel, UnknownCpu};

    #[test]
    fn signatures_are_those_of_the_processors() {
        let signature = |name: &str| name.parse::<CpuModel>().unwrap().signature();
        assert_eq!(signature("EPYC-v4"), 0x0080_0f12);
        assert_eq!(signature("EPYC-IBPB"), 0x0080_0f12);
        assert_eq!(signature("EPYC-Rome"), 0x0083_0f10);
        assert_eq!(signature("EPYC-Milan-v2"), 0x00a0_0f11);
        assert_eq!(signature("EPYC-Genoa"), 0x00a1_0f10);
        assert_eq!(signature("EPYC-Turin-v1"), 0x00b0_0f00);
        assert_eq!(CpuModel::all().count(), 5 + 17 + 1);
    }

    #[test]
    fn other_names_are_refused() {
        for name in [
            "",
            "EPYC-",
            "EPYC-v0",
            "EPYC-v9",
            "EPYC-v01",
            "epyc",
            "EPYC-Milan-IBPB",
            "host",
            "EPYC-Rome-v44",
        ] {
            assert_eq!(
                name.parse::<CpuModel>(),
                Err(UnknownCpu {
                    name: name.to_owned()
                })
            );
        }
    }
}
