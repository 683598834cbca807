//! The control channel: a virtio-serial port between the host agent and the guest's PID 1.
//!
//! Every host message is hostile input, parsed once here. What each value could do to a client is
//! said beside it. Nothing derived from prompts or answers has a place in a guest message: the
//! schema is closed, names and numbers only.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::binding::Tee;
use crate::bytes::{Blob, Hex32, Hex64};
use crate::document::{Collateral, Evidence};
use crate::engine::GpuCounts;
use crate::gpu::{CollateralRequest, CollectedGpu, GpuCollateral, GpuError, GpuMetrics, MAX_GPUS};

/// Name of the virtio-serial port.
pub const PORT_NAME: &str = "org.cocoon.control";
/// Version of this protocol; both sides name theirs first.
pub const CONTROL_VERSION: u16 = 1;
/// Largest message from the host, in bytes: collateral is most of it.
pub const MAX_HOST_MESSAGE: usize = 6 * 1024 * 1024;
/// Largest message from the guest, in bytes: the certificates of many GPUs are most of it.
pub const MAX_GUEST_MESSAGE: usize = 512 * 1024;
/// Longest time in which a guest that boots says nothing; a host that heard nothing for longer gives it up.
pub const LONGEST_SILENCE: Duration = Duration::from_secs(480);
/// TCP port that the guest serves TLS on.
pub const GUEST_PORT: u16 = 8443;

/// From the host to the guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    tag = "type",
    rename_all = "kebab-case",
    rename_all_fields = "snake_case",
    deny_unknown_fields
)]
pub enum HostMessage {
    /// The answer to [`GuestMessage::Hello`], exactly once.
    Configure(Configure),
    /// The answer to [`GuestMessage::EvidenceRequest`]; read only where no TEE was found.
    Evidence {
        /// Number of the request.
        id: u64,
        /// Simulated evidence, or why there is none.
        result: Result<Evidence, String>,
    },
    /// The answer to [`GuestMessage::GpuEvidenceRequest`]; read only where no TEE was found.
    GpuEvidence {
        /// Number of the request.
        id: u64,
        /// What the simulated GPUs show, or why they show nothing.
        result: Result<Vec<CollectedGpu>, String>,
    },
    /// Newer endorsements, also in answer to [`GuestMessage::CollateralRequest`]. Each authenticates itself; stale ones
    /// can only cause a refusal. A part that is absent stays as it was.
    Collateral {
        /// Replaces what the guest staples of the CPU's vendor.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        collateral: Option<Collateral>,
        /// Replaces what the guest staples of the GPUs' vendor.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        gpu: Option<GpuCollateral>,
    },
    /// Finish running requests, take no new ones, then power off. Availability is the host's anyway.
    Drain,
}

impl HostMessage {
    /// Checks number and size of what the types leave open.
    ///
    /// # Errors
    /// [`GpuError`] of the GPUs' collateral or of simulated GPUs.
    pub fn check(&self) -> Result<(), GpuError> {
        match self {
            HostMessage::Collateral { gpu: Some(gpu), .. } => gpu.check(),
            HostMessage::GpuEvidence {
                result: Ok(gpus), ..
            } => match gpus.len() {
                ..=MAX_GPUS => gpus.iter().try_for_each(CollectedGpu::check),
                found => Err(GpuError::TooMany {
                    what: "GPUs",
                    found,
                    limit: MAX_GPUS,
                }),
            },
            _ => Ok(()),
        }
    }
}

/// What the host tells a booting guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Configure {
    /// [`CONTROL_VERSION`].
    pub version: u16,
    /// The guest's IPv4 address and prefix length, such as `10.0.2.15/24`. There is no gateway:
    /// the guest opens no connection.
    pub address: String,
    /// Canonical operator configuration. In a TEE the guest compares its digest with what the
    /// launch measured; elsewhere the simulator does the measuring.
    pub config: Blob,
    /// SHA-256 of the manifest that this host publishes. Bound into the evidence and compared by
    /// the client with its own, so a lie only makes clients refuse.
    pub manifest_id: Hex32,
    /// Which TEE to imitate. Ignored where there is a real one.
    pub simulate: Option<Tee>,
    /// Endorsements to staple.
    pub collateral: Option<Collateral>,
}

