//! One VM of an appliance: feeds its life cycle with events, and carries out the effects.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::clock::Clock;
use super::keeper::Setting;
use super::rooms::Room;
use super::store;
use crate::config::RestartPolicy;
use crate::lifecycle::{
    Effect, Ending, Event, Holder, Lifecycle, Millis, Rules, Stage, State, Then, next,
};
use crate::relay::DoorState;
use crate::state;
use crate::supervisor::{GONE, Heard, Launch, Link, Order, Report, SOCKET};
use crate::text::chain;
use crate::update::store::Slot;

/// How long to wait for the first report of a supervisor that was found, before the VM is shown without it.
const FIRST_REPORT: Duration = Duration::from_secs(1);

/// Note for an appliance that has been refused several times in a row.
const HELD_UP: &str = "it lacks what it needs before QEMU runs, and is tried again until it has that or is stopped: \
    `cocoon-host start` tries at once";

/// The role of a VM within its appliance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// The appliance's VM.
    Main,
    /// The VM that an update tries. It is not restarted when it fails.
    New,
    /// The VM that an update replaced.
    Old,
}

/// One VM, or the slot for one.
pub(super) struct Unit {
    setting: Arc<Setting>,
    slot: Slot,
    role: Role,
    clock: Clock,
    /// Settings of the next run.
    pub(super) launch: Launch,
    pub(super) life: Lifecycle,
    pub(super) report: Option<Report>,
    /// Settings that the running supervisor was started with.
    pub(super) launched: Option<Launch>,
    link: Option<Link>,
    /// Events for the journal. They are added after the view has changed, so that a follower sees what an event reports.
    pub(super) news: Vec<(&'static str, String)>,
}

/// An event of a VM.
pub(super) enum Happened {
    /// The supervisor sent a report, reconnected, or ended.
    Heard(Heard),
    /// A deadline has passed.
    Tick,
}

impl Happened {
    /// Whether a supervisor was found again. It may not have received the last orders.
    pub(super) fn is_back(&self) -> bool {
        matches!(self, Self::Heard(Heard::Back))
    }
}

impl Unit {
    /// Loads the VM in `slot` from disk.
    pub(super) fn load(setting: &Arc<Setting>, slot: Slot, role: Role, launch: Launch) -> Self {
        let (name, clock) = (&setting.appliance.name, Clock::new());
        let (mut lost, now) = (None, clock.now());
        let life = match store::load(&slot.root(&setting.root), name, now) {
            Ok(Some(life)) => life,
            Ok(None) => Lifecycle::new(now),
            Err(error) => {
                lost = Some(format!("its earlier life is lost: {}", chain(&error)));
                Lifecycle::new(now)
            }
        };
        let mut unit = Self {
            clock,
            setting: Arc::clone(setting),
            slot,
            role,
            launch,
            life,
            report: None,
            launched: None,
            link: None,
            news: lost.into_iter().map(|text| ("note", text)).collect(),
        };
        unit.plays(role);
        unit
    }

    /// Changes the VM's role.
    pub(super) fn plays(&mut self, role: Role) {
        self.role = role;
        self.waits(role == Role::New);
    }

    /// The rules for this VM. They follow the running VM's settings: its memory is what the kernel must reclaim, even if the
    /// file has changed.
    fn rules(&self) -> Rules {
        let launch = self.launched.as_ref().unwrap_or(&self.launch);
        let mut rules = Rules {
            restart: self.setting.appliance.restart,
            deadlines: launch.deadlines(self.setting.deadlines),
        };
        if self.role == Role::Old {
            rules.deadlines.draining = rules.deadlines.retiring;
        }
        if self.role != Role::Main {
            rules.restart.policy = RestartPolicy::Never;
        }
        rules
    }

    /// Sets whether the next run leaves the public listener closed until it is told to open it.
    pub(super) fn waits(&mut self, waits: bool) {
        self.launch = self.launch.clone().waiting(waits);
    }

