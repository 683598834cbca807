//! The generations of AMD's processors, as far as reports and certificates tell them apart.

use super::report::Tcb;

/// A generation of AMD's server processors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Generation {
    /// EPYC 7003.
    Milan,
    /// EPYC 9004.
    Genoa,
    /// EPYC 9005: its TCB has another layout and an FMC, its chip id 8 bytes.
    Turin,
}

impl Generation {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Milan, Self::Genoa, Self::Turin];

    /// As AMD's authorities are named.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Milan => "Milan",
            Self::Genoa => "Genoa",
            Self::Turin => "Turin",
        }
    }

    /// The product's name in a chip's certificate: generation and, before Turin, stepping.
    #[must_use]
    pub const fn product(self) -> &'static str {
        match self {
            Self::Milan => "Milan-B0",
            Self::Genoa => "Genoa-B1",
            Self::Turin => "Turin",
        }
    }

    /// Family, model and stepping, as reports have them from version 3 on.
    #[must_use]
    pub const fn cpuid(self) -> [u8; 3] {
        match self {
            Self::Milan => [0x19, 0x01, 0x01],
            Self::Genoa => [0x19, 0x11, 0x01],
            Self::Turin => [0x1a, 0x02, 0x01],
        }
    }

    /// Patch levels that a verifier's floor of 2026 lets pass.
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

    /// Identity of a chip that does not exist.
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
