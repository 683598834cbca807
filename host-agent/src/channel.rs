//! The driver of a VM: one task that feeds events to [`machine`](crate::machine) and carries out the effects.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use cocoon_protocol::binding::Tee;
use cocoon_protocol::bytes::{Hex32, Hex64};
use cocoon_protocol::control::{
    CONTROL_VERSION, Configure, GuestMessage, HostMessage, LONGEST_SILENCE, MAX_GUEST_MESSAGE,
    MAX_HOST_MESSAGE,
};
use cocoon_protocol::frame::{self, Decoder};
use cocoon_protocol::gpu::CollateralRequest;
use cocoon_qemu::Vm;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};

use crate::collateral::guest::{self, Parts};
use crate::config::GuestAddress;
use crate::machine::{Effect, Ending, Event, News, State, next};
use crate::simulator::{Connection, Launch};
use crate::text::{chain, plain};

/// Maximum messages queued for the guest. A guest that lets the queue fill up is broken.
const OUTBOX: usize = 64;
/// How long to read the guest's last messages after QEMU has ended.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// How long the guest may be silent in each state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// Until the guest's first message: firmware and kernel start, perhaps under emulation.
    pub start: Duration,
    /// Between two messages while the guest boots.
    pub boot: Duration,
    /// Between two messages while the guest serves. It reports its counters every ten seconds, even if they are unchanged.
    pub serve: Duration,
    /// While the guest finishes its last requests.
    pub drain: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            start: Duration::from_secs(180),
            boot: LONGEST_SILENCE,
            serve: Duration::from_secs(180),
            drain: Duration::from_secs(30),
        }
    }
}

impl Patience {
    fn in_state(&self, state: &State) -> Option<Duration> {
        match state {
            State::Starting => Some(self.start),
            State::Measuring | State::Booting(_) => Some(self.boot),
            State::Serving(_) => Some(self.serve),
            State::Draining(_) => Some(self.drain),
            State::Ended(_) => None,
        }
    }
}

/// What the guest is configured with, and which TEE is simulated for it.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Canonical operator configuration.
    pub config: Vec<u8>,
    /// The guest's address on its network.
    pub address: GuestAddress,
    /// Identity (SHA-256) of the manifest that this host publishes.
    pub manifest_id: Hex32,
    /// TEE to simulate if the guest finds none.
    pub simulate: Option<Tee>,
    /// How long the guest may be silent.
    pub patience: Patience,
}

/// Holds the development root, PEM, once the simulator has launched the VM.
pub type RootSlot = watch::Sender<Option<String>>;

/// The control channel of a VM, and everything that it drives.
pub struct Driver<'a> {
    /// Configuration of the guest and of the driver.
    pub settings: Settings,
    /// The host's end of the control channel.
    pub control: UnixStream,
    /// The VM's QEMU, watched for its end.
    pub vm: &'a Vm,
    /// The simulator and the launch that it measures; `None` without simulation.
    pub simulator: Option<(Connection, Launch)>,
    /// Opens (`true`) and closes the relay.
    pub gate: watch::Sender<bool>,
    /// Receives the development root, PEM, from the simulator.
    pub root: RootSlot,
    /// Receives the request to drain.
    pub drain: mpsc::Receiver<()>,
    /// Receives the news of the VM.
    pub news: Box<dyn FnMut(&News) + Send>,
}

