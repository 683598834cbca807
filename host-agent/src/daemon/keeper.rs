//! The keeper: one task for each appliance, which drives its VM and, during an update, a second one.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::sleep;

use super::api::{Code, Refusal, View};
use super::clock::Clock;
use super::journal::{Journal, MANIFEST};
use super::rooms::Rooms;
use super::unit::{Happened, Role, Unit};
use crate::attest::Judge;
use crate::collateral::keeper::clock;
use crate::config::Appliance;
use crate::expiry::{self, Term};
use crate::lifecycle::{Deadlines, Event, State};
use crate::log;
use crate::supervisor::Launch;
use crate::text::chain;
use crate::update::Deployment;
use crate::update::check::Updates;
use crate::update::store::{self, Kept};
use crate::watch::{Meter, Rates};

mod judging;
mod updating;
mod views;

use judging::Judgement;
pub(super) use views::{down, settled, updated};
use views::{has_process, view};

/// Maximum number of queued commands.
const COMMANDS: usize = 16;

/// What a keeper needs: its appliance, and the daemon's settings and services.
pub(super) struct Setting {
    pub(super) appliance: Appliance,
    pub(super) launch: Launch,
    pub(super) root: PathBuf,
    pub(super) cache: Option<PathBuf>,
    pub(super) program: PathBuf,
    pub(super) deadlines: Deadlines,
    pub(super) updates: Updates,
    pub(super) memory_reserve_mib: u32,
    pub(super) judge: Arc<dyn Judge>,
    pub(super) rooms: Arc<Rooms>,
    pub(super) journal: Arc<Journal>,
}

/// A command for a keeper.
#[derive(Debug)]
pub(super) enum Wanted {
    /// An event of the appliance's life cycle.
    Life(Event),
    /// Update the appliance to another deployment.
    Update {
        to: Deployment,
        drain_first: bool,
        policy: Option<PathBuf>,
    },
    /// Roll the appliance back to its previous deployment.
    Rollback { drain_first: bool },
}

type Command = (Wanted, oneshot::Sender<Result<View, Refusal>>);

/// A handle for sending commands to a keeper and watching its appliance.
pub(super) struct Handle {
    pub(super) name: String,
    commands: mpsc::Sender<Command>,
    view: watch::Receiver<View>,
    meter: Arc<Mutex<Meter>>,
    clock: Clock,
}

impl Handle {
    pub(super) fn view(&self) -> View {
        self.view.borrow().clone()
    }

    /// Returns a function that gives the current path of the log, which changes with an update.
    pub(super) fn log(&self) -> impl Fn() -> PathBuf + Send + 'static {
        let view = self.view.clone();
        move || view.borrow().folder.join(log::FILE)
    }

    /// The guest's current rates, such as tokens per second.
    pub(super) fn rates(&self) -> Option<Rates> {
        let meter = self.meter.lock().unwrap_or_else(PoisonError::into_inner);
        meter.rates(self.clock.now())
    }

    /// Sends a command. Returns the appliance's view after it was carried out.
    ///
    /// # Errors
    /// Fails if the keeper refuses the command, or the daemon is ending.
    pub(super) async fn command(&self, wanted: Wanted) -> Result<View, Refusal> {
        let ending = || Refusal::new(Code::Ending, "the daemon is ending");
        let (answer, answered) = oneshot::channel();
        let sent = self.commands.send((wanted, answer)).await;
        sent.map_err(|_| ending())?;
        answered.await.map_err(|_| ending())?
    }

    /// Waits until `settled` holds, and returns the view. Returns `None` if the daemon is ending.
    pub(super) async fn wait(&self, settled: impl Fn(&View) -> bool) -> Option<View> {
        let mut view = self.view.clone();
        let settled = view.wait_for(|view| settled(view)).await;
        settled.ok().map(|view| view.clone())
    }

    pub(super) async fn halt(&self) {
        // A keeper that has ended needs no halt.
        let _ = self.command(Wanted::Life(Event::Halt)).await;
    }

    /// Waits until no VM of the appliance runs.
    pub(super) async fn at_rest(&self) {
        let mut view = self.view.clone();
        let _ = view.wait_for(|view| !has_process(view)).await;
    }
}

