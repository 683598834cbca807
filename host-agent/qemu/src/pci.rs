//! Addresses of PCI functions: `domain:bus:device.function`, as sysfs and QEMU write them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Address of a PCI function of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PciAddress {
    /// Domain (segment).
    pub domain: u16,
    /// Bus number.
    pub bus: u8,
    /// Device on the bus, 0 to 31.
    pub device: u8,
    /// Function of the device, 0 to 7.
    pub function: u8,
}

/// The text is not a PCI address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no PCI address: write it like 0000:17:00.0, as in /sys/bus/pci/devices")]
pub struct NotPciAddress(pub String);

impl FromStr for PciAddress {
    type Err = NotPciAddress;

    /// Parses an address as sysfs writes it. As in `lspci`, the domain may be left out.
    fn from_str(text: &str) -> Result<Self, NotPciAddress> {
        parse(text).ok_or_else(|| NotPciAddress(text.chars().take(40).collect()))
    }
}

impl TryFrom<String> for PciAddress {
    type Error = NotPciAddress;

    fn try_from(text: String) -> Result<Self, NotPciAddress> {
        text.parse()
    }
}

impl From<PciAddress> for String {
    fn from(address: PciAddress) -> Self {
        address.to_string()
    }
}

fn parse(text: &str) -> Option<PciAddress> {
    let parts: Vec<&str> = text.split(':').collect();
    let (domain, bus, rest) = match parts[..] {
        [domain, bus, rest] => (digits(domain, 4)?, bus, rest),
        [bus, rest] => (0, bus, rest),
        _ => return None,
    };
    let (device, function) = rest.split_once('.')?;
    let address = PciAddress {
        domain,
        bus: digits(bus, 2)?.try_into().ok()?,
        device: digits(device, 2)?.try_into().ok()?,
        function: digits(function, 1)?.try_into().ok()?,
    };
    (address.device < 32 && address.function < 8).then_some(address)
}

/// Parses exactly `count` hexadecimal digits, without sign, space or prefix.
fn digits(text: &str, count: usize) -> Option<u16> {
    let plain = text.len() == count && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    plain.then(|| u16::from_str_radix(text, 16).ok()).flatten()
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            domain,
            bus,
            device,
            function,
        } = self;
        write!(f, "{domain:04x}:{bus:02x}:{device:02x}.{function}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_as_it_is_written() {
        let address = PciAddress {
            domain: 0,
            bus: 0x17,
            device: 0x1f,
            function: 7,
        };
        assert_eq!("0000:17:1f.7".parse(), Ok(address));
        assert_eq!("17:1F.7".parse(), Ok(address));
        assert_eq!(address.to_string(), "0000:17:1f.7");
        assert_eq!(
            "10de:ff:00.0".parse::<PciAddress>().unwrap().to_string(),
            "10de:ff:00.0"
        );
    }

    #[test]
    fn nothing_else_is_an_address() {
        for text in [
            "",
            "17",
            "17:00",
            "0000:17:20.0",
            "0000:17:00.8",
            "0000:17:00.00",
            "+000:17:00.0",
            "0000:17:00.0,rombar=1",
            "0000:17:00.0/../..",
            "00000:17:00.0",
            " 0000:17:00.0",
            "0000:0000:17:00.0",
        ] {
            assert_eq!(text.parse::<PciAddress>(), Err(NotPciAddress(text.into())));
        }
    }
}
