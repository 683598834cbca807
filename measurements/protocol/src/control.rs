//! The control channel: a virtio-serial port between the host agent and the guest's PID 1.
//!
//! The guest treats every host message as hostile input and parses it once, here. The comment on each value says what a lie in
//! it could do to a client. Guest messages contain nothing derived from prompts or answers: their schema is closed and
//! consists of names and numbers.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::binding::Tee;
use crate::bytes::{Blob, Hex32, Hex64};
use crate::document::{Collateral, Evidence};
use crate::engine::GpuCounts;
use crate::gpu::{CollateralRequest, CollectedGpu, GpuCollateral, GpuError, GpuMetrics, MAX_GPUS};

/// Name of the virtio-serial port.
pub const PORT_NAME: &str = "org.cocoon.control";
/// Version of this protocol. Each side states its version in its first message.
pub const CONTROL_VERSION: u16 = 1;
/// Largest message from the host, in bytes. Collateral takes up most of it.
pub const MAX_HOST_MESSAGE: usize = 6 * 1024 * 1024;
/// Largest message from the guest, in bytes. The certificates of several GPUs take up most of it.
pub const MAX_GUEST_MESSAGE: usize = 512 * 1024;
/// Longest time that a booting guest may send nothing. After a longer silence the host gives the guest up.
pub const LONGEST_SILENCE: Duration = Duration::from_secs(480);
/// TCP port on which the guest serves TLS.
pub const GUEST_PORT: u16 = 8443;

/// Message from the host to the guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    tag = "type",
    rename_all = "kebab-case",
    rename_all_fields = "snake_case",
    deny_unknown_fields
)]
pub enum HostMessage {
    /// Answer to [`GuestMessage::Hello`], sent exactly once.
    Configure(Configure),
    /// Answer to [`GuestMessage::EvidenceRequest`]. The guest accepts it only if it found no TEE.
    Evidence {
        /// Number of the request that this answers.
        id: u64,
        /// The simulated evidence, or why there is none.
        result: Result<Evidence, String>,
    },
    /// Answer to [`GuestMessage::GpuEvidenceRequest`]. The guest accepts it only if it found no TEE.
    GpuEvidence {
        /// Number of the request that this answers.
        id: u64,
        /// Evidence of each simulated GPU, or why there is none.
        result: Result<Vec<CollectedGpu>, String>,
    },
    /// New endorsements, also the answer to [`GuestMessage::CollateralRequest`]. Each endorsement is signed, so stale ones can
    /// only make clients refuse the guest. A part that is absent stays unchanged.
    Collateral {
        /// Replaces the endorsements of the CPU that the guest staples.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        collateral: Option<Collateral>,
        /// Replaces the endorsements of the GPUs that the guest staples.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        gpu: Option<GpuCollateral>,
    },
    /// Orders the guest to accept no new requests, finish the running ones and power off. The host controls availability in
    /// any case.
    Drain,
}

impl HostMessage {
    /// Checks the number and size of items that the types leave open.
    ///
    /// # Errors
    /// [`GpuError`] if the GPUs' collateral or the simulated GPUs are malformed or exceed a limit.
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

/// Configuration that the host sends to a booting guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Configure {
    /// Protocol version of the host: [`CONTROL_VERSION`].
    pub version: u16,
    /// The guest's IPv4 address and prefix length, such as `10.0.2.15/24`. There is no gateway, because the guest opens no
    /// connection.
    pub address: String,
    /// Canonical operator configuration. In a TEE the guest compares its digest with the one that the launch measured. Without
    /// a TEE the simulator measures it.
    pub config: Blob,
    /// SHA-256 of the manifest that this host publishes. It is bound into the evidence, and each client compares it with its
    /// own manifest. A lie therefore only makes clients refuse the guest.
    pub manifest_id: Hex32,
    /// TEE to simulate. Ignored if the guest found a real one.
    pub simulate: Option<Tee>,
    /// Endorsements for the guest to staple.
    pub collateral: Option<Collateral>,
}

