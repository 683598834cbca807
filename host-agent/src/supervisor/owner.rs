//! The supervisor's own process: brings its VM up, reports, and ends with it.

use std::io;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use cocoon_protocol::control::Phase;
use cocoon_protocol::frame::{self, Decoder};
use cocoon_protocol::manifest::manifest_id;
use cocoon_qemu::qmp::{self, RunState};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::{ENDING, Ended, LAUNCH, Launch, MAX_MESSAGE, Order, Report, VERSION};
use crate::error::UpError;
use crate::lifecycle::{Ending, Stage};
use crate::progress::Progress;
use crate::state;
use crate::text::chain;
use crate::timings::Step;
use crate::{Host, RunningVm};

/// Daemons that may listen at once: one that goes, one that comes, and people who look.
const LISTENERS: usize = 8;
/// After a failure to take one.
const RETRY: Duration = Duration::from_millis(100);
/// How long a daemon may take to read a report.
const READ: Duration = Duration::from_secs(10);
/// How long the last report may take.
const LAST: Duration = Duration::from_secs(2);

/// Owns the VM `name` in its run `run` until its end, whatever that is. Standard input is the listening socket.
///
/// # Errors
/// Only what keeps it from reporting; a VM that fails is reported.
pub async fn supervise(root: &Path, name: &str, run: u64) -> anyhow::Result<()> {
    // No terminal's hang-up or Ctrl-C is meant for us. It fails where we lead a group of our own already.
    let _ = nix::unistd::setsid();
    let socket = io::stdin().as_fd().try_clone_to_owned();
    let socket =
        std::os::unix::net::UnixListener::from(socket.context("standard input is closed")?);
    socket.set_nonblocking(true)?;
    let socket = UnixListener::from_std(socket).context("standard input is no listening socket")?;
    let folder = state::folder(root, name)?;
    let (report, reports) = watch::channel(Report::first(run));
    let (orders, mut ordered) = mpsc::channel(1);
    let mut terminate = signal(SignalKind::terminate())?;
    let asked = orders.clone();
    let signals = tokio::spawn(async move {
        // Once is enough: draining has its own deadline.
        terminate.recv().await;
        let _ = asked.try_send(Order::Drain);
    });
    let serving = tokio::spawn(serve(socket, reports, orders));
    let ending = match own(root, &folder, run, &report, &mut ordered).await {
        Ok(()) => Ending::Stopped,
        Err(reason) => Ending::Failed { reason },
    };
    let ended = Ended {
        run,
        ending: ending.clone(),
    };
    // For a daemon that comes later. On a full disk it learns only that we are gone.
    let kept = serde_json::to_vec(&ended).map(|bytes| state::write(&folder.join(ENDING), &bytes));
    if let Ok(Err(error)) = kept {
        eprintln!("cannot keep how the VM ended: {}", chain(&error));
    }
    report.send_modify(|report| report.ended = Some(ending));
    drop(report);
    signals.abort();
    // Whoever listens reads the end, within reason.
    let _ = timeout(LAST, serving).await;
    Ok(())
}

/// From the launch to the end.
async fn own(
    root: &Path,
    folder: &Path,
    run: u64,
    report: &watch::Sender<Report>,
    ordered: &mut mpsc::Receiver<Order>,
) -> Result<(), String> {
    let said = |error: &dyn std::error::Error| chain(error);
    let launch = std::fs::read(folder.join(LAUNCH)).map_err(|error| said(&error))?;
    let launch: Launch = serde_json::from_slice(&launch).map_err(|error| said(&error))?;
    if launch.run != run {
        return Err(format!(
            "run {run} was to be started, {LAUNCH} is of run {}",
            launch.run
        ));
    }
    let options = launch.options(root).map_err(|error| said(&error))?;
    let told = report.clone();
    let booting = Host::up(options, move |progress| {
        told.send_modify(|report| report.hear(progress));
    });
    let mut vm: RunningVm = tokio::select! {
        vm = booting => vm.map_err(|error| said(&error))?,
        // Dropping the future ends all that it started.
        Some(Order::Drain) = ordered.recv() => return Ok(()),
    };
    // All at once: who hears that it serves can verify it.
    report.send_modify(|report| {
        report.stage = Stage::Serving;
        report.doing = "serving".to_owned();
        report.endpoint = Some(vm.endpoint);
        report.trust_root = vm.trust_root.clone();
        let manifest = std::fs::read(folder.join("manifest.json")).ok();
        report.manifest_id = manifest.map(|bytes| manifest_id(&bytes).to_string());
        report.steps = vm.timings().steps().to_vec();
    });
    let mut events = vm.qmp.events();
    loop {
        tokio::select! {
            ended = vm.wait() => return ended.map_err(|error| said(&error)),
            Some(Order::Drain) = ordered.recv() => break,
            event = events.recv() => match event {
                Ok(qmp::Event::Stop | qmp::Event::GuestPanicked { .. }) => {
                    if let Some(why) = halted(&vm).await {
                        report.send_modify(|report| report.halted = Some(why));
                    }
                }
                Ok(_) | Err(tokio::sync::broadcast::error::RecvError::Lagged(_)) => {}
                // QEMU is ending, which `wait` will tell.
                Err(tokio::sync::broadcast::error::RecvError::Closed) => {
                    tokio::select! {
                        ended = vm.wait() => return ended.map_err(|error| said(&error)),
                        Some(Order::Drain) = ordered.recv() => break,
                    }
                }
            },
        }
    }
    report.send_modify(|report| {
        report.stage = Stage::Draining;
        report.doing = "draining".to_owned();
    });
    match vm.shutdown().await {
        // It is down all the same; that it was not quick is in the log.
        Ok(()) | Err(UpError::Failed { .. }) => Ok(()),
        Err(error) => Err(said(&error)),
    }
}

