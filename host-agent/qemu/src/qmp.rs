//! Typed control of a running QEMU over the QEMU Machine Protocol (QMP), and its events.
//!
//! This is a client of the project's own: the schema-generated one does not limit the size of messages, and has two
//! thousand types for the dozen commands needed here.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::net::UnixStream;
use tokio::sync::broadcast;

use crate::find::Version;

mod messages;
mod transport;
mod usernet;

pub use messages::{BlockStats, Event, RunState};
use transport::Transport;

/// Longest message accepted from QEMU, in bytes. The answers used here are below 64 KiB.
pub const MESSAGE_MAX: usize = 1 << 20;

/// How long one command may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// A connection to one QEMU. Clones share it, and it closes with the last clone.
#[derive(Debug, Clone)]
pub struct Qmp {
    transport: Arc<Transport>,
    version: Version,
}

impl Qmp {
    /// Connects to the socket at `path` and waits for QEMU's greeting, for `patience` in total.
    ///
    /// # Errors
    /// [`QmpError`] if nothing listens, something other than QEMU answers, or nothing arrives in time.
    pub async fn connect(path: &Path, patience: Duration) -> Result<Self, QmpError> {
        let fail = |source| QmpError::Connect {
            path: path.to_owned(),
            source,
        };
        Self::greet(UnixStream::connect(path).await.map_err(fail)?, patience).await
    }

    /// Takes over this process's end of a pair made by [`pair`](crate::socket::pair).
    ///
    /// # Errors
    /// [`QmpError`] if something other than QEMU answers, or nothing arrives in time.
    pub async fn over(
        stream: std::os::unix::net::UnixStream,
        patience: Duration,
    ) -> Result<Self, QmpError> {
        Self::greet(
            UnixStream::from_std(stream).map_err(QmpError::Io)?,
            patience,
        )
        .await
    }

    /// Returns whether the machine runs, and if not, why.
    ///
    /// # Errors
    /// [`QmpError`] if QEMU refuses, closes the connection or does not answer in time; so for every command below.
    pub async fn status(&self) -> Result<RunState, QmpError> {
        let answer: messages::Status = self.execute("query-status", json!({})).await?;
        Ok(answer.status)
    }

