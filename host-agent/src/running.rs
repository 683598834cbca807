//! A VM from its start to its end: one task owns it, and everything else only watches.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cocoon_qemu::process::StopError;
use cocoon_qemu::qmp::{BlockStats, QmpError};
use cocoon_qemu::{Qmp, Vm};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::channel::{Driver, Settings};
use crate::console::Console;
use crate::devices;
use crate::error::UpError;
use crate::expiry;
use crate::local::{self, Status};
use crate::machine::{Ending, Failure, News};
use crate::progress::{Listener, Progress};
use crate::relay::{self, Door, Limits};
use crate::simulator::{Connection, Launch, Simulator};
use crate::state::VmFolder;
use crate::timings::Timings;

/// How long each step of stopping QEMU may take. For a confidential guest, the last step takes longer.
pub(crate) const STOP: Duration = Duration::from_secs(5);
/// How long the relay may take to deliver the last bytes of a guest that has finished.
const LINGER: Duration = Duration::from_secs(2);

/// A VM that serves. Dropping it kills the VM and everything that belongs to it.
#[derive(Debug)]
pub struct RunningVm {
    /// Public address.
    pub endpoint: SocketAddr,
    /// The development root as PEM, if the VM's evidence is simulated.
    pub trust_root_pem: Option<String>,
    /// File that holds the development root.
    pub trust_root: Option<PathBuf>,
    /// File that holds the guest's console output.
    pub serial_log: PathBuf,
    /// Process id of QEMU.
    pub qemu_pid: u32,
    /// Address of the guest's own listener, reachable on this machine only.
    pub guest: SocketAddr,
    /// QMP connection to QEMU.
    pub qmp: Qmp,
    /// What the VM is doing, also while it ends.
    pub(crate) status: watch::Receiver<Status>,
    timings: Arc<Mutex<Timings>>,
    drain: mpsc::Sender<()>,
    owner: Task<Result<(), UpError>>,
    /// Warns before the manifest expires.
    _term: Option<Task<()>>,
}

impl RunningVm {
    /// Waits for the VM's end. Cancel-safe.
    ///
    /// # Errors
    /// [`UpError::Failed`] if the VM ended without having been asked to.
    pub async fn wait(&mut self) -> Result<(), UpError> {
        (&mut self.owner.0).await.map_err(|_| UpError::Lost)?
    }

    /// Lets running requests finish, then ends the VM. Returns when no process of it is left.
    ///
    /// # Errors
    /// [`UpError::Failed`] if the guest does not finish in time; it is ended all the same.
    pub async fn shutdown(mut self) -> Result<(), UpError> {
        // A full channel means that draining was already requested, a closed one that the VM has ended.
        let _ = self.drain.try_send(());
        self.wait().await
    }

    /// Ends the VM at once.
    pub async fn kill(mut self) {
        let _ = self.qmp.quit().await;
        let _ = self.wait().await;
    }

    /// Returns how long the steps of the boot took.
    #[must_use]
    pub fn timings(&self) -> Timings {
        locked(&self.timings).clone()
    }

    /// Returns what every disk has read so far.
    ///
    /// # Errors
    /// [`QmpError`] if QEMU does not answer.
    pub async fn block_stats(&self) -> Result<Vec<BlockStats>, QmpError> {
        self.qmp.block_stats().await
    }
}

/// A task that is aborted when dropped.
#[derive(Debug)]
pub(crate) struct Task<T>(pub(crate) JoinHandle<T>);

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Everything that belongs to the VM and ends with it.
pub(crate) struct Parts {
    pub(crate) vm: Vm,
    pub(crate) qmp: Qmp,
    pub(crate) control: UnixStream,
    pub(crate) console: Console,
    pub(crate) simulator: Option<(Simulator, Connection, Launch)>,
    pub(crate) settings: Settings,
    pub(crate) door: Door,
    pub(crate) guest: SocketAddr,
    pub(crate) limits: Limits,
    pub(crate) folder: Arc<VmFolder>,
    /// How long the kernel may take to reclaim the VM's private memory.
    pub(crate) reclaim: Duration,
    /// Receives the VM's progress.
    pub(crate) progress: Listener,
}

