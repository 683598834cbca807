//! The supervisor's process: starts its VM, reports about it and ends with it.

use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use cocoon_protocol::control::Phase;
use cocoon_protocol::manifest::manifest_id;
use cocoon_qemu::qmp::{self, RunState};
use nix::sys::signal::{SigSet, Signal};
use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use super::telling::serve;
use super::{ENDING, Ended, LAUNCH, Launch, Order, Report, VERSION, passing};
use crate::error::UpError;
use crate::lifecycle::{Ending, Stage};
use crate::local::Status;
use crate::progress::Progress;
use crate::relay::{Door, DoorState};
use crate::state;
use crate::text::chain;
use crate::timings::Step;
use crate::{Host, RunningVm};

/// Capacity of the queue of orders.
const ORDERS: usize = 8;
/// Longest kept reason of a VM's end, in characters. It is stored in the appliance's life cycle, its update and its
/// events, each of which is read back within a size limit.
const REASON: usize = 4000;
/// How long the daemons may take to read the last report.
const LAST: Duration = Duration::from_secs(2);

/// Owns the VM `name` in run `run` until its end. Standard input is the listening socket.
///
/// # Errors
/// Only what prevents it from reporting; a failure of the VM is reported instead.
pub async fn supervise(root: &Path, name: &str, run: u64) -> anyhow::Result<()> {
    // A terminal's SIGHUP or Ctrl-C must not reach the supervisor. `setsid` fails if it already leads a process group.
    let _ = nix::unistd::setsid();
    // SIGHUP sent to the whole service, to reload the daemon, must not reach it either. Child processes inherit the
    // block: QEMU would power its machine off.
    SigSet::from(Signal::SIGHUP).thread_block()?;
    let socket = io::stdin().as_fd().try_clone_to_owned();
    let socket =
        std::os::unix::net::UnixListener::from(socket.context("standard input is closed")?);
    socket.set_nonblocking(true)?;
    let socket = UnixListener::from_std(socket).context("standard input is no listening socket")?;
    let folder = state::folder(root, name)?;
    let (report, reports) = watch::channel(Report::first(run));
    let (orders, mut ordered) = mpsc::channel(ORDERS);
    let door = Door::shut();
    let mut terminate = signal(SignalKind::terminate())?;
    let asked = orders.clone();
    let signals = tokio::spawn(async move {
        // One request suffices: draining has a deadline of its own.
        terminate.recv().await;
        let _ = asked.try_send(Order::Drain);
    });
    let serving = tokio::spawn(serve(socket, reports, orders, door.clone()));
    let own = Own {
        folder: &folder,
        report: &report,
        door,
    };
    let ending = match own.run(root, run, &mut ordered).await {
        Ok(()) => Ending::Stopped,
        Err(reason) => Ending::Failed {
            reason: bounded(reason),
        },
    };
    let ended = Ended {
        run,
        ending: ending.clone(),
    };
    // For a daemon that starts later. If the disk is full, that one learns only that the supervisor is gone.
    let kept = serde_json::to_vec(&ended).map(|bytes| state::write(&folder.join(ENDING), &bytes));
    if let Ok(Err(error)) = kept {
        eprintln!("cannot keep how the VM ended: {}", chain(&error));
    }
    report.send_modify(|report| report.ended = Some(ending));
    drop(report);
    signals.abort();
    // Gives connected daemons a limited time to read the end.
    let _ = timeout(LAST, serving).await;
    Ok(())
}

/// A VM, and where its state is reported.
struct Own<'a> {
    folder: &'a Path,
    report: &'a watch::Sender<Report>,
    door: Door,
}

