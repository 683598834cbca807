//! The agent's side of the engine: requests in, bounded streams of pieces out.
//!
//! A slow client never holds the engine: each answer has a buffer for every piece it may ever
//! have, and an engine that sends more is lying. A client that leaves cancels its generation.

pub mod link;
pub mod supervisor;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cocoon_protocol::engine::{EngineFailure, Generation, ModelInfo, Text, TokenLogprob};
use cocoon_protocol::openai::FinishReason;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};

/// What the engine is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EngineState {
    /// Times it died since boot.
    pub deaths: u32,
    /// Bytes of weights loaded, and in all.
    pub loading: (u64, u64),
    /// The model, once it is ready.
    pub ready: Option<ModelInfo>,
}

/// Where to send generations. Clones are the same engine.
#[derive(Clone)]
pub struct Engine {
    commands: mpsc::UnboundedSender<Command>,
    state: watch::Receiver<EngineState>,
    running: Arc<Semaphore>,
    open: Arc<Semaphore>,
    slots: usize,
    next_id: Arc<AtomicU64>,
}

/// From handles to the link. The channel is unbounded but its content is not: every generation
/// holds a permit and sends at most one cancellation.
pub(crate) enum Command {
    Generate {
        id: u64,
        generation: Box<Generation>,
        pieces: mpsc::Sender<Piece>,
        permit: OwnedSemaphorePermit,
    },
    Cancel {
        id: u64,
    },
}

/// Why a generation does not start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    /// The operator's limit of concurrent requests is reached.
    #[error("all generation slots are taken")]
    Busy,
    /// Too many answers are still being read by their clients.
    #[error("too many answers are still being sent")]
    Unread,
    /// Loading or starting again.
    #[error("the engine is not ready")]
    NotReady,
}

/// Part of an answer.
pub enum Piece {
    /// Text, and what the model thought of its tokens where the request asked.
    Delta(Text, Vec<TokenLogprob>),
    /// A piece of a call of a tool.
    Call {
        /// Counts the calls, from zero.
        index: u32,
        /// The tool's name, with the first piece only.
        name: Option<Text>,
        /// A piece of the arguments.
        arguments: Text,
    },
    /// The end.
    Done {
        /// Why.
        finish_reason: FinishReason,
        /// Tokens of the prompt.
        prompt_tokens: u32,
        /// Tokens of the answer.
        completion_tokens: u32,
    },
    /// The end, with an error.
    Failed(Failure),
}

/// What can end an answer early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The engine said so.
    Engine(EngineFailure),
    /// The engine died or was ended for misbehaving.
    Died,
}

impl Engine {
    /// `concurrent` is the operator's limit of running generations.
    pub(crate) fn new(
        concurrent: u16,
        state: watch::Receiver<EngineState>,
    ) -> (Self, mpsc::UnboundedReceiver<Command>) {
        let (commands, received) = mpsc::unbounded_channel();
        let running = Arc::new(Semaphore::new(concurrent.into()));
        // Finished answers that slow clients still read: bounded, or they would fill the memory.
        let open = Arc::new(Semaphore::new(usize::from(concurrent) * 4));
        (
            Self {
                commands,
                state,
                running,
                open,
                slots: concurrent.into(),
                next_id: Arc::new(AtomicU64::new(1)),
            },
            received,
        )
    }

    /// What the engine is doing now, and from now on.
    pub fn state(&self) -> watch::Receiver<EngineState> {
        self.state.clone()
    }

    /// The model, when the engine is ready.
    pub fn model(&self) -> Option<ModelInfo> {
        self.state.borrow().ready.clone()
    }

    /// How many generations may run at once.
    pub fn slots(&self) -> usize {
        self.slots
    }

    /// Starts generations, all of them or none, or says at once why not.
    pub fn generate(&self, generations: Vec<Generation>) -> Result<Vec<Answer>, Unavailable> {
        if self.state.borrow().ready.is_none() {
            return Err(Unavailable::NotReady);
        }
        let count = u32::try_from(generations.len()).map_err(|_| Unavailable::Busy)?;
        let mut open = Arc::clone(&self.open)
            .try_acquire_many_owned(count)
            .map_err(|_| Unavailable::Unread)?;
        let mut running = Arc::clone(&self.running)
            .try_acquire_many_owned(count)
            .map_err(|_| Unavailable::Busy)?;
        let mut answers = Vec::with_capacity(generations.len());
        for generation in generations {
            // Both hold one for each generation: there is always one to split off.
            let open = open.split(1).ok_or(Unavailable::Unread)?;
            let permit = running.split(1).ok_or(Unavailable::Busy)?;
            let id = self.next_id.fetch_add(1, Ordering::Relaxed);
            let (pieces, received) = mpsc::channel(link::piece_limit(&generation));
            let generation = Box::new(generation);
            self.commands
                .send(Command::Generate {
                    id,
                    generation,
                    pieces,
                    permit,
                })
                .map_err(|_| Unavailable::NotReady)?;
            answers.push(Answer {
                id,
                pieces: received,
                commands: self.commands.clone(),
                ended: false,
                _open: open,
            });
        }
        Ok(answers)
    }
}

/// The pieces of one answer. Dropping it before its end cancels the generation.
pub struct Answer {
    id: u64,
    pieces: mpsc::Receiver<Piece>,
    commands: mpsc::UnboundedSender<Command>,
    ended: bool,
    _open: OwnedSemaphorePermit,
}

impl Answer {
    /// The next piece; `None` after [`Piece::Done`] or [`Piece::Failed`].
    pub async fn next(&mut self) -> Option<Piece> {
        std::future::poll_fn(|context| self.poll_next(context)).await
    }

    /// The same, polled.
    pub fn poll_next(
        &mut self,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Piece>> {
        if self.ended {
            return std::task::Poll::Ready(None);
        }
        self.pieces.poll_recv(context).map(|piece| {
            // A channel that closes without an end is an engine that is gone.
            let piece = piece.unwrap_or(Piece::Failed(Failure::Died));
            self.ended = matches!(piece, Piece::Done { .. } | Piece::Failed(_));
            Some(piece)
        })
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if !self.ended {
            // Nobody listens when the engine is being replaced, which cancels too.
            let _ = self.commands.send(Command::Cancel { id: self.id });
        }
    }
}
