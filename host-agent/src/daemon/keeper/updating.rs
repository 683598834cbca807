//! Drives an update: feeds [`update`](crate::update) with what happens to the two VMs, and carries out its effects.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::PoisonError;

use cocoon_protocol::bytes::Hex32;
use cocoon_qemu::spec::Placement;

use super::{Keeper, launch};
use crate::collateral::keeper::clock;
use crate::daemon::api::{Code, Refusal};
use crate::daemon::journal::UPDATE_FAILED;
use crate::daemon::rooms::Room;
use crate::daemon::unit::{Role, Unit};
use crate::doctor::real::Real;
use crate::expiry::{Term, term, when};
use crate::lifecycle::{self, State, Then};
use crate::relay::DoorState;
use crate::supervisor::Order;
use crate::text::{chain, plain};
use crate::update::plan::{Facts, available_mib, plan};
use crate::update::{Deployment, Effect, Event, Phase, Way, begin, next, store};

impl Keeper {
    pub(super) async fn begin_update(
        &mut self,
        to: Deployment,
        rollback: bool,
        drain_first: bool,
        policy: Option<PathBuf>,
    ) -> Result<(), Refusal> {
        if let Some(update) = self.kept.under_way() {
            let message = format!("an update is under way: {}", update.words());
            return Err(Refusal::new(Code::Updating, message));
        }
        // The release was compared before the files were checked; another update may have finished meanwhile.
        if !rollback
            && let (Some(running), Some(release)) = (self.kept.current.release, to.release)
            && release < running
        {
            let message = format!(
                "it is of release {release}, and by now release {running} runs: another update came while this one was checked; \
                 take a manifest of release {running} or later, or `cocoon-host rollback {}` for the one that ran before",
                self.setting.appliance.name
            );
            return Err(Refusal::new(Code::UpdateRefused, message));
        }
        let appliance = &self.setting.appliance;
        let room = Room {
            memory_mib: appliance.memory_mib,
            pid: None,
        };
        let decide = |promised_mib| {
            let plan = plan(&Facts {
                available_mib: available_mib(),
                promised_mib,
                reserve_mib: self.setting.memory_reserve_mib,
                wanted_mib: appliance.memory_mib,
                exclusive: self.setting.launch.exclusive(),
                placed: appliance.placement != Placement::default(),
                runs: self.main.comes(),
                drain_first,
            });
            let beside = plan.way == Way::Beside;
            (plan, beside)
        };
        // The reservation lasts until `show` replaces it with the actual VMs, which follows directly.
        let rooms = &self.setting.rooms;
        let plan = rooms.decide(&appliance.name, room, &Real, decide);
        if let Some(because) = &plan.because {
            let text = format!("the old VM finishes before the new one starts: {because}");
            self.news.push(("update", text));
        }
        if let (Some(newer), Some(older)) = (self.kept.current.release, to.release)
            && older < newer
        {
            let text = format!(
                "this goes back from release {newer} to {older}: clients that have seen release {newer} refuse {older} until \
                 they are told --reset-release-floor"
            );
            self.news.push(("update", text));
        }
        let number = self.kept.update.as_ref().map_or(0, |last| last.number) + 1;
        let limits = &self.setting.updates.limits;
        let (now, ran) = (self.clock.now(), self.main.is_wanted());
        let (mut update, effects) = begin(number, rollback, plan.way, to, ran, now, limits);
        update.policy = policy;
        let before = self.kept.update.replace(update);
        if let Err(why) = self.keep() {
            self.kept.update = before;
            let message = format!("nothing was begun, because it cannot be kept: {why}");
            return Err(Refusal::new(Code::UpdateRefused, message));
        }
        self.perform(effects).await;
        Ok(())
    }

