//! The QMP messages that are used here, as types. Unknown fields are ignored; unknown shapes are errors.

use serde::Deserialize;
use serde_json::Value;

use crate::find::Version;

/// State of the machine: the part of `RunState` in QEMU's schema that is used here.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunState {
    /// The machine runs.
    Running,
    /// The machine was paused from the host.
    Paused,
    /// The machine has not been started yet.
    Prelaunch,
    /// The guest has shut down, and QEMU was told to stay.
    Shutdown,
    /// A panic device reported a panic of the guest.
    GuestPanicked,
    /// KVM failed.
    InternalError,
    /// A disk failed.
    IoError,
    /// Any other state, by its name.
    #[serde(untagged)]
    Other(String),
}

/// The part of `CpuInfoFast` in QEMU's schema that is used here.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct CpuFast {
    pub(super) thread_id: i32,
}

/// An event of the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The machine ends.
    Shutdown {
        /// Whether the guest caused it.
        guest: bool,
        /// Why, as `ShutdownCause` of QEMU's schema: `guest-shutdown`, `guest-reset`, `host-qmp-quit`, ….
        reason: String,
    },
    /// The machine was reset.
    Reset {
        /// Whether the guest caused it.
        guest: bool,
    },
    /// The guest reported a panic.
    GuestPanicked {
        /// What QEMU does in response.
        action: String,
    },
    /// The vCPUs stopped.
    Stop,
    /// The vCPUs continue.
    Resume,
    /// The guest opened or closed its end of a virtio-serial port.
    PortOpen {
        /// Device id of the port.
        id: String,
        /// Whether the port is open now.
        open: bool,
    },
    /// A device was removed.
    DeviceDeleted {
        /// Id of the device, if it had one.
        device: Option<String>,
    },
    /// QEMU has connected to a network's socket, for the first time or again.
    NetworkConnected,
    /// Any other event, by its name.
    Other(String),
}

/// A message from QEMU after the greeting.
#[derive(Debug, PartialEq)]
pub(super) enum Message {
    Answer {
        id: u64,
        result: Result<Value, Refusal>,
    },
    Event(Event),
}

#[derive(Debug, PartialEq, Eq, Deserialize)]
pub(super) struct Refusal {
    pub(super) class: String,
    pub(super) desc: String,
}

/// Counters of one disk since the machine's start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockStats {
    /// Node of the disk: its serial number in [`Disk`](crate::spec::Disk), or the node that replaced it.
    pub node: String,
    /// Bytes that the guest read.
    pub read_bytes: u64,
    /// Number of reads by the guest.
    pub read_operations: u64,
    /// Bytes that the guest wrote.
    pub written_bytes: u64,
    /// Number of writes by the guest.
    pub write_operations: u64,
}

impl Message {
    /// Parses one line.
    pub(super) fn parse(line: &[u8]) -> Result<Self, serde_json::Error> {
        Ok(match serde_json::from_slice(line)? {
            Wire::Event { event, data } => Self::Event(Event::new(event, &data)),
            Wire::Return { value, id } => Self::Answer {
                id,
                result: Ok(value),
            },
            Wire::Error { error, id } => Self::Answer {
                id,
                result: Err(error),
            },
        })
    }
}

impl Event {
    fn new(name: String, data: &Value) -> Self {
        let text = |key: &str| data.get(key).and_then(Value::as_str).map(str::to_owned);
        let flag = |key: &str| data.get(key).and_then(Value::as_bool).unwrap_or_default();
        match name.as_str() {
            "SHUTDOWN" => Self::Shutdown {
                guest: flag("guest"),
                reason: text("reason").unwrap_or_default(),
            },
            "RESET" => Self::Reset {
                guest: flag("guest"),
            },
            "GUEST_PANICKED" => Self::GuestPanicked {
                action: text("action").unwrap_or_default(),
            },
            "STOP" => Self::Stop,
            "RESUME" => Self::Resume,
            "VSERPORT_CHANGE" => Self::PortOpen {
                id: text("id").unwrap_or_default(),
                open: flag("open"),
            },
            "DEVICE_DELETED" => Self::DeviceDeleted {
                device: text("device"),
            },
            "NETDEV_STREAM_CONNECTED" => Self::NetworkConnected,
            _ => Self::Other(name),
        }
    }
}