pub(crate) async fn start(
    parts: Parts,
    status: Status,
    endpoint: SocketAddr,
    timings: Arc<Mutex<Timings>>,
    qemu_pid: u32,
) -> Result<RunningVm, UpError> {
    let (qmp, folder, guest) = (parts.qmp.clone(), Arc::clone(&parts.folder), parts.guest);
    let progress = Arc::clone(&parts.progress);
    let term = status.not_after.map(|not_after| {
        let progress = Arc::clone(&progress);
        let warn = move |text| progress(Progress::Note(text));
        Task(tokio::spawn(expiry::watch(not_after, warn)))
    });
    let local = folder.listen("ctl")?;
    let (status, watched) = watch::channel(status);
    let status = Arc::new(status);
    let (drain, drained) = mpsc::channel(1);
    let (gate, mut open) = watch::channel(false);
    let (root, measured) = watch::channel(None);
    let control = qmp.clone();
    let end = move || {
        let control = control.clone();
        // If QEMU does not answer, the drain deadline ends it.
        async move { drop(control.quit().await) }
    };
    let serving = local::serve(local, watched.clone(), drain.clone(), end);
    let local = Task(tokio::spawn(serving));
    let dying = dying(Arc::clone(&status), Arc::clone(&progress));
    let news = reporter(
        Arc::clone(&folder),
        status,
        endpoint,
        progress,
        Arc::clone(&timings),
    );
    let owner = own(parts, gate, root, drained, news, dying, local);
    let mut owner = Task(tokio::spawn(owner));
    let served = tokio::select! {
        biased;
        served = relay::turns(&mut open, true) => served,
        ended = &mut owner.0 => {
            ended.map_err(|_| UpError::Lost)??;
            return Err(UpError::Stopped);
        }
    };
    if !served {
        (&mut owner.0).await.map_err(|_| UpError::Lost)??;
        // The VM ended in good order before it served, because of `down`.
        return Err(UpError::Stopped);
    }
    let trust_root_pem = measured.borrow().clone();
    let trust_root = match &trust_root_pem {
        Some(pem) => Some(folder.write("trust-root.pem", pem.as_bytes())?),
        None => None,
    };
    let serial_log = folder.file("serial.log");
    Ok(RunningVm {
        endpoint,
        trust_root_pem,
        trust_root,
        serial_log,
        qemu_pid,
        guest,
        qmp,
        status: watched,
        timings,
        drain,
        owner,
        _term: term,
    })
}

/// Owns the VM until its end.
async fn own(
    parts: Parts,
    gate: watch::Sender<bool>,
    root: watch::Sender<Option<String>>,
    drain: mpsc::Receiver<()>,
    news: Box<dyn FnMut(&News) + Send>,
    dying: impl FnOnce(Duration) + Send,
    local: Task<()>,
) -> Result<(), UpError> {
    let Parts {
        vm,
        qmp,
        control,
        mut console,
        simulator,
        settings,
        door,
        guest,
        limits,
        folder,
        reclaim,
        progress,
    } = parts;
    let _announcing = Task(tokio::spawn(devices::announce_again(qmp.clone())));
    let say = Arc::clone(&progress);
    let mut relay = Task(tokio::spawn(relay::relay(
        door,
        guest,
        limits,
        gate.subscribe(),
        move |text| say(Progress::Note(text)),
    )));
    let (process, simulator) = match simulator {
        Some((process, connection, launch)) => (Some(process), Some((connection, launch))),
        None => (None, None),
    };
    // The relay cuts its connections when the last clone of this sender is dropped.
    let relaying = gate.clone();
    let driver = Driver {
        settings,
        control,
        vm: &vm,
        simulator,
        gate,
        root,
        drain,
        news,
    };
    let ending = driver.run().await;
    // The listener closes now instead of after the kernel has reclaimed the memory: until then, clients would wait in vain.
    relaying.send_replace(false);
    if matches!(ending, Ending::Failed(_)) {
        // A failed guest cannot answer connected clients either, so their connections are cut. A guest that ends in
        // good order has sent its last answers, but they may not have been delivered yet.
        drop(relaying);
    }
    let _ = timeout(LINGER, &mut relay.0).await;
    drop(relay);
    if let Ending::Failed(failure) = &ending {
        progress(Progress::Ending(failure.to_string()));
    }
    if matches!(
        ending,
        Ending::Failed(Failure::Gone(_) | Failure::Guest { .. })
    ) {
        // QEMU is ending by itself; a short wait collects its last output.
        let _ = timeout(STOP, vm.wait()).await;
    }
    let diagnostics = vm.diagnostics();
    let stuck = end(&vm, &qmp, reclaim, dying).await.err();
    let lines = console.last_lines().await;
    // Order matters: no process is left when `down` and the owner learn of the end.
    drop(process);
    drop(folder);
    drop(local);
    match (ending, stuck) {
        (Ending::Stopped, None) => Ok(()),
        (Ending::Stopped, Some(stuck)) => Err(stuck.into()),
        (Ending::Failed(failure), stuck) => Err(UpError::Failed {
            failure,
            console: lines,
            diagnostics,
            stuck,
        }),
    }
}

