//! Predicts BootOrder and Boot#### as firmware creates them on a machine without any stored boot option.
//!
//! Their events hash the variable's value alone, although the log shows vendor and name too.

use sha2::{Digest, Sha384};

use super::{
    event::{PredictedEvent, Rtmr, event_type},
    rtmr::Edk2,
    rtmr0::{GLOBAL_VARIABLE, variable_data},
};
use crate::guid::Guid;

/// The firmware volume with OVMF's drivers, which holds the applications.
const DXE_VOLUME: Guid = Guid::parse("7cb8bdc9-f8eb-4f34-aaea-3ee4af6516a1");
const UI_APP: Guid = Guid::parse("462caa21-7614-4503-836e-8ab6f4662331");
const BOOT_MANAGER_MENU: Guid = Guid::parse("eec25bdc-67f2-4d95-b1d5-f81b2039d11d");

const ACTIVE: u32 = 0x1;
const HIDDEN: u32 = 0x8;
const APPLICATION: u32 = 0x100;

/// The firmware's applications that become boot options; they depend on release and build.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BootApplications {
    /// Only UiApp: edk2 up to stable202502.
    UiApp,
    /// The boot manager's menu and UiApp: stable202505 and later, with both in the same volume.
    BootManagerMenuAndUiApp,
    /// Only the boot manager's menu: builds that keep UiApp in a volume that a trust domain does not load (Debian's TDX
    /// image). Derived from the sources and the image; not yet seen on hardware.
    BootManagerMenu,
}

impl BootApplications {
    /// Returns the applications in Debian's builds of a release; from stable202505 on, in its TDX image. Its plain OVMF of
    /// those releases has [`Self::BootManagerMenuAndUiApp`].
    #[must_use]
    pub fn usual(edk2: Edk2) -> Self {
        if edk2 >= Edk2::Stable202505 {
            Self::BootManagerMenu
        } else {
            Self::UiApp
        }
    }

    pub(crate) fn events(self) -> Vec<PredictedEvent> {
        let ui_app = |attributes, name| load_option(attributes, name, UI_APP);
        let menu = || {
            load_option(
                ACTIVE | HIDDEN | APPLICATION,
                "BootManagerMenuApp",
                BOOT_MANAGER_MENU,
            )
        };
        let options = match self {
            Self::UiApp => vec![ui_app(ACTIVE | HIDDEN | APPLICATION, "UiApp")],
            Self::BootManagerMenuAndUiApp => {
                vec![menu(), ui_app(ACTIVE | APPLICATION, "EFI Firmware Setup")]
            }
            Self::BootManagerMenu => vec![menu()],
        };
        let order: Vec<u8> = (0_u16..)
            .take(options.len())
            .flat_map(u16::to_le_bytes)
            .collect();
        let mut events = vec![variable("BootOrder", &order)];
        for (number, option) in options.iter().enumerate() {
            events.push(variable(&format!("Boot{number:04X}"), option));
        }
        events
    }
}

fn variable(name: &str, value: &[u8]) -> PredictedEvent {
    PredictedEvent::of_digest(
        Rtmr::Rtmr0,
        event_type::EFI_VARIABLE_BOOT,
        format!("variable {name}"),
        Sha384::digest(value).into(),
        variable_data(GLOBAL_VARIABLE, name, value),
    )
}

/// Builds an `EFI_LOAD_OPTION` for a file of the drivers' volume.
fn load_option(attributes: u32, description: &str, file: Guid) -> Vec<u8> {
    const END_OF_PATH: [u8; 4] = [0x7f, 0xff, 4, 0];
    /// Header of a media device path node of 20 bytes that names a GUID.
    const fn node(subtype: u8) -> [u8; 4] {
        [4, subtype, 20, 0]
    }
    let path = [&node(7)[..], &DXE_VOLUME.0, &node(6), &file.0, &END_OF_PATH].concat();
    let mut option = attributes.to_le_bytes().to_vec();
    option.extend(u16::try_from(path.len()).unwrap_or(u16::MAX).to_le_bytes());
    option.extend(description.encode_utf16().flat_map(u16::to_le_bytes));
    option.extend([0, 0]);
    option.extend(path);
    option
}

#[cfg(test)]
mod tests {
    use super::BootApplications;

    /// The expected digests were captured on hardware.
    #[test]
    fn options_equal_what_hardware_logged() {
        let digests = |applications: BootApplications| -> Vec<String> {
            applications
                .events()
                .iter()
                .map(|event| hex::encode(&event.digest[..4]))
                .collect()
        };
        assert_eq!(digests(BootApplications::UiApp), ["1dd6f7b4", "23ada07f"]);
        assert_eq!(
            digests(BootApplications::BootManagerMenuAndUiApp)[1..],
            ["5068e6a9", "dd424f2e"]
        );
        assert_eq!(
            digests(BootApplications::BootManagerMenu),
            ["1dd6f7b4", "5068e6a9"]
        );
    }
}
