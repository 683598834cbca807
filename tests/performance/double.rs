//! A stand-in engine in this process, without a model: it sends words at a steady pace, as many as requested.
//! Measurements with it show what the agent costs.

use std::collections::HashMap;
use std::io;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::time::Duration;

use cocoon_guest_agent::engine::supervisor::{Launched, Launcher, Process};
use cocoon_protocol::engine::{
    Costs, FromEngine, MAX_FROM_ENGINE, MAX_TO_ENGINE, ModelInfo, Text, ToEngine,
};
use cocoon_protocol::frame::{Decoder, encode};
use cocoon_protocol::openai::FinishReason;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::interval;

pub const MODEL: &str = "a-word";
const PROMPT: u32 = 20;

/// Starts stand-in engines.
pub struct Double {
    /// Time between two tokens of an answer.
    pub pace: Duration,
}

impl Default for Double {
    fn default() -> Self {
        Self {
            pace: Duration::from_millis(50),
        }
    }
}

/// Process handle that does nothing: the stand-in ends when its socket closes.
struct Nothing;

impl Process for Nothing {
    fn end(&mut self) {}
}

impl Launcher for Double {
    fn launch(&mut self) -> io::Result<Launched> {
        let (stream, theirs) = StdUnixStream::pair()?;
        let pace = self.pace;
        Handle::current().spawn(async move {
            // An engine whose socket is closed simply ends.
            let _ = run(theirs, pace).await;
        });
        Ok(Launched {
            stream,
            process: Box::new(Nothing),
        })
    }
}

async fn run(socket: StdUnixStream, pace: Duration) -> anyhow::Result<()> {
    socket.set_nonblocking(true)?;
    let (mut reader, mut writer) = UnixStream::from_std(socket)?.into_split();
    let ready = FromEngine::Ready(ModelInfo {
        id: MODEL.to_owned(),
        context_length: 8192,
        quantization: "none".to_owned(),
        vocabulary: 1000,
        costs: Costs::default(),
    });
    writer.write_all(&encode(&ready, MAX_FROM_ENGINE)?).await?;
    let (frames, mut queue) = mpsc::channel::<FromEngine>(64);
    tokio::spawn(async move {
        while let Some(frame) = queue.recv().await {
            writer.write_all(&encode(&frame, MAX_FROM_ENGINE)?).await?;
        }
        anyhow::Ok(())
    });
    let mut running: HashMap<u64, AbortHandle> = HashMap::new();
    let (mut decoder, mut chunk) = (Decoder::new(MAX_TO_ENGINE), vec![0; 64 * 1024]);
    loop {
        let count = reader.read(&mut chunk).await?;
        if count == 0 {
            return Ok(());
        }
        decoder.push(&chunk[..count]);
        while let Some(message) = decoder.next::<ToEngine>()? {
            running.retain(|_, answer| !answer.is_finished());
            match message {
                ToEngine::Generate { id, request } => {
                    let answer = answer(id, request.max_tokens, pace, frames.clone());
                    running.insert(id, tokio::spawn(answer).abort_handle());
                }
                ToEngine::Cancel { id } => {
                    // All other answers have ended, and their last frames are on the way.
                    if let Some(answer) = running.remove(&id) {
                        answer.abort();
                        frames.send(FromEngine::Gone { id }).await?;
                    }
                }
            }
        }
    }
}

/// Sends one answer. Returns `None` when the agent no longer listens, and then everything ends.
async fn answer(
    id: u64,
    tokens: u32,
    pace: Duration,
    frames: mpsc::Sender<FromEngine>,
) -> Option<()> {
    let started = FromEngine::Started {
        id,
        prompt_tokens: PROMPT,
    };
    frames.send(started).await.ok()?;
    let mut ticks = interval(pace);
    for _ in 0..tokens {
        ticks.tick().await;
        let word = FromEngine::Delta {
            id,
            text: Text(" word".to_owned()),
            tokens: 1,
            logprobs: Vec::new(),
        };
        frames.send(word).await.ok()?;
    }
    let done = FromEngine::Done {
        id,
        finish_reason: FinishReason::Length,
        prompt_tokens: PROMPT,
        completion_tokens: tokens,
    };
    frames.send(done).await.ok()
}