pub(super) struct Keeper {
    setting: Arc<Setting>,
    clock: Clock,
    kept: Kept,
    /// The appliance's VM.
    main: Unit,
    /// The second VM: the one that an update tries or has replaced.
    other: Option<Unit>,
    judgement: Option<Judgement>,
    /// Number of runs in the slot of `other`.
    other_runs: u64,
    /// The last warning about the manifest's expiry: its time, how near that was, and the run.
    told_end: Option<(u64, Term, u64)>,
    /// Whether the file names another image than when the last update was stored.
    edited: bool,
    /// The daemon is ending; unfinished work is left to the next one.
    halting: bool,
    commands: mpsc::Receiver<Command>,
    view: watch::Sender<View>,
    meter: Arc<Mutex<Meter>>,
    /// Events for the journal, as in [`Unit`].
    news: Vec<(&'static str, String)>,
}

impl Keeper {
    /// Creates a keeper that continues from what is on disk.
    pub(super) fn new(setting: Setting) -> (Self, Handle) {
        let setting = Arc::new(setting);
        let appliance = &setting.appliance;
        let name = appliance.name.clone();
        let (image, manifest) = (&appliance.image, appliance.manifest.as_deref());
        let (mut news, mut before) = (vec![], <(PathBuf, Option<PathBuf>)>::default());
        let clock = Clock::new();
        let mut kept = match store::load(&setting.root, &name) {
            Ok(Some(kept)) => {
                before = kept.file.clone();
                kept.of_file(image, manifest)
            }
            Ok(None) => Kept::first(image, manifest),
            Err(error) => {
                let text = format!("its earlier updates are forgotten: {}", chain(&error));
                news.push(("note", text));
                Kept::first(image, manifest)
            }
        };
        if let Some(update) = &mut kept.update {
            update.date(clock.now());
        }
        let edited = kept.update.is_some() && kept.file != before;
        let main = Unit::load(
            &setting,
            kept.slot,
            Role::Main,
            launch(&setting, &kept.current),
        );
        let (sender, commands) = mpsc::channel(COMMANDS);
        let beside = kept.slot.other().root(&setting.root);
        let beside = super::store::load(&beside, &name, clock.now())
            .ok()
            .flatten();
        let other_runs = beside.map_or(0, |life| life.run);
        let first = view(&setting, &kept, &main, None, other_runs);
        let (view, watched) = watch::channel(first);
        let meter = Arc::<Mutex<Meter>>::default();
        let keeper = Self {
            clock,
            setting,
            kept,
            main,
            other: None,
            judgement: None,
            other_runs,
            told_end: None,
            edited,
            halting: false,
            commands,
            view,
            meter: Arc::clone(&meter),
            news,
        };
        let handle = Handle {
            name,
            commands: sender,
            view: watched,
            meter,
            clock,
        };
        (keeper, handle)
    }

    /// Runs until all handles are gone, or the future is dropped.
    pub(super) async fn run(mut self) {
        self.resume().await;
        loop {
            let update = self.kept.under_way().filter(|_| !self.halting);
            let until = update.and_then(|update| update.until);
            let until = until.map(|until| self.clock.until(until));
            tokio::select! {
                command = self.commands.recv() => {
                    let Some((wanted, answer)) = command else { return };
                    let refused = self.command(wanted).await.err();
                    self.settle().await;
                    self.show();
                    let view = self.view.borrow().clone();
                    // The client may have disconnected.
                    let _ = answer.send(refused.map_or(Ok(view), Err));
                    continue;
                }
                what = self.main.next() => {
                    let (counts, back) = (matches!(what, Happened::Heard(_)), what.is_back());
                    self.main.happened(what).await;
                    if counts {
                        self.count();
                    }
                    self.remind(back).await;
                }
                what = next(&mut self.other) => {
                    let back = what.is_back();
                    if let Some(other) = &mut self.other {
                        other.happened(what).await;
                    }
                    self.remind(back).await;
                }
                judged = judging::judged(&mut self.judgement) => self.judged(judged).await,
                () = sleep(until.unwrap_or_default()), if until.is_some() => self.tick().await,
            }
            self.settle().await;
            self.refresh();
            self.show();
        }
    }