impl Driver<'_> {
    /// Runs until the VM must be stopped, and returns why.
    pub async fn run(self) -> Ending {
        let Self {
            settings,
            control,
            vm,
            simulator,
            gate,
            root,
            mut drain,
            mut news,
        } = self;
        let (mut reader, writer) = control.into_split();
        let (outbox, letters) = mpsc::channel(OUTBOX);
        let (asker, questions) = mpsc::channel(OUTBOX);
        let (answers, mut answered) = mpsc::channel(OUTBOX);
        // Dropping a `Task` aborts it, so all of them end with this function.
        let simulated = simulator.is_some();
        let _writing = crate::running::Task(tokio::spawn(write(writer, letters)));
        let _asking = crate::running::Task(tokio::spawn(ask(simulator, questions, answers, root)));

        let wishes = watch::Sender::new(None);
        let (hand, mut handed) = mpsc::channel(1);
        let (tell, mut told) = mpsc::channel(OUTBOX);
        let _seeking = crate::running::Task(tokio::spawn(seek(wishes.subscribe(), hand, tell)));

        let mut decoder = Decoder::new(MAX_GUEST_MESSAGE);
        let mut buffer = vec![0; 16 * 1024];
        let mut state = State::Starting;
        let mut events = VecDeque::new();
        let mut heard = Instant::now();
        loop {
            while let Some(event) = events.pop_front() {
                let silent_before = settings.patience.in_state(&state);
                let (after, effects) = next(state, event, settings.simulate);
                state = after;
                if settings.patience.in_state(&state) != silent_before {
                    heard = Instant::now();
                }
                for effect in effects {
                    let sent = match effect {
                        Effect::Tell(what) => {
                            news(&what);
                            true
                        }
                        Effect::Open => gate.send(true).is_ok(),
                        Effect::Close => {
                            gate.send_replace(false);
                            true
                        }
                        // The caller stops QEMU when this function returns.
                        Effect::Stop => true,
                        Effect::Launch(tee) => asker.try_send(Question::Launch(tee)).is_ok(),
                        Effect::AskEvidence(id, data) => {
                            asker.try_send(Question::Evidence(id, data)).is_ok()
                        }
                        Effect::Configure(collateral) => outbox
                            .try_send(HostMessage::Configure(Configure {
                                version: CONTROL_VERSION,
                                address: settings.address.to_string(),
                                config: settings.config.clone().into(),
                                manifest_id: settings.manifest_id,
                                simulate: settings.simulate,
                                collateral,
                            }))
                            .is_ok(),
                        Effect::SendEvidence(id, result) => outbox
                            .try_send(HostMessage::Evidence { id, result })
                            .is_ok(),
                        Effect::AskGpus(id, nonce) => {
                            asker.try_send(Question::Gpus(id, nonce)).is_ok()
                        }
                        Effect::SendGpus(id, result) => outbox
                            .try_send(HostMessage::GpuEvidence { id, result })
                            .is_ok(),
                        // No vendor endorses simulated GPUs, so the simulator supplies the collateral.
                        Effect::SeekCollateral(_) if simulated => {
                            asker.try_send(Question::GpuCollateral).is_ok()
                        }
                        // Without a cache folder `seek` has ended: nobody receives this, and the guest gets no collateral.
                        Effect::SeekCollateral(request) => {
                            wishes.send_replace(Some(*request));
                            true
                        }
                        Effect::SendCollateral(collateral, gpu) => outbox
                            .try_send(HostMessage::Collateral { collateral, gpu })
                            .is_ok(),
                        Effect::SendDrain => outbox.try_send(HostMessage::Drain).is_ok(),
                    };
                    if !sent {
                        events.push_back(Event::Garbage("it does not read what it is sent".into()));
                    }
                }
            }
            if let State::Ended(ending) = state {
                return ending;
            }
            let deadline = settings
                .patience
                .in_state(&state)
                .map(|patience| (heard + patience, patience));
            tokio::select! {
                read = reader.read(&mut buffer) => match read {
                    Ok(0) | Err(_) => events.push_back(Event::Gone),
                    Ok(count) => {
                        heard = Instant::now();
                        decoder.push(&buffer[..count]);
                        collect(&mut decoder, &mut events);
                    }
                },
                Some(event) = answered.recv() => events.push_back(event),
                Some((collateral, gpu)) = handed.recv() => events.push_back(Event::Collateral(collateral, gpu)),
                Some(note) = told.recv() => news(&News::Note(note)),
                _ = vm.wait() => {
                    // The guest's last messages may say why it ended. Nothing writes to the channel any more.
                    let rest = async {
                        while let Ok(count @ 1..) = reader.read(&mut buffer).await {
                            decoder.push(&buffer[..count]);
                            collect(&mut decoder, &mut events);
                        }
                    };
                    let _ = timeout(LAST_WORDS, rest).await;
                    events.push_back(Event::Gone);
                }
                Some(()) = drain.recv() => events.push_back(Event::Drain),
                () = sleep_until(deadline.map_or_else(Instant::now, |(at, _)| at)), if deadline.is_some() => {
                    let patience = deadline.map_or(Duration::ZERO, |(_, patience)| patience);
                    events.push_back(Event::Silence(patience.as_secs()));
                }
            }
        }
    }
}

/// Decodes all complete messages that have arrived.
fn collect(decoder: &mut Decoder, events: &mut VecDeque<Event>) {
    loop {
        match decoder.next::<GuestMessage>() {
            Ok(Some(message)) => events.push_back(Event::Guest(message)),
            Ok(None) => return,
            Err(error) => return events.push_back(Event::Garbage(error.to_string())),
        }
    }
}

async fn write(mut writer: impl AsyncWriteExt + Unpin, mut letters: mpsc::Receiver<HostMessage>) {
    while let Some(message) = letters.recv().await {
        // Only collateral can make a message too long. The guest then waits in vain, and its silence is reported.
        let Ok(bytes) = frame::encode(&message, MAX_HOST_MESSAGE) else {
            return;
        };
        if writer.write_all(&bytes).await.is_err() {
            return;
        }
    }
}

