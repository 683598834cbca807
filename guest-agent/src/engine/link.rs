//! Serves commands with one engine process, through its socket. The frames of the engine are hostile input: every
//! identifier, count and length is checked, and the first frame that cannot be true ends the engine.

mod late;

use std::collections::HashMap;
use std::io;
use std::time::Duration;

use cocoon_protocol::engine::{
    Costs, FromEngine, MAX_FROM_ENGINE, MAX_TO_ENGINE, ModelInfo, StartFailure, ToEngine,
};
use cocoon_protocol::frame::{self, Decoder, FrameError};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};
use zeroize::{Zeroize as _, Zeroizing};

use super::graphics::Graphics;
use super::running::Running;
use super::{Command, EngineState, Failure, Piece};
pub(crate) use late::LOADING;
use late::Leaving;

/// Longest context that is accepted from an engine, in tokens.
pub(super) const MAX_CONTEXT: u32 = 1 << 20;
/// Largest vocabulary that is accepted from an engine, in tokens.
const MAX_VOCABULARY: u32 = 1 << 24;

/// Why the link to an engine ended.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The engine closed its socket: it died.
    #[error("the engine died")]
    Closed,
    /// The socket failed.
    #[error("cannot talk to the engine")]
    Io(#[source] io::Error),
    /// The engine sent something that is not a frame of the protocol.
    #[error("the engine broke its protocol")]
    Frame(#[source] FrameError),
    /// The engine sent a frame that cannot be true.
    #[error("the engine broke its protocol: {0}")]
    Lie(&'static str),
    /// The engine reported that it cannot start.
    #[error("the engine cannot start: {0}")]
    Unable(StartFailure),
    /// The engine sent nothing for too long.
    #[error("the engine was silent for {} s", .0.as_secs())]
    Silent(Duration),
    /// The engine does not read its socket.
    #[error("the engine does not read its requests")]
    Stalled,
    /// The engine goes on with a cancelled generation.
    #[error("the engine does not let go of a cancelled answer")]
    Holds,
    /// No handle to the engine is left.
    #[error("the engine is not needed any more")]
    Unneeded,
}

/// Serves commands with one engine until it ends. `model_id` is the name that the engine must give its model.
pub(super) async fn run(
    stream: UnixStream,
    commands: &mut mpsc::Receiver<Command>,
    state: &watch::Sender<EngineState>,
    model_id: &str,
) -> LinkError {
    let (mut from_engine, to_engine) = stream.into_split();
    // Never full: each slot has at most one request and one cancellation in it.
    let (messages, unwritten) = mpsc::channel(commands.max_capacity());
    let mut writer = tokio::spawn(write_all(to_engine, unwritten));
    let mut link = Link::new(messages, state, model_id);
    let mut decoder = Decoder::new(MAX_FROM_ENGINE);
    let mut chunk = Zeroizing::new(vec![0; 64 * 1024]);
    let mut writing = true;
    let end = loop {
        let overdue = link.overdue();
        let due = overdue.as_ref().map(|(due, _)| *due);
        let turn = tokio::select! {
            read = from_engine.read(&mut chunk) => match read {
                Ok(0) => Err(LinkError::Closed),
                Ok(count) => {
                    link.heard = Instant::now();
                    decoder.push(&chunk[..count]);
                    chunk[..count].zeroize();
                    link.drain(&mut decoder)
                }
                Err(error) => Err(LinkError::Io(error)),
            },
            command = commands.recv() => {
                command.map_or(Err(LinkError::Unneeded), |command| link.obey(command))
            }
            ended = &mut writer, if writing => {
                writing = false;
                // The reading half notices a failing socket too, and reports it.
                match ended {
                    Ok(Err(error)) => Err(LinkError::Frame(error)),
                    Ok(Ok(())) | Err(_) => Ok(()),
                }
            }
            () = sleep_until(due.unwrap_or(link.heard)), if due.is_some() => {
                overdue.map_or(Ok(()), |(_, late)| Err(late))
            }
        };
        if let Err(end) = turn {
            break end;
        }
    };
    writer.abort();
    // This comes before their slots are freed, so that a request that gets one of these waits for the next engine.
    state.send_modify(|state| state.ready = None);
    for running in link.running.into_values() {
        running.end(Piece::Failed(Failure::Died));
    }
    end
}

/// Encodes each frame only when it is written, so that messages that wait for a slow engine do not take memory twice.
async fn write_all(
    mut socket: OwnedWriteHalf,
    mut messages: mpsc::Receiver<ToEngine>,
) -> Result<(), FrameError> {
    while let Some(message) = messages.recv().await {
        let frame = Zeroizing::new(frame::encode(&message, MAX_TO_ENGINE)?);
        drop(message);
        if socket.write_all(&frame).await.is_err() {
            // The reading half notices the same end and reports it.
            break;
        }
    }
    Ok(())
}

struct Link<'a> {
    running: HashMap<u64, Running>,
    leaving: HashMap<u64, Leaving>,
    highest: u64,
    /// When the engine last sent something, or got something to do.
    heard: Instant,
    messages: mpsc::Sender<ToEngine>,
    graphics: Graphics,
    state: &'a watch::Sender<EngineState>,
    model_id: &'a str,
}

impl<'a> Link<'a> {
    fn new(
        messages: mpsc::Sender<ToEngine>,
        state: &'a watch::Sender<EngineState>,
        model_id: &'a str,
    ) -> Self {
        Self {
            running: HashMap::new(),
            leaving: HashMap::new(),
            highest: 0,
            heard: Instant::now(),
            messages,
            graphics: Graphics::since(state.borrow().gpu),
            state,
            model_id,
        }
    }

    fn obey(&mut self, command: Command) -> Result<(), LinkError> {
        if !self.is_busy() {
            self.heard = Instant::now();
        }
        match command {
            Command::Generate {
                id,
                generation,
                pieces,
                tally,
                slot,
            } => {
                self.highest = self.highest.max(id);
                let running = Running::new(&generation, pieces, tally, slot);
                for leaving in self.leaving.values_mut() {
                    leaving.wait_for(&running);
                }
                self.running.insert(id, running);
                self.tell(ToEngine::Generate {
                    id,
                    request: *generation,
                })
            }
            Command::Cancel { id, .. } => match self.running.remove(&id) {
                Some(running) => {
                    let leaving = Leaving::new(running, self.reading());
                    self.leaving.insert(id, leaving);
                    self.tell(ToEngine::Cancel { id })
                }
                None => Ok(()),
            },
        }
    }

    /// Returns whether the engine works on anything.
    fn is_busy(&self) -> bool {
        !self.running.is_empty() || !self.leaving.is_empty()
    }

    fn tell(&self, message: ToEngine) -> Result<(), LinkError> {
        self.messages
            .try_send(message)
            .map_err(|_| LinkError::Stalled)
    }

    fn drain(&mut self, decoder: &mut Decoder) -> Result<(), LinkError> {
        while let Some(message) = decoder.next::<FromEngine>().map_err(LinkError::Frame)? {
            self.hear(message)?;
        }
        Ok(())
    }

    fn hear(&mut self, message: FromEngine) -> Result<(), LinkError> {
        let ready = self.state.borrow().ready.is_some();
        match message {
            FromEngine::Devices { .. }
            | FromEngine::Tensors { .. }
            | FromEngine::Derived { .. }
            | FromEngine::Measured { .. }
            | FromEngine::Unable(_)
            | FromEngine::Ready(_)
                if ready =>
            {
                return Err(LinkError::Lie("it loads after it was ready"));
            }
            FromEngine::Devices { count } => {
                self.graphics.works_on(count)?;
                self.state.send_modify(|state| state.devices = count);
            }
            FromEngine::Tensors { tensors } => self.graphics.measured(tensors)?,
            FromEngine::Derived { tensors } => self.graphics.derived(tensors)?,
            FromEngine::Measured { root, pool_bytes } => {
                let weights = self.graphics.all_measured(root, pool_bytes)?;
                self.state
                    .send_modify(|state| state.weights = Some(weights));
            }
            FromEngine::Gpu(counts) => {
                let total = self.graphics.counted(counts)?;
                self.state.send_modify(|state| state.gpu = Some(total));
            }
            FromEngine::Unable(failure) => {
                self.state.send_modify(|state| state.unable = Some(failure));
                return Err(LinkError::Unable(failure));
            }
            FromEngine::Ready(model) => {
                self.check_model(&model)?;
                self.graphics.check_ready()?;
                self.state.send_modify(|state| {
                    state.ready = Some(model);
                    state.unable = None;
                });
            }
            FromEngine::Started { id, prompt_tokens } => {
                let costs = self.costs();
                if let Some(running) = self.find(id)? {
                    running.start(prompt_tokens, &costs)?;
                }
            }
            FromEngine::Delta {
                id,
                text,
                tokens,
                logprobs,
            } => {
                let Some(running) = self.find(id)? else {
                    return Ok(());
                };
                running.count(tokens)?;
                let told = running.check_logprobs(&logprobs)?;
                running.tell(text.0.len() + told, Piece::Delta(text, logprobs))?;
            }
            FromEngine::Call {
                id,
                index,
                name,
                arguments,
            } => {
                let Some(running) = self.find(id)? else {
                    return Ok(());
                };
                let length = running.check_call(index, name.as_ref())? + arguments.0.len();
                let call = Piece::Call {
                    index,
                    name,
                    arguments,
                };
                running.tell(length, call)?;
            }
            FromEngine::Done {
                id,
                finish_reason,
                prompt_tokens,
                completion_tokens,
            } => {
                let Some(running) = self.find(id)? else {
                    // The generation ended while its cancellation was on the way to the engine.
                    self.leaving.remove(&id);
                    return Ok(());
                };
                running.check_end(prompt_tokens, completion_tokens)?;
                self.end(id, Piece::Done { finish_reason });
            }
            FromEngine::Failed { id, reason } => match self.find(id)? {
                Some(running) => {
                    let failure = running.failure(reason);
                    self.end(id, Piece::Failed(failure));
                }
                None => _ = self.leaving.remove(&id),
            },
            FromEngine::Gone { id } => {
                if self.find(id)?.is_some() || self.leaving.remove(&id).is_none() {
                    return Err(LinkError::Lie("it lets go of what nobody cancelled"));
                }
            }
        }
        Ok(())
    }

    fn costs(&self) -> Costs {
        let state = self.state.borrow();
        state
            .ready
            .as_ref()
            .map(|model| model.costs)
            .unwrap_or_default()
    }

    /// Finds a running generation; `None` if it was cancelled while its frames were on their way.
    fn find(&mut self, id: u64) -> Result<Option<&mut Running>, LinkError> {
        if id == 0 || id > self.highest {
            return Err(LinkError::Lie("it answers what nobody asked"));
        }
        Ok(self.running.get_mut(&id))
    }

    fn end(&mut self, id: u64, piece: Piece) {
        if let Some(running) = self.running.remove(&id) {
            running.end(piece);
        }
    }

    fn check_model(&self, model: &ModelInfo) -> Result<(), LinkError> {
        let plain =
            |text: &str| text.len() <= 32 && text.bytes().all(|byte| byte.is_ascii_graphic());
        if model.id != self.model_id {
            return Err(LinkError::Lie("it names another model"));
        }
        if !(1..=MAX_CONTEXT).contains(&model.context_length)
            || !(1..=MAX_VOCABULARY).contains(&model.vocabulary)
            || !plain(&model.quantization)
        {
            return Err(LinkError::Lie("it describes an impossible model"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
