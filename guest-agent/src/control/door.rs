//! State machine of the control channel: decides which host message is allowed in which boot phase.
//!
//! It performs no I/O and reads no clock, so that every pair of phase and message can be tested.

use cocoon_protocol::control::{Configure, HostMessage, Phase};
use cocoon_protocol::document::{Collateral, Evidence};
use cocoon_protocol::gpu::{CollectedGpu, GpuCollateral};

/// A host message that is not allowed in the current phase.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("message `{message}` has no place in phase {}", phase.name())]
pub struct Refused {
    /// Name of the message.
    pub message: &'static str,
    /// Phase in which the message arrived.
    pub phase: Phase,
}

/// A host message that was accepted.
#[derive(Debug, PartialEq, Eq)]
pub enum Admitted {
    /// The host's configuration, accepted once.
    Configure(Configure),
    /// The answer to the pending request for simulated CPU evidence.
    Evidence(Result<Evidence, String>),
    /// The answer to the pending request for simulated GPU evidence.
    GpuEvidence(Result<Vec<CollectedGpu>, String>),
    /// Newer collateral for the CPU, for the GPUs, or for both.
    Collateral(Option<Collateral>, Option<GpuCollateral>),
    /// The host requests a drain.
    Drain,
    /// The answer to a request that is no longer pending.
    Stale,
}

/// Admission state of the control channel.
#[derive(Debug)]
pub struct Door {
    phase: Phase,
    configured: bool,
    /// Whether the host may send simulated evidence. Never set in a TEE.
    pub simulated: bool,
    evidence: Asked,
    gpus: Asked,
}

/// Evidence requests of one kind, at most one of which is pending.
#[derive(Debug, Default)]
struct Asked {
    requests: u64,
    awaiting: bool,
}

impl Asked {
    fn expect(&mut self) -> u64 {
        self.requests += 1;
        self.awaiting = true;
        self.requests
    }

    /// Returns whether `id` answers the pending request, or `None` if no request ever had this number.
    fn answers(&mut self, id: u64) -> Option<bool> {
        (1..=self.requests).contains(&id).then(|| {
            let answers = id == self.requests && self.awaiting;
            self.awaiting &= !answers;
            answers
        })
    }
}

impl Default for Door {
    fn default() -> Self {
        Self {
            phase: Phase::Mounts,
            configured: false,
            simulated: false,
            evidence: Asked::default(),
            gpus: Asked::default(),
        }
    }
}

impl Door {
    /// Enters a boot phase.
    pub fn enter(&mut self, phase: Phase) {
        self.phase = phase;
    }

    /// Registers a request for simulated CPU evidence and returns its number.
    pub fn expect_evidence(&mut self) -> u64 {
        self.evidence.expect()
    }

    /// Gives up on the pending request for CPU evidence.
    pub fn forget_evidence(&mut self) {
        self.evidence.awaiting = false;
    }

    /// Registers a request for simulated GPU evidence and returns its number.
    pub fn expect_gpus(&mut self) -> u64 {
        self.gpus.expect()
    }

    /// Gives up on the pending request for GPU evidence.
    pub fn forget_gpus(&mut self) {
        self.gpus.awaiting = false;
    }

