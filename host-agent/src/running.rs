//! A VM from its start to its end: one task owns it, everybody else watches.

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

/// How long each step of ending QEMU may take; with a confidential guest the last one takes longer.
pub(crate) const STOP: Duration = Duration::from_secs(5);
/// How long the last bytes of a guest that has finished may take to its clients.
const LINGER: Duration = Duration::from_secs(2);

/// A VM that serves. Dropping it kills it and all that belongs to it.
#[derive(Debug)]
pub struct RunningVm {
    /// Public address.
    pub endpoint: SocketAddr,
    /// The development root, PEM, when its evidence is simulated.
    pub trust_root_pem: Option<String>,
    /// Where that is written.
    pub trust_root: Option<PathBuf>,
    /// The console's log.
    pub serial_log: PathBuf,
    /// QEMU's process.
    pub qemu_pid: u32,
    /// Where the guest's own listener is reached, on this machine alone.
    pub guest: SocketAddr,
    /// QEMU's control.
    pub qmp: Qmp,
    /// What it is doing, also on its way down.
    pub(crate) status: watch::Receiver<Status>,
    timings: Arc<Mutex<Timings>>,
    drain: mpsc::Sender<()>,
    owner: Task<Result<(), UpError>>,
    /// Tells when its manifest ends.
    _term: Option<Task<()>>,
}

impl RunningVm {
    /// Waits for the VM's end. Cancelling is harmless.
    ///
    /// # Errors
    /// [`UpError::Failed`] when nobody asked for it.
    pub async fn wait(&mut self) -> Result<(), UpError> {
        (&mut self.owner.0).await.map_err(|_| UpError::Lost)?
    }

    /// Lets running requests finish, then ends the VM; returns when no process is left.
    ///
    /// # Errors
    /// [`UpError::Failed`] when the guest does not finish in time; it is ended all the same.
    pub async fn shutdown(mut self) -> Result<(), UpError> {
        // Full means that it is asked already; closed, that it has ended.
        let _ = self.drain.try_send(());
        self.wait().await
    }

    /// Ends the VM at once.
    pub async fn kill(mut self) {
        let _ = self.qmp.quit().await;
        let _ = self.wait().await;
    }

    /// How long everything took.
    #[must_use]
    pub fn timings(&self) -> Timings {
        locked(&self.timings).clone()
    }

    /// What every disk has read so far.
    ///
    /// # Errors
    /// [`QmpError`] when QEMU does not answer.
    pub async fn block_stats(&self) -> Result<Vec<BlockStats>, QmpError> {
        self.qmp.block_stats().await
    }
}

/// A task that ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Task<T>(pub(crate) JoinHandle<T>);

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What belongs to the VM and ends with it.
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
    /// How long the kernel may take its memory back.
    pub(crate) reclaim: Duration,
    /// Where people hear of it.
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
        // One that does not answer is ended by the draining's own deadline.
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
        // Ended in good order before it served: somebody said `down`.
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
    // The relay cuts its connections when the last of these is gone.
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
    // The listener closes now, and not when the kernel has taken the memory back: clients would wait for nobody.
    relaying.send_replace(false);
    if matches!(ending, Ending::Failed(_)) {
        // Nor is anybody left to answer those that are connected. A guest that ends in good order has given its last answers
        // away, which does not mean that they have arrived.
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
        // It is ending by itself: its last words are worth a moment.
        let _ = timeout(STOP, vm.wait()).await;
    }
    let diagnostics = vm.diagnostics();
    let stuck = end(&vm, &qmp, reclaim, dying).await.err();
    let lines = console.last_lines().await;
    // In this order: no process is left when `down` and the owner hear of the end.
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

/// Ends QEMU; `dying` is told how long it may take where SIGKILL is not the end of it.
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

/// What is said while the kernel takes a confidential guest's memory back.
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

/// What is done with news: status, timings, and people.
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