/// Why the machine stands still; `None` when it runs after all, or is just ending.
async fn halted(vm: &RunningVm) -> Option<String> {
    match vm.qmp.status().await.ok()? {
        RunState::Running | RunState::Prelaunch | RunState::Shutdown => None,
        RunState::Paused => Some("QEMU was told to pause the machine".to_owned()),
        RunState::GuestPanicked => Some("the guest panicked".to_owned()),
        RunState::InternalError => Some("KVM gave the machine up".to_owned()),
        RunState::IoError => Some("a disk of the machine failed".to_owned()),
        RunState::Other(state) => Some(format!("QEMU says that the machine is {state}")),
    }
}

impl Report {
    fn first(run: u64) -> Self {
        Self {
            version: VERSION,
            run,
            pid: std::process::id(),
            qemu_pid: None,
            stage: Stage::Preparing,
            doing: "preparing".to_owned(),
            endpoint: None,
            manifest_id: None,
            trust_root: None,
            steps: vec![],
            metrics: None,
            engine_restarts: 0,
            halted: None,
            ended: None,
        }
    }

    fn hear(&mut self, progress: Progress) {
        let reached = |report: &mut Self, stage: Stage, doing: String| {
            // A guest that is told to finish still tells how it goes.
            if stage > report.stage {
                report.stage = stage;
            }
            report.doing = doing;
        };
        match progress {
            Progress::Started(pid) => {
                self.qemu_pid = Some(pid);
                reached(self, Stage::Booting, "starting".to_owned());
            }
            Progress::Phase { phase, since_start } => {
                let stage = if phase >= Phase::Evidence {
                    Stage::Attesting
                } else {
                    Stage::Booting
                };
                let host_ms = u64::try_from(since_start.as_millis()).unwrap_or(u64::MAX);
                if self.steps.len() < 64 {
                    let name = phase.name().to_owned();
                    let guest_ms = None;
                    self.steps.push(Step {
                        name,
                        host_ms,
                        guest_ms,
                    });
                }
                reached(self, stage, format!("in phase {}", phase.name()));
            }
            Progress::Metrics(metrics) => self.metrics = Some(metrics),
            Progress::EngineRestarted(count) => self.engine_restarts = count,
            // Serving is said once everything about it is known.
            Progress::Note(_) | Progress::Work { .. } | Progress::Serving { .. } => {}
        }
    }
}

/// Serves daemons until the last report is out.
async fn serve(
    listener: UnixListener,
    reports: watch::Receiver<Report>,
    orders: mpsc::Sender<Order>,
) {
    let mut daemons = JoinSet::new();
    let mut watched = reports.clone();
    let ended = async move {
        // An error is the end of all reports, after the last one was sent.
        let _ = watched.wait_for(|report| report.ended.is_some()).await;
    };
    tokio::pin!(ended);
    loop {
        tokio::select! {
            accepted = listener.accept(), if daemons.len() < LISTENERS => {
                let Ok((stream, _)) = accepted else {
                    // Out of descriptors, as a rule: whoever waits is still there a moment later.
                    sleep(RETRY).await;
                    continue;
                };
                daemons.spawn(tell(stream, reports.clone(), orders.clone()));
            }
            Some(_) = daemons.join_next() => {}
            () = &mut ended => break,
        }
    }
    while daemons.join_next().await.is_some() {}
}

/// One daemon: the newest report whenever there is one, and its orders.
async fn tell(
    stream: UnixStream,
    mut reports: watch::Receiver<Report>,
    orders: mpsc::Sender<Order>,
) {
    let (mut reader, mut writer) = stream.into_split();
    let (mut decoder, mut buffer) = (Decoder::new(MAX_MESSAGE), vec![0; 1024]);
    reports.mark_changed();
    loop {
        tokio::select! {
            changed = reports.changed() => {
                let report = reports.borrow_and_update().clone();
                if changed.is_err() && report.ended.is_none() {
                    return;
                }
                let last = report.ended.is_some();
                let Ok(bytes) = frame::encode(&report, MAX_MESSAGE) else { return };
                match timeout(READ, writer.write_all(&bytes)).await {
                    Ok(Ok(())) if !last => {}
                    _ => return,
                }
            }
            read = reader.read(&mut buffer) => match read {
                Ok(0) | Err(_) => return,
                Ok(count) => {
                    decoder.push(&buffer[..count]);
                    loop {
                        match decoder.next::<Order>() {
                            // Full means that it is asked already.
                            Ok(Some(order)) => drop(orders.try_send(order)),
                            Ok(None) => break,
                            Err(_) => return,
                        }
                    }
                }
            },
        }
    }
}
