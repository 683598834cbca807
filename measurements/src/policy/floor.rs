//! Lowest accepted security patch levels of AMD's processors, per part, because each part numbers its microcode separately.
//!
//! Where the defaults come from (all public, as of 2026):
//!
//! * **microcode**: the levels of AMD-SB-3020, AMD-SB-3023 and AMD-SB-3027 (January 2026). Below them a neighbour on the same
//!   core shifts a guest's stack pointer (CVE-2025-29943). They are well above the first level that checks patch signatures
//!   soundly (AMD-SB-3019, AMD-SB-7033). The level is the lowest byte of the patch number.
//! * **SNP firmware**: 27 for Milan and Genoa, from AMD-SB-3020. Below it a host corrupts the RMP while it is set up, by
//!   software alone; it then reads and writes guests' memory and forges their attestation (CVE-2025-0033).
//! * **boot loader, TEE, FMC, and Turin's SNP firmware**: the levels that production machines of 2025 and 2026 report: Milan
//!   4/0, Genoa 10/0, Turin 1/1/4 with FMC 1.
//!
//! The bulletins' numbers come from public verifiers that cite them, not from AMD's pages (November 2026).
//!
//! The defaults do not exclude Turin before the fix of CVE-2025-0033, which shows in no level, only in the firmware version
//! and in the mitigation vector of version 5 reports. Nor do they cover bulletins that state no level, such as AMD-SB-3034. A
//! published meaning of one bit of that vector was withdrawn, so no bit is demanded.
//!
//! A floor does not protect against keys extracted from hardware. An attacker with the secret from which a chip derives its
//! keys can sign reports of any level, and of any CPUID of the generation. Published work of 2026 claims to read that secret
//! on Milan by software alone. The defences are a list of [`machines`](super::Policy::machines), which only a VCEK can
//! satisfy, or refusing the part with a floor of 255, for `milan` and `milan_x`.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::snp::report::{Product, TcbVersion};

/// AMD processors, distinguished where their patch levels are numbered separately.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SnpPart {
    /// EPYC 7003.
    Milan,
    /// EPYC 7003 with 3D V-Cache.
    MilanX,
    /// EPYC 9004.
    Genoa,
    /// EPYC 9004 with 3D V-Cache.
    GenoaX,
    /// EPYC 9004 and 8004 with dense cores (Bergamo, Siena).
    Bergamo,
    /// EPYC 9005.
    Turin,
    /// EPYC 9005 with dense cores.
    TurinDense,
}

impl SnpPart {
    /// All parts.
    pub const ALL: [Self; 7] = [
        Self::Milan,
        Self::MilanX,
        Self::Genoa,
        Self::GenoaX,
        Self::Bergamo,
        Self::Turin,
        Self::TurinDense,
    ];

    /// Returns the part from which a verified report comes. The root key that vouches for the report (`product`) decides the
    /// generation; family, model and stepping (`cpuid`), which version 2 reports lack, decide the part within it. If
    /// undetermined, it is the generation's first part, whose floors are the highest. Under a development root (`product` is
    /// `None`) the report's `cpuid` alone decides.
    #[must_use]
    pub const fn of(product: Option<Product>, cpuid: Option<[u8; 3]>) -> Self {
        match (product, cpuid) {
            (Some(Product::Milan) | None, Some([0x19, 0x01, 2])) => Self::MilanX,
            (Some(Product::Genoa) | None, Some([0x19, 0x11, 2])) => Self::GenoaX,
            (Some(Product::Genoa) | None, Some([0x19, 0xa0..=0xaf, _])) => Self::Bergamo,
            (Some(Product::Turin) | None, Some([0x1a, 0x10..=0x11, _])) => Self::TurinDense,
            (Some(Product::Genoa), _) | (None, Some([0x19, 0x10..=0x1f, _])) => Self::Genoa,
            (Some(Product::Turin), _) | (None, Some([0x1a, ..])) => Self::Turin,
            (Some(Product::Milan) | None, _) => Self::Milan,
        }
    }
}

impl fmt::Display for SnpPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Milan => "Milan",
            Self::MilanX => "Milan-X",
            Self::Genoa => "Genoa",
            Self::GenoaX => "Genoa-X",
            Self::Bergamo => "Bergamo or Siena",
            Self::Turin => "Turin",
            Self::TurinDense => "Turin Dense",
        })
    }
}