    /// Accepts or refuses a message.
    pub fn admit(&mut self, message: HostMessage) -> Result<Admitted, Refused> {
        use HostMessage as M;
        use Phase as P;
        let phase = self.phase;
        let refuse = |message| Err(Refused { message, phase });
        match (phase, message) {
            // The host sends nothing before the guest's Hello; its first message after that is the configuration.
            (P::Platform | P::Configuration, M::Configure(configure)) if !self.configured => {
                self.configured = true;
                Ok(Admitted::Configure(configure))
            }
            (
                P::Mounts
                | P::Modules
                | P::Platform
                | P::Configuration
                | P::Model
                | P::Keys
                | P::Evidence
                | P::Engine
                | P::Serving,
                M::Configure(_),
            ) => refuse("configure"),
            (P::Evidence | P::Engine | P::Serving, M::Evidence { id, result })
                if self.simulated =>
            {
                match self.evidence.answers(id) {
                    Some(true) => Ok(Admitted::Evidence(result)),
                    Some(false) => Ok(Admitted::Stale),
                    None => refuse("evidence"),
                }
            }
            (_, M::Evidence { .. }) => refuse("evidence"),
            (P::Evidence | P::Engine | P::Serving, M::GpuEvidence { id, result })
                if self.simulated =>
            {
                match self.gpus.answers(id) {
                    Some(true) => Ok(Admitted::GpuEvidence(result)),
                    Some(false) => Ok(Admitted::Stale),
                    None => refuse("gpu-evidence"),
                }
            }
            (_, M::GpuEvidence { .. }) => refuse("gpu-evidence"),
            (_, M::Collateral { collateral, gpu }) if self.configured => {
                Ok(Admitted::Collateral(collateral, gpu))
            }
            (_, M::Collateral { .. }) => refuse("collateral"),
            (_, M::Drain) if self.configured => Ok(Admitted::Drain),
            (_, M::Drain) => refuse("drain"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cocoon_protocol::bytes::{Blob, Hex32};

    const PHASES: [Phase; 9] = [
        Phase::Mounts,
        Phase::Modules,
        Phase::Platform,
        Phase::Configuration,
        Phase::Model,
        Phase::Keys,
        Phase::Evidence,
        Phase::Engine,
        Phase::Serving,
    ];

    fn configure() -> HostMessage {
        HostMessage::Configure(Configure {
            version: 1,
            address: "10.0.2.15/24".into(),
            config: Blob::default(),
            manifest_id: Hex32::ZERO,
            simulate: None,
            collateral: None,
        })
    }

    fn evidence(id: u64) -> HostMessage {
        HostMessage::Evidence {
            id,
            result: Err(String::new()),
        }
    }

    #[test]
    fn configure_comes_once_and_only_when_asked_for() {
        for phase in PHASES {
            let mut door = Door::default();
            door.enter(phase);
            let admitted = door.admit(configure());
            if matches!(phase, Phase::Platform | Phase::Configuration) {
                assert!(matches!(admitted, Ok(Admitted::Configure(_))), "{phase:?}");
                assert_eq!(
                    door.admit(configure()),
                    Err(Refused {
                        message: "configure",
                        phase
                    })
                );
            } else {
                assert_eq!(
                    admitted,
                    Err(Refused {
                        message: "configure",
                        phase
                    })
                );
            }
        }
    }

    #[test]
    fn collateral_and_drain_wait_for_the_configuration() {
        for phase in PHASES {
            let mut door = Door::default();
            door.enter(phase);
            assert_eq!(
                door.admit(HostMessage::Drain),
                Err(Refused {
                    message: "drain",
                    phase
                })
            );
            let json = Blob(b"{}".to_vec());
            let collateral = HostMessage::Collateral {
                collateral: Some(Collateral::Tdx { json }),
                gpu: Some(GpuCollateral::default()),
            };
            assert_eq!(
                door.admit(collateral.clone()),
                Err(Refused {
                    message: "collateral",
                    phase
                })
            );
            door.configured = true;
            assert_eq!(door.admit(HostMessage::Drain), Ok(Admitted::Drain));
            assert!(matches!(
                door.admit(collateral),
                Ok(Admitted::Collateral(Some(_), Some(_)))
            ));
        }
    }

    #[test]
    fn evidence_is_read_only_without_a_tee_and_only_for_a_known_request() {
        for phase in PHASES {
            let refused = Err(Refused {
                message: "evidence",
                phase,
            });
            let mut door = Door {
                configured: true,
                ..Door::default()
            };
            door.enter(phase);
            let id = door.expect_evidence();
            assert_eq!(door.admit(evidence(id)), refused, "in a TEE");
            door.simulated = true;
            if phase < Phase::Evidence {
                assert_eq!(door.admit(evidence(id)), refused);
                continue;
            }
            assert_eq!(door.admit(evidence(0)), refused);
            assert_eq!(door.admit(evidence(id + 1)), refused);
            assert!(matches!(
                door.admit(evidence(id)),
                Ok(Admitted::Evidence(_))
            ));
            assert_eq!(
                door.admit(evidence(id)),
                Ok(Admitted::Stale),
                "answered twice"
            );
            let late = door.expect_evidence();
            door.forget_evidence();
            assert_eq!(door.admit(evidence(late)), Ok(Admitted::Stale));
        }
    }

    /// GPU evidence has a state of its own: an answer to a CPU request does not answer a GPU request, and vice versa.
    #[test]
    fn evidence_of_gpus_is_read_only_without_a_tee_and_only_for_a_known_request() {
        let gpus = |id| HostMessage::GpuEvidence {
            id,
            result: Err(String::new()),
        };
        for phase in PHASES {
            let refused = Err(Refused {
                message: "gpu-evidence",
                phase,
            });
            let mut door = Door {
                configured: true,
                ..Door::default()
            };
            door.enter(phase);
            let id = door.expect_gpus();
            assert_eq!(door.admit(gpus(id)), refused, "in a TEE");
            door.simulated = true;
            if phase < Phase::Evidence {
                assert_eq!(door.admit(gpus(id)), refused);
                continue;
            }
            assert!(door.admit(evidence(id)).is_err(), "nobody asked the CPU");
            assert_eq!(door.admit(gpus(id + 1)), refused);
            assert!(matches!(door.admit(gpus(id)), Ok(Admitted::GpuEvidence(_))));
            assert_eq!(door.admit(gpus(id)), Ok(Admitted::Stale));
            let late = door.expect_gpus();
            door.forget_gpus();
            assert_eq!(door.admit(gpus(late)), Ok(Admitted::Stale));
        }
    }
}
