//! Typed control of a running QEMU over its machine protocol (QMP), and its events.
//!
//! A client of our own: the schema-generated one has no limit on the size of a message, and two thousand types
//! for the dozen commands needed here.

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

/// Longest message taken from QEMU, in bytes. The answers used here are below 64 KiB.
pub const MESSAGE_MAX: usize = 1 << 20;

/// How long one command may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// A connection to one QEMU. Clones share it; it closes with the last.
#[derive(Debug, Clone)]
pub struct Qmp {
    transport: Arc<Transport>,
    version: Version,
}

impl Qmp {
    /// Connects to the socket at `path` and waits for QEMU's greeting, `patience` in all.
    ///
    /// # Errors
    /// Nobody listens, something else answers, or nothing comes in time.
    pub async fn connect(path: &Path, patience: Duration) -> Result<Self, QmpError> {
        let fail = |source| QmpError::Connect {
            path: path.to_owned(),
            source,
        };
        Self::greet(UnixStream::connect(path).await.map_err(fail)?, patience).await
    }

    /// Takes our end of a pair made by [`pair`](crate::socket::pair).
    ///
    /// # Errors
    /// Something else answers, or nothing comes in time.
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

    /// Whether the machine runs, and if not, why.
    ///
    /// # Errors
    /// See [`QmpError`]; so for every command below.
    pub async fn status(&self) -> Result<RunState, QmpError> {
        let answer: messages::Status = self.execute("query-status", json!({})).await?;
        Ok(answer.status)
    }

    /// Ends QEMU at once. A connection that closes instead of answering counts as done.
    ///
    /// # Errors
    /// QEMU refuses, or does not answer in time.
    pub async fn quit(&self) -> Result<(), QmpError> {
        match self.execute::<Value>("quit", json!({})).await {
            Ok(_) | Err(QmpError::Closed(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Stops all processors; the machine keeps its state.
    ///
    /// # Errors
    /// See [`QmpError`].
    pub async fn pause(&self) -> Result<(), QmpError> {
        self.execute::<Value>("stop", json!({})).await.map(drop)
    }

    /// Presses the power button; what follows is up to the guest.
    ///
    /// # Errors
    /// See [`QmpError`].
    pub async fn system_powerdown(&self) -> Result<(), QmpError> {
        self.execute::<Value>("system_powerdown", json!({}))
            .await
            .map(drop)
    }

    /// What every disk has read and written so far.
    ///
    /// # Errors
    /// See [`QmpError`].
    pub async fn block_stats(&self) -> Result<Vec<BlockStats>, QmpError> {
        let entries: Vec<messages::BlockEntry> =
            self.execute("query-blockstats", json!({})).await?;
        Ok(entries.into_iter().map(BlockStats::from).collect())
    }

    /// The threads that run the virtual CPUs, in order, by the kernel's numbers.
    ///
    /// # Errors
    /// See [`QmpError`].
    pub async fn cpu_threads(&self) -> Result<Vec<i32>, QmpError> {
        let cpus: Vec<messages::CpuFast> = self.execute("query-cpus-fast", json!({})).await?;
        Ok(cpus.into_iter().map(|cpu| cpu.thread_id).collect())
    }

    /// Lets the network card say its address to whoever is behind it, a few times: a guest that only answers says nothing
    /// by itself.
    ///
    /// # Errors
    /// See [`QmpError`].
    pub async fn announce(&self) -> Result<(), QmpError> {
        let times = json!({ "initial": 50, "max": 550, "rounds": 5, "step": 100 });
        self.execute::<Value>("announce-self", times)
            .await
            .map(drop)
    }

    /// The loopback port that leads to `guest_port`.
    ///
    /// # Errors
    /// [`QmpError::NotForwarded`] when none does.
    pub async fn forwarded_port(&self, guest_port: u16) -> Result<u16, QmpError> {
        let table = self.human("info usernet").await?;
        usernet::forwarded(&table, guest_port).ok_or(QmpError::NotForwarded(guest_port))
    }

    /// Unplugs a device by its id, such as `control`. [`Event::DeviceDeleted`] follows once it is gone. Disks and
    /// card sit on the root bus, which refuses.
    ///
    /// # Errors
    /// See [`QmpError`].
    pub async fn device_del(&self, id: &str) -> Result<(), QmpError> {
        self.execute::<Value>("device_del", json!({ "id": id }))
            .await
            .map(drop)
    }

    /// Puts another raw image behind the disk with this serial, unseen by the guest: what a hostile host can do
    /// at any time. Read-only, like the one before.
    ///
    /// # Errors
    /// See [`QmpError`].
    pub async fn swap_disk(&self, serial: &str, image: &Path) -> Result<(), QmpError> {
        let node = format!("{serial}-swapped");
        let file = json!({ "driver": "file", "filename": image });
        let add = json!({ "driver": "raw", "node-name": node, "read-only": true, "file": file });
        self.execute::<Value>("blockdev-add", add).await?;
        let device = format!("/machine/peripheral/disk-{serial}");
        let set = json!({ "path": device, "property": "drive", "value": node });
        self.execute::<Value>("qom-set", set).await.map(drop)
    }

    /// Runs a command of the human monitor and returns its text.
    ///
    /// # Errors
    /// See [`QmpError`].
    pub async fn human(&self, line: &str) -> Result<String, QmpError> {
        self.execute("human-monitor-command", json!({ "command-line": line }))
            .await
    }

    /// Runs any command.
    ///
    /// # Errors
    /// QEMU refuses it, answers something of another shape, closes, or takes longer than ten seconds.
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

    /// Events from now on. A receiver that lags loses the oldest and is told so; the stream ends with QEMU.
    #[must_use]
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.transport.events()
    }

    /// What QEMU's greeting said it is.
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

/// Why QEMU could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum QmpError {
    /// Nobody listens.
    #[error("cannot connect to QEMU's control socket {path:?}; check that the machine runs")]
    Connect {
        /// Where.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The connection failed.
    #[error("the connection to QEMU failed")]
    Io(#[source] io::Error),
    /// The connection ended, and with it usually the machine.
    #[error("QEMU closed its control connection: {0}")]
    Closed(Closed),
    /// No answer.
    #[error("QEMU did not answer in time to {what}")]
    Late {
        /// The command.
        what: &'static str,
    },
    /// QEMU's own refusal.
    #[error("QEMU refused {command}: {class}: {description}")]
    Refused {
        /// The command.
        command: &'static str,
        /// Its class of error.
        class: String,
        /// Its words.
        description: String,
    },
    /// The greeting is not QEMU's.
    #[error("the control socket did not greet like QEMU")]
    Greeting(#[source] serde_json::Error),
    /// An answer of another shape.
    #[error("QEMU's answer to {command} has an unknown shape")]
    Shape {
        /// The command.
        command: &'static str,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// No such forwarding.
    #[error("QEMU forwards no host port to the guest's port {0}")]
    NotForwarded(u16),
}

/// How a control connection ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Closed {
    /// QEMU closed it.
    #[error("end of stream")]
    End,
    /// The system broke it.
    #[error("{0}")]
    Broken(io::ErrorKind),
    /// A message above [`MESSAGE_MAX`].
    #[error("a message of more than {MESSAGE_MAX} bytes")]
    TooLong,
    /// Something that is no message.
    #[error("a message that is not understood")]
    NotUnderstood,
}
