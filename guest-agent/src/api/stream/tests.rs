//! Tests of streams at a steady tick, on a paused clock: when events leave, how long they are, and what they contain.

use cocoon_protocol::binding::{Claims, Tee};
use cocoon_protocol::bytes::{Hex, Hex32, Hex48};
use cocoon_protocol::engine::{
    Choice, Costs, EngineFailure, Format, Generation, ModelInfo, Prompt, Sampling, Text,
};
use cocoon_protocol::receipt::RECEIPT_COMMENT;
use http_body_util::BodyExt as _;
use serde_json::Value;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::*;
use crate::api::Limits;
use crate::api::receipts::{Receipts, Session};
use crate::engine::{self, Command, Engine, EngineState, Failure};
use crate::keys::Keys;
use crate::metering::Counters;

const EVERY: Duration = Duration::from_millis(100);
/// At this rate, ticks of a tenth of a second need no larger events.
const LEAST_RATE: u32 = 2048;

/// A stream, and the engine's sender for each of its choices.
struct Stream {
    events: Events,
    choices: Vec<mpsc::Sender<Piece>>,
    began: Instant,
    /// The commands, which hold the slots of the generations.
    _held: Vec<Command>,
    _engine: (Engine, watch::Sender<EngineState>),
}

/// When an event left, its length, and its text.
#[derive(Debug)]
struct Told {
    at: Duration,
    length: usize,
    text: String,
}

impl Told {
    fn json(&self) -> Value {
        serde_json::from_str(self.text.strip_prefix("data: ").unwrap().trim_end()).unwrap()
    }

    fn delta(&self) -> Value {
        self.json()["choices"][0]["delta"].clone()
    }

    fn content(&self) -> String {
        let json = self.json();
        let choice = &json["choices"][0];
        let content = choice["delta"]["content"].as_str();
        content.unwrap_or_default().to_owned()
    }
}

impl Stream {
    async fn open(n: usize) -> Self {
        Self::at(EVERY, LEAST_RATE, n).await
    }

    async fn at(every: Duration, least_rate: u32, n: usize) -> Self {
        let ready = EngineState {
            ready: Some(ModelInfo {
                id: "m".into(),
                context_length: 2048,
                quantization: "F32".into(),
                vocabulary: 256,
                costs: Costs::default(),
            }),
            ..EngineState::default()
        };
        let (state, watched) = watch::channel(ready);
        let (engine, mut commands, _end) = Engine::new(8, watched);
        let generation = Generation {
            prompt: Prompt::Text("p".into()),
            tools: vec![],
            choice: Choice::Auto,
            parallel: true,
            format: Format::Text,
            max_tokens: 1024,
            room: 2048,
            sampling: Sampling::default(),
            stop: vec![],
            top_logprobs: None,
        };
        let asked = vec![generation; n];
        let answers = engine
            .generate(
                asked,
                engine::Told::Stream,
                (engine.source(), 0),
                &Limits::default().patience,
            )
            .await
            .unwrap();
        let (mut choices, mut held) = (Vec::new(), Vec::new());
        for _ in 0..n {
            let command = commands.recv().await.unwrap();
            if let Command::Generate { pieces, .. } = &command {
                choices.push(pieces.clone());
            }
            held.push(command);
        }
        let telling = Telling {
            envelope: Envelope {
                kind: Kind::Chat,
                id: "chatcmpl-000000000000000000000000".into(),
                created: 1_800_000_000,
                model: "smollm2-135m-instruct-q4_1".into(),
                fingerprint: "fp_0123456789ab".into(),
            },
            shape: Shape {
                include_usage: true,
                obfuscate: true,
                top_logprobs: None,
                bucket: BUCKET,
            },
            tick: Some(Tick { every, least_rate }),
        };
        let meter = Meter::begin(&std::sync::Arc::new(Counters::default()), &answers);
        let events = Events::new(answers, telling, meter, entry());
        Self {
            events,
            choices,
            began: Instant::now(),
            _held: held,
            _engine: (engine, state),
        }
    }

    fn say(&self, choice: usize, text: &str) {
        let piece = Piece::Delta(Text(text.to_owned()), vec![]);
        self.tell(choice, piece);
    }