    /// Ends QEMU at once. A connection that closes without an answer counts as success.
    ///
    /// # Errors
    /// [`QmpError`] if QEMU refuses or does not answer in time.
    pub async fn quit(&self) -> Result<(), QmpError> {
        match self.execute::<Value>("quit", json!({})).await {
            Ok(_) | Err(QmpError::Closed(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Stops all vCPUs; the machine keeps its state.
    ///
    /// # Errors
    /// As for [`Qmp::status`].
    pub async fn pause(&self) -> Result<(), QmpError> {
        self.execute::<Value>("stop", json!({})).await.map(drop)
    }

    /// Presses the power button; the guest decides what follows.
    ///
    /// # Errors
    /// As for [`Qmp::status`].
    pub async fn system_powerdown(&self) -> Result<(), QmpError> {
        self.execute::<Value>("system_powerdown", json!({}))
            .await
            .map(drop)
    }

    /// Returns what every disk has read and written so far.
    ///
    /// # Errors
    /// As for [`Qmp::status`].
    pub async fn block_stats(&self) -> Result<Vec<BlockStats>, QmpError> {
        let entries: Vec<messages::BlockEntry> =
            self.execute("query-blockstats", json!({})).await?;
        Ok(entries.into_iter().map(BlockStats::from).collect())
    }

    /// Returns the thread ids of the vCPUs, in order.
    ///
    /// # Errors
    /// As for [`Qmp::status`].
    pub async fn cpu_threads(&self) -> Result<Vec<i32>, QmpError> {
        let cpus: Vec<messages::CpuFast> = self.execute("query-cpus-fast", json!({})).await?;
        Ok(cpus.into_iter().map(|cpu| cpu.thread_id).collect())
    }

    /// Has the network card announce its address a few times: a guest that only answers sends nothing by itself.
    ///
    /// # Errors
    /// As for [`Qmp::status`].
    pub async fn announce(&self) -> Result<(), QmpError> {
        let times = json!({ "initial": 50, "max": 550, "rounds": 5, "step": 100 });
        self.execute::<Value>("announce-self", times)
            .await
            .map(drop)
    }

    /// Returns the loopback port that is forwarded to `guest_port`.
    ///
    /// # Errors
    /// [`QmpError::NotForwarded`] if there is none; otherwise as for [`Qmp::status`].
    pub async fn forwarded_port(&self, guest_port: u16) -> Result<u16, QmpError> {
        let table = self.human("info usernet").await?;
        usernet::forwarded(&table, guest_port).ok_or(QmpError::NotForwarded(guest_port))
    }

    /// Unplugs a device by its id, such as `control`. [`Event::DeviceDeleted`] follows once it is gone. Disks and the
    /// network card are on the root bus, which does not support this.
    ///
    /// # Errors
    /// As for [`Qmp::status`].
    pub async fn device_del(&self, id: &str) -> Result<(), QmpError> {
        self.execute::<Value>("device_del", json!({ "id": id }))
            .await
            .map(drop)
    }

    /// Replaces the image behind the disk with this serial number, unnoticed by the guest, as a hostile host can at any
    /// time. The new image is raw and read-only, too.
    ///
    /// # Errors
    /// As for [`Qmp::status`].
    pub async fn swap_disk(&self, serial: &str, image: &Path) -> Result<(), QmpError> {
        let node = format!("{serial}-swapped");
        let file = json!({ "driver": "file", "filename": image });
        let add = json!({ "driver": "raw", "node-name": node, "read-only": true, "file": file });
        self.execute::<Value>("blockdev-add", add).await?;
        let device = format!("/machine/peripheral/disk-{serial}");
        let set = json!({ "path": device, "property": "drive", "value": node });
        self.execute::<Value>("qom-set", set).await.map(drop)
    }

    /// Runs a command of the human monitor and returns its output.
    ///
    /// # Errors
    /// As for [`Qmp::status`].
    pub async fn human(&self, line: &str) -> Result<String, QmpError> {
        self.execute("human-monitor-command", json!({ "command-line": line }))
            .await
    }

    /// Runs any command.
    ///
    /// # Errors
    /// [`QmpError`] if QEMU refuses the command, its answer has another shape, it closes the connection, or it takes longer
    /// than ten seconds.
    pub async fn execute<T: DeserializeOwned>(
        &self,
        command: &'static str,
        arguments: Value,
    ) -> Result<T, QmpError> {
        let answer =
            tokio::time::timeout(PATIENCE, self.transport.execute(command, arguments)).await;
        let value = answer.map_err(|_| QmpError::Late { what: command })??;
        serde_json::from_value(value).map_err(|source| QmpError::Shape { command, source })
    }

    /// Returns the events from now on. A receiver that lags loses the oldest and is told so. The stream ends with QEMU.
    #[must_use]
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.transport.events()
    }

    /// Returns the version from QEMU's greeting.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    async fn greet(stream: UnixStream, patience: Duration) -> Result<Self, QmpError> {
        let greeted = tokio::time::timeout(patience, Transport::open(stream)).await;
        let (transport, version) = greeted.map_err(|_| QmpError::Late { what: "greeting" })??;
        let qmp = Self {
            transport: Arc::new(transport),
            version,
        };
        qmp.execute::<Value>("qmp_capabilities", json!({})).await?;
        Ok(qmp)
    }
}

/// Why a QMP command failed.
#[derive(Debug, thiserror::Error)]
pub enum QmpError {
    /// Nothing listens on the socket.
    #[error("cannot connect to QEMU's control socket {path:?}; check that the machine runs")]
    Connect {
        /// Path of the socket.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// The connection could not be used.
    #[error("the connection to QEMU failed")]
    Io(#[source] io::Error),
    /// The connection was closed, usually because the machine ended.
    #[error("QEMU closed its control connection: {0}")]
    Closed(Closed),
    /// QEMU did not answer in time.
    #[error("QEMU did not answer in time to {what}")]
    Late {
        /// The command.
        what: &'static str,
    },
    /// QEMU refused the command.
    #[error("QEMU refused {command}: {class}: {description}")]
    Refused {
        /// The command.
        command: &'static str,
        /// QEMU's class of error.
        class: String,
        /// QEMU's description of the error.
        description: String,
    },
    /// The greeting is not QEMU's.
    #[error("the control socket did not greet like QEMU")]
    Greeting(#[source] serde_json::Error),
    /// The answer has an unexpected shape.
    #[error("QEMU's answer to {command} has an unknown shape")]
    Shape {
        /// The command.
        command: &'static str,
        /// What does not fit.
        #[source]
        source: serde_json::Error,
    },
    /// No host port is forwarded to this port of the guest.
    #[error("QEMU forwards no host port to the guest's port {0}")]
    NotForwarded(u16),
}

/// Why a QMP connection closed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Closed {
    /// QEMU closed the connection.
    #[error("end of stream")]
    End,
    /// The system reported an error.
    #[error("{0}")]
    Broken(io::ErrorKind),
    /// QEMU sent a message above [`MESSAGE_MAX`].
    #[error("a message of more than {MESSAGE_MAX} bytes")]
    TooLong,
    /// QEMU sent something that is not a message.
    #[error("a message that is not understood")]
    NotUnderstood,
}
