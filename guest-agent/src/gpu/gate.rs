//! Through here goes every evidence of GPUs: at boot, for sessions, again on a timer and when something happened. What it
//! refuses once while the guest serves ends the service.

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

/// How often GPUs prove themselves though nobody asks.
pub const AGAIN: Duration = Duration::from_secs(600);
/// How long the host may take to get NVIDIA's word on GPUs that it has not seen before.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// How long GPUs are left alone after they proved themselves, whatever the driver reports meanwhile: errors come in storms,
/// and each question keeps sessions waiting.
pub const PAUSE: Duration = Duration::from_secs(5);

/// Counts the GPUs of the machine.
pub type Count = Box<dyn Fn() -> Result<usize, WantedError> + Send + Sync>;

/// What a gate is made of.
pub struct Setup {
    /// Where evidence comes from.
    pub source: Arc<dyn GpuSource>,
    /// How many GPUs there are.
    pub count: Count,
    /// Whose count.
    pub roots: Roots,
    /// NVIDIA's word, as the host hands it over.
    pub collateral: watch::Receiver<Option<GpuCollateral>>,
}

/// Verified evidence, and what vouched for it.
#[derive(Debug)]
pub struct Proven {
    /// For the document.
    pub section: GpuSection,
    /// For the document too: a client judges by the very same.
    pub collateral: Option<GpuCollateral>,
}

/// Of the collateral that counted last.
#[derive(Default)]
struct Kept {
    /// The manifests: the host may take one away, and measurements would be compared with nothing.
    rims: Vec<String>,
    /// When the newest answer was made: nobody's certificates are judged at an earlier time from then on.
    since: u64,
}

impl Kept {
    fn note(&mut self, counted: &GpuCollateral) {
        if self.rims != counted.rims {
            self.rims.clone_from(&counted.rims);
        }
        self.since = self.since.max(judge::time(counted));
    }

    /// What the host hands over with the manifests that it leaves out; nothing where it leaves out none.
    fn with(&self, handed: Option<&GpuCollateral>) -> Option<GpuCollateral> {
        let mut whole = handed.cloned().unwrap_or_default();
        let mut absent = self.rims.clone();
        absent.retain(|rim| !whole.rims.contains(rim));
        if absent.is_empty() {
            return None;
        }
        // Of more than there may be, those count that are known.
        whole.rims.truncate(MAX_RIMS.saturating_sub(absent.len()));
        whole.rims.extend(absent);
        Some(whole)
    }
}

/// GPUs that were verified at boot. Only [`Gate::open`] makes it.
pub struct Gate {
    setup: Setup,
    /// Evidence is collected one at a time.
    turn: Mutex<Kept>,
    functions: usize,
    keys: Vec<Hex32>,
    needs: Vec<GpuNeeds>,
    known: Known,
    failed: watch::Sender<Option<GateError>>,
}

impl Gate {
    /// Counts, collects, verifies, and only then lets the GPUs take work. What NVIDIA has to be asked for goes to `ask`, and
    /// its word is waited for, no longer than `patience`. Blocks.
    ///
    /// # Errors
    /// [`GateError`]: the machine must not serve.
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

    /// The GPU digest of the boot's claims.
    pub fn keys_digest(&self) -> Hex32 {
        keys_digest(&self.keys)
    }

    /// What NVIDIA has to be asked for.
    pub fn needs(&self) -> &[GpuNeeds] {
        &self.needs
    }

    /// Whether an engine that works on so many GPUs works on those that are proven. Simulated ones compute nothing: then
    /// it works on none.
    ///
    /// # Errors
    /// [`GateError::Engine`].
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

    /// Verified evidence over `nonce`. Blocks. What is refused ends the service: see [`Gate::failed`].
    ///
    /// # Errors
    /// [`GateError::Source`] when there is no evidence this time, [`GateError::Lapsed`] when NVIDIA's word on it has to come
    /// first, and the error that ended the service for ever after.
    pub fn evidence(&self, nonce: &Hex32) -> Result<Proven, GateError> {
        // Nothing is left half done: a poisoned turn is a turn.
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
            // The host may yet get that answer; until then no session is told that the GPUs are good.
            true => GateError::Lapsed(refused),
            false => self.fail(GateError::Refused(refused)),
        })?;
        // While they answered, something may have ended the service.
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

    /// How the GPUs are used, as far as that is known. Blocks, behind whatever else is asked of them. It proves nothing and
    /// ends nothing: a driver that fails here shows that with the next evidence.
    pub fn metrics(&self) -> Vec<GpuMetrics> {
        self.setup.source.metrics().unwrap_or_default()
    }

    /// Becomes `Some` with the first error after which nobody may be served any more.
    pub fn failed(&self) -> watch::Receiver<Option<GateError>> {
        self.failed.subscribe()
    }

    /// Keeps the GPUs from taking work, as far as the driver still listens. Blocks.
    pub fn close(&self) {
        // Whether it hears this or not, the machine ends.
        let _ = self.setup.source.set_ready(false);
    }

    /// Asks the GPUs again, `every` so often and when something happened to them, for all that happened within [`PAUSE`]
    /// together; returns when nobody may be served any more, with the reason. What ends the service is heard while the GPUs
    /// are asked, too: they may take minutes to answer, or never do.
    pub async fn watch(self: &Arc<Self>, every: Duration) -> GateError {
        let (mut events, mut failed) = (self.setup.source.events(), self.failed());
        let mut tick = interval(every);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The boot's evidence is fresh: the first tick comes at once.
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
                // The sender is ours.
                _ = failed.changed() => {}
            }
        }
    }

    fn ask_again(self: &Arc<Self>) -> JoinHandle<()> {
        let gate = Arc::clone(self);
        tokio::task::spawn_blocking(move || {
            // A source may be busy once; one that is silent twice is gone.
            for last in [false, true] {
                let Ok(nonce) = keys::random::<32>() else {
                    gate.fail(GateError::Random);
                    return;
                };
                match gate.evidence(&Hex(*nonce)) {
                    Err(error @ GateError::Source(_)) if last => drop(gate.fail(error)),
                    Err(GateError::Source(_)) => {}
                    // What was refused has been noted there; what lapsed is asked about again in time.
                    Ok(_) | Err(_) => return,
                }
            }
        })
    }

    /// Notes the first error and gives it back.
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

/// When the GPUs that are asked have answered; never while none are.
async fn answered(asking: &mut Option<JoinHandle<()>>) {
    match asking {
        // No panic comes from there in the appliance: it ends the machine.
        Some(task) => drop(task.await),
        None => std::future::pending().await,
    }
}

/// On how many GPUs an engine must work: those that are counted, and on none where they are simulated.
fn expected_devices(roots: Roots, functions: usize) -> usize {
    match roots {
        Roots::Vendor => functions,
        Roots::Development => 0,
    }
}

/// Counts NVIDIA's functions on the PCI bus of this machine.
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
