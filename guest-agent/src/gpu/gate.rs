//! The gate that all GPU evidence passes: at boot, for sessions, on a timer, and after events. Evidence that it refuses
//! while the guest serves ends the service.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cocoon_measurements::nvidia::Known;
use cocoon_protocol::bytes::{Hex, Hex32};
use cocoon_protocol::gpu::{GpuCollateral, GpuMetrics, GpuNeeds, MAX_RIMS};
use cocoon_protocol::gpu_section::{GpuSection, keys_digest};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use super::judge::{self, Demand, Roots};
use super::wanted::{self, WantedError};
use super::{GpuSource, Happened, SourceError};
use crate::{keys, wait};

mod error;

pub use error::GateError;

/// Interval at which GPUs are verified even if no session requests evidence.
pub const AGAIN: Duration = Duration::from_secs(600);
/// How long the host may take to fetch NVIDIA's collateral for GPUs that it has not seen before.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// Shortest time between two verifications that driver errors trigger. Errors come in bursts, and sessions wait while the
/// GPUs are verified.
pub const PAUSE: Duration = Duration::from_secs(5);

/// Function that counts the GPUs of the machine.
pub type Count = Box<dyn Fn() -> Result<usize, WantedError> + Send + Sync>;

/// Parts of a gate.
pub struct Setup {
    /// Source of the evidence.
    pub source: Arc<dyn GpuSource>,
    /// Counter of the machine's GPUs.
    pub count: Count,
    /// Roots that the evidence must chain to.
    pub roots: Roots,
    /// NVIDIA's collateral as the host provides it.
    pub collateral: watch::Receiver<Option<GpuCollateral>>,
}

/// Verified GPU evidence and the collateral that it was verified with.
#[derive(Debug)]
pub struct Proven {
    /// GPU section of the attestation document.
    pub section: GpuSection,
    /// Collateral for the attestation document, so that clients verify with the same collateral.
    pub collateral: Option<GpuCollateral>,
}

/// What is kept of the last collateral that evidence was verified with.
#[derive(Default)]
struct Kept {
    /// Reference manifests (RIMs). Kept because the host could withhold one, and measurements would be compared with
    /// nothing.
    rims: Vec<String>,
    /// Time of the newest OCSP response, in Unix seconds. Certificates are never again verified at an earlier time.
    since: u64,
}

impl Kept {
    fn note(&mut self, counted: &GpuCollateral) {
        if self.rims != counted.rims {
            self.rims.clone_from(&counted.rims);
        }
        self.since = self.since.max(judge::time(counted));
    }

    /// Returns the host's collateral completed with the kept manifests that it lacks, or `None` if it lacks none.
    fn with(&self, handed: Option<&GpuCollateral>) -> Option<GpuCollateral> {
        let mut whole = handed.cloned().unwrap_or_default();
        let mut absent = self.rims.clone();
        absent.retain(|rim| !whole.rims.contains(rim));
        if absent.is_empty() {
            return None;
        }
        // Within the limit, kept manifests take precedence over new ones.
        whole.rims.truncate(MAX_RIMS.saturating_sub(absent.len()));
        whole.rims.extend(absent);
        Some(whole)
    }
}

/// GPUs that were verified at boot. Only [`Gate::open`] creates it.
pub struct Gate {
    setup: Setup,
    /// Ensures that evidence is collected one at a time.
    turn: Mutex<Kept>,
    functions: usize,
    keys: Vec<Hex32>,
    needs: Vec<GpuNeeds>,
    known: Known,
    failed: watch::Sender<Option<GateError>>,
}