    fn tell(&self, choice: usize, piece: Piece) {
        self.choices[choice]
            .try_send(piece)
            .unwrap_or_else(|_| panic!("no room"));
    }

    fn finish(&self, choice: usize) {
        let finish_reason = FinishReason::Stop;
        self.tell(choice, Piece::Done { finish_reason });
    }

    async fn next(&mut self) -> Option<Told> {
        let frame = self.events.frame().await?.unwrap();
        let data = frame.into_data().unwrap();
        Some(Told {
            at: self.began.elapsed(),
            length: data.len(),
            text: String::from_utf8(data.to_vec()).unwrap(),
        })
    }

    async fn some(&mut self, count: usize) -> Vec<Told> {
        let mut told = Vec::new();
        for _ in 0..count {
            told.push(self.next().await.expect("an event"));
        }
        told
    }

    async fn rest(&mut self) -> Vec<Told> {
        let mut told = Vec::new();
        while let Some(event) = self.next().await {
            told.push(event);
        }
        told
    }
}

fn entry() -> Entry {
    let keys = Keys::generate().unwrap();
    let claims = Claims {
        tee: Tee::Tdx,
        leaf_spki_sha256: Hex32::ZERO,
        meter_key: keys.meter_public(),
        manifest_id: Hex([3; 32]),
        model_digest: Hex([4; 32]),
        config_digest: Hex48::ZERO,
        gpu_section_digest: Hex32::ZERO,
    };
    let session = Session {
        nonce: Hex32::ZERO,
        evidence_digest: Hex32::ZERO,
    };
    let receipts = Receipts::new(&keys, &claims);
    let entry = receipts.open(session, b"{}").unwrap();
    entry.taken(1, None)
}

/// Times and lengths of events: all that an observer sees.
fn shape(told: &[Told]) -> Vec<(u128, usize)> {
    told.iter()
        .map(|event| (event.at.as_millis(), event.length))
        .collect()
}

#[tokio::test(start_paused = true)]
async fn events_leave_at_the_tick_alone_and_are_of_one_size() {
    let mut stream = Stream::open(1).await;
    let silence = stream.some(3).await;
    assert_eq!(silence[0].delta()["role"], "assistant");
    assert!(silence[1..].iter().all(|event| event.content().is_empty()));
    for piece in ["Hello", " \"wide\"", " world\u{1f30d}"] {
        stream.say(0, piece);
    }
    let told = stream.some(2).await;
    assert_eq!(told[0].content(), "Hello \"wide\" world\u{1f30d}");
    assert_eq!(told[1].content(), "");
    let long = "\u{e9}\n\u{1}x".repeat(300);
    stream.say(0, &long);
    stream.say(0, " and more");
    stream.finish(0);
    let rest = stream.rest().await;
    let (events, end) = rest.split_at(rest.len() - 4);
    let said: String = events.iter().map(Told::content).collect();
    assert_eq!(said, format!("{long} and more"));
    let [finish, usage, receipt, done] = end else {
        panic!("{end:?}")
    };
    assert_eq!(finish.json()["choices"][0]["finish_reason"], "stop");
    assert!(usage.json()["usage"].is_object());
    assert!(receipt.text.starts_with(RECEIPT_COMMENT));
    assert_eq!(
        (done.text.as_str(), done.at),
        ("data: [DONE]\n\n", receipt.at)
    );
    are_ticks(silence.iter().chain(&told).chain(events).chain(&end[..2]));
}

/// Checks that each event left at its own tick and has the one size.
fn are_ticks<'a>(told: impl Iterator<Item = &'a Told>) {
    for (tick, event) in (0..).zip(told) {
        assert_eq!(
            (event.at, event.length),
            (tick * EVERY, BUCKET),
            "{event:?}"
        );
    }
}