/// The lowest security patch levels of one part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct SnpTcbFloor {
    /// First mutable code (FMC), which only Turin has. It is not compared on other parts.
    pub fmc: u8,
    /// Boot loader of the AMD secure processor.
    pub bootloader: u8,
    /// Operating system of the AMD secure processor.
    pub tee: u8,
    /// SNP firmware.
    pub snp: u8,
    /// CPU microcode.
    pub microcode: u8,
}

impl SnpTcbFloor {
    /// Returns each component of `found` below the floor: its name, the level found and the level needed. A floor of 255
    /// refuses every level, even 255, because a forged report could state that one.
    pub fn below(&self, found: &TcbVersion) -> Vec<(&'static str, u8, u8)> {
        let parts = [
            ("FMC", found.fmc, self.fmc),
            ("boot loader", Some(found.bootloader), self.bootloader),
            ("TEE", Some(found.tee), self.tee),
            ("SNP firmware", Some(found.snp), self.snp),
            ("microcode", Some(found.microcode), self.microcode),
        ];
        let below = |(name, found, floor): (_, Option<u8>, _)| {
            found
                .filter(|found| *found < floor || floor == u8::MAX)
                .map(|found| (name, found, floor))
        };
        parts.into_iter().filter_map(below).collect()
    }
}

/// The floors of all parts. Values that a stored policy leaves out keep their defaults.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "WrittenFloors")]
pub struct SnpTcbFloors {
    /// Floor of EPYC 7003.
    pub milan: SnpTcbFloor,
    /// Floor of EPYC 7003 with 3D V-Cache.
    pub milan_x: SnpTcbFloor,
    /// Floor of EPYC 9004.
    pub genoa: SnpTcbFloor,
    /// Floor of EPYC 9004 with 3D V-Cache.
    pub genoa_x: SnpTcbFloor,
    /// Floor of EPYC 9004 and 8004 with dense cores.
    pub bergamo: SnpTcbFloor,
    /// Floor of EPYC 9005.
    pub turin: SnpTcbFloor,
    /// Floor of EPYC 9005 with dense cores.
    pub turin_dense: SnpTcbFloor,
}

impl SnpTcbFloors {
    /// Returns the floor of `part`.
    #[must_use]
    pub const fn of(&self, part: SnpPart) -> &SnpTcbFloor {
        match part {
            SnpPart::Milan => &self.milan,
            SnpPart::MilanX => &self.milan_x,
            SnpPart::Genoa => &self.genoa,
            SnpPart::GenoaX => &self.genoa_x,
            SnpPart::Bergamo => &self.bergamo,
            SnpPart::Turin => &self.turin,
            SnpPart::TurinDense => &self.turin_dense,
        }
    }
}

impl Default for SnpTcbFloors {
    fn default() -> Self {
        let floor = |[fmc, bootloader, tee, snp]: [u8; 4], microcode| SnpTcbFloor {
            fmc,
            bootloader,
            tee,
            snp,
            microcode,
        };
        let (milan, genoa, turin) = ([0, 4, 0, 27], [0, 10, 0, 27], [1, 1, 1, 4]);
        Self {
            // Above each part: its microcode patch number, whose lowest byte is the level.
            // 0x0a0011de
            milan: floor(milan, 0xde),
            // 0x0a001247
            milan_x: floor(milan, 0x47),
            // 0x0a101156
            genoa: floor(genoa, 0x56),
            // 0x0a101251
            genoa_x: floor(genoa, 0x51),
            // 0x0aa0021b
            bergamo: floor(genoa, 0x1b),
            // 0x0b002151
            turin: floor(turin, 0x51),
            // 0x0b10104e
            turin_dense: floor(turin, 0x4e),
        }
    }
}

/// Floors as a stored policy has them: every table and every component is optional.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct WrittenFloors {
    milan: WrittenFloor,
    milan_x: WrittenFloor,
    genoa: WrittenFloor,
    genoa_x: WrittenFloor,
    bergamo: WrittenFloor,
    turin: WrittenFloor,
    turin_dense: WrittenFloor,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct WrittenFloor {
    fmc: Option<u8>,
    bootloader: Option<u8>,
    tee: Option<u8>,
    snp: Option<u8>,
    microcode: Option<u8>,
}

impl WrittenFloor {
    fn over(self, default: SnpTcbFloor) -> SnpTcbFloor {
        SnpTcbFloor {
            fmc: self.fmc.unwrap_or(default.fmc),
            bootloader: self.bootloader.unwrap_or(default.bootloader),
            tee: self.tee.unwrap_or(default.tee),
            snp: self.snp.unwrap_or(default.snp),
            microcode: self.microcode.unwrap_or(default.microcode),
        }
    }
}

