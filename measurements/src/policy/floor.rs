//! The lowest security patch levels that are accepted of AMD's processors, for each part on its own: microcode counts
//! from another number on every one of them.
//!
//! Where the defaults come from (all public, as of 2026):
//!
//! * **microcode**: the levels of AMD-SB-3020, AMD-SB-3023 and AMD-SB-3027 (January 2026), below which a neighbour on the same
//!   core shifts a guest's stack pointer (CVE-2025-29943), and well above the first level that checks patch signatures
//!   soundly (AMD-SB-3019, AMD-SB-7033). The level is the lowest byte of the patch number.
//! * **SNP firmware**: Milan and Genoa 27, of AMD-SB-3020: below it a host corrupts the RMP while it is set up, by software
//!   alone, reads and writes guests' memory, and forges their attestation (CVE-2025-0033).
//! * **boot loader, TEE, FMC, and Turin's SNP firmware**: what production machines of 2025 and 2026 report: Milan 4/0,
//!   Genoa 10/0, Turin 1/1/4 with FMC 1.
//!
//! The bulletins' numbers were taken over from public verifiers that cite them, not from AMD's pages (November 2026).
//!
//! What the defaults do not exclude: Turin before the fix of CVE-2025-0033, which no level but only the firmware's version and
//! the mitigation vector of reports of version 5 tell, and the fixes of bulletins that state no level, such as AMD-SB-3034.
//! A published meaning of one bit of that vector was withdrawn, so none is demanded.
//!
//! A floor says nothing about keys that were taken out of hardware: whoever holds the secret that a chip derives its
//! keys from can sign reports of any level, and of any CPUID of the generation. Published work of 2026 claims to read that
//! secret on Milan by software alone. Against that helps a list of [`machines`](super::Policy::machines), which only a
//! VCEK can satisfy, or to refuse the part: a floor of 255, for `milan` and `milan_x`.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::snp::report::{Product, TcbVersion};

/// One of AMD's processors, as far as their patch levels have numbers of their own.
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
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Milan,
        Self::MilanX,
        Self::Genoa,
        Self::GenoaX,
        Self::Bergamo,
        Self::Turin,
        Self::TurinDense,
    ];

    /// The part of a verified report: the generation by the root key that vouches for it, the part by family, model
    /// and stepping, which reports of version 2 do not have. What cannot be told is the generation's first part, whose
    /// numbers are the highest. Under a development root (`product` is `None`) the report's word alone decides.
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
    /// First mutable code; Turin alone has it, elsewhere it is not compared.
    pub fmc: u8,
    /// AMD secure processor's boot loader.
    pub bootloader: u8,
    /// AMD secure processor's operating system.
    pub tee: u8,
    /// SNP firmware.
    pub snp: u8,
    /// CPU microcode.
    pub microcode: u8,
}

impl SnpTcbFloor {
    /// Each component of `found` that is below the floor: its name, what was found and what is needed. No level satisfies
    /// 255: who forges reports could name that one, too.
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

/// The floor of each part. What a stored policy leaves out keeps its default.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "WrittenFloors")]
pub struct SnpTcbFloors {
    /// EPYC 7003.
    pub milan: SnpTcbFloor,
    /// EPYC 7003 with 3D V-Cache.
    pub milan_x: SnpTcbFloor,
    /// EPYC 9004.
    pub genoa: SnpTcbFloor,
    /// EPYC 9004 with 3D V-Cache.
    pub genoa_x: SnpTcbFloor,
    /// EPYC 9004 and 8004 with dense cores.
    pub bergamo: SnpTcbFloor,
    /// EPYC 9005.
    pub turin: SnpTcbFloor,
    /// EPYC 9005 with dense cores.
    pub turin_dense: SnpTcbFloor,
}

impl SnpTcbFloors {
    /// The floor of `part`.
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

/// As a policy writes them: every table and every component may be left out.
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
        // The root decides, not the report's word: nobody gets the lower floor of another generation.
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
        // Before Turin there is no FMC, so none can be missed.
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
