//! Generations of AMD's processors, as reports and certificates distinguish them.

use super::report::Tcb;

/// A generation of AMD's server processors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Generation {
    /// EPYC 7003.
    Milan,
    /// EPYC 9004.
    Genoa,
    /// EPYC 9005. Its TCB has an FMC and another layout, and its chip id has 8 bytes.
    Turin,
}

impl Generation {
    /// All generations.
    pub const ALL: [Self; 3] = [Self::Milan, Self::Genoa, Self::Turin];

    /// Returns the name that the generation has in the names of AMD's authorities.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Milan => "Milan",
            Self::Genoa => "Genoa",
            Self::Turin => "Turin",
        }
    }

    /// Returns the product name in a chip's certificate: the generation and, before Turin, the stepping.
    #[must_use]
    pub const fn product(self) -> &'static str {
        match self {
            Self::Milan => "Milan-B0",
            Self::Genoa => "Genoa-B1",
            Self::Turin => "Turin",
        }
    }

    /// Returns family, model and stepping, which reports contain from version 3 on.
    #[must_use]
    pub const fn cpuid(self) -> [u8; 3] {
        match self {
            Self::Milan => [0x19, 0x01, 0x01],
            Self::Genoa => [0x19, 0x11, 0x01],
            Self::Turin => [0x1a, 0x02, 0x01],
        }
    }

    /// Returns security versions that meet the minimum of a verifier in 2026.
    #[must_use]
    pub const fn tcb(self) -> Tcb {
        match self {
            Self::Milan => Tcb::CURRENT,
            Self::Genoa => Tcb {
                bootloader: 10,
                snp: 27,
                microcode: 0x56,
                ..Tcb::CURRENT
            },
            Self::Turin => Tcb {
                fmc: Some(1),
                bootloader: 2,
                tee: 1,
                snp: 5,
                microcode: 0x52,
            },
        }
    }

    /// Returns the id of a chip that does not exist.
    #[must_use]
    pub const fn chip_id(self) -> [u8; 64] {
        match self {
            Self::Milan | Self::Genoa => [0xc0; 64],
            Self::Turin => {
                let mut id = [0; 64];
                let mut at = 0;
                while at < 8 {
                    id[at] = 0xc0;
                    at += 1;
                }
                id
            }
        }
    }
}
