//! One task for each appliance: feeds its lifecycle with what happens, and does what that says.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::sleep;

use super::api::View;
use super::clock::Clock;
use super::journal::Journal;
use super::store;
use crate::config::{Appliance, TeeMode};
use crate::lifecycle::{
    Deadlines, Effect, Ending, Event, Holder, Lifecycle, Millis, Rules, State, next,
};
use crate::supervisor::{Heard, Launch, Link, Report};
use crate::text::chain;

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
    pub(super) journal: Arc<Journal>,
}

type Command = (Event, oneshot::Sender<View>);

/// The way to a keeper.
pub(super) struct Handle {
    pub(super) name: String,
    commands: mpsc::Sender<Command>,
    view: watch::Receiver<View>,
}

impl Handle {
    pub(super) fn view(&self) -> View {
        self.view.borrow().clone()
    }

    /// Gives a command; the view after it was taken. `None` when the daemon is ending.
    pub(super) async fn command(&self, event: Event) -> Option<View> {
        let (answer, answered) = oneshot::channel();
        self.commands.send((event, answer)).await.ok()?;
        answered.await.ok()
    }

    /// Waits until `settled`; the view then. `None` when the daemon is ending.
    pub(super) async fn wait(&self, settled: impl Fn(&State) -> bool) -> Option<View> {
        let mut view = self.view.clone();
        let settled = view.wait_for(|view| settled(&view.life.state)).await;
        settled.ok().map(|view| view.clone())
    }

    pub(super) async fn halt(&self) {
        // Gone is as good as halted.
        let _ = self.command(Event::Halt).await;
    }

    /// Waits until nothing runs.
    pub(super) async fn at_rest(&self) {
        let mut view = self.view.clone();
        let _ = view.wait_for(|view| !view.life.has_process()).await;
    }
}

pub(super) struct Keeper {
    setting: Setting,
    rules: Rules,
    clock: Clock,
    life: Lifecycle,
    link: Option<Link>,
    report: Option<Report>,
    /// What the running supervisor was started with.
    launched: Option<Launch>,
    commands: mpsc::Receiver<Command>,
    view: watch::Sender<View>,
}

impl Keeper {
    /// A keeper that goes on from what was kept on disk.
    pub(super) fn new(setting: Setting) -> (Self, Handle) {
        let name = setting.appliance.name.clone();
        let life = match store::load(&setting.root, &name) {
            Ok(Some(life)) => life,
            Ok(None) => Lifecycle::new(Clock::new(0).now()),
            Err(error) => {
                let text = format!("its earlier life is lost: {}", chain(&error));
                setting.journal.add(Some(&name), "note", &text);
                Lifecycle::new(Clock::new(0).now())
            }
        };
        let rules = Rules {
            restart: setting.appliance.restart,
            deadlines: setting.deadlines,
        };
        let (sender, commands) = mpsc::channel(COMMANDS);
        let first = view(&setting, &life, None, None);
        let (view, watched) = watch::channel(first);
        let keeper = Self {
            clock: Clock::new(life.since),
            setting,
            rules,
            life,
            link: None,
            report: None,
            launched: None,
            commands,
            view,
        };
        let handle = Handle {
            name,
            commands: sender,
            view: watched,
        };
        (keeper, handle)
    }

    /// Runs until its handle is gone, or it is dropped.
    pub(super) async fn run(mut self) {
        self.resume().await;
        loop {
            let deadline = match self.life.holder(&self.rules) {
                Holder::Deadline(at) => Some(self.clock.until(at)),
                Holder::Operator | Holder::Process => None,
            };
            tokio::select! {
                command = self.commands.recv() => {
                    let Some((event, answer)) = command else { return };
                    self.take(event).await;
                    // Whoever asked may have left.
                    let _ = answer.send(self.view.borrow().clone());
                }
                heard = hear(&mut self.link) => self.hear(heard).await,
                () = sleep(deadline.unwrap_or_default()), if deadline.is_some() => {
                    self.take(Event::Tick).await;
                }
            }
        }
    }

    /// Finds what an earlier daemon left running, and starts what is wanted.
    async fn resume(&mut self) {
        let (root, name) = (&self.setting.root, &self.setting.appliance.name);
        if self.life.has_process() {
            match Link::find(root, name, self.life.run).await {
                Ok(link) => {
                    let folder = crate::state::folder(root, name).ok();
                    self.launched = folder.as_deref().and_then(Launch::read);
                    self.link = Some(link);
                    self.note("found running, and taken over");
                    self.take(Event::Adopted).await;
                }
                Err(ending) => self.take(Event::Ended(ending)).await,
            }
        }
        let wanted = match self.life.state {
            State::Created => self.setting.appliance.autostart,
            State::Stopped { resume } => resume,
            _ => false,
        };
        if wanted {
            self.take(Event::Start).await;
        }
        self.show();
    }

