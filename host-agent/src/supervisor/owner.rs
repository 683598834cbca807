//! The supervisor's own process: brings its VM up, reports, and ends with it.

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

/// Orders that wait.
const ORDERS: usize = 8;
/// Most of the reason of a VM's end that is kept and told, in characters: it goes into the appliance's life, into an update
/// and into events, each of which is read back within bounds.
const REASON: usize = 4000;
/// How long the last report may take.
const LAST: Duration = Duration::from_secs(2);

/// Owns the VM `name` in its run `run` until its end, whatever that is. Standard input is the listening socket.
///
/// # Errors
/// Only what keeps it from reporting; a VM that fails is reported.
pub async fn supervise(root: &Path, name: &str, run: u64) -> anyhow::Result<()> {
    // No terminal's hang-up or Ctrl-C is meant for us. It fails where we lead a group of our own already.
    let _ = nix::unistd::setsid();
    // Nor is the daemon's, which whoever signals a whole service sends to everybody. All that is started from here on inherits
    // that: QEMU would power its machine off.
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
        // Once is enough: draining has its own deadline.
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

/// A VM, and what is told about it.
struct Own<'a> {
    folder: &'a Path,
    report: &'a watch::Sender<Report>,
    door: Door,
}

impl Own<'_> {
    /// From the launch to the end.
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
                        // Dropping the future ends all that it started.
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
                    // It is down all the same; that it was not quick is in the log.
                    Ok(()) | Err(UpError::Failed { .. }) => Ok(()),
                    Err(error) => Err(said(&error)),
                },
                Ok(()) = status.changed() => self.tell_status(&mut status),
            }
        }
    }

    /// All at once: who hears that it serves can verify it.
    fn serves(&self, vm: &RunningVm) {
        self.report.send_modify(|report| {
            // Unless it has failed by now.
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

    /// True when it is to be drained, false when it has ended as asked.
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
                    // QEMU is ending, which `wait` will tell.
                    Err(RecvError::Closed) => heard = false,
                },
            }
        }
    }

    /// True when it is to be drained.
    async fn obey(&self, order: Order, launch: &Launch) -> bool {
        let refusal = match order {
            Order::Drain => return true,
            // Answered where it is asked.
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
        // It has deadlines of its own.
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

/// Its beginning says what failed, its end what QEMU said last.
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
            Progress::Gpus(gpus) => self.gpus = gpus,
            Progress::EngineRestarted(count) => self.engine_restarts = count,
            Progress::Ending(why) => {
                self.halted = Some(bounded(why));
                reached(self, Stage::Draining, "ending".to_owned());
            }
            // Serving is said once everything about it is known.
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
        // Twice in a life, once in an update, and in a line of the API.
        assert!(serde_json::to_vec(&short).unwrap().len() < 24 * 1024);
    }
}