/// A client that asks for few events gets large ones, because answers that wait for their ticks hold up others.
#[tokio::test(start_paused = true)]
async fn a_slow_tick_tells_no_less_than_the_least_rate() {
    let every = Duration::from_secs(5);
    let mut stream = Stream::at(every, LEAST_RATE, 1).await;
    let first = stream.some(1).await;
    assert_eq!(first[0].length, 5 * 2048);
    // Everything that the engine says is buffered before the next tick.
    let long = "x".repeat(9000);
    for _ in 0..3 {
        stream.say(0, &long);
    }
    stream.finish(0);
    let told = stream.rest().await;
    let texts = told
        .iter()
        .filter(|event| event.text.starts_with("data: {"));
    let said: Vec<usize> = texts.map(|event| event.content().len()).collect();
    // Three events with text, then finish and usage.
    assert_eq!((said.len(), said.iter().sum()), (5, 27_000), "{said:?}");
    for (tick, event) in (1..).zip(&told[..5]) {
        assert_eq!((event.at, event.length), (tick * every, 5 * 2048));
    }
}

/// One answer comes token by token, and the other late and all at once. An observer cannot tell them apart.
#[tokio::test(start_paused = true)]
async fn neither_times_nor_sizes_of_tokens_show() {
    let mut slow = Stream::open(1).await;
    let mut shown = shape(&slow.some(1).await);
    for word in ["a", "longer", " w", "ord"] {
        slow.say(0, word);
        shown.extend(shape(&slow.some(1).await));
    }
    slow.finish(0);
    shown.extend(shape(&slow.rest().await));

    let mut late = Stream::open(1).await;
    let mut told = shape(&late.some(4).await);
    late.say(0, &"many words ".repeat(15));
    told.extend(shape(&late.some(1).await));
    late.finish(0);
    told.extend(shape(&late.rest().await));
    assert_eq!(shown, told);
}

#[tokio::test(start_paused = true)]
async fn calls_and_errors_keep_the_size_too() {
    let mut stream = Stream::open(1).await;
    let call = |name: Option<&str>, arguments: &str| Piece::Call {
        index: 0,
        name: name.map(|name| Text(name.to_owned())),
        arguments: Text(arguments.to_owned()),
    };
    let name = "f".repeat(64);
    stream.tell(0, call(Some(&name), "{"));
    for _ in 0..80 {
        stream.tell(0, call(None, &"\"\\".repeat(10)));
    }
    stream.tell(0, Piece::Failed(Failure::Engine(EngineFailure::Internal)));
    let told = stream.rest().await;
    let (end, events) = (&told[told.len() - 2..], &told[..told.len() - 2]);
    assert_eq!(end[0].json()["error"]["code"], "engine_error");
    assert!(end[1].text.starts_with(RECEIPT_COMMENT));
    are_ticks(events.iter().chain(&end[..1]));
    let calls: Vec<Value> = events[1..]
        .iter()
        .map(|event| event.delta()["tool_calls"][0]["function"].clone())
        .collect();
    assert_eq!(calls[0]["name"], name);
    let arguments: String = calls
        .iter()
        .filter_map(|call| call["arguments"].as_str())
        .collect();
    assert_eq!(arguments, format!("{{{}", "\"\\".repeat(800)));
    assert!(calls.len() < 40, "pieces are put together: {}", calls.len());
}

#[tokio::test(start_paused = true)]
async fn choices_take_turns_and_wait_in_their_own_buffers() {
    let mut stream = Stream::open(2).await;
    drop(stream.some(2).await);
    let most = stream.choices[0].max_capacity();
    for _ in 0..50 {
        stream.say(0, &"a".repeat(100));
        stream.say(1, &"b".repeat(100));
    }
    let told = stream.some(4).await;
    let starts: Vec<_> = told
        .iter()
        .map(|event| event.content().chars().next())
        .collect();
    assert!(starts.contains(&Some('a')));
    // Four events take no more text than fits into them: the rest waits in its bounded buffer.
    let waiting = |choice: usize| most - stream.choices[choice].capacity();
    assert!(waiting(0) + waiting(1) > 85, "{}", waiting(0) + waiting(1));
    let held: usize = told.iter().map(|event| event.content().len()).sum();
    assert!(held < 4 * BUCKET);
    stream.finish(0);
    stream.finish(1);
    let mut said = [String::new(), String::new()];
    for event in told.iter().chain(&stream.rest().await) {
        if event.text.starts_with("data: {") {
            let json = event.json();
            if let Some(index) = json["choices"][0]["index"].as_u64() {
                said[usize::try_from(index).unwrap()].push_str(&event.content());
            }
        }
    }
    assert_eq!(said, ["a".repeat(5000), "b".repeat(5000)]);
}