    /// The folder of the VM.
    pub(super) fn folder(&self) -> PathBuf {
        let root = self.slot.root(&self.setting.root);
        // The name was checked when the file was read.
        state::folder(&root, &self.setting.appliance.name).unwrap_or(root)
    }

    /// The supervisor's socket, if the supervisor has the public listener.
    pub(super) fn lender(&self) -> Option<PathBuf> {
        let has = match &self.report {
            Some(report) => report.door != DoorState::Shut,
            // The VM was just taken over from an earlier daemon, and its supervisor refuses by itself if it has no listener.
            None => self.link.as_ref().is_some_and(|link| !link.is_orphan()),
        };
        has.then(|| self.folder().join(SOCKET))
    }

    /// Whether the running VM was started with other settings than the next run would be.
    pub(super) fn is_outdated(&self) -> bool {
        let launched = self.launched.as_ref();
        let same = |launch: &Launch| launch.of_run(0).waiting(false);
        launched.is_some_and(|launched| same(launched) != same(&self.launch))
    }

    /// The VM's part of the machine's memory, if it runs or is about to.
    pub(super) fn room(&self) -> Option<Room> {
        let pid = self.report.as_ref().and_then(|report| report.qemu_pid);
        let memory_mib = self.setting.appliance.memory_mib;
        self.comes().then_some(Room { memory_mib, pid })
    }

    /// Whether the VM runs, or is about to be started again.
    pub(super) fn comes(&self) -> bool {
        let restart_at = matches!(self.life.state, State::Preparing { .. });
        self.life.has_process() || restart_at
    }

    /// As [`Self::comes`], but not if the VM is being stopped for good.
    pub(super) fn is_wanted(&self) -> bool {
        let stops = matches!(
            self.life.state,
            State::Draining {
                then: Then::Stop { .. },
                ..
            }
        );
        self.comes() && !stops
    }

    /// Takes over a VM that an earlier daemon left running.
    pub(super) async fn resume(&mut self) {
        if !self.life.has_process() {
            return;
        }
        let root = self.slot.root(&self.setting.root);
        match Link::find(&root, &self.setting.appliance.name, self.life.run).await {
            Ok(link) if link.is_orphan() => {
                self.launched = Launch::read(&self.folder());
                self.link = Some(link);
                self.note("its supervisor is gone, and its QEMU not yet: that is waited for");
                self.take(Event::Failing(GONE.to_owned())).await;
            }
            Ok(mut link) => {
                self.launched = Launch::read(&self.folder());
                // The supervisor sends a report unasked. Waiting for it lets the view show the report together with the note.
                let first = timeout(FIRST_REPORT, link.next()).await.ok();
                self.link = Some(link);
                self.note("found running, and taken over");
                self.take(Event::Adopted).await;
                if let Some(heard) = first {
                    self.happened(Happened::Heard(heard)).await;
                }
            }
            Err(ending) => self.take(Event::Ended(ending)).await,
        }
    }

