//! Checks of a trust domain's attributes and TDX 1.5 report fields that every verifier must make.
//!
//! Sources: TDX Module ABI 348551, "ATTRIBUTES"; Intel's `sgx_quote_5.h` for TDX 1.5. Each refused value gives the host, or a
//! party of its choice, access to the domain's memory, or is of a feature that this crate does not judge. The checks come
//! before any signature, because no signature can make up for these values.

use dcap_qvl::quote::{Report, TDReport15Ex};
use thiserror::Error;

const DEBUG: u64 = 1;
/// Bits 4 to 6: the host may observe the domain's performance events.
const PROFILING: u64 = 0x70;
/// Service domains may be bound while the domain runs; their digests are reported separately.
const SERVTD_EXT: u64 = 1 << 17;
const SEPT_VE_DISABLE: u64 = 1 << 28;
const MIGRATABLE: u64 = 1 << 29;

/// Why a trust domain's attributes are refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum AttributeError {
    /// Debug mode: the host reads and writes the domain's memory and registers.
    #[error(
        "the trust domain runs in debug mode (attributes {attributes:#018x}): the host can read its memory"
    )]
    Debug {
        /// All attributes of the trust domain.
        attributes: u64,
    },
    /// The host observes the domain's performance counters.
    #[error(
        "the trust domain can be profiled (attributes {attributes:#018x}): the host can observe its execution"
    )]
    Profiling {
        /// All attributes of the trust domain.
        attributes: u64,
    },
    /// The domain can be moved by a migration domain that this quote does not cover.
    #[error(
        "the trust domain can be migrated (attributes {attributes:#018x}): its memory can leave this machine"
    )]
    Migratable {
        /// All attributes of the trust domain.
        attributes: u64,
    },
    /// SEPT_VE_DISABLE is clear: the host can remove pages, and the guest handles that as an ordinary exception.
    #[error(
        "the trust domain has SEPT_VE_DISABLE clear (attributes {attributes:#018x}): the host can replace pages unseen"
    )]
    SeptVeEnabled {
        /// All attributes of the trust domain.
        attributes: u64,
    },
    /// Service domains may be bound later, which a report of TDX 1.0 or 1.5 does not show.
    #[error(
        "service domains can be bound to the trust domain while it runs (attributes {attributes:#018x}): nothing here judges \
         their code"
    )]
    ServiceTdLater {
        /// All attributes of the trust domain.
        attributes: u64,
    },
    /// A service domain is bound to the domain.
    #[error("a service domain is bound to the trust domain: nothing here judges its code")]
    ServiceTd,
    /// The extended report shows a feature that no image here uses.
    #[error("the trust domain has {feature}: nothing here judges that")]
    Unjudged {
        /// Name of the feature.
        feature: &'static str,
    },
}

pub(super) fn check_attributes(attributes: &[u8; 8]) -> Result<(), AttributeError> {
    let attributes = u64::from_le_bytes(*attributes);
    let has = |bits| attributes & bits != 0;
    match () {
        () if has(DEBUG) => Err(AttributeError::Debug { attributes }),
        () if has(PROFILING) => Err(AttributeError::Profiling { attributes }),
        () if has(MIGRATABLE) => Err(AttributeError::Migratable { attributes }),
        () if has(SERVTD_EXT) => Err(AttributeError::ServiceTdLater { attributes }),
        () if !has(SEPT_VE_DISABLE) => Err(AttributeError::SeptVeEnabled { attributes }),
        () => Ok(()),
    }
}

/// Checks what TDX 1.5 reports beyond the attributes.
pub(super) fn check_company(report: &Report) -> Result<(), AttributeError> {
    match report {
        Report::TD15(report) => check_service_tds(&[report.mr_service_td]),
        Report::TD15Ex(report) => check_extended(report),
        Report::TD10(_) | Report::SgxEnclave(_) => Ok(()),
    }
}

/// Refuses a nonzero value in any field that the extended report adds, except `TDID`, which only identifies the domain.
fn check_extended(report: &TDReport15Ex) -> Result<(), AttributeError> {
    check_service_tds(&[
        report.base.mr_service_td,
        report.init_service_td_hash,
        report.cur_service_td_hash,
    ])?;
    let features: [(&[u8], &str); 7] = [
        (&[report.vmid], "VMs of its own (VMID)"),
        (&report.dev_info, "devices in its trust (DEV_INFO)"),
        (&report.init_service_td_attributes, ATTRIBUTES_OF_SERVICE_TD),
        (&report.cur_service_td_attributes, ATTRIBUTES_OF_SERVICE_TD),
        (&report.init_cpu_svn, CREATED_ELSEWHERE),
        (&report.init_tee_tcb_svn, CREATED_ELSEWHERE),
        (&report.init_tee_fmspc, CREATED_ELSEWHERE),
    ];
    let unjudged = features
        .iter()
        .find(|(bytes, _)| bytes.iter().any(|byte| *byte != 0));
    unjudged.map_or(Ok(()), |(_, feature)| {
        Err(AttributeError::Unjudged { feature })
    })
}

const ATTRIBUTES_OF_SERVICE_TD: &str = "a service domain with attributes (SERVTD_ATTR)";
const CREATED_ELSEWHERE: &str =
    "a platform of its creation beside the present one (INIT_TEE_TCB_SVN)";

fn check_service_tds(digests: &[[u8; 48]]) -> Result<(), AttributeError> {
    match digests.iter().all(|digest| *digest == [0; 48]) {
        true => Ok(()),
        false => Err(AttributeError::ServiceTd),
    }
}

#[cfg(test)]
mod tests {
    use dcap_qvl::quote::Report;
    use scale::Decode;

    use super::*;

    #[test]
    fn each_dangerous_attribute_has_its_error() {
        let check = |attributes: u64| check_attributes(&attributes.to_le_bytes());
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
            check(GOOD | 1 << 17),
            Err(AttributeError::ServiceTdLater {
                attributes: GOOD | 1 << 17
            })
        );
        assert_eq!(
            check(0),
            Err(AttributeError::SeptVeEnabled { attributes: 0 })
        );
    }

    /// Sets each byte after the 584 of TDX 1.0, in each layout: all but `TEE_TCB_SVN2` and `TDID` are refused.
    #[test]
    fn cocoon_tdx_15() {
        let refusal = |length: usize, at: Option<usize>| {
            let mut body = [0; 885];
            at.into_iter().for_each(|at| body[at] = 1);
            let mut body = &body[..length];
            let report = match length {
                584 => Report::TD10(Decode::decode(&mut body).unwrap()),
                648 => Report::TD15(Decode::decode(&mut body).unwrap()),
                _ => Report::TD15Ex(Decode::decode(&mut body).unwrap()),
            };
            assert!(body.is_empty());
            check_company(&report).err()
        };
        for length in [584, 648, 885] {
            assert_eq!(refusal(length, None), None);
            for at in 584..length {
                let expected = match at {
                    600..648 | 729..777 | 829..877 => Some(AttributeError::ServiceTd),
                    648 => Some(unjudged("VMs of its own (VMID)")),
                    681..729 => Some(unjudged("devices in its trust (DEV_INFO)")),
                    777..785 | 877..885 => Some(unjudged(ATTRIBUTES_OF_SERVICE_TD)),
                    785..829 => Some(unjudged(CREATED_ELSEWHERE)),
                    _ => None,
                };
                assert_eq!(refusal(length, Some(at)), expected, "{length} {at}");
            }
        }
    }

    fn unjudged(feature: &'static str) -> AttributeError {
        AttributeError::Unjudged { feature }
    }
}
