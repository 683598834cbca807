//! Gives TDX firmware another variable store, which MRTD does not cover.
//!
//! Debian's TDX image has Microsoft's keys enrolled, and then refuses every kernel given with `-kernel`: its
//! fallback is disabled inside a trust domain. With a blank store the same code (and MRTD) boots our kernel, and
//! the kernel is judged by measurement instead. So the store is checked through RTMR0, where it is measured.

use thiserror::Error;

use super::tdvf::{Tdvf, TdvfError};

/// Why the variable store cannot be replaced.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum VarstoreError {
    /// The firmware is not sound TDX firmware.
    #[error("cannot replace the variable store")]
    Firmware(#[from] TdvfError),
    /// There is no store to replace.
    #[error("the firmware has no configuration volume, so no variable store to replace")]
    NoStore,
    /// The new store has another size: it belongs to another firmware layout.
    #[error(
        "the new variable store has {found} bytes, the firmware's has {expected}: take it from the same edk2 flash layout"
    )]
    Size {
        /// Bytes that the firmware reserves.
        expected: usize,
        /// Bytes given.
        found: usize,
    },
    /// The new store does not begin with a firmware volume.
    #[error(
        "the new variable store is no firmware volume: '_FVH' is missing at offset {offset:#x}"
    )]
    NotAVolume {
        /// Where the signature must stand.
        offset: usize,
    },
}

/// Offset of the signature in a firmware volume's header (PI specification, volume 3).
const SIGNATURE_OFFSET: usize = 40;

/// A copy of `firmware` whose configuration volume is `store` (such as `OVMF_VARS_4M.fd`).
///
/// # Errors
/// [`VarstoreError`] when either is not what it must be.
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
