//! An engine of a few lines that speaks the real frames. What it answers is in the prompt.

use std::io;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::sync::Arc;

use cocoon_guest_agent::engine::supervisor::{Launched, Launcher, Process};
use cocoon_protocol::bytes::Hex;
use cocoon_protocol::engine::{
    Alternative, EngineFailure, FromEngine, Generation, GpuCounts, MAX_ARGUMENTS, MAX_FROM_ENGINE,
    MAX_TO_ENGINE, MAX_TOKEN, ModelInfo, Prompt, TensorRoot, Text, ToEngine, TokenLogprob,
};
use cocoon_protocol::frame::{self, Decoder};
use cocoon_protocol::openai::FinishReason;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

pub const MODEL: &str = "smollm2-135m-instruct-q4_1";
pub const CONTEXT: u32 = 2048;

/// Starts fake engines and tells of what they hear.
pub struct FakeEngine {
    /// Cancellations, in order.
    cancelled: mpsc::UnboundedSender<u64>,
    /// Starts.
    pub launches: Arc<std::sync::atomic::AtomicU64>,
    /// Bytes that the engine sends first, before `Ready`.
    pub greeting: Vec<u8>,
}

impl FakeEngine {
    pub fn new() -> (Self, mpsc::UnboundedReceiver<u64>) {
        let (cancelled, heard) = mpsc::unbounded_channel();
        (
            Self {
                cancelled,
                launches: Arc::default(),
                greeting: Vec::new(),
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
        let (cancelled, greeting) = (self.cancelled.clone(), self.greeting.clone());
        Handle::current().spawn(async move {
            // An engine that is cut off just ends.
            let _ = run(theirs, greeting, cancelled).await;
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

/// What an engine on so many GPUs says before it is ready.
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

pub fn ready() -> Vec<u8> {
    let info = ModelInfo {
        id: MODEL.into(),
        context_length: CONTEXT,
        quantization: "Q4_1".into(),
        vocabulary: 1000,
    };
    encode(&FromEngine::Ready(info))
}

async fn run(
    stream: StdUnixStream,
    greeting: Vec<u8>,
    cancelled: mpsc::UnboundedSender<u64>,
) -> io::Result<()> {
    stream.set_nonblocking(true)?;
    let mut stream = UnixStream::from_std(stream)?;
    stream.write_all(&greeting).await?;
    stream
        .write_all(&encode(&FromEngine::Loading { done: 1, total: 2 }))
        .await?;
    stream.write_all(&ready()).await?;
    let mut decoder = Decoder::new(MAX_TO_ENGINE);
    let mut chunk = [0; 4096];
    loop {
        let count = stream.read(&mut chunk).await?;
        if count == 0 {
            return Ok(());
        }
        decoder.push(&chunk[..count]);
        while let Some(message) = decoder.next::<ToEngine>().unwrap() {
            match message {
                ToEngine::Cancel { id } => {
                    let _ = cancelled.send(id);
                }
                ToEngine::Generate { id, request } => {
                    let Some(frames) = answer(id, &request) else {
                        return Ok(());
                    };
                    for frame in frames {
                        stream.write_all(&frame).await?;
                    }
                }
            }
        }
    }
}

/// Frames for the last thing that was said; `None` dies.
fn answer(id: u64, request: &Generation) -> Option<Vec<Vec<u8>>> {
    let prompt = match &request.prompt {
        Prompt::Conversation(turns) => turns.last().unwrap().content.as_str(),
        Prompt::Text(text) => text,
    };
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
            delta(&request.sampling.seed.to_string()),
            done(7, 1),
        ],
        "be likely" => vec![
            started(7),
            encode(&FromEngine::Delta {
                id,
                text: Text("x".into()),
                tokens: 1,
                logprobs: vec![TokenLogprob::default()],
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

/// One token each.
fn words(text: &str) -> u32 {
    u32::try_from(text.split_inclusive(' ').count()).unwrap()
}

/// Arguments as long as so many tokens make them, cut as an engine cuts them.
fn arguments(tokens: u32) -> impl Iterator<Item = String> {
    let bytes = MAX_TOKEN * tokens as usize;
    let text = format!("{{\"a\":\"{}\"}}", "x".repeat(bytes - 8));
    let pieces: Vec<String> = text
        .as_bytes()
        .chunks(MAX_ARGUMENTS - 3)
        .map(|piece| String::from_utf8(piece.to_vec()).unwrap())
        .collect();
    pieces.into_iter()
}

fn frame_of_rubbish() -> Vec<u8> {
    b"\0\0\0\x02{]".to_vec()
}
