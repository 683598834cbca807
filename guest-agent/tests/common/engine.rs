//! A minimal engine that speaks the real frames. The prompt determines its answer.

use std::collections::HashSet;
use std::io;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::sync::Arc;

use cocoon_guest_agent::engine::supervisor::{Launched, Launcher, Process};
use cocoon_protocol::bytes::Hex;
use cocoon_protocol::engine::{
    Alternative, Costs, EngineFailure, FromEngine, Generation, GpuCounts, MAX_FROM_ENGINE,
    MAX_PIECE, MAX_TO_ENGINE, MAX_TOKEN, ModelInfo, Prompt, Seed, TensorRoot, Text, ToEngine,
    TokenLogprob,
};
use cocoon_protocol::frame::{self, Decoder};
use cocoon_protocol::openai::FinishReason;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc, watch};

pub const MODEL: &str = "smollm2-135m-instruct-q4_1";
pub const CONTEXT: u32 = 2048;

/// Launches fake engines, and reports what they receive.
pub struct FakeEngine {
    /// Receives the identifiers of cancelled generations, in order.
    cancelled: mpsc::UnboundedSender<u64>,
    /// Number of launches.
    pub launches: Arc<std::sync::atomic::AtomicU64>,
    /// Bytes that each engine sends before `Ready`.
    pub greeting: Vec<u8>,
    /// Bytes that the first engine sends instead of the greeting.
    pub first: Option<Vec<u8>>,
    /// Whether it lets go of cancelled generations, as an engine does between two tokens. While it reads a prompt, it does not.
    pub lets_go: watch::Sender<bool>,
    /// Number of endless answers that it has not let go of, and the maximum of that number.
    pub held: watch::Sender<(usize, usize)>,
    /// Memory that answers take, as the engine reports it.
    pub costs: Costs,
    /// Ends the running engine when notified.
    pub dies: Arc<Notify>,
}

impl FakeEngine {
    pub fn new() -> (Self, mpsc::UnboundedReceiver<u64>) {
        let (cancelled, heard) = mpsc::unbounded_channel();
        (
            Self {
                cancelled,
                launches: Arc::default(),
                greeting: Vec::new(),
                first: None,
                lets_go: watch::Sender::new(true),
                held: watch::Sender::new((0, 0)),
                costs: Costs::default(),
                dies: Arc::default(),
            },
            heard,
        )
    }
}

struct Nothing;

impl Process for Nothing {
    fn end(&mut self) {}
}

impl Launcher for FakeEngine {
    fn launch(&mut self) -> io::Result<Launched> {
        let (stream, theirs) = StdUnixStream::pair()?;
        self.launches
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let says = Says {
            greeting: (self.first.take()).unwrap_or_else(|| self.greeting.clone()),
            costs: self.costs,
            cancelled: self.cancelled.clone(),
            lets_go: self.lets_go.subscribe(),
            held: self.held.clone(),
            dies: Arc::clone(&self.dies),
        };
        Handle::current().spawn(async move {
            // A broken socket just ends the engine.
            let _ = run(theirs, says).await;
        });
        Ok(Launched {
            stream,
            process: Box::new(Nothing),
        })
    }
}

pub fn encode(message: &FromEngine) -> Vec<u8> {
    frame::encode(message, MAX_FROM_ENGINE).unwrap()
}

/// What an engine on `count` GPUs sends before it is ready.
pub fn on_gpus(count: u16, counts: GpuCounts) -> Vec<u8> {
    let tensors = [1, 2].map(|root| TensorRoot {
        root: Hex([root; 32]),
        bytes: 4096,
    });
    let told = [
        FromEngine::Devices { count },
        FromEngine::Tensors {
            tensors: tensors.to_vec(),
        },
        FromEngine::Derived {
            tensors: tensors[..1].to_vec(),
        },
        FromEngine::Measured {
            root: Hex([3; 32]),
            pool_bytes: 1 << 30,
        },
        FromEngine::Gpu(counts),
    ];
    told.iter().flat_map(encode).collect()
}