    pub(super) async fn begin_rollback(&mut self, drain_first: bool) -> Result<(), Refusal> {
        let refused = |message: String| Refusal::new(Code::NothingBefore, message);
        let Some(to) = self.kept.previous.clone() else {
            let message = "it was never updated: there is nothing to go back to";
            return Err(refused(message.to_owned()));
        };
        let now = Deployment::read(&to.image, to.manifest.as_deref());
        let same = to.manifest_id.is_none_or(|id| now.manifest_id == Some(id));
        if now.manifest_id.is_none() || !same {
            let message = format!(
                "the manifest of {} is not there any more, or another one: `cocoon-host update` takes any signed image",
                to.image.display()
            );
            return Err(refused(message));
        }
        let floor = self.setting.updates.release_floor;
        if let Some(release) = now.release.filter(|release| *release < floor) {
            let message = format!(
                "it ran release {release} before, and clients refuse what is older than {floor}, the release_floor of \
                 [updates]: lower that and start the daemon again if yours do not, or `cocoon-host update` to a newer image"
            );
            return Err(Refusal::new(Code::UpdateRefused, message));
        }
        // Uses the time of day, as clients do.
        let today = clock();
        if let Some(end) = now.not_after
            && term(end, today) == Term::Ended
        {
            let message = format!(
                "the manifest of what it ran before {}, and clients refuse it: `cocoon-host update` takes a newer image",
                when(end, today)
            );
            return Err(Refusal::new(Code::UpdateRefused, message));
        }
        let policy = self.setting.updates.policy.clone();
        self.begin_update(to, true, drain_first, policy).await
    }

    pub(super) async fn cancel_update(&mut self, why: &str) {
        self.update(Event::Cancel(why.to_owned())).await;
    }

    pub(super) async fn tick(&mut self) {
        self.update(Event::Tick).await;
    }

    /// Finds the second VM of an update that an earlier daemon began, and continues the update.
    pub(super) async fn resume_update(&mut self) {
        let Some(update) = self.kept.under_way() else {
            return;
        };
        let (role, deployment) = match update.is_committed() {
            true => (Role::Old, self.kept.previous.clone()),
            false => (Role::New, Some(update.to.clone())),
        };
        if update.phase != Phase::Emptying
            && let Some(deployment) = deployment
        {
            let launch = launch(&self.setting, &deployment);
            let mut other = Unit::load(&self.setting, self.kept.slot.other(), role, launch);
            other.resume().await;
            self.other = Some(other);
        }
        self.update(Event::Resumed).await;
        if self.edited {
            let why = "the file names another image now".to_owned();
            self.update(Event::Superseded(why)).await;
        }
    }

    /// Repeats the last orders of an update to a VM that is `back`, because it may not have received them. If the daemon is
    /// ending, the next one does so.
    pub(super) async fn remind(&mut self, back: bool) {
        if back && !self.halting {
            self.update(Event::Resumed).await;
        }
    }

    /// Feeds the update with what has become of the VMs, until nothing more follows.
    pub(super) async fn settle(&mut self) {
        while !self.halting
            && let Some(event) = self.event()
        {
            self.update(event).await;
        }
        let update = self.kept.under_way();
        if update.is_some_and(|update| update.phase == Phase::Examining) && self.judgement.is_none()
        {
            self.examine();
        }
    }

    fn event(&self) -> Option<Event> {
        let update = self.kept.under_way()?;
        let gone = |unit: Option<&Unit>| match unit.map(|unit| &unit.life.state) {
            None => Some("it was gone when the daemon came back".to_owned()),
            Some(State::Failed { reason }) => Some(reason.clone()),
            Some(State::Stopped { .. } | State::Created) => Some("it was stopped".to_owned()),
            Some(_) => None,
        };
        // The process still exists; that of a confidential guest may for a long time.
        let ending = |unit: &Unit| match &unit.life.state {
            State::Draining {
                then: Then::Fail { reason },
                ..
            } => Some(reason.clone()),
            State::Draining { .. } => Some("it was stopped".to_owned()),
            _ => None,
        };
        let other = self.other.as_ref();
        if update.has_new()
            && let Some(reason) = gone(other)
        {
            return Some(Event::NewEnded(reason));
        }
        let report = other.and_then(|other| other.report.as_ref());
        match update.phase {
            Phase::Emptying if gone(Some(&self.main)).is_some() => Some(Event::OldEnded),
            Phase::Retiring if gone(other).is_some() => Some(Event::OldEnded),
            Phase::Starting => {
                let serves = other.is_some_and(|other| other.life.state == State::Serving);
                serves.then_some(Event::NewServes)
            }
            Phase::Switching => match (report?.door, &report?.not_taken) {
                (DoorState::Open, _) => Some(Event::Switched),
                (_, Some(why)) => Some(Event::NotSwitched(plain(why, 400))),
                _ => None,
            },
            Phase::Proving => Some(Event::NewEnds(ending(other?)?)),
            _ => None,
        }
    }