impl Own<'_> {
    /// Runs the VM from its launch to its end.
    async fn run(
        &self,
        root: &Path,
        run: u64,
        ordered: &mut mpsc::Receiver<Order>,
    ) -> Result<(), String> {
        let said = |error: &dyn std::error::Error| chain(error);
        let launch = std::fs::read(self.folder.join(LAUNCH)).map_err(|error| said(&error))?;
        let launch: Launch = serde_json::from_slice(&launch).map_err(|error| said(&error))?;
        if launch.run != run {
            return Err(format!(
                "run {run} was to be started, {LAUNCH} is of run {}",
                launch.run
            ));
        }
        let options = launch.options(root, &self.door).await;
        let options = options.map_err(|error| said(&error))?;
        self.tell_door(None);
        let (told, door) = (self.report.clone(), self.door.clone());
        let booting = Host::up(options, move |progress| {
            told.send_modify(|report| {
                report.hear(progress);
                report.is_behind(&door);
            });
        });
        tokio::pin!(booting);
        let mut vm: RunningVm = loop {
            tokio::select! {
                vm = &mut booting => break vm.map_err(|error| said(&error))?,
                Some(order) = ordered.recv() => {
                    if self.obey(order, &launch).await {
                        // Dropping the future ends everything that it started.
                        return Ok(());
                    }
                }
            }
        };
        self.serves(&vm);
        if !self.until_drained(&mut vm, ordered, &launch).await? {
            return Ok(());
        }
        self.report.send_modify(|report| {
            report.stage = Stage::Draining;
            report.doing = "draining".to_owned();
        });
        let mut status = vm.status.clone();
        status.mark_unchanged();
        let ending = vm.shutdown();
        tokio::pin!(ending);
        loop {
            tokio::select! {
                ended = &mut ending => return match ended {
                    // The VM is down all the same; the log says why it did not end quickly.
                    Ok(()) | Err(UpError::Failed { .. }) => Ok(()),
                    Err(error) => Err(said(&error)),
                },
                Ok(()) = status.changed() => self.tell_status(&mut status),
            }
        }
    }

    /// Reports everything in one step: a daemon that learns that the VM serves can then also verify it.
    fn serves(&self, vm: &RunningVm) {
        self.report.send_modify(|report| {
            // The VM may have failed in the meantime.
            if report.stage < Stage::Serving {
                report.stage = Stage::Serving;
                report.doing = "serving".to_owned();
            }
            report.endpoint = self.door.address();
            report.guest = Some(vm.guest);
            report.trust_root = vm.trust_root.clone();
            let manifest = std::fs::read(self.folder.join("manifest.json")).ok();
            report.manifest_id = manifest.map(|bytes| manifest_id(&bytes).to_string());
            report.steps = vm.timings().steps().to_vec();
        });
    }

    /// Returns true when the VM is to be drained, false when it has ended as requested.
    async fn until_drained(
        &self,
        vm: &mut RunningVm,
        ordered: &mut mpsc::Receiver<Order>,
        launch: &Launch,
    ) -> Result<bool, String> {
        let (mut events, mut status) = (vm.qmp.events(), vm.status.clone());
        status.mark_unchanged();
        let mut heard = true;
        loop {
            tokio::select! {
                ended = vm.wait() => return ended.map(|()| false).map_err(|error| chain(&error)),
                Some(order) = ordered.recv() => {
                    if self.obey(order, launch).await {
                        return Ok(true);
                    }
                }
                Ok(()) = status.changed() => self.tell_status(&mut status),
                event = events.recv(), if heard => match event {
                    Ok(qmp::Event::Stop | qmp::Event::GuestPanicked { .. }) => {
                        if let Some(why) = halted(vm).await {
                            self.report.send_modify(|report| report.halted = Some(why));
                        }
                    }
                    Ok(_) | Err(RecvError::Lagged(_)) => {}
                    // QEMU is ending, which `wait` reports.
                    Err(RecvError::Closed) => heard = false,
                },
            }
        }
    }

    /// Carries out an order. Returns true when the VM is to be drained.
    async fn obey(&self, order: Order, launch: &Launch) -> bool {
        let refusal = match order {
            Order::Drain => return true,
            // Answered on the connection that it came from.
            Order::Lend => return false,
            Order::Hold => {
                self.door.hold();
                None
            }
            Order::Release => self.take_over(None, launch).await.err(),
            Order::TakeOver(from) => self.take_over(from, launch).await.err(),
        };
        self.tell_door(refusal);
        false
    }

    async fn take_over(&self, from: Option<PathBuf>, launch: &Launch) -> Result<(), String> {
        if self.door.listener().is_some() {
            self.door.release();
            return Ok(());
        }
        let Some(from) = from else {
            let bound = self.door.bind(launch.listen()).await;
            return bound.map_err(|error| chain(&error));
        };
        // The transfer has deadlines of its own.
        let borrowed = tokio::task::spawn_blocking(move || passing::borrow(&from)).await;
        let borrowed = borrowed.map_err(|error| chain(&error))?;
        let taken = borrowed.and_then(TcpListener::from_std);
        self.door.take(taken.map_err(|error| chain(&error))?);
        Ok(())
    }

    fn tell_door(&self, refusal: Option<String>) {
        self.report.send_modify(|report| {
            report.is_behind(&self.door);
            report.not_taken = refusal;
        });
    }

    fn tell_status(&self, status: &mut watch::Receiver<Status>) {
        let doing = status.borrow_and_update().doing.clone();
        self.report.send_modify(|report| report.doing = doing);
    }
}

/// Returns why the machine is halted; `None` if it runs after all or is just ending.
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

/// Shortens a reason but keeps both ends: the beginning says what failed, the end what QEMU said last.
fn bounded(reason: String) -> String {
    let count = reason.chars().count();
    if count <= REASON {
        return reason;
    }
    let (half, gap) = (REASON / 2, " … ");
    let head: String = reason.chars().take(half).collect();
    let tail = reason.chars().skip(count - half + gap.chars().count());
    head + gap + &tail.collect::<String>()
}

impl Report {
    pub(crate) fn first(run: u64) -> Self {
        Self {
            version: VERSION,
            run,
            pid: std::process::id(),
            qemu_pid: None,
            stage: Stage::Preparing,
            doing: "preparing".to_owned(),
            endpoint: None,
            guest: None,
            door: DoorState::Shut,
            not_taken: None,
            manifest_id: None,
            trust_root: None,
            steps: vec![],
            metrics: None,
            gpus: vec![],
            engine_restarts: 0,
            halted: None,
            ended: None,
        }
    }

    fn is_behind(&mut self, door: &Door) {
        self.door = door.state();
        if self.stage >= Stage::Serving {
            self.endpoint = door.address();
        }
    }

    fn hear(&mut self, progress: Progress) {
        let reached = |report: &mut Self, stage: Stage, doing: String| {
            // A draining guest still sends phases and metrics.
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
            Progress::Gpus(gpus) => self.gpus = gpus,
            Progress::EngineRestarted(count) => self.engine_restarts = count,
            Progress::Ending(why) => {
                self.halted = Some(bounded(why));
                reached(self, Stage::Draining, "ending".to_owned());
            }
            // `serves` reports serving, once everything about it is known.
            Progress::Note(_) | Progress::Work { .. } | Progress::Serving { .. } => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_bounded_and_keep_both_ends() {
        assert_eq!(bounded("QEMU died".to_owned()), "QEMU died");
        let long = format!("the guest failed{}no memory", "é\u{1b}".repeat(40_000));
        let short = bounded(long);
        assert_eq!(short.chars().count(), REASON);
        assert!(short.starts_with("the guest failed") && short.ends_with("no memory"));
        // The reason is stored twice in the life cycle, once in an update and in one line of the API.
        assert!(serde_json::to_vec(&short).unwrap().len() < 24 * 1024);
    }
}