impl From<BlockEntry> for BlockStats {
    fn from(entry: BlockEntry) -> Self {
        Self {
            node: entry.node.unwrap_or_default(),
            read_bytes: entry.stats.rd_bytes,
            read_operations: entry.stats.rd_operations,
            written_bytes: entry.stats.wr_bytes,
            write_operations: entry.stats.wr_operations,
        }
    }
}

/// Parses the first line, `{"QMP": {"version": {"qemu": {...}}}}`.
pub(super) fn greeting(line: &[u8]) -> Result<Version, serde_json::Error> {
    let Greeting {
        qmp: Body {
            version: Versions { qemu },
        },
    } = serde_json::from_slice(line)?;
    Ok(Version {
        major: qemu.major,
        minor: qemu.minor,
        micro: qemu.micro,
    })
}

#[derive(Deserialize)]
struct Greeting {
    #[serde(rename = "QMP")]
    qmp: Body,
}

#[derive(Deserialize)]
struct Body {
    version: Versions,
}

#[derive(Deserialize)]
struct Versions {
    qemu: Numbers,
}

#[derive(Deserialize)]
struct Numbers {
    major: u32,
    minor: u32,
    micro: u32,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Wire {
    Event {
        event: String,
        #[serde(default)]
        data: Value,
    },
    Return {
        #[serde(rename = "return")]
        value: Value,
        id: u64,
    },
    Error {
        error: Refusal,
        id: u64,
    },
}

#[derive(Deserialize)]
pub(super) struct Status {
    pub(super) status: RunState,
}

#[derive(Deserialize)]
pub(super) struct BlockEntry {
    #[serde(rename = "node-name")]
    node: Option<String>,
    stats: Counters,
}

#[derive(Deserialize)]
struct Counters {
    rd_bytes: u64,
    rd_operations: u64,
    wr_bytes: u64,
    wr_operations: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_told_apart() {
        let shutdown = br#"{"timestamp":{"seconds":1,"microseconds":2},"event":"SHUTDOWN","data":{"guest":true,"reason":"guest-reset"}}"#;
        let event = Event::Shutdown {
            guest: true,
            reason: "guest-reset".into(),
        };
        assert_eq!(
            Message::parse(shutdown).expect("an event"),
            Message::Event(event)
        );
        let connected = br#"{"event":"NETDEV_STREAM_CONNECTED","data":{"netdev-id":"net0","addr":{"type":"unix","path":"/run/p"}}}"#;
        assert_eq!(
            Message::parse(connected).expect("an event"),
            Message::Event(Event::NetworkConnected)
        );
        let answer = Message::parse(br#"{"return": {}, "id": 7}"#).expect("an answer");
        assert_eq!(
            answer,
            Message::Answer {
                id: 7,
                result: Ok(serde_json::json!({}))
            }
        );
        let refusal =
            Message::parse(br#"{"id":1,"error":{"class":"CommandNotFound","desc":"no"}}"#)
                .expect("an answer");
        let expected = Refusal {
            class: "CommandNotFound".into(),
            desc: "no".into(),
        };
        assert_eq!(
            refusal,
            Message::Answer {
                id: 1,
                result: Err(expected)
            }
        );
        for bad in [
            "",
            "{}",
            "[]",
            r#"{"return":{}}"#,
            r#"{"error":{"class":"x"},"id":1}"#,
            "\u{0}",
        ] {
            assert!(Message::parse(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn states_known_and_unknown() {
        let state = |text: &str| serde_json::from_str::<RunState>(text).expect("a state");
        assert_eq!(state("\"internal-error\""), RunState::InternalError);
        assert_eq!(state("\"colo\""), RunState::Other("colo".into()));
    }
}
