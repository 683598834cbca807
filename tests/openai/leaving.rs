//! When a client disconnects, the real engine computes at most the token that it is working on, and the agent counts
//! exactly the tokens that the engine had sent by then.
//!
//! A relay between agent and engine counts the tokens in their frames. The test must measure how soon the engine obeys, not
//! how a busy machine schedules processes, so it stops the engine (`SIGSTOP`) until the cancellation is in its socket.

use std::io;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::time::Duration;

use cocoon_client::Upstreams;
use cocoon_client::receipts::Receipted;
use cocoon_guest_agent::engine::EngineState;
use cocoon_guest_agent::engine::supervisor::{Launched, Launcher};
use cocoon_protocol::engine::{FromEngine, MAX_FROM_ENGINE, MAX_TO_ENGINE, ToEngine};
use cocoon_protocol::frame::Decoder;
use cocoon_tests::alphabet;
use cocoon_tests::processes::{processor_time, signal};
use http_body_util::BodyExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::yield_now;
use tokio::time::timeout;

use crate::appliance::{self, Appliance, MODEL, Running, Setup};
use crate::clients;

/// Time limit of every wait.
const DEADLINE: Duration = Duration::from_secs(120);
/// Number of layers: a token then takes some hundredths of a second, which is long compared with the transfer of a frame.
pub const LAYERS: u32 = 24;
/// Number of tokens after which the client disconnects.
const READ: u32 = 24;
/// Number of tokens in the answers whose processor times are compared.
const COMPARED: u32 = 24;

/// What the relay saw between agent and engine.
#[derive(Clone, Copy, Default)]
pub struct Seen {
    /// Process ID of the engine.
    pub process: u32,
    /// Id of the generation requested last. `told` counts the tokens that the engine has sent for it.
    id: u64,
    told: u32,
    /// Id of the cancelled generation, and the tokens sent for it before. `late` counts those sent for it afterwards.
    cancelled: Option<(u64, u32)>,
    late: u32,
}

#[tokio::test(flavor = "multi_thread")]
async fn the_engine_stops_within_one_token() {
    let Some(engine) = clients::had("the engine", appliance::engine().await) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("alphabet-f32.gguf");
    std::fs::write(model, alphabet::of_layers(LAYERS)).unwrap();
    let (told, mut seen) = watch::channel(Seen::default());
    let relayed = Relayed {
        setup: Setup {
            engine,
            folder: folder.path().to_owned(),
            model: MODEL.to_owned(),
            slots: 2,
        },
        told,
    };
    let appliance = Appliance::with(relayed, MODEL, 2).await.unwrap();
    let process = seen.borrow().process;
    let upstreams = Upstreams::new(appliance.verifier(), vec![appliance.address.clone()]);

    // The first answer warms up. The second shows the processor time of such an answer when the engine does nothing else.
    whole(&upstreams).await;
    let before = processor_time(process).unwrap();
    whole(&upstreams).await;
    let alone = processor_time(process).unwrap() - before;
    assert!(!alone.is_zero(), "this kernel tells no processor time");

    let mut leaving = ask(&upstreams, 800).await;
    until(&mut seen, |seen| seen.told >= READ).await;
    assert!(signal(process, "STOP"));
    while !is_stopped(process) {
        yield_now().await;
    }
    // All tokens that the engine sent reach the client, and therefore passed the agent.
    let (mut events, mut letters) = (Vec::new(), String::new());
    while letters.len() < seen.borrow().told as usize {
        let frame = timeout(DEADLINE, leaving.frame()).await.expect("in time");
        let frame = frame.expect("more of the answer").unwrap();
        events.extend_from_slice(frame.data_ref().unwrap());
        letters = content(&events);
    }
    assert_eq!(letters, alphabet::answer(letters.len()));
    drop(leaving);
    let gone = until(&mut seen, |seen| seen.cancelled.is_some()).await;
    let told = u32::try_from(letters.len()).unwrap();
    assert_eq!(gone.cancelled, Some((gone.id, told)));
    let counted = || {
        let metrics = appliance.counters.metrics(&EngineState::default());
        (metrics.requests, metrics.completion_tokens)
    };
    let expected = u64::from(2 * COMPARED + told);
    let deadline = tokio::time::Instant::now() + DEADLINE;
    while counted() != (3, expected) {
        assert!(
            tokio::time::Instant::now() < deadline,
            "{:?} is not {expected} tokens of 3 requests",
            counted()
        );
        yield_now().await;
    }

    let before = processor_time(process).unwrap();
    assert!(signal(process, "CONT"));
    // The engine obeys frames in order: once this answer has begun, the other one has been cancelled.
    whole(&upstreams).await;
    let after = processor_time(process).unwrap() - before;
    let late = seen.borrow().late;
    assert!(
        late <= 1,
        "{late} tokens were told after the client had gone"
    );
    // If the other answer were still computed, both together would take four or five times as much.
    let limit = 2 * alone;
    assert!(
        after < limit,
        "{COMPARED} tokens took {alone:?} of the processors alone, and {after:?} after a client had gone"
    );
    assert_eq!(counted(), (4, expected + u64::from(COMPARED)));
}