/// Message from the guest to the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    tag = "type",
    rename_all = "kebab-case",
    rename_all_fields = "snake_case",
    deny_unknown_fields
)]
pub enum GuestMessage {
    /// First message of the guest.
    Hello {
        /// Protocol version of the guest: [`CONTROL_VERSION`].
        version: u16,
        /// TEE that the guest found; `None` requests simulated evidence.
        tee: Option<Tee>,
    },
    /// Reports that a boot phase begins.
    Phase {
        /// The phase that begins.
        phase: Phase,
        /// Milliseconds since the kernel started, by the guest's own clock.
        at_ms: u64,
    },
    /// Requests evidence over these report data from the host's simulator.
    EvidenceRequest {
        /// Number of the request, repeated in the answer.
        id: u64,
        /// 64 bytes of report data: a digest, which reveals nothing about a prompt.
        report_data: Hex64,
    },
    /// Requests evidence of simulated GPUs from the host's simulator. The measured command line states their number.
    GpuEvidenceRequest {
        /// Number of the request, repeated in the answer. Counted separately from evidence requests of the CPU.
        id: u64,
        /// 32-byte nonce that every report must answer: a digest.
        nonce: Hex32,
    },
    /// Requests the vendors' endorsements of this evidence. The host answers with [`HostMessage::Collateral`] once it has
    /// them, and again whenever it has newer ones. A host that has none does not answer.
    CollateralRequest(CollateralRequest),
    /// Progress of [`Phase::Model`]. In [`Phase::Engine`], whose library reports no progress, a sign of life with `done` and
    /// `total` zero.
    Progress {
        /// Bytes read so far.
        done: u64,
        /// Bytes to read in total.
        total: u64,
    },
    /// Reports that the listener is open.
    Serving {
        /// TCP port of the listener in the guest.
        port: u16,
        /// Milliseconds since the kernel started, by the guest's own clock.
        at_ms: u64,
    },
    /// Counters, sent at most every ten seconds.
    Metrics(Metrics),
    /// Use of the GPUs, sent at most every ten seconds and never by a guest without GPUs.
    GpuMetrics {
        /// One entry for each GPU, ordered by PCI address in the guest; at most [`MAX_GPUS`].
        gpus: Vec<GpuMetrics>,
    },
    /// Reports that the engine died and is being restarted.
    EngineRestarted {
        /// Number of times that the engine has died since boot.
        count: u32,
    },
    /// Reports that the boot failed. The VM halts afterwards.
    Failed {
        /// Phase that failed.
        phase: Phase,
        /// Reason, in the guest agent's own words. Never contains text from elsewhere.
        reason: String,
    },
    /// Reports that no request is running any more. The VM powers off afterwards.
    Drained,
}

/// Phases of a boot, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Mounts, sysctls and limits.
    Mounts,
    /// Kernel modules are loaded, then `modules_disabled` is set.
    Modules,
    /// The TEE is detected and the control channel opened.
    Platform,
    /// The host's configuration is compared with the launch measurement, and the address is set.
    Configuration,
    /// The model volume is verified by dm-verity, read into memory and detached.
    Model,
    /// The keys of the TLS leaf and of the meter are generated.
    Keys,
    /// Boot evidence is collected and the certificate issued.
    Evidence,
    /// The engine is started and loads the weights.
    Engine,
    /// The listener is opened.
    Serving,
}

impl Phase {
    /// Returns the name as it appears in messages and on the console.
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

/// Counters aggregated since boot. The schema is closed: a guest reports nothing else about its requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metrics {
    /// Number of connections accepted.
    pub connections: u64,
    /// Number of session attestations answered.
    pub attestations: u64,
    /// Number of requests that reached the engine.
    pub requests: u64,
    /// Number of requests that ended with an error.
    pub errors: u64,
    /// Tokens of all prompts.
    pub prompt_tokens: u64,
    /// Tokens of all answers.
    pub completion_tokens: u64,
    /// Number of times that the engine was restarted.
    pub engine_restarts: u64,
    /// Counters of operations on the GPUs' memory, each rounded down to its two most significant bits. Absent if the engine
    /// uses no GPU.
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