impl Gate {
    /// Counts the GPUs, collects and verifies their evidence, and only then lets them take work. Passes what must be fetched
    /// from NVIDIA to `ask`, and waits at most `patience` for collateral that the evidence verifies with. Blocks.
    ///
    /// # Errors
    /// Any [`GateError`] means that the machine must not serve.
    pub fn open(
        mut setup: Setup,
        nonce: &Hex32,
        ask: impl FnOnce(Vec<GpuNeeds>),
        patience: Duration,
    ) -> Result<Self, GateError> {
        let functions = (setup.count)().map_err(|error| GateError::Count(Arc::new(error)))?;
        if functions == 0 {
            return Err(GateError::NoGpu);
        }
        let shown = setup.source.collect(nonce).map_err(GateError::Source)?;
        let demand = Demand {
            functions,
            nonce,
            roots: setup.roots,
            keys: None,
            since: 0,
        };
        let known = Known::default();
        let needs = judge::needs(&shown, &demand, &known);
        ask(needs.clone());
        let mut last = None;
        let judged = wait::until(patience, || {
            if last.is_some() && !setup.collateral.has_changed().unwrap_or(false) {
                return None;
            }
            let stapled = setup.collateral.borrow_and_update().clone();
            match judge::judge(&shown, stapled.as_ref(), &demand, &known) {
                Ok(keys) => {
                    let mut kept = Kept::default();
                    stapled.iter().for_each(|counted| kept.note(counted));
                    Some(Ok((keys, kept)))
                }
                Err(refused) if refused.may_be_mended() => {
                    last = Some(refused);
                    None
                }
                Err(refused) => Some(Err(refused)),
            }
        });
        let refused = || GateError::Refused(last.take().unwrap_or_default());
        let (keys, kept) = judged.ok_or_else(refused)?.map_err(GateError::Refused)?;
        setup.source.set_ready(true).map_err(GateError::Ready)?;
        Ok(Self {
            setup,
            turn: Mutex::new(kept),
            functions,
            keys,
            needs,
            known,
            failed: watch::Sender::new(None),
        })
    }

    /// Returns the digest of the GPUs' attestation keys, for the boot claims.
    pub fn keys_digest(&self) -> Hex32 {
        keys_digest(&self.keys)
    }

    /// Returns what must be fetched from NVIDIA for these GPUs.
    pub fn needs(&self) -> &[GpuNeeds] {
        &self.needs
    }

    /// Checks that an engine that uses this number of GPUs uses exactly the verified ones. With simulated GPUs, which
    /// compute nothing, the engine must use none.
    ///
    /// # Errors
    /// [`GateError::Engine`] if the number differs.
    pub fn check_engine(&self, devices: u16) -> Result<(), GateError> {
        let counted = expected_devices(self.setup.roots, self.functions);
        match usize::from(devices) == counted {
            true => Ok(()),
            false => Err(GateError::Engine {
                engine: devices.into(),
                counted,
            }),
        }
    }

    /// Returns verified evidence over `nonce`. Blocks. Evidence that is refused ends the service: see [`Gate::failed`].
    ///
    /// # Errors
    /// [`GateError::Source`] if there is no evidence this time, [`GateError::Lapsed`] if an OCSP response must be fetched
    /// first, and otherwise the error that ends, or already ended, the service.
    pub fn evidence(&self, nonce: &Hex32) -> Result<Proven, GateError> {
        // Critical sections leave no partial state, so a poisoned lock is still usable.
        let mut kept = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(error) = self.failed.borrow().clone() {
            return Err(error);
        }
        let now = (self.setup.count)();
        let now = now.map_err(|error| self.fail(GateError::Count(Arc::new(error))))?;
        if now != self.functions {
            let before = self.functions;
            return Err(self.fail(GateError::Number { before, now }));
        }
        let collected = self.setup.source.collect(nonce);
        let gpus = collected.map_err(|error| match error {
            SourceError::Failed(_) => GateError::Source(error),
            SourceError::Final(_) => self.fail(GateError::Source(error)),
        })?;
        let collateral = self.setup.collateral.borrow().clone();
        let demand = Demand {
            functions: self.functions,
            nonce,
            roots: self.setup.roots,
            keys: Some(&self.keys),
            since: kept.since,
        };
        let judge =
            |stapled: Option<&GpuCollateral>| judge::judge(&gpus, stapled, &demand, &self.known);
        let mut collateral = collateral;
        let mut judged = judge(collateral.as_ref());
        if judged.is_err()
            && let Some(whole) = kept.with(collateral.as_ref())
        {
            judged = judge(Some(&whole));
            collateral = Some(whole);
        }
        judged.map_err(|refused| match refused.is_lapse() {
            // The host may still fetch the response. Until then no session gets evidence.
            true => GateError::Lapsed(refused),
            false => self.fail(GateError::Refused(refused)),
        })?;
        // Another task may have ended the service while the GPUs answered.
        if let Some(error) = self.failed.borrow().clone() {
            return Err(error);
        }
        collateral.iter().for_each(|counted| kept.note(counted));
        let section = GpuSection {
            functions: u16::try_from(self.functions).unwrap_or(u16::MAX),
            gpus,
            path: Vec::new(),
        };
        Ok(Proven {
            section,
            collateral,
        })
    }

