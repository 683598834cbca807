//! Intel's TCB statuses, and which of them a verifier accepts.

use std::{fmt, str::FromStr};

use thiserror::Error;

/// Status of a platform's trusted computing base, by Intel's names (TCB information, version 3).
///
/// No policy makes [`Self::Revoked`] acceptable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TcbStatus {
    /// Everything is at the level that Intel asks for.
    UpToDate,
    /// Up to date, but software must defend itself against a known weakness.
    SwHardeningNeeded,
    /// Up to date, but the platform's settings must change.
    ConfigurationNeeded,
    /// Up to date, but software must defend itself and the platform's settings must change.
    ConfigurationAndSwHardeningNeeded,
    /// Older than a published fix.
    OutOfDate,
    /// Older than a published fix, and the settings must change.
    OutOfDateConfigurationNeeded,
    /// Started on an outdated TDX module that was updated since: the trust domain should be started again.
    TdRelaunchAdvised,
    /// As `TdRelaunchAdvised`, and the settings must change.
    TdRelaunchAdvisedConfigurationNeeded,
    /// Withdrawn by Intel. Never accepted.
    Revoked,
}

const NAMES: [(TcbStatus, &str); 9] = [
    (TcbStatus::UpToDate, "UpToDate"),
    (TcbStatus::SwHardeningNeeded, "SWHardeningNeeded"),
    (TcbStatus::ConfigurationNeeded, "ConfigurationNeeded"),
    (
        TcbStatus::ConfigurationAndSwHardeningNeeded,
        "ConfigurationAndSWHardeningNeeded",
    ),
    (TcbStatus::OutOfDate, "OutOfDate"),
    (
        TcbStatus::OutOfDateConfigurationNeeded,
        "OutOfDateConfigurationNeeded",
    ),
    (TcbStatus::TdRelaunchAdvised, "TDRelaunchAdvised"),
    (
        TcbStatus::TdRelaunchAdvisedConfigurationNeeded,
        "TDRelaunchAdvisedConfigurationNeeded",
    ),
    (TcbStatus::Revoked, "Revoked"),
];

impl fmt::Display for TcbStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = NAMES
            .iter()
            .find(|(status, _)| status == self)
            .map_or("unknown", |(_, name)| name);
        f.write_str(name)
    }
}

/// A name that is none of Intel's statuses.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{name:?} is no TCB status: use Intel's words, one of {}", NAMES.map(|(_, name)| name).join(", "))]
pub struct UnknownStatus {
    /// The unknown name.
    pub name: String,
}

impl FromStr for TcbStatus {
    type Err = UnknownStatus;

    fn from_str(name: &str) -> Result<Self, UnknownStatus> {
        let found = NAMES
            .iter()
            .find(|(_, known)| *known == name)
            .map(|(status, _)| *status);
        found.ok_or_else(|| UnknownStatus {
            name: name.to_owned(),
        })
    }
}

impl From<dcap_qvl::TcbStatus> for TcbStatus {
    fn from(status: dcap_qvl::TcbStatus) -> Self {
        match status {
            dcap_qvl::TcbStatus::UpToDate => Self::UpToDate,
            dcap_qvl::TcbStatus::SWHardeningNeeded => Self::SwHardeningNeeded,
            dcap_qvl::TcbStatus::ConfigurationNeeded => Self::ConfigurationNeeded,
            dcap_qvl::TcbStatus::ConfigurationAndSWHardeningNeeded => {
                Self::ConfigurationAndSwHardeningNeeded
            }
            dcap_qvl::TcbStatus::OutOfDate => Self::OutOfDate,
            dcap_qvl::TcbStatus::OutOfDateConfigurationNeeded => Self::OutOfDateConfigurationNeeded,
            dcap_qvl::TcbStatus::TDRelaunchAdvised => Self::TdRelaunchAdvised,
            dcap_qvl::TcbStatus::TDRelaunchAdvisedConfigurationNeeded => {
                Self::TdRelaunchAdvisedConfigurationNeeded
            }
            dcap_qvl::TcbStatus::Revoked => Self::Revoked,
        }
    }
}