    /// Waits for the next event; for ever if there is none. Cancel-safe.
    pub(super) async fn next(&mut self) -> Happened {
        let deadline = match self.life.holder(&self.rules()) {
            Holder::Deadline(at) => Some(self.clock.until(at)),
            Holder::Operator | Holder::Process => None,
        };
        let heard = async {
            match &mut self.link {
                Some(link) => link.next().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            heard = heard => Happened::Heard(heard),
            () = sleep(deadline.unwrap_or_default()), if deadline.is_some() => Happened::Tick,
        }
    }

    pub(super) async fn happened(&mut self, what: Happened) {
        match what {
            Happened::Tick => self.take(Event::Tick).await,
            Happened::Heard(Heard::Report(report)) => {
                let (stage, halted) = (report.stage, report.halted.clone());
                self.report = Some(*report);
                match halted {
                    Some(why) if stage == Stage::Draining => {
                        self.take(Event::Failing(why)).await;
                    }
                    halted => {
                        self.take(Event::Reached(stage)).await;
                        if let Some(why) = halted {
                            self.take(Event::Halted(why)).await;
                        }
                    }
                }
            }
            Happened::Heard(Heard::Back) => {
                self.note("its supervisor was lost sight of, and found again");
                self.take(Event::Adopted).await;
            }
            Happened::Heard(Heard::Ended(ending)) => {
                // A process that ended at once may not have reported QEMU's start, which tells a crash from a refusal.
                if self.link.take().is_some_and(|link| link.begun) {
                    self.take(Event::Reached(Stage::Booting)).await;
                }
                self.report = None;
                self.launched = None;
                self.take(Event::Ended(ending)).await;
            }
        }
    }

    /// Sends an order to the supervisor, if there is one.
    pub(super) async fn tell(&mut self, order: &Order) {
        if let Some(link) = &mut self.link
            && !link.tell(order).await
        {
            self.note("it cannot be told what to do");
        }
    }

    /// Handles an event, and whatever follows from it at once.
    pub(super) async fn take(&mut self, event: Event) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            let now: Millis = self.clock.now();
            let (life, effects) = next(&self.life, now, &event, &self.rules());
            let changed = life.state != self.life.state;
            let held_up = life.is_held_up() && !self.life.is_held_up();
            self.life = life;
            for effect in effects {
                match effect {
                    Effect::Publish => {
                        self.publish(changed);
                        if held_up {
                            self.note(HELD_UP);
                        }
                    }
                    Effect::Launch(run) => {
                        if let Err(reason) = self.launch(run).await {
                            events.push_back(Event::Ended(Ending::Failed { reason }));
                        }
                    }
                    Effect::Drain(_) => self.tell(&Order::Drain).await,
                    Effect::Kill(_) => {
                        if let Some(link) = &mut self.link {
                            link.kill();
                        }
                    }
                }
            }
        }
    }

    fn publish(&mut self, changed: bool) {
        let (root, name) = (
            self.slot.root(&self.setting.root),
            &self.setting.appliance.name,
        );
        if let Err(error) = store::save(&root, name, &self.life) {
            self.note(&format!("its state is not kept: {}", chain(&error)));
        }
        if changed {
            let text = self.words();
            match self.role {
                Role::Main => self.news.push((self.life.state.name(), text)),
                Role::New => self.note(&format!("the new VM: {text}")),
                Role::Old => self.note(&format!("the old VM: {text}")),
            }
        }
    }

    async fn launch(&mut self, run: u64) -> Result<(), String> {
        let Setting {
            program,
            root,
            cache,
            ..
        } = &*self.setting;
        let root = self.slot.root(root);
        let launch = self.launch.of_run(run);
        let link = Link::start(program, &root, cache.as_deref(), &launch).await;
        self.link = Some(link.map_err(|error| chain(&error))?);
        self.launched = Some(launch);
        Ok(())
    }

    /// The VM's state for people.
    fn words(&self) -> String {
        let failure = self.life.last_failure.as_deref().unwrap_or_default();
        match &self.life.state {
            State::Preparing {
                restart_at: Some(at),
            } => format!(
                "failed (number {} in a row) and is started again in {:.1} s: {failure}",
                self.life.in_a_row(),
                self.clock.until(*at).as_secs_f64()
            ),
            State::Serving => match self.report.as_ref().and_then(|report| report.endpoint) {
                Some(endpoint) => format!("serving on https://{endpoint}"),
                None => "serving".to_owned(),
            },
            State::Failed { reason } => format!("given up: {reason}"),
            State::Draining { killed: true, .. } => "killed".to_owned(),
            State::Draining {
                then: Then::Fail { reason },
                ..
            } => format!("it has failed and is ended: {reason}"),
            other => other.name().to_owned(),
        }
    }

    fn note(&mut self, text: &str) {
        self.news.push(("note", text.to_owned()));
    }
}
