//! Replaces the variable store of TDX firmware, which MRTD does not cover.
//!
//! Debian's TDX image has Microsoft's keys enrolled, so it refuses every kernel given with `-kernel`: its fallback is
//! disabled inside a trust domain. With a blank store the same code (and MRTD) boots our kernel, which is judged by
//! measurement instead. The store itself is checked through RTMR0, where it is measured.

use thiserror::Error;

use super::tdvf::{Tdvf, TdvfError};

/// Why the variable store cannot be replaced.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum VarstoreError {
    /// The firmware is not valid TDX firmware.
    #[error("cannot replace the variable store")]
    Firmware(#[from] TdvfError),
    /// The firmware has no variable store.
    #[error("the firmware has no configuration volume, so no variable store to replace")]
    NoStore,
    /// The new store has another size, so it belongs to another firmware layout.
    #[error(
        "the new variable store has {found} bytes, the firmware's has {expected}: take it from the same edk2 flash layout"
    )]
    Size {
        /// Size that the firmware reserves, in bytes.
        expected: usize,
        /// Size of the new store, in bytes.
        found: usize,
    },
    /// The new store does not begin with a firmware volume.
    #[error(
        "the new variable store is no firmware volume: '_FVH' is missing at offset {offset:#x}"
    )]
    NotAVolume {
        /// Offset at which the signature must be.
        offset: usize,
    },
}

/// Offset of the signature in a firmware volume's header (PI specification, volume 3).
const SIGNATURE_OFFSET: usize = 40;

/// Returns a copy of `firmware` whose configuration volume is `store` (such as `OVMF_VARS_4M.fd`).
///
/// # Errors
/// [`VarstoreError`] when the firmware or the store is not valid, or their sizes differ.
pub fn blank(firmware: &[u8], store: &[u8]) -> Result<Vec<u8>, VarstoreError> {
    let tdvf = Tdvf::parse(firmware)?;
    let section = tdvf.configuration_volume().ok_or(VarstoreError::NoStore)?;
    if store.get(SIGNATURE_OFFSET..SIGNATURE_OFFSET + 4) != Some(b"_FVH") {
        return Err(VarstoreError::NotAVolume {
            offset: SIGNATURE_OFFSET,
        });
    }
    let mut changed = firmware.to_vec();
    let place = changed.get_mut(section.data_offset..section.data_offset + section.raw_size);
    match place {
        Some(place) if place.len() == store.len() => place.copy_from_slice(store),
        _ => {
            return Err(VarstoreError::Size {
                expected: section.raw_size,
                found: store.len(),
            });
        }
    }
    Ok(changed)
}

#[cfg(test)]
mod tests {
    use super::{VarstoreError, blank};
    use crate::{
        tdx::{mrtd, tdvf::Tdvf},
        test_firmware::Firmware,
    };

    fn store(length: usize) -> Vec<u8> {
        let mut store = vec![0xff; length];
        store[40..44].copy_from_slice(b"_FVH");
        store
    }

    #[test]
    fn only_the_store_changes_and_mrtd_stays() {
        let firmware = Firmware::small().build();
        let changed = blank(&firmware, &store(8192)).unwrap();
        assert_eq!(changed[..8192], store(8192));
        assert_eq!(changed[8192..], firmware[8192..]);
        let mrtd =
            |image: &[u8]| mrtd::mrtd(&Tdvf::parse(image).unwrap(), mrtd::PageOrder::SinglePass);
        assert_eq!(mrtd(&firmware), mrtd(&changed));
    }

    #[test]
    fn a_wrong_store_is_refused() {
        let firmware = Firmware::small().build();
        assert_eq!(
            blank(&firmware, &store(4096)),
            Err(VarstoreError::Size {
                expected: 8192,
                found: 4096
            })
        );
        assert_eq!(
            blank(&firmware, &[0; 8192]),
            Err(VarstoreError::NotAVolume { offset: 40 })
        );
    }
}