/// Stops QEMU. If it outlives SIGKILL, calls `dying` with the time that the kernel may still take.
async fn end(
    vm: &Vm,
    qmp: &Qmp,
    reclaim: Duration,
    dying: impl FnOnce(Duration),
) -> Result<(), StopError> {
    match vm.stop(Some(qmp), STOP).await {
        Err(stuck) if !reclaim.is_zero() => {
            dying(reclaim);
            let gone = timeout(reclaim, vm.wait()).await;
            gone.map_or(Err(stuck), |_| Ok(()))
        }
        stopped => stopped.map(drop),
    }
}

/// Reports that the kernel is reclaiming a confidential guest's memory.
fn dying(status: Arc<watch::Sender<Status>>, progress: Listener) -> impl FnOnce(Duration) + Send {
    move |limit| {
        let what = "the kernel takes its private memory back";
        status.send_modify(|status| status.doing = format!("ending: {what}"));
        let limit = limit.as_secs();
        progress(Progress::Note(format!(
            "the VM has ended; {what}, for {limit} s at most"
        )));
    }
}

/// Returns the handler of news, which updates status and timings and reports progress.
fn reporter(
    folder: Arc<VmFolder>,
    status: Arc<watch::Sender<Status>>,
    endpoint: SocketAddr,
    progress: Listener,
    timings: Arc<Mutex<Timings>>,
) -> Box<dyn FnMut(&News) + Send> {
    Box::new(move |news| {
        let step = |name: &str, doing: String, guest_ms| {
            let (since, json) = {
                let mut timings = locked(&timings);
                (timings.step(name, guest_ms), timings.to_json())
            };
            status.send_modify(|status| status.doing = doing);
            if let Err(error) = folder.write("phases.json", &json) {
                progress(Progress::Note(format!("timings are not kept: {error}")));
            }
            since
        };
        match news {
            News::Hello(tee) => {
                let found = tee.map_or("no TEE".to_owned(), |tee| tee.to_string());
                step("hello", "being configured".into(), None);
                progress(Progress::Note(format!(
                    "the guest's agent runs and found {found}"
                )));
            }
            News::Phase(phase, at_ms) => {
                let since_start = step(
                    phase.name(),
                    format!("in phase {}", phase.name()),
                    Some(*at_ms),
                );
                progress(Progress::Phase {
                    phase: *phase,
                    since_start,
                });
            }
            News::Serving(at_ms) => {
                let since_start = step("serving", "serving".into(), Some(*at_ms));
                progress(Progress::Serving {
                    endpoint,
                    since_start,
                });
            }
            News::Work(done, total) => progress(Progress::Work {
                done: *done,
                total: *total,
            }),
            News::Metrics(metrics) => progress(Progress::Metrics(*metrics)),
            News::Gpus(gpus) => progress(Progress::Gpus(gpus.clone())),
            News::EngineRestarted(count) => progress(Progress::EngineRestarted(*count)),
            News::Note(text) => progress(Progress::Note(text.clone())),
        }
    })
}

fn locked(timings: &Mutex<Timings>) -> MutexGuard<'_, Timings> {
    timings.lock().unwrap_or_else(PoisonError::into_inner)
}