/// Behaviour of one engine process.
struct Says {
    greeting: Vec<u8>,
    costs: Costs,
    cancelled: mpsc::UnboundedSender<u64>,
    lets_go: watch::Receiver<bool>,
    held: watch::Sender<(usize, usize)>,
    dies: Arc<Notify>,
}

pub fn ready(costs: Costs) -> Vec<u8> {
    let info = ModelInfo {
        id: MODEL.into(),
        context_length: CONTEXT,
        quantization: "Q4_1".into(),
        vocabulary: 1000,
        costs,
    };
    encode(&FromEngine::Ready(info))
}

async fn run(stream: StdUnixStream, mut says: Says) -> io::Result<()> {
    stream.set_nonblocking(true)?;
    let mut stream = UnixStream::from_std(stream)?;
    stream.write_all(&says.greeting).await?;
    stream.write_all(&ready(says.costs)).await?;
    let mut decoder = Decoder::new(MAX_TO_ENGINE);
    let mut chunk = [0; 4096];
    // Generations whose answer has no end of its own, and those of them that were cancelled.
    let (mut endless, mut leaving) = (HashSet::new(), Vec::new());
    loop {
        tokio::select! {
            count = stream.read(&mut chunk) => match count? {
                0 => return Ok(()),
                count => {
                    decoder.push(&chunk[..count]);
                    chunk[..count].fill(0);
                }
            },
            () = says.dies.notified() => return Ok(()),
            Ok(()) = says.lets_go.changed() => {}
        }
        while let Some(message) = decoder.next::<ToEngine>().unwrap() {
            match message {
                ToEngine::Cancel { id } => {
                    let _ = says.cancelled.send(id);
                    // The end of every other answer is already on its way.
                    leaving.extend(endless.remove(&id).then_some(id));
                }
                ToEngine::Generate { id, request } => {
                    let Some(frames) = answer(id, &request) else {
                        return Ok(());
                    };
                    if is_endless(&request) {
                        endless.insert(id);
                        says.held.send_modify(|(now, most)| {
                            (*now, *most) = (*now + 1, (*now + 1).max(*most))
                        });
                    }
                    for frame in frames {
                        stream.write_all(&frame).await?;
                    }
                }
            }
        }
        if *says.lets_go.borrow() {
            for id in leaving.drain(..) {
                says.held.send_modify(|(now, _)| *now -= 1);
                stream.write_all(&encode(&FromEngine::Gone { id })).await?;
            }
        }
    }
}

fn said(request: &Generation) -> &str {
    match &request.prompt {
        Prompt::Conversation(turns) => turns.last().unwrap().content.as_str(),
        Prompt::Text(text) => text,
    }
}

fn is_endless(request: &Generation) -> bool {
    matches!(said(request), "wait" | "flood" | "read for ever")
}

