//! A VM without a host agent: the test itself plays the host on every channel, and can be as hostile as it likes.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use cocoon_host_agent::image::Image;
use cocoon_host_agent::qemu::{self, Machine, Shape};
use cocoon_inputs::report::Silent;
use cocoon_protocol::binding::Tee;
use cocoon_protocol::bytes::Hex32;
use cocoon_protocol::config::OperatorConfig;
use cocoon_protocol::control::{
    CONTROL_VERSION, Configure, GuestMessage, HostMessage, MAX_GUEST_MESSAGE, MAX_HOST_MESSAGE,
    Phase,
};
use cocoon_protocol::frame::{self, Decoder};
use cocoon_qemu::accel::Wanted;
use cocoon_qemu::find::Qemu;
use cocoon_qemu::{Qmp, Vm};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::sync::SemaphorePermit;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Limit on every wait for a guest under emulation: the guest's own longest deadline, with time for a slow machine.
const DEADLINE: Duration = Duration::from_secs(400);
/// Maximum number of bytes kept of the console.
const CONSOLE: usize = 1 << 20;

/// A running VM whose host is the test.
pub struct BareVm {
    vm: Vm,
    /// QEMU's control connection (QMP).
    pub qmp: Qmp,
    control: UnixStream,
    decoder: Decoder,
    console: JoinHandle<io::Result<Vec<u8>>>,
    _turn: Option<SemaphorePermit<'static>>,
}

/// What a VM reported before it ended.
#[derive(Debug)]
pub struct End {
    /// The phase and reason of the guest's `Failed` message, if it sent one.
    pub failed: Option<(Phase, String)>,
    /// The console's text.
    pub console: String,
}

impl End {
    /// Returns the guest's reason for ending, which must be the same on the console and in its last message.
    ///
    /// # Errors
    /// If the guest sent no reason, or if the console does not show exactly that reason once.
    pub fn reason(&self) -> anyhow::Result<String> {
        let (phase, reason) = self.failed.as_ref().with_context(|| self.console.clone())?;
        let line = format!("cocoon: FAILED in phase {}: {reason}", phase.name());
        anyhow::ensure!(
            self.console.lines().filter(|found| *found == line).count() == 1,
            "{line:?} does not stand once on the console:\n{}",
            self.console
        );
        Ok(format!("{}: {reason}", phase.name()))
    }
}

impl BareVm {
    /// Starts the image in `folder` with one CPU. `change` may alter the machine, and `tamper` may alter the QEMU to be used.
    pub async fn start(
        folder: &Path,
        turn: Option<SemaphorePermit<'static>>,
        change: impl FnOnce(&mut Machine),
        tamper: impl FnOnce(&mut Qemu),
    ) -> anyhow::Result<Self> {
        let image = Image::open(folder, None)?;
        let obtained = qemu::find(None, Arc::new(Silent)).await?;
        let choice = qemu::choose(Wanted::Automatic, &obtained.qemu, &image, |_| ()).await?;
        let pids = tempfile::tempdir()?;
        let shape = Shape {
            name: "bare".into(),
            vcpus: 1,
            memory_mib: 512,
            accel: choice.accel,
            pid_file: pids.path().join("pid"),
        };
        let mut machine = qemu::machine(&shape, image)?;
        machine.spec.pid_file = None;
        change(&mut machine);
        let mut qemu = obtained.qemu;
        tamper(&mut qemu);
        let vm = Vm::spawn(&qemu, &machine.spec, machine.descriptors)?;
        let mut console = UnixStream::from_std(machine.console)?;
        let console = tokio::spawn(async move {
            let mut text = Vec::new();
            let mut chunk = [0; 4096];
            loop {
                let count = console.read(&mut chunk).await?;
                if count == 0 {
                    return Ok(text);
                }
                if text.len() < CONSOLE {
                    text.extend_from_slice(&chunk[..count]);
                }
            }
        });
        let qmp = Qmp::over(machine.qmp, Duration::from_secs(60))
            .await
            .map_err(|error| anyhow::anyhow!("{error}: {}", vm.diagnostics()))?;
        Ok(Self {
            vm,
            qmp,
            control: UnixStream::from_std(machine.control)?,
            decoder: Decoder::new(MAX_GUEST_MESSAGE),
            console,
            _turn: turn,
        })
    }

    /// Returns the guest's next message, or `None` when the VM has ended.
    pub async fn hear(&mut self) -> anyhow::Result<Option<GuestMessage>> {
        let mut chunk = [0; 4096];
        let hearing = async {
            loop {
                if let Some(message) = self.decoder.next()? {
                    return anyhow::Ok(Some(message));
                }
                match self.control.read(&mut chunk).await? {
                    0 => return Ok(None),
                    count => self.decoder.push(&chunk[..count]),
                }
            }
        };
        timeout(DEADLINE, hearing)
            .await
            .context("the guest says nothing")?
    }

    /// Waits for a message for which `what` returns true.
    pub async fn until(&mut self, what: impl Fn(&GuestMessage) -> bool) -> anyhow::Result<()> {
        loop {
            let message = self.hear().await?.context("the VM ended")?;
            if what(&message) {
                return Ok(());
            }
        }
    }

    /// Waits for the guest's `Hello`.
    pub async fn hello(&mut self) -> anyhow::Result<()> {
        self.until(|message| matches!(message, GuestMessage::Hello { .. }))
            .await
    }

    /// Sends a message to the guest.
    pub async fn say(&mut self, message: &HostMessage) -> anyhow::Result<()> {
        let bytes = frame::encode(message, MAX_HOST_MESSAGE)?;
        self.say_bytes(&bytes).await
    }

    /// Sends arbitrary bytes to the guest. That the guest has already ended is not an error.
    pub async fn say_bytes(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        match self.control.write_all(bytes).await {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Sends the `Configure` message of an honest host, without endorsements.
    pub async fn configure(&mut self) -> anyhow::Result<()> {
        self.say(&HostMessage::Configure(configure())).await
    }

    /// Waits until the VM ends, and returns what it reported.
    pub async fn end(mut self) -> anyhow::Result<End> {
        let mut failed = None;
        while let Some(message) = self.hear().await? {
            if let GuestMessage::Failed { phase, reason } = message {
                failed = Some((phase, reason));
            }
        }
        let ended = timeout(DEADLINE, self.vm.wait()).await;
        ended.context("QEMU goes on")?;
        let console = self.console.await??;
        // The serial console ends lines with CR LF.
        let console = String::from_utf8_lossy(&console).replace('\r', "");
        Ok(End { failed, console })
    }
}

/// Returns the `Configure` message of an honest host.
pub fn configure() -> Configure {
    Configure {
        version: CONTROL_VERSION,
        address: "10.0.2.15/24".into(),
        config: OperatorConfig::default().canonical().into(),
        manifest_id: Hex32::ZERO,
        simulate: Some(Tee::Tdx),
        collateral: None,
    }
}
