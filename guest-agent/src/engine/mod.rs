//! The agent's side of the engine: requests in, bounded streams of pieces out.
//!
//! A slow client never holds the engine: each answer has a buffer for every piece it may ever
//! have, and an engine that sends more is lying. A client that leaves cancels its generation.

mod admission;
mod demand;
mod graphics;
pub mod link;
mod retry;
mod running;
mod scheduler;
pub mod supervisor;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cocoon_protocol::engine::{
    EngineFailure, Generation, GpuCounts, ModelInfo, StartFailure, Text, TokenLogprob, Weights,
};
use cocoon_protocol::openai::FinishReason;
use cocoon_protocol::receipt::EngineSection;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout_at};

pub use admission::Patience;
pub(crate) use admission::Slot;
use admission::{Admission, Asking, Place};
use demand::Demand;
pub use demand::Told;
pub(crate) use graphics::coarse;
pub(crate) use running::MAX_NAME;
pub use scheduler::{Bounds, Source};

use crate::metering::Tally;

/// What the engine is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EngineState {
    /// Times it died since boot.
    pub deaths: u32,
    /// Why the last one that died before it was ready could not start, where it has said so.
    pub unable: Option<StartFailure>,
    /// GPUs that it works on, as it says.
    pub devices: u16,
    /// The weights in their memory, once all were told. Nobody but the engine can measure them.
    pub weights: Option<Arc<Weights>>,
    /// What was done to their memory since boot, by all engines; `None` where there was never one on a GPU.
    pub gpu: Option<GpuCounts>,
    /// The model, once it is ready.
    pub ready: Option<ModelInfo>,
}

/// Where to send generations. Clones are the same engine.
#[derive(Clone)]
pub struct Engine {
    commands: mpsc::Sender<Command>,
    state: watch::Receiver<EngineState>,
    admission: Admission,
    slots: usize,
    next_id: Arc<AtomicU64>,
    next_source: Arc<AtomicU64>,
    end: Arc<watch::Sender<bool>>,
}

/// From handles to the link. The channel is never full: it has room for a command of each slot and each
/// place, and every command holds one.
pub(crate) enum Command {
    Generate {
        id: u64,
        generation: Box<Generation>,
        pieces: mpsc::Sender<Piece>,
        tally: Arc<Tally>,
        slot: Slot,
    },
    Cancel {
        id: u64,
        _place: Place,
    },
}

/// Why a generation does not start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    /// The operator's limit of concurrent requests is reached, and no slot became free in time, or too
    /// many wait for one.
    #[error("all generation slots are taken")]
    Busy {
        /// Seconds after which it is worth trying again.
        retry_after: u32,
    },
    /// What runs takes all the memory that there is for answers.
    #[error("all memory for answers is taken")]
    Memory {
        /// Seconds after which it is worth trying again.
        retry_after: u32,
    },
    /// It can never run: all of its answers together take more memory than there is.
    #[error("there is no memory for so many answers of that length")]
    TooMany,
    /// Too many answers are still being read by their clients.
    #[error("too many answers are still being sent")]
    Unread {
        /// Seconds after which it is worth trying again.
        retry_after: u32,
    },
    /// This source alone has half of all answers that may be read at once.
    #[error("half of the answers that may be open at once are this connection's")]
    OwnUnread {
        /// Seconds after which it is worth trying again, if some have been read by then.
        retry_after: u32,
    },
    /// It waited for a slot when the machine was told to finish.
    #[error("the machine finishes its last answers")]
    Draining,
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
    },
    /// The end, with an error.
    Failed(Failure),
}

/// What can end an answer early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The engine said so.
    Engine(EngineFailure),
    /// The prompt is longer than this machine's context, or than what there is memory for.
    TooLong {
        /// Tokens of prompt and answer, at most.
        most: u32,
    },
    /// The engine died or was ended for misbehaving.
    Died,
}

impl Engine {
    /// `concurrent` is the operator's limit of running generations.
    pub(crate) fn new(
        concurrent: u16,
        state: watch::Receiver<EngineState>,
    ) -> (Self, mpsc::Receiver<Command>, watch::Receiver<bool>) {
        let admission = Admission::new(concurrent.into());
        let (commands, received) = mpsc::channel(admission.commands());
        let (end, ended) = watch::channel(false);
        (
            Self {
                commands,
                state,
                admission,
                slots: concurrent.into(),
                next_id: Arc::new(AtomicU64::new(1)),
                next_source: Arc::default(),
                end: Arc::new(end),
            },
            received,
            ended,
        )
    }

    /// What the engine is doing now, and from now on.
    pub fn state(&self) -> watch::Receiver<EngineState> {
        self.state.clone()
    }

    /// The model, when the engine is ready; its context is no longer than there is memory for.
    pub fn model(&self) -> Option<ModelInfo> {
        let model = self.state.borrow().ready.clone()?;
        Some(ModelInfo {
            context_length: self.demand(&model).context(),
            ..model
        })
    }

    /// So many bytes of the VM's memory are there for answers; without a word there is no bound.
    pub fn limit_memory(&self, bytes: u64) {
        self.admission.limit_memory(bytes);
    }