/// Fetches the vendors' endorsements once the guest requests some. Reports what is missing, at once and after each change.
async fn seek(
    mut wishes: watch::Receiver<Option<CollateralRequest>>,
    hand: mpsc::Sender<Parts>,
    tell: mpsc::Sender<String>,
) {
    if wishes.wait_for(Option::is_some).await.is_err() {
        return;
    }
    // Blocks, because it reads the system's trust roots.
    let keeper = tokio::task::spawn_blocking(guest::keeper).await;
    // A note that finds no receiver or a full queue is lost: the driver is busy or has ended.
    let note = |text: String| drop(tell.try_send(plain(&text, 1000)));
    match keeper {
        Ok(Ok(keeper)) => {
            let mut lacks = false;
            let missing = |missing: &[(String, String)], unkept: Option<&str>| {
                let notes = notes(missing, unkept, lacks);
                notes.into_iter().for_each(note);
                lacks = !missing.is_empty();
            };
            guest::serve(Arc::new(keeper), wishes, hand, missing).await;
        }
        Ok(Err(why)) => note(format!("the guest gets no endorsements: {why}")),
        // The task panicked, which is reported elsewhere, or the runtime is shutting down.
        Err(_) => {}
    }
}

/// Messages for the operator about endorsements that vendors did not give, and about those that could not be stored
/// (`unkept`). `lacked` says whether anything was missing before.
fn notes(missing: &[(String, String)], unkept: Option<&str>, lacked: bool) -> Vec<String> {
    let one =
        |(what, why): &(String, String)| format!("no endorsement for the guest: {what}: {why}");
    let mut notes: Vec<String> = missing.iter().map(one).collect();
    if lacked && notes.is_empty() {
        notes.push("the guest's endorsements are all there".to_owned());
    }
    let again = "the guest's endorsements are not kept, and its next start asks for them again";
    notes.extend(unkept.map(|why| format!("{again}: {why}")));
    notes
}

enum Question {
    Launch(Tee),
    Evidence(u64, Hex64),
    Gpus(u64, Hex32),
    GpuCollateral,
}

/// Sends questions to the simulator, one at a time.
async fn ask(
    simulator: Option<(Connection, Launch)>,
    mut questions: mpsc::Receiver<Question>,
    answers: mpsc::Sender<Event>,
    root: RootSlot,
) {
    let Some((mut connection, launch)) = simulator else {
        return;
    };
    while let Some(question) = questions.recv().await {
        let answer = match question {
            Question::Launch(tee) => match connection
                .launch(&Launch {
                    tee,
                    ..launch.clone()
                })
                .await
            {
                Ok((collateral, root_pem)) => {
                    root.send_replace(Some(root_pem));
                    Event::Launched(collateral)
                }
                Err(error) => Event::NotLaunched(plain(&chain(&error), 1000)),
            },
            Question::Evidence(id, data) => {
                let result = connection.evidence(data).await;
                Event::Evidence(id, result.map_err(|error| plain(&chain(&error), 1000)))
            }
            Question::Gpus(id, nonce) => {
                let result = connection.gpus(nonce).await;
                Event::Gpus(id, result.map_err(|error| plain(&chain(&error), 1000)))
            }
            // A VM without simulated GPUs has no such collateral, and the request stays unanswered.
            Question::GpuCollateral => match connection.gpu_collateral().await {
                Ok(collateral) => Event::Collateral(None, Some(collateral)),
                Err(_) => continue,
            },
        };
        if answers.send(answer).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Guest;

    #[test]
    fn every_state_but_the_end_has_its_patience() {
        let patience = Patience::default();
        let seconds = |state| patience.in_state(&state).map(|silence| silence.as_secs());
        let guest = Guest::default;
        assert_eq!(seconds(State::Starting), Some(180));
        assert_eq!(seconds(State::Measuring), Some(480));
        assert_eq!(seconds(State::Booting(guest())), Some(480));
        assert_eq!(seconds(State::Serving(guest())), Some(180));
        assert_eq!(seconds(State::Draining(guest())), Some(30));
        assert_eq!(seconds(State::Ended(Ending::Stopped)), None);
    }

    #[test]
    fn what_is_missing_is_told_and_that_it_came() {
        let missing = [(
            "NVIDIA, manifest X".to_owned(),
            "HTTP status 503".to_owned(),
        )];
        assert_eq!(
            notes(&missing, None, false),
            ["no endorsement for the guest: NVIDIA, manifest X: HTTP status 503"]
        );
        assert_eq!(
            notes(&[], None, true),
            ["the guest's endorsements are all there"]
        );
        assert_eq!(notes(&[], None, false), Vec::<String>::new());
        assert_eq!(
            notes(&[], Some("cannot write \"F\""), false),
            [
                "the guest's endorsements are not kept, and its next start asks for them again: cannot write \"F\""
            ]
        );
    }
}