/// Frames for the last message of the prompt; `None` if the engine dies.
fn answer(id: u64, request: &Generation) -> Option<Vec<Vec<u8>>> {
    let prompt = said(request);
    let logprob = |text: &str| {
        let one = Alternative {
            bytes: text.into(),
            logprob: -0.5,
        };
        TokenLogprob {
            top: vec![one.clone(); request.top_logprobs.unwrap().into()],
            chosen: one,
        }
    };
    let delta = |text: &str| {
        encode(&FromEngine::Delta {
            id,
            text: Text(text.into()),
            tokens: 1,
            logprobs: request
                .top_logprobs
                .map(|_| logprob(text))
                .into_iter()
                .collect(),
        })
    };
    let call = |index, name: Option<&str>, arguments: &str| {
        encode(&FromEngine::Call {
            id,
            index,
            name: name.map(|name| Text(name.into())),
            arguments: Text(arguments.into()),
        })
    };
    let started = |prompt_tokens| encode(&FromEngine::Started { id, prompt_tokens });
    let ended = |finish_reason, prompt_tokens, completion_tokens| {
        encode(&FromEngine::Done {
            id,
            finish_reason,
            prompt_tokens,
            completion_tokens,
        })
    };
    let done = |prompt, completion| ended(FinishReason::Stop, prompt, completion);
    let failed = |reason| vec![encode(&FromEngine::Failed { id, reason })];
    Some(match prompt {
        "die" => return None,
        "die halfway" => vec![started(7), delta("half"), frame_of_rubbish()],
        "wait" => vec![started(7), delta("first")],
        "read for ever" => vec![],
        "let go of nothing" => vec![encode(&FromEngine::Gone { id })],
        "say your room" => vec![
            started(7),
            delta(&format!("{} {}", request.room, request.max_tokens)),
            done(7, 1),
        ],
        "too long" => failed(EngineFailure::ContextLength),
        "wrong roles" => failed(EngineFailure::Template),
        "bad schema" => failed(EngineFailure::Grammar),
        "lie about tokens" => vec![started(5), done(5, u32::MAX)],
        "lie about the sum" => vec![started(5), delta("x"), done(5, 2)],
        "lie about the first count" => vec![started(5), delta("x"), done(6, 1)],
        "answer before reading" => vec![delta("x")],
        "read twice" => vec![started(5), started(5)],
        "lie about the prompt" => vec![started(u32::MAX)],
        "call nobody" => vec![started(7), call(0, Some("f"), "{}")],
        "call twice" => vec![
            started(7),
            delta(""),
            call(0, Some("f"), ""),
            call(0, None, "{\"a\":"),
            call(0, None, "1}"),
            call(1, Some("g"), ""),
            call(1, None, "{}"),
            ended(FinishReason::ToolCalls, 7, 1),
        ],
        "speak at length" => std::iter::once(started(7))
            .chain((0..request.max_tokens).map(|_| delta(&"x".repeat(MAX_TOKEN))))
            .chain([ended(FinishReason::Length, 7, request.max_tokens)])
            .collect(),
        "call at length" => std::iter::once(started(7))
            .chain((0..request.max_tokens).map(|_| delta("")))
            .chain([call(0, Some("f"), "")])
            .chain(arguments(request.max_tokens).map(|piece| call(0, None, &piece)))
            .chain([ended(FinishReason::ToolCalls, 7, request.max_tokens)])
            .collect(),
        "busy" => failed(EngineFailure::Busy),
        "say your seed" => vec![
            started(7),
            delta(&match &request.sampling.seed {
                Seed::Given(number) => number.to_string(),
                Seed::Drawn(key) => format!("{:?}", key.0),
            }),
            done(7, 1),
        ],
        "be likely" | "be likely twice" => vec![
            started(7),
            encode(&FromEngine::Delta {
                id,
                text: Text("x".into()),
                tokens: 1,
                logprobs: vec![TokenLogprob::default(); prompt.split(' ').count() - 1],
            }),
            done(7, 1),
        ],
        "answer another" => vec![encode(&FromEngine::Delta {
            id: id + 1000,
            text: Text("x".into()),
            tokens: 1,
            logprobs: vec![],
        })],
        "flood" => std::iter::once(started(7))
            .chain((0..CONTEXT + 64).map(|_| delta("x")))
            .collect(),
        text => std::iter::once(started(7))
            .chain(text.split_inclusive(' ').map(delta))
            .chain([done(7, words(text))])
            .collect(),
    })
}

/// Number of words of a text, each of which is one token.
fn words(text: &str) -> u32 {
    u32::try_from(text.split_inclusive(' ').count()).unwrap()
}

/// Arguments of a call that are as long as `tokens` tokens make them, split as an engine splits them.
fn arguments(tokens: u32) -> impl Iterator<Item = String> {
    let bytes = MAX_TOKEN * tokens as usize;
    let text = format!("{{\"a\":\"{}\"}}", "x".repeat(bytes - 8));
    let pieces: Vec<String> = text
        .as_bytes()
        .chunks(MAX_PIECE - 3)
        .map(|piece| String::from_utf8(piece.to_vec()).unwrap())
        .collect();
    pieces.into_iter()
}

fn frame_of_rubbish() -> Vec<u8> {
    b"\0\0\0\x02{]".to_vec()
}