    /// Tokens of an answer whose client names no number.
    pub fn usual(&self, generation: &Generation, told: Told) -> u32 {
        let model = self.state.borrow().ready.clone();
        model.map_or(1, |model| self.demand(&model).usual(generation, told))
    }

    fn demand(&self, model: &ModelInfo) -> Demand {
        Demand::new(model, self.admission.memory(), self.slots)
    }

    /// The weights in the GPUs' memory; `None` where it works on none.
    pub fn weights(&self) -> Option<Arc<Weights>> {
        self.state.borrow().weights.clone()
    }

    /// What receipts say of its GPUs; `None` where it works on none.
    pub(crate) fn section(&self) -> Option<EngineSection> {
        let state = self.state.borrow();
        let weights = state.weights.as_ref()?;
        Some(EngineSection {
            weights_root: weights.root,
            scrubbed_bytes: weights.pool_bytes,
            residue_bytes: state.gpu?.residue_bytes,
        })
    }

    /// How many generations may run at once.
    pub fn slots(&self) -> usize {
        self.slots
    }

    /// A name for a connection, whose requests take turns with those of others.
    pub fn source(&self) -> Source {
        Source(self.next_source.fetch_add(1, Ordering::Relaxed))
    }

    /// How many requests wait for slots.
    pub fn waiting(&self) -> usize {
        self.admission.waiting()
    }

    /// Nobody waits for slots any more; what runs goes on.
    pub fn drain(&self) {
        self.admission.close();
    }

    /// Ends the engine, with whatever it works on, and starts no other: returns when it is gone.
    pub async fn end(&self) {
        self.admission.close();
        self.end.send_replace(true);
        let mut state = self.state.clone();
        // The supervisor holds the other end for as long as there is an engine.
        while state.changed().await.is_ok() {}
    }

    /// Starts generations, all of them or none: when it is the turn of their source, or says why not. They hold so many
    /// bytes until then. Dropping the future gives up.
    pub async fn generate(
        &self,
        mut generations: Vec<Generation>,
        told: Told,
        (source, bytes): (Source, usize),
        patience: &Patience,
    ) -> Result<Vec<Answer>, Unavailable> {
        let model = self.state.borrow().ready.clone();
        let model = model.ok_or(Unavailable::NotReady)?;
        // Each engine's pool has a size of its own.
        if let Some(pool) = model.costs.pool {
            self.admission.limit_pool(pool);
        }
        let demand = self.demand(&model);
        let taken = demand.of(&mut generations, told);
        let taken = taken.ok_or(Unavailable::TooMany)?;
        let asking = Asking {
            source,
            count: generations.len(),
            bytes,
            memory: taken.engine,
            pooled: model.costs.pool.is_some(),
            unread: taken.unread,
        };
        let until = Instant::now() + patience.time;
        let room = self.admission.enter(asking, patience).await?;
        // The engine may have died meanwhile: the next one serves who has waited for this one.
        self.ready(until).await?;
        let mut answers = Vec::with_capacity(generations.len());
        let tally = Arc::new(Tally::default());
        // The room has one of both for each generation.
        let room = room.slots.into_iter().zip(room.places);
        for (generation, (mut slot, place)) in generations.into_iter().zip(room) {
            slot.begin();
            let id = self.next_id.fetch_add(1, Ordering::Relaxed);
            let (pieces, received) = mpsc::channel(running::piece_limit(&generation));
            let generation = Box::new(generation);
            self.commands
                .try_send(Command::Generate {
                    id,
                    generation,
                    pieces,
                    tally: Arc::clone(&tally),
                    slot,
                })
                .map_err(|_| Unavailable::NotReady)?;
            answers.push(Answer {
                id,
                pieces: received,
                tally: Arc::clone(&tally),
                commands: self.commands.clone(),
                ended: false,
                place: Some(place),
            });
        }
        Ok(answers)
    }

    /// Waits for an engine that is ready.
    async fn ready(&self, until: Instant) -> Result<(), Unavailable> {
        let mut state = self.state.clone();
        let ready = state.wait_for(|state| state.ready.is_some());
        match timeout_at(until, ready).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(Unavailable::NotReady),
        }
    }
}

/// The pieces of one answer. Dropping it before its end cancels the generation.
pub struct Answer {
    id: u64,
    pieces: mpsc::Receiver<Piece>,
    tally: Arc<Tally>,
    commands: mpsc::Sender<Command>,
    ended: bool,
    /// Held until it is dropped; then by its cancellation, until the engine is told.
    place: Option<Place>,
}

impl Answer {
    /// What the request has come to, together with its other answers.
    pub(crate) fn tally(&self) -> &Arc<Tally> {
        &self.tally
    }

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
        if let (false, Some(place)) = (self.ended, self.place.take()) {
            // Nobody listens when the engine is being replaced, which cancels too.
            let cancel = Command::Cancel {
                id: self.id,
                _place: place,
            };
            let _ = self.commands.try_send(cancel);
        }
    }
}