/// From the guest to the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    tag = "type",
    rename_all = "kebab-case",
    rename_all_fields = "snake_case",
    deny_unknown_fields
)]
pub enum GuestMessage {
    /// First message.
    Hello {
        /// [`CONTROL_VERSION`].
        version: u16,
        /// The TEE that the guest found; `None` asks for simulated evidence.
        tee: Option<Tee>,
    },
    /// A boot phase begins.
    Phase {
        /// Its name.
        phase: Phase,
        /// Milliseconds since the kernel started, on the guest's own clock.
        at_ms: u64,
    },
    /// Asks the host's simulator for evidence over these report data.
    EvidenceRequest {
        /// Number to answer with.
        id: u64,
        /// 64 bytes of report data: a digest, which says nothing about a prompt.
        report_data: Hex64,
    },
    /// Asks the host's simulator for evidence of simulated GPUs, as many as the measured command line says.
    GpuEvidenceRequest {
        /// Number to answer with, of a row of its own.
        id: u64,
        /// 32 bytes that every report must be about: a digest.
        nonce: Hex32,
    },
    /// Asks for the vendors' endorsements of this evidence. The answer is [`HostMessage::Collateral`], when the host has
    /// it, and again whenever the host has newer; a host without any stays silent.
    CollateralRequest(CollateralRequest),
    /// Progress of the phase [`Phase::Model`]. In [`Phase::Engine`], whose library does not say how far it is, a sign of life:
    /// nothing of nothing.
    Progress {
        /// Bytes done.
        done: u64,
        /// Bytes in all.
        total: u64,
    },
    /// The listener is open.
    Serving {
        /// TCP port in the guest.
        port: u16,
        /// Milliseconds since the kernel started.
        at_ms: u64,
    },
    /// Counters, at most every ten seconds.
    Metrics(Metrics),
    /// How the GPUs are used, at most every ten seconds; never where there are none.
    GpuMetrics {
        /// One for each GPU, by their addresses in the guest; at most [`MAX_GPUS`].
        gpus: Vec<GpuMetrics>,
    },
    /// The engine died and is being started again.
    EngineRestarted {
        /// Deaths since boot.
        count: u32,
    },
    /// Boot failed; the VM halts.
    Failed {
        /// Phase that failed.
        phase: Phase,
        /// Why, in our own words: never foreign text.
        reason: String,
    },
    /// No request runs any more; the VM powers off.
    Drained,
}

/// The phases of a boot, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Mount tables, sysctls, limits.
    Mounts,
    /// Kernel modules, then `modules_disabled`.
    Modules,
    /// TEE detection and control channel.
    Platform,
    /// Configuration from the host, compared with the launch; address.
    Configuration,
    /// Model volume: verity, read into memory, volume detached.
    Model,
    /// TLS leaf and meter key.
    Keys,
    /// Boot evidence and certificate.
    Evidence,
    /// Engine started, weights loaded.
    Engine,
    /// Listener open.
    Serving,
}

impl Phase {
    /// The name as it stands in messages and on the console.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Mounts => "mounts",
            Phase::Modules => "modules",
            Phase::Platform => "platform",
            Phase::Configuration => "configuration",
            Phase::Model => "model",
            Phase::Keys => "keys",
            Phase::Evidence => "evidence",
            Phase::Engine => "engine",
            Phase::Serving => "serving",
        }
    }
}

/// Aggregated counters since boot: the closed schema of what may leave the guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metrics {
    /// Connections accepted.
    pub connections: u64,
    /// Session attestations answered.
    pub attestations: u64,
    /// Requests that reached the engine.
    pub requests: u64,
    /// Requests that ended with an error.
    pub errors: u64,
    /// Prompt tokens.
    pub prompt_tokens: u64,
    /// Completion tokens.
    pub completion_tokens: u64,
    /// Times the engine was started again.
    pub engine_restarts: u64,
    /// What was done to the GPUs' memory, of each number the two leading bits; left out where no engine works on any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu: Option<GpuCounts>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{Decoder, encode};

    fn refused(json: &str) -> bool {
        let mut decoder = Decoder::new(MAX_HOST_MESSAGE);
        let length = u32::try_from(json.len()).unwrap();
        decoder.push(&[&length.to_be_bytes()[..], json.as_bytes()].concat());
        decoder.next::<HostMessage>().is_err()
    }

    #[test]
    fn host_messages_are_a_closed_set() {
        assert!(!refused(r#"{"type":"drain"}"#));
        assert!(!refused(r#"{"type":"collateral"}"#));
        assert!(refused(r#"{"type":"collateral","gpu":{"rims":[]}}"#));
        assert!(refused(r#"{"type":"shell"}"#));
        assert!(refused(
            r#"{"type":"configure","version":1,"address":"10.0.2.15/24","config":"","manifest_id":"00","simulate":null,"collateral":null}"#
        ));
        let zero = "00".repeat(32);
        let configure = |extra: &str| {
            format!(
                r#"{{"type":"configure","version":1,"address":"10.0.2.15/24","config":"e30=","manifest_id":"{zero}","simulate":"tdx","collateral":null{extra}}}"#
            )
        };
        assert!(!refused(&configure("")));
        assert!(refused(&configure(r#","debug":true"#)));
    }

    #[test]
    fn messages_stand_as_documented() {
        let hello = GuestMessage::Hello {
            version: CONTROL_VERSION,
            tee: None,
        };
        let frame = encode(&hello, MAX_GUEST_MESSAGE).unwrap();
        assert_eq!(&frame[4..], br#"{"type":"hello","version":1,"tee":null}"#);
        let evidence = HostMessage::Evidence {
            id: 7,
            result: Err("no simulator".into()),
        };
        let frame = encode(&evidence, MAX_HOST_MESSAGE).unwrap();
        let mut decoder = Decoder::new(MAX_HOST_MESSAGE);
        decoder.push(&frame);
        assert_eq!(decoder.next::<HostMessage>().unwrap(), Some(evidence));
    }

    #[test]
    fn phases_have_the_same_name_everywhere() {
        use Phase::*;
        for phase in [
            Mounts,
            Modules,
            Platform,
            Configuration,
            Model,
            Keys,
            Evidence,
            Engine,
            Serving,
        ] {
            assert_eq!(serde_json::to_value(phase).unwrap(), phase.name());
        }
    }
}