    pub(super) async fn update(&mut self, event: Event) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            let Some(update) = self.kept.under_way() else {
                return;
            };
            let limits = &self.setting.updates.limits;
            let (update, effects) = next(update, self.clock.now(), &event, limits);
            let before = self.kept.clone();
            let goes_on = update.must_be_kept(&effects);
            self.kept.update = Some(update);
            if effects.contains(&Effect::Commit) {
                self.kept.commit();
            }
            if effects.contains(&Effect::Publish)
                && let Err(why) = self.keep()
            {
                self.news
                    .push(("note", format!("the update is not kept: {why}")));
                if goes_on {
                    // After a restart, the daemon would not know of this step, so it is not taken.
                    self.kept = before;
                    events.push_back(Event::NotKept(why));
                    continue;
                }
            }
            self.perform(effects).await;
        }
    }

    /// Corrects the current deployment's manifest from the running VM: the image may have been rebuilt in its folder since.
    pub(super) fn refresh(&mut self) {
        let report = self.main.report.as_ref();
        let id = report.and_then(|report| report.manifest_id.as_deref()?.parse::<Hex32>().ok());
        let current = &mut self.kept.current;
        // A VM started before the file was edited does not run what the file names.
        let known = id == current.manifest_id && current.not_after.is_some();
        if id.is_none() || known || self.main.is_outdated() {
            return;
        }
        let path = self.main.folder().join("manifest.json");
        if current.is_now(&path, id)
            && let Err(why) = self.keep()
        {
            let text = format!("the manifest's identity is not kept: {why}");
            self.news.push(("note", text));
        }
    }

    fn keep(&self) -> Result<(), String> {
        let name = &self.setting.appliance.name;
        store::save(&self.setting.root, name, &self.kept).map_err(|error| chain(&error))
    }

    /// Carries out effects. The state that they follow from is already on disk.
    async fn perform(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            self.perform_one(effect).await;
        }
        if self.kept.under_way().is_none() {
            self.judgement = None;
            // After an update in place, the other VM has ended long ago.
            if let Some(other) = self.other.take() {
                self.other_runs = other.life.run;
            }
            store::prune(&self.setting.root, &self.setting.appliance.name, &self.kept);
        }
    }

    async fn perform_one(&mut self, effect: Effect) {
        let Some(update) = self.kept.update.clone() else {
            return;
        };
        match effect {
            Effect::Publish => {
                let state = match update.phase {
                    Phase::Failed { .. } => UPDATE_FAILED,
                    _ => "update",
                };
                self.news.push((state, update.words()));
            }
            Effect::EmptyOld => self.main.take(lifecycle::Event::Stop).await,
            Effect::StartNew => {
                let launch = launch(&self.setting, &update.to);
                let slot = self.kept.slot.other();
                let mut other = Unit::load(&self.setting, slot, Role::New, launch);
                other.take(lifecycle::Event::Start).await;
                self.other = Some(other);
            }
            Effect::Examine => self.examine(),
            Effect::Switch => {
                let from = match update.way {
                    Way::Beside => self.main.lender(),
                    Way::InPlace => None,
                };
                self.tell_other(&Order::TakeOver(from)).await;
            }
            Effect::HoldOld => {
                self.main.waits(true);
                self.main.tell(&Order::Hold).await;
            }
            Effect::ReleaseOld => {
                self.main.waits(false);
                self.main.tell(&Order::Release).await;
            }
            Effect::Commit => {
                self.other_runs = self.main.life.run;
                // The counters come from another guest from now on.
                let mut meter = self.meter.lock().unwrap_or_else(PoisonError::into_inner);
                meter.clear();
                drop(meter);
                if let Some(new) = self.other.take() {
                    let mut old = std::mem::replace(&mut self.main, new);
                    old.plays(Role::Old);
                    self.other = Some(old);
                }
                self.main.plays(Role::Main);
                self.count();
            }
            Effect::RetireOld => {
                if let Some(other) = &mut self.other {
                    other.take(lifecycle::Event::Stop).await;
                }
            }
            Effect::KillNew => {
                self.judgement = None;
                if let Some(other) = &mut self.other {
                    let why = "the update goes back".to_owned();
                    other.take(lifecycle::Event::Halted(why)).await;
                }
            }
            Effect::StartOld => self.main.take(lifecycle::Event::Start).await,
        }
    }

    async fn tell_other(&mut self, order: &Order) {
        if let Some(other) = &mut self.other {
            other.tell(order).await;
        }
    }
}
