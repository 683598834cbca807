//! Machine identities for allow-lists, as verified evidence states them.

use std::{fmt, str::FromStr};

use cocoon_protocol::bytes::Hex;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use thiserror::Error;

const INTEL: &str = "intel-ppid:";
const AMD: &str = "amd-chip:";

/// Identity of one machine. As text: `intel-ppid:` and 32 hexadecimal digits, or `amd-chip:` and 128 (Turin: 16, because the
/// remaining bytes are zero).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MachineId {
    /// Intel's platform provisioning id (PPID), from the platform's PCK certificate.
    IntelPpid(Hex<16>),
    /// AMD's `CHIP_ID` of the report, for which a VCEK vouches.
    AmdChip(Hex<64>),
}

/// Text that is not a machine identity.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "{text:?} names no machine: write intel-ppid: and 32 hexadecimal digits, or amd-chip: and 128 (Turin: 16), in lower case and not all zeroes, as `evidence.machine` shows them in a verdict"
)]
pub struct NotMachine {
    /// The text, cut to 160 characters.
    pub text: String,
}

impl FromStr for MachineId {
    type Err = NotMachine;

    fn from_str(text: &str) -> Result<Self, NotMachine> {
        let parsed = if let Some(digits) = text.strip_prefix(INTEL) {
            digits.parse().ok().map(Self::IntelPpid)
        } else {
            text.strip_prefix(AMD).and_then(chip).map(Self::AmdChip)
        };
        parsed
            .filter(|id| !id.is_masked())
            .ok_or_else(|| NotMachine {
                text: text.chars().take(160).collect(),
            })
    }
}

fn chip(digits: &str) -> Option<Hex<64>> {
    if let Ok(short) = digits.parse::<Hex<8>>() {
        let mut id = [0; 64];
        id[..8].copy_from_slice(&short.0);
        return Some(Hex(id));
    }
    digits.parse().ok()
}

impl MachineId {
    /// Returns whether the host masks the identity with zeroes. Such an identity is on no list.
    #[must_use]
    pub fn is_masked(&self) -> bool {
        match self {
            Self::IntelPpid(id) => id.is_zero(),
            Self::AmdChip(id) => id.is_zero(),
        }
    }
}

impl fmt::Display for MachineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::IntelPpid(id) => write!(f, "{INTEL}{id}"),
            Self::AmdChip(Hex(id)) => {
                let length = if id[8..].iter().all(|byte| *byte == 0) {
                    8
                } else {
                    64
                };
                write!(f, "{AMD}{}", hex::encode(&id[..length]))
            }
        }
    }
}

impl Serialize for MachineId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for MachineId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::{Hex, MachineId, NotMachine};

    #[test]
    fn machines_have_one_name_each() {
        let mut turin = [0; 64];
        turin[..8].fill(0x1e);
        for (text, id) in [
            (
                format!("intel-ppid:{}", "c0".repeat(16)),
                MachineId::IntelPpid(Hex([0xc0; 16])),
            ),
            (
                format!("amd-chip:{}", "07".repeat(64)),
                MachineId::AmdChip(Hex([7; 64])),
            ),
            (
                format!("amd-chip:{}", "1e".repeat(8)),
                MachineId::AmdChip(Hex(turin)),
            ),
        ] {
            assert_eq!(text.parse(), Ok(id));
            assert_eq!(id.to_string(), text);
        }
        for text in [
            String::new(),
            "c0".repeat(16),
            format!("intel-ppid:{}", "c0".repeat(15)),
            format!("intel-ppid:{}", "00".repeat(16)),
            format!("amd-chip:{}", "00".repeat(64)),
            format!("amd-chip:{}", "07".repeat(16)),
        ] {
            assert_eq!(text.parse::<MachineId>(), Err(NotMachine { text }));
        }
    }
}