    /// Returns the usage of the GPUs, as far as it is known. Blocks while the GPUs answer other requests. A failure here has
    /// no consequences: a driver that no longer works also fails to give the next evidence.
    pub fn metrics(&self) -> Vec<GpuMetrics> {
        self.setup.source.metrics().unwrap_or_default()
    }

    /// Returns a channel that becomes `Some` with the first error that ends the service.
    pub fn failed(&self) -> watch::Receiver<Option<GateError>> {
        self.failed.subscribe()
    }

    /// Stops the GPUs from taking work, if the driver still responds. Blocks.
    pub fn close(&self) {
        // The machine ends whether this succeeds or not.
        let _ = self.setup.source.set_ready(false);
    }

    /// Verifies the GPUs at the interval `every` and after events, where events less than [`PAUSE`] apart are handled
    /// together. Returns the reason when the service must end. Fatal events are also noticed while a verification is
    /// running, because the GPUs may take minutes to answer, or never answer.
    pub async fn watch(self: &Arc<Self>, every: Duration) -> GateError {
        let (mut events, mut failed) = (self.setup.source.events(), self.failed());
        let mut tick = interval(every);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The first tick of an interval completes at once. It is skipped, because the evidence of the boot is recent.
        tick.tick().await;
        let (mut seen, mut alone_until) = (0, Instant::now());
        let mut asking: Option<JoinHandle<()>> = None;
        loop {
            if let Some(error) = failed.borrow_and_update().clone() {
                return error;
            }
            let times = match *events.borrow_and_update() {
                Happened::Ended(what) => return self.fail(GateError::Ended(what)),
                Happened::Something(times) => times,
                Happened::Nothing => 0,
            };
            let due = times != seen && asking.is_none();
            if due && alone_until <= Instant::now() {
                seen = times;
                asking = Some(self.ask_again());
            }
            let idle = asking.is_none();
            tokio::select! {
                () = answered(&mut asking) => {
                    asking = None;
                    alone_until = Instant::now() + PAUSE;
                }
                _ = tick.tick(), if idle => asking = Some(self.ask_again()),
                () = sleep_until(alone_until), if due && idle => {}
                changed = events.changed() => if changed.is_err() {
                    return self.fail(GateError::Ended(NOBODY));
                },
                // Cannot fail: the sender is a field of `self`.
                _ = failed.changed() => {}
            }
        }
    }

    fn ask_again(self: &Arc<Self>) -> JoinHandle<()> {
        let gate = Arc::clone(self);
        tokio::task::spawn_blocking(move || {
            // A source may be busy once. One that fails twice in a row is considered lost.
            for last in [false, true] {
                let Ok(nonce) = keys::random::<32>() else {
                    gate.fail(GateError::Random);
                    return;
                };
                match gate.evidence(&Hex(*nonce)) {
                    Err(error @ GateError::Source(_)) if last => drop(gate.fail(error)),
                    Err(GateError::Source(_)) => {}
                    // `evidence` has recorded a refusal. After a lapse, the next interval tries again.
                    Ok(_) | Err(_) => return,
                }
            }
        })
    }

    /// Records the error unless one is recorded already, and returns it.
    fn fail(&self, error: GateError) -> GateError {
        let noted = error.clone();
        self.failed.send_if_modified(|failed| {
            let first = failed.is_none();
            failed.get_or_insert(noted);
            first
        });
        error
    }
}

/// Waits until the running verification ends. Never returns if none is running.
async fn answered(asking: &mut Option<JoinHandle<()>>) {
    match asking {
        // In the appliance a panic ends the machine, so the task never fails here.
        Some(task) => drop(task.await),
        None => std::future::pending().await,
    }
}

/// Returns the number of GPUs that an engine must use: all counted ones, or none if they are simulated.
fn expected_devices(roots: Roots, functions: usize) -> usize {
    match roots {
        Roots::Vendor => functions,
        Roots::Development => 0,
    }
}

/// Returns a function that counts NVIDIA's GPUs on this machine's PCI bus.
pub fn count_on_bus() -> Count {
    Box::new(|| wanted::count(Path::new(wanted::PCI)))
}

const NOBODY: &str = "nobody watches them any more";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_works_on_real_gpus_all_of_them_and_on_no_simulated_one() {
        for functions in [1, 2, 16] {
            assert_eq!(expected_devices(Roots::Vendor, functions), functions);
            assert_eq!(expected_devices(Roots::Development, functions), 0);
        }
    }
}
