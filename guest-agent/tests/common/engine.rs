//! An engine of a few lines that speaks the real frames. What it answers is in the prompt.

use std::io;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::sync::Arc;

use cocoon_guest_agent::engine::supervisor::{Launched, Launcher, Process};
use cocoon_protocol::engine::{
    EngineFailure, FromEngine, MAX_FROM_ENGINE, MAX_TO_ENGINE, ModelInfo, Text, ToEngine,
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

fn encode(message: &FromEngine) -> Vec<u8> {
    frame::encode(message, MAX_FROM_ENGINE).unwrap()
}

pub fn ready() -> Vec<u8> {
    let info = ModelInfo {
        id: MODEL.into(),
        context_length: CONTEXT,
        quantization: "Q4_1".into(),
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
                    let prompt = request.messages.last().unwrap().content.clone();
                    let Some(frames) = answer(id, &prompt) else {
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

/// Frames for a prompt; `None` dies.
fn answer(id: u64, prompt: &str) -> Option<Vec<Vec<u8>>> {
    let delta = |text: &str| {
        encode(&FromEngine::Delta {
            id,
            text: Text(text.into()),
            tokens: 1,
        })
    };
    let done = |prompt_tokens, completion_tokens| {
        let finish_reason = FinishReason::Stop;
        encode(&FromEngine::Done {
            id,
            finish_reason,
            prompt_tokens,
            completion_tokens,
        })
    };
    let failed = |reason| vec![encode(&FromEngine::Failed { id, reason })];
    Some(match prompt {
        "die" => return None,
        "die halfway" => vec![delta("half"), frame_of_rubbish()],
        "wait" => vec![delta("first")],
        "too long" => failed(EngineFailure::ContextLength),
        "wrong roles" => failed(EngineFailure::Template),
        "lie about tokens" => vec![done(5, u32::MAX)],
        "answer another" => vec![encode(&FromEngine::Delta {
            id: id + 1000,
            text: Text("x".into()),
            tokens: 1,
        })],
        "flood" => (0..CONTEXT + 64).map(|_| delta("x")).collect(),
        text => text
            .split_inclusive(' ')
            .map(delta)
            .chain([done(7, 3)])
            .collect(),
    })
}

fn frame_of_rubbish() -> Vec<u8> {
    b"\0\0\0\x02{]".to_vec()
}