    async fn hear(&mut self, heard: Heard) {
        match heard {
            Heard::Report(report) => {
                let (stage, halted) = (report.stage, report.halted.clone());
                self.report = Some(*report);
                self.take(Event::Reached(stage)).await;
                if let Some(why) = halted {
                    self.take(Event::Halted(why)).await;
                }
                self.show();
            }
            Heard::Ended(ending) => {
                self.link = None;
                self.report = None;
                self.launched = None;
                self.take(Event::Ended(ending)).await;
                self.show();
            }
        }
    }

    /// The event, and whatever follows from it at once.
    async fn take(&mut self, event: Event) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            let now: Millis = self.clock.now();
            let (life, effects) = next(&self.life, now, &event, &self.rules);
            let changed = life.state != self.life.state;
            self.life = life;
            for effect in effects {
                match effect {
                    Effect::Publish => self.publish(changed),
                    Effect::Launch(run) => {
                        if let Err(reason) = self.launch(run).await {
                            events.push_back(Event::Ended(Ending::Failed { reason }));
                        }
                    }
                    Effect::Drain(_) => {
                        if let Some(link) = &mut self.link
                            && !link.drain().await
                        {
                            self.note("it cannot be asked to finish");
                        }
                    }
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
        let name = &self.setting.appliance.name;
        if let Err(error) = store::save(&self.setting.root, name, &self.life) {
            self.note(&format!("its state is not kept: {}", chain(&error)));
        }
        if changed {
            let text = self.words();
            let state = self.life.state.name();
            self.setting.journal.add(Some(name), state, &text);
        }
        self.show();
    }

    async fn launch(&mut self, run: u64) -> Result<(), String> {
        let Setting {
            program,
            root,
            cache,
            ..
        } = &self.setting;
        let launch = self.setting.launch.of_run(run);
        let link = Link::start(program, root, cache.as_deref(), &launch).await;
        self.link = Some(link.map_err(|error| chain(&error))?);
        self.launched = Some(launch);
        self.show();
        Ok(())
    }

    /// The state for people.
    fn words(&self) -> String {
        let failure = self.life.last_failure.as_deref().unwrap_or_default();
        match &self.life.state {
            State::Preparing {
                restart_at: Some(at),
            } => format!(
                "failed (number {} in a row) and is started again in {:.1} s: {failure}",
                self.life.failures,
                self.clock.until(*at).as_secs_f64()
            ),
            State::Serving => match self.report.as_ref().and_then(|report| report.endpoint) {
                Some(endpoint) => format!("serving on https://{endpoint}"),
                None => "serving".to_owned(),
            },
            State::Failed { reason } => format!("given up: {reason}"),
            State::Draining { killed: true, .. } => "killed".to_owned(),
            other => other.name().to_owned(),
        }
    }

    fn note(&self, text: &str) {
        let name = &self.setting.appliance.name;
        self.setting.journal.add(Some(name), "note", text);
    }

    fn show(&self) {
        let view = view(
            &self.setting,
            &self.life,
            self.report.as_ref(),
            self.launched.as_ref(),
        );
        self.view.send_if_modified(|shown| {
            let differs = *shown != view;
            *shown = view;
            differs
        });
    }
}

/// Waits for ever where nothing runs.
async fn hear(link: &mut Option<Link>) -> Heard {
    match link {
        Some(link) => link.next().await,
        None => std::future::pending().await,
    }
}

fn view(
    setting: &Setting,
    life: &Lifecycle,
    report: Option<&Report>,
    launched: Option<&Launch>,
) -> View {
    let appliance = &setting.appliance;
    View {
        name: appliance.name.clone(),
        image: appliance.image.clone(),
        listen: appliance.listen,
        tee: match appliance.tee {
            TeeMode::Real(tee) => tee.to_string(),
            TeeMode::Simulated(tee) => format!("simulated-{tee}"),
        },
        memory_mib: appliance.memory_mib,
        vcpus: appliance.vcpus,
        autostart: appliance.autostart,
        outdated: launched.is_some_and(|launch| launch.of_run(0) != setting.launch),
        life: life.clone(),
        report: report.cloned(),
    }
}

/// Whether an appliance that was started has come to where it stays.
pub(super) fn settled(state: &State) -> bool {
    state.is_terminal() || matches!(state, State::Serving | State::Created)
}

/// Whether nothing of it runs or will.
pub(super) fn down(state: &State) -> bool {
    state.is_terminal() || *state == State::Created
}