impl From<WrittenFloors> for SnpTcbFloors {
    fn from(written: WrittenFloors) -> Self {
        let default = Self::default();
        Self {
            milan: written.milan.over(default.milan),
            milan_x: written.milan_x.over(default.milan_x),
            genoa: written.genoa.over(default.genoa),
            genoa_x: written.genoa_x.over(default.genoa_x),
            bergamo: written.bergamo.over(default.bergamo),
            turin: written.turin.over(default.turin),
            turin_dense: written.turin_dense.over(default.turin_dense),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Product, SnpPart, SnpTcbFloor, SnpTcbFloors, TcbVersion};

    #[test]
    fn parts_are_told_by_root_and_signature() {
        let of = SnpPart::of;
        let (milan, genoa, turin) = (
            Some(Product::Milan),
            Some(Product::Genoa),
            Some(Product::Turin),
        );
        for (product, cpuid, part) in [
            (milan, [0x19, 0x01, 1], SnpPart::Milan),
            (milan, [0x19, 0x01, 2], SnpPart::MilanX),
            (genoa, [0x19, 0x11, 1], SnpPart::Genoa),
            (genoa, [0x19, 0x11, 2], SnpPart::GenoaX),
            (genoa, [0x19, 0xa0, 2], SnpPart::Bergamo),
            (turin, [0x1a, 0x02, 1], SnpPart::Turin),
            (turin, [0x1a, 0x11, 0], SnpPart::TurinDense),
        ] {
            assert_eq!(of(product, Some(cpuid)), part);
            assert_eq!(
                of(None, Some(cpuid)),
                part,
                "a development root vouches for no generation"
            );
        }
        // The root decides, not the report's CPUID, so no report gets the lower floor of another generation.
        assert_eq!(of(milan, Some([0x19, 0xa0, 2])), SnpPart::Milan);
        assert_eq!(
            (of(genoa, None), of(turin, None)),
            (SnpPart::Genoa, SnpPart::Turin)
        );
        assert_eq!(of(None, None), SnpPart::Milan);
    }

    #[test]
    fn each_component_is_compared() {
        let floors = SnpTcbFloors::default();
        let exact = |floor: &SnpTcbFloor, fmc| TcbVersion {
            fmc,
            bootloader: floor.bootloader,
            tee: floor.tee,
            snp: floor.snp,
            microcode: floor.microcode,
        };
        let turin = exact(&floors.turin, Some(1));
        assert_eq!(floors.turin.below(&turin), []);
        let low = TcbVersion {
            fmc: Some(0),
            bootloader: 0,
            tee: 0,
            snp: 3,
            microcode: 70,
        };
        let expected = [
            ("FMC", 0, 1),
            ("boot loader", 0, 1),
            ("TEE", 0, 1),
            ("SNP firmware", 3, 4),
            ("microcode", 70, 81),
        ];
        assert_eq!(floors.turin.below(&low), expected);
        // Parts before Turin have no FMC, so its floor does not apply.
        let strict = SnpTcbFloor {
            fmc: 9,
            ..floors.milan
        };
        assert_eq!(strict.below(&exact(&floors.milan, None)), []);
        // A part that is refused altogether is refused at every level.
        let none = SnpTcbFloor {
            microcode: 255,
            ..floors.milan
        };
        let highest = exact(&none, None);
        assert_eq!(none.below(&highest), [("microcode", 255, 255)]);
    }

    #[test]
    fn what_a_policy_leaves_out_keeps_its_default() {
        let floors: SnpTcbFloors = serde_json::from_str(r#"{"genoa":{"microcode":90}}"#).unwrap();
        let default = SnpTcbFloors::default();
        let genoa = SnpTcbFloor {
            microcode: 90,
            ..default.genoa
        };
        assert_eq!(floors, SnpTcbFloors { genoa, ..default });
        let written = serde_json::to_string(&floors).unwrap();
        assert_eq!(
            serde_json::from_str::<SnpTcbFloors>(&written).unwrap(),
            floors
        );
        let error = serde_json::from_str::<SnpTcbFloors>(r#"{"naples":{}}"#).unwrap_err();
        assert!(
            error.to_string().starts_with(
                "unknown field `naples`, expected one of `milan`, `milan_x`, `genoa`, `genoa_x`, `bergamo`, `turin`, `turin_dense`"
            ),
            "{error}"
        );
    }
}
