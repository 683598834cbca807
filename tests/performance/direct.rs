//! The engine alone: its process, used over its socket pair as the agent uses it, with nothing in between.
//!
//! The engine is not linked into this process as a library. Its build takes tens of minutes, and its allocator, threads
//! and compiler settings would differ from those in the appliance. The cost of the socket pair is on both sides of the
//! comparison: two copies of some dozens of bytes per token, which takes milliseconds to compute.

use std::os::unix::net::UnixStream as StdUnixStream;
use std::process::Child;
use std::time::Duration;

use anyhow::{Context as _, bail};
use cocoon_protocol::engine::{
    Choice, Format, FromEngine, Generation, MAX_FROM_ENGINE, MAX_TO_ENGINE, Prompt, Sampling, Seed,
    Speaker, ToEngine, Turn,
};
use cocoon_protocol::frame::{Decoder, encode};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::time::{Instant, timeout};

use crate::appliance::{self, Setup};
use crate::streams::{Timing, Together};

/// Time limit for loading the model, and for each answer.
const DEADLINE: Duration = Duration::from_secs(600);

/// A running engine, killed on drop.
pub struct Direct {
    process: Child,
    socket: UnixStream,
    decoder: Decoder,
    chunk: Vec<u8>,
    next: u64,
}

impl Direct {
    /// Starts an engine and waits until it is ready.
    pub async fn start(setup: &Setup) -> anyhow::Result<Self> {
        let (ours, theirs) = StdUnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let mut engine = Self {
            process: appliance::start(setup, theirs)?,
            socket: UnixStream::from_std(ours)?,
            decoder: Decoder::new(MAX_FROM_ENGINE),
            chunk: vec![0; 64 * 1024],
            next: 0,
        };
        match engine.frame().await.context("the engine does not start")? {
            FromEngine::Ready(_) => Ok(engine),
            _ => bail!("the engine answers what nobody asked"),
        }
    }

    /// Asks the question `count` times at once.
    pub async fn ask(&mut self, text: &str, tokens: u32, count: usize) -> anyhow::Result<Together> {
        let first = self.next;
        self.next += count as u64;
        let began = Instant::now();
        for id in first..self.next {
            let request = generation(text, tokens);
            let frame = encode(&ToEngine::Generate { id, request }, MAX_TO_ENGINE)?;
            self.socket.write_all(&frame).await?;
        }
        let mut answers = vec![Timing::default(); count];
        let mut running = count;
        let place = |id: u64| usize::try_from(id - first).ok();
        while running > 0 {
            let frame = self.frame().await?;
            let now = began.elapsed();
            match frame {
                FromEngine::Delta { id, text, .. } => {
                    let answer = place(id).and_then(|at| answers.get_mut(at));
                    let answer = answer.context("the engine answers another")?;
                    if answer.first.is_zero() && !text.0.is_empty() {
                        answer.first = now;
                    }
                    answer.last = now;
                }
                FromEngine::Done {
                    id,
                    prompt_tokens,
                    completion_tokens,
                    ..
                } => {
                    let answer = place(id).and_then(|at| answers.get_mut(at));
                    let answer = answer.context("the engine ends another")?;
                    answer.prompt = prompt_tokens;
                    answer.tokens = completion_tokens;
                    running -= 1;
                }
                FromEngine::Failed { reason, .. } => bail!("the engine failed: {reason:?}"),
                _ => {}
            }
        }
        Ok(Together { answers })
    }

    async fn frame(&mut self) -> anyhow::Result<FromEngine> {
        loop {
            if let Some(frame) = self.decoder.next()? {
                return Ok(frame);
            }
            let read = timeout(DEADLINE, self.socket.read(&mut self.chunk));
            let count = read.await.context("the engine is silent")??;
            anyhow::ensure!(count > 0, "the engine ended");
            self.decoder.push(&self.chunk[..count]);
        }
    }
}

impl Drop for Direct {
    fn drop(&mut self) {
        // The process may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Returns the request that the agent makes of the same question.
fn generation(text: &str, max_tokens: u32) -> Generation {
    let turn = Turn {
        speaker: Speaker::User,
        content: text.to_owned(),
        calls: Vec::new(),
        call_id: None,
    };
    Generation {
        prompt: Prompt::Conversation(vec![turn]),
        tools: Vec::new(),
        choice: Choice::Auto,
        parallel: true,
        format: Format::Text,
        max_tokens,
        room: u32::MAX,
        sampling: Sampling {
            temperature: 0.0,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            repetition_penalty: 1.0,
            bias: Vec::new(),
            seed: Seed::Given(0),
        },
        stop: Vec::new(),
        top_logprobs: None,
    }
}