/// Demands on a platform's TCB.
///
/// Hyper-threading, exchangeable packages and keys cached by Intel's registration service are always accepted: real servers
/// have them, and the claims report them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TcbPolicy {
    /// Accepted statuses; `Revoked` is refused even if listed.
    pub statuses: Vec<TcbStatus>,
    /// Accepted advisories; `None` accepts all that Intel attaches to an accepted status.
    pub advisories: Option<Vec<String>>,
    /// Lowest accepted evaluation number of the collateral: with an older one a host could hide newer fixes.
    pub min_evaluation_number: u32,
}

impl Default for TcbPolicy {
    /// Accepts only `UpToDate`, without any advisory.
    fn default() -> Self {
        Self {
            statuses: vec![TcbStatus::UpToDate],
            advisories: Some(Vec::new()),
            min_evaluation_number: 0,
        }
    }
}

impl TcbPolicy {
    /// Returns a policy that accepts any TCB but a revoked one, for a caller that judges the claims on its own.
    #[must_use]
    pub fn judged_by_caller() -> Self {
        let statuses = NAMES
            .iter()
            .map(|(status, _)| *status)
            .filter(|status| *status != TcbStatus::Revoked);
        Self {
            statuses: statuses.collect(),
            advisories: None,
            min_evaluation_number: 0,
        }
    }

    pub(super) fn check(
        &self,
        mut statuses: impl Iterator<Item = TcbStatus>,
        advisories: &[String],
        evaluation: u32,
    ) -> Result<(), TcbError> {
        let refused =
            |status: &TcbStatus| *status == TcbStatus::Revoked || !self.statuses.contains(status);
        if let Some(status) = statuses.find(refused) {
            return Err(TcbError::Status { status });
        }
        let refused = |id: &&String| {
            self.advisories
                .as_ref()
                .is_some_and(|accepted| !accepted.contains(id))
        };
        if let Some(id) = advisories.iter().find(refused) {
            return Err(TcbError::Advisory { id: id.clone() });
        }
        if evaluation < self.min_evaluation_number {
            return Err(TcbError::Evaluation {
                found: evaluation,
                minimum: self.min_evaluation_number,
            });
        }
        Ok(())
    }
}

/// Why a platform's TCB is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TcbError {
    /// The status is not accepted.
    #[error(
        "the platform's TCB, at the launch or now, is {status}, which the policy does not accept: its operator must update it"
    )]
    Status {
        /// The refused status.
        status: TcbStatus,
    },
    /// An advisory is not accepted.
    #[error("advisory {id} applies to the platform, and the policy does not accept it")]
    Advisory {
        /// Intel's identifier of the advisory.
        id: String,
    },
    /// The collateral's evaluation number is too low.
    #[error(
        "the collateral's evaluation number is {found}, the policy asks for {minimum} or more: fetch newer collateral"
    )]
    Evaluation {
        /// Evaluation number found.
        found: u32,
        /// Lowest evaluation number accepted.
        minimum: u32,
    },
}

#[cfg(test)]
mod tests {
    use std::iter::once;

    use super::{NAMES, TcbError, TcbPolicy, TcbStatus, UnknownStatus};

    #[test]
    fn names_are_read_back() {
        for (status, name) in NAMES {
            assert_eq!(name.parse(), Ok(status));
            assert_eq!(status.to_string(), name);
        }
        assert_eq!(
            "uptodate".parse::<TcbStatus>(),
            Err(UnknownStatus {
                name: "uptodate".to_owned()
            })
        );
    }

    #[test]
    fn each_refusal_is_named() {
        let strict = TcbPolicy {
            min_evaluation_number: 17,
            ..TcbPolicy::default()
        };
        assert_eq!(strict.check(once(TcbStatus::UpToDate), &[], 17), Ok(()));
        let status = TcbStatus::OutOfDate;
        assert_eq!(
            strict.check(once(status), &[], 17),
            Err(TcbError::Status { status })
        );
        let id = "INTEL-SA-01036".to_owned();
        assert_eq!(
            strict.check(once(TcbStatus::UpToDate), std::slice::from_ref(&id), 17),
            Err(TcbError::Advisory { id })
        );
        let old = TcbError::Evaluation {
            found: 16,
            minimum: 17,
        };
        assert_eq!(strict.check(once(TcbStatus::UpToDate), &[], 16), Err(old));
        let status = TcbStatus::Revoked;
        let all = TcbPolicy {
            statuses: vec![status],
            ..strict
        };
        assert_eq!(
            all.check(once(status), &[], 17),
            Err(TcbError::Status { status })
        );
    }
}
