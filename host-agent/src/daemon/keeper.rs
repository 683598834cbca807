//! One task for each appliance: its VM, and during an update the VM beside it.

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

/// Commands that wait. People do not give more.
const COMMANDS: usize = 16;

/// What a keeper keeps, and with what.
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

/// What is wanted.
#[derive(Debug)]
pub(super) enum Wanted {
    /// Of the appliance's life.
    Life(Event),
    /// That it runs something else.
    Update {
        to: Deployment,
        drain_first: bool,
        policy: Option<PathBuf>,
    },
    /// That it runs what it ran before.
    Rollback { drain_first: bool },
}

type Command = (Wanted, oneshot::Sender<Result<View, Refusal>>);

/// The way to a keeper.
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

    /// Where its log is, whenever that is asked: an update moves it.
    pub(super) fn log(&self) -> impl Fn() -> PathBuf + Send + 'static {
        let view = self.view.clone();
        move || view.borrow().folder.join(log::FILE)
    }

    /// What its guest does in a second.
    pub(super) fn rates(&self) -> Option<Rates> {
        let meter = self.meter.lock().unwrap_or_else(PoisonError::into_inner);
        meter.rates(self.clock.now())
    }

    /// Gives a command; the view after it was taken.
    ///
    /// # Errors
    /// That it cannot be done now, or that the daemon is ending.
    pub(super) async fn command(&self, wanted: Wanted) -> Result<View, Refusal> {
        let ending = || Refusal::new(Code::Ending, "the daemon is ending");
        let (answer, answered) = oneshot::channel();
        let sent = self.commands.send((wanted, answer)).await;
        sent.map_err(|_| ending())?;
        answered.await.map_err(|_| ending())?
    }

    /// Waits until `settled`; the view then. `None` when the daemon is ending.
    pub(super) async fn wait(&self, settled: impl Fn(&View) -> bool) -> Option<View> {
        let mut view = self.view.clone();
        let settled = view.wait_for(|view| settled(view)).await;
        settled.ok().map(|view| view.clone())
    }

    pub(super) async fn halt(&self) {
        // Gone is as good as halted.
        let _ = self.command(Wanted::Life(Event::Halt)).await;
    }

    /// Waits until nothing runs.
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
    /// The one that an update tries, or has replaced.
    other: Option<Unit>,
    judgement: Option<Judgement>,
    /// Runs in the place where `other` lives, or lived.
    other_runs: u64,
    /// What was told last of its manifest's end: that moment, how far it was, and in which run.
    told_end: Option<(u64, Term, u64)>,
    /// The file names another image than when the last update was kept.
    edited: bool,
    /// The daemon ends: what is half done is the next one's.
    halting: bool,
    commands: mpsc::Receiver<Command>,
    view: watch::Sender<View>,
    meter: Arc<Mutex<Meter>>,
    /// For the journal, as those of [`Unit`].
    news: Vec<(&'static str, String)>,
}

impl Keeper {
    /// A keeper that goes on from what was kept on disk.
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

    /// Runs until its handle is gone, or it is dropped.
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
                    // Whoever asked may have left.
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

    /// Finds what an earlier daemon left running, and starts what is wanted.
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
            // It was asked before, and what was to be read first took its time.
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

    /// What its guest counts, for what it does in a second.
    fn count(&self) {
        let metrics = self.main.report.as_ref().and_then(|report| report.metrics);
        let mut meter = self.meter.lock().unwrap_or_else(PoisonError::into_inner);
        match metrics {
            Some(metrics) => meter.add(self.clock.now(), metrics),
            None => meter.clear(),
        }
    }

    /// That its manifest has ended, or will soon: once for each run, and when it comes to that. While its VM serves no
    /// deadline is needed: the guest tells its counters every few seconds.
    fn tell_end(&mut self) {
        let Some(not_after) = self.kept.current.not_after else {
            return;
        };
        let report = self.main.report.as_ref();
        if self.main.life.has_process() && report.is_none_or(|it| it.manifest_id.is_none()) {
            // The image may have been built anew in its folder: which manifest this run has is not known yet.
            return;
        }
        // Of day: the keeper's own goes on from what the machine's said when the daemon began, and may have been wrong then.
        let now = clock();
        let end = (not_after, expiry::term(not_after, now), self.main.life.run);
        if self.told_end.replace(end) != Some(end)
            && let Some(text) = expiry::warning(not_after, now)
        {
            self.news.push((MANIFEST, text));
        }
    }

    /// Shows everybody what is, and then tells what led there.
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

/// Waits for ever where there is no such VM.
async fn next(unit: &mut Option<Unit>) -> Happened {
    match unit {
        Some(unit) => unit.next().await,
        None => std::future::pending().await,
    }
}

/// What starts `deployment`.
fn launch(setting: &Setting, deployment: &Deployment) -> Launch {
    let manifest = deployment.manifest.as_deref();
    setting.launch.of_image(&deployment.image, manifest)
}