/// Requests an answer of `tokens` tokens, and returns its body once the head has arrived.
async fn ask(upstreams: &Upstreams, tokens: u32) -> Receipted {
    let body = serde_json::json!({
        "model": MODEL,
        "messages": [{ "role": "user", "content": "letters" }],
        "temperature": 0,
        "max_completion_tokens": tokens,
        "stream": true,
    });
    let asked = upstreams.generate("/v1/chat/completions", body.to_string().into());
    let response = timeout(DEADLINE, asked).await.expect("in time").unwrap();
    assert_eq!(response.status(), 200);
    response.into_body()
}

/// Requests an answer and reads it to the end.
async fn whole(upstreams: &Upstreams) {
    let answer = ask(upstreams, COMPARED).await.collect();
    let answer = timeout(DEADLINE, answer).await.expect("in time").unwrap();
    let letters = content(&answer.to_bytes());
    assert_eq!(letters, alphabet::answer(COMPARED as usize));
}

/// Returns the text of the complete events in `stream`.
fn content(stream: &[u8]) -> String {
    let stream = std::str::from_utf8(stream).unwrap();
    let events = stream.rsplit_once("\n\n").map_or("", |(whole, _)| whole);
    let data = events
        .lines()
        .filter_map(|line| line.strip_prefix("data: {"));
    data.map(|json| {
        let event: serde_json::Value = serde_json::from_str(&format!("{{{json}")).unwrap();
        let content = event["choices"][0]["delta"]["content"].as_str();
        content.unwrap_or_default().to_owned()
    })
    .collect()
}

async fn until(seen: &mut watch::Receiver<Seen>, holds: impl FnMut(&Seen) -> bool) -> Seen {
    let reached = timeout(DEADLINE, seen.wait_for(holds)).await;
    *reached.expect("in time").expect("the relay lives")
}

fn is_stopped(process: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    // The state follows the process name, which is in parentheses.
    let (_, behind) = stat.rsplit_once(')').unwrap();
    behind.trim_start().starts_with('T')
}

/// Starts engines behind a relay.
pub struct Relayed {
    pub setup: Setup,
    pub told: watch::Sender<Seen>,
}

impl Launcher for Relayed {
    fn launch(&mut self) -> io::Result<Launched> {
        let (engine, theirs) = StdUnixStream::pair()?;
        let (relay, agent) = StdUnixStream::pair()?;
        let process = appliance::start(&self.setup, theirs)?;
        self.told.send_modify(|seen| seen.process = process.id());
        for socket in [&engine, &relay] {
            socket.set_nonblocking(true)?;
        }
        let (engine, relay) = (UnixStream::from_std(engine)?, UnixStream::from_std(relay)?);
        // The relay ends when either side closes.
        Handle::current().spawn(pass(relay, engine, self.told.clone()));
        Ok(Launched {
            stream: agent,
            process: Box::new(Running(process)),
        })
    }
}

/// Relays frames as they arrive, with priority for those of the engine.
async fn pass(
    mut agent: UnixStream,
    mut engine: UnixStream,
    told: watch::Sender<Seen>,
) -> io::Result<()> {
    let mut from_engine = Decoder::new(MAX_FROM_ENGINE);
    let mut to_engine = Decoder::new(MAX_TO_ENGINE);
    let (mut up, mut down) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
    loop {
        tokio::select! {
            biased;
            read = engine.read(&mut up) => {
                let bytes = &up[..read?];
                if bytes.is_empty() {
                    return Ok(());
                }
                from_engine.push(bytes);
                while let Some(frame) = from_engine.next::<FromEngine>().unwrap() {
                    told.send_modify(|seen| seen.heard(&frame));
                }
                agent.write_all(bytes).await?;
            }
            read = agent.read(&mut down) => {
                let bytes = &down[..read?];
                if bytes.is_empty() {
                    return Ok(());
                }
                to_engine.push(bytes);
                while let Some(frame) = to_engine.next::<ToEngine>().unwrap() {
                    told.send_modify(|seen| seen.asked(&frame));
                }
                engine.write_all(bytes).await?;
            }
        }
    }
}

impl Seen {
    fn asked(&mut self, frame: &ToEngine) {
        match frame {
            ToEngine::Generate { id, .. } => (self.id, self.told) = (*id, 0),
            ToEngine::Cancel { id } => self.cancelled = Some((*id, self.told)),
        }
    }

    fn heard(&mut self, frame: &FromEngine) {
        let FromEngine::Delta { id, tokens, .. } = frame else {
            return;
        };
        match self.cancelled {
            Some((cancelled, _)) if cancelled == *id => self.late += tokens,
            _ if *id == self.id => self.told += tokens,
            _ => {}
        }
    }
}