    /// Takes over VMs that an earlier daemon left running, and starts the appliance if it should run.
    async fn resume(&mut self) {
        self.main.resume().await;
        self.resume_update().await;
        let life = &self.main.life;
        let first = life.state == State::Created && self.setting.appliance.autostart;
        if first || life.resumes() {
            self.main.take(Event::Start).await;
        }
        self.settle().await;
        self.show();
    }

    async fn command(&mut self, wanted: Wanted) -> Result<(), Refusal> {
        let stops = matches!(wanted, Wanted::Life(Event::Stop | Event::Halt));
        if self.halting && !stops {
            // The command was sent before the halt, but its preparation, such as checking an image, took until now.
            return Err(Refusal::new(Code::Ending, "the daemon is ending"));
        }
        match wanted {
            Wanted::Life(event @ (Event::Start | Event::Restart)) => {
                if let Some(update) = self.kept.under_way() {
                    let message = format!("an update is under way: {}", update.words());
                    return Err(Refusal::new(Code::Updating, message));
                }
                self.main.take(event).await;
            }
            Wanted::Life(Event::Halt) => {
                self.halting = true;
                if let Some(other) = &mut self.other {
                    other.take(Event::Halt).await;
                }
                self.main.take(Event::Halt).await;
            }
            Wanted::Life(event) => {
                if event == Event::Stop {
                    self.cancel_update("the operator stopped the appliance")
                        .await;
                }
                self.main.take(event).await;
            }
            Wanted::Update {
                to,
                drain_first,
                policy,
            } => self.begin_update(to, false, drain_first, policy).await?,
            Wanted::Rollback { drain_first } => self.begin_rollback(drain_first).await?,
        }
        Ok(())
    }

    /// Passes the guest's counters to the meter, which derives rates from them.
    fn count(&self) {
        let metrics = self.main.report.as_ref().and_then(|report| report.metrics);
        let mut meter = self.meter.lock().unwrap_or_else(PoisonError::into_inner);
        match metrics {
            Some(metrics) => meter.add(self.clock.now(), metrics),
            None => meter.clear(),
        }
    }

    /// Warns that the manifest has expired or will soon: once for each run, and at each stage. Needs no timer, since a
    /// serving guest reports its counters every few seconds.
    fn tell_end(&mut self) {
        let Some(not_after) = self.kept.current.not_after else {
            return;
        };
        let report = self.main.report.as_ref();
        if self.main.life.has_process() && report.is_none_or(|it| it.manifest_id.is_none()) {
            // The image may have been rebuilt in its folder, so the manifest of this run is not known yet.
            return;
        }
        // Uses the time of day: the keeper's own clock started from the machine's, which may have been wrong then.
        let now = clock();
        let end = (not_after, expiry::term(not_after, now), self.main.life.run);
        if self.told_end.replace(end) != Some(end)
            && let Some(text) = expiry::warning(not_after, now)
        {
            self.news.push((MANIFEST, text));
        }
    }

    /// Publishes the current view, and then the events that led to it.
    fn show(&mut self) {
        self.tell_end();
        let units = [Some(&self.main), self.other.as_ref()]
            .into_iter()
            .flatten();
        let rooms = units.filter_map(|unit| unit.room()).collect();
        let name = &self.setting.appliance.name;
        self.setting.rooms.set(name, rooms);
        let other = self.other.as_ref();
        self.other_runs = other.map_or(self.other_runs, |other| other.life.run);
        let view = view(
            &self.setting,
            &self.kept,
            &self.main,
            other,
            self.other_runs,
        );
        self.view.send_if_modified(|shown| {
            let differs = *shown != view;
            *shown = view;
            differs
        });
        let other = self.other.as_mut().map(|other| &mut other.news);
        let news = [Some(&mut self.main.news), other, Some(&mut self.news)];
        for (state, text) in news.into_iter().flatten().flat_map(std::mem::take) {
            let name = &self.setting.appliance.name;
            self.setting.journal.add(Some(name), state, &text);
        }
    }
}

/// Waits for the next event of a VM; for ever if there is none.
async fn next(unit: &mut Option<Unit>) -> Happened {
    match unit {
        Some(unit) => unit.next().await,
        None => std::future::pending().await,
    }
}

/// Returns the launch settings for `deployment`.
fn launch(setting: &Setting, deployment: &Deployment) -> Launch {
    let manifest = deployment.manifest.as_deref();
    setting.launch.of_image(&deployment.image, manifest)
}
