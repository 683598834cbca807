//! Attributes of a trust domain that no verifier may overlook.
//!
//! TDX Module ABI 348551, "ATTRIBUTES". Each of the refused ones lets the host, or somebody it chose, into the
//! domain's memory; they are read before any signature, because no signature could redeem them.

use thiserror::Error;

const DEBUG: u64 = 1;
/// Bits 4 to 6: the host may observe the domain's performance events.
const PROFILING: u64 = 0x70;
const SEPT_VE_DISABLE: u64 = 1 << 28;
const MIGRATABLE: u64 = 1 << 29;

/// Why a trust domain's attributes are refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum AttributeError {
    /// The host reads and writes its memory and registers.
    #[error(
        "the trust domain runs in debug mode (attributes {attributes:#018x}): the host can read its memory"
    )]
    Debug {
        /// All attributes.
        attributes: u64,
    },
    /// The host observes its performance counters.
    #[error(
        "the trust domain can be profiled (attributes {attributes:#018x}): the host can observe its execution"
    )]
    Profiling {
        /// All attributes.
        attributes: u64,
    },
    /// It can be moved by a migration domain that this quote does not judge.
    #[error(
        "the trust domain can be migrated (attributes {attributes:#018x}): its memory can leave this machine"
    )]
    Migratable {
        /// All attributes.
        attributes: u64,
    },
    /// The host can take pages away and the guest would handle that as an ordinary exception.
    #[error(
        "the trust domain has SEPT_VE_DISABLE clear (attributes {attributes:#018x}): the host can replace pages unseen"
    )]
    SeptVeEnabled {
        /// All attributes.
        attributes: u64,
    },
    /// A service domain is bound to it.
    #[error("a service domain is bound to the trust domain: nothing here judges its code")]
    ServiceTd,
}

/// `service_tds`: digests of the service domains that are or were bound, as far as the report's layout has room for them.
pub(super) fn check_attributes(
    attributes: &[u8; 8],
    service_tds: &[[u8; 48]],
) -> Result<(), AttributeError> {
    let attributes = u64::from_le_bytes(*attributes);
    let has = |bits| attributes & bits != 0;
    match () {
        () if has(DEBUG) => Err(AttributeError::Debug { attributes }),
        () if has(PROFILING) => Err(AttributeError::Profiling { attributes }),
        () if has(MIGRATABLE) => Err(AttributeError::Migratable { attributes }),
        () if !has(SEPT_VE_DISABLE) => Err(AttributeError::SeptVeEnabled { attributes }),
        () if service_tds.iter().any(|digest| *digest != [0; 48]) => Err(AttributeError::ServiceTd),
        () => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::{AttributeError, check_attributes};

    #[test]
    fn each_dangerous_attribute_has_its_error() {
        let check = |attributes: u64| check_attributes(&attributes.to_le_bytes(), &[]);
        const GOOD: u64 = 1 << 28;
        assert_eq!(check(GOOD), Ok(()));
        assert_eq!(
            check(GOOD | 1),
            Err(AttributeError::Debug {
                attributes: GOOD | 1
            })
        );
        for bit in 4..7 {
            let attributes = GOOD | 1 << bit;
            assert_eq!(
                check(attributes),
                Err(AttributeError::Profiling { attributes })
            );
        }
        assert_eq!(
            check(GOOD | 1 << 29),
            Err(AttributeError::Migratable {
                attributes: GOOD | 1 << 29
            })
        );
        assert_eq!(
            check(0),
            Err(AttributeError::SeptVeEnabled { attributes: 0 })
        );
    }

    #[test]
    fn cocoon_tdx_15() {
        let good = (1_u64 << 28).to_le_bytes();
        assert_eq!(check_attributes(&good, &[[0; 48]; 3]), Ok(()));
        for (at, byte) in [(0, 0), (0, 47), (1, 0), (2, 47)] {
            let mut service_tds = [[0; 48]; 3];
            service_tds[at][byte] = 1;
            assert_eq!(
                check_attributes(&good, &service_tds),
                Err(AttributeError::ServiceTd)
            );
        }
    }
}
