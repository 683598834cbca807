//! The agent's side of the engine: takes requests and returns bounded streams of pieces.
//!
//! A slow client never holds up the engine: each answer has a buffer for every piece that it may ever have, and an
//! engine that sends more breaks its protocol. A client that leaves cancels its generation.

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

/// State of the engine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EngineState {
    /// Number of times since boot that the engine died or could not be launched.
    pub deaths: u32,
    /// Why the last engine that died before it was ready could not start, if it said so.
    pub unable: Option<StartFailure>,
    /// Number of GPUs that the engine says it uses.
    pub devices: u16,
    /// The weights in the GPUs' memory, once the engine has reported all of them. Only the engine can measure them.
    pub weights: Option<Arc<Weights>>,
    /// What all engines since boot did to the GPUs' memory; `None` if none of them has used a GPU.
    pub gpu: Option<GpuCounts>,
    /// The model, once the engine is ready.
    pub ready: Option<ModelInfo>,
}

/// Handle to the engine, for sending generations. Clones refer to the same engine.
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

/// Commands from handles to the link. Their channel is never full: it has room for one command of each slot and of each
/// place, and every command holds a slot or a place.
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
    /// The operator's limit of concurrent requests is reached, and no slot became free in time, or too many requests
    /// wait for one.
    #[error("all generation slots are taken")]
    Busy {
        /// Seconds after which another attempt is worthwhile.
        retry_after: u32,
    },
    /// Answers that run, or that clients have not read to the end, take all the memory that there is for answers.
    #[error("all memory for answers is taken")]
    Memory {
        /// Seconds after which another attempt is worthwhile.
        retry_after: u32,
    },
    /// The request can never run: its answers together take more memory than there is.
    #[error("there is no memory for so many answers of that length")]
    TooMany,
    /// Clients are still reading too many answers.
    #[error("too many answers are still being sent")]
    Unread {
        /// Seconds after which another attempt is worthwhile.
        retry_after: u32,
    },
    /// This source alone holds half of all answers that may be open at once.
    #[error("half of the answers that may be open at once are this connection's")]
    OwnUnread {
        /// Seconds after which another attempt is worthwhile, if some answers have been read by then.
        retry_after: u32,
    },
    /// The machine is draining, and the request was waiting for a slot or would have to wait for one.
    #[error("the machine finishes its last answers")]
    Draining,
    /// The engine is loading or being restarted.
    #[error("the engine is not ready")]
    NotReady,
}

/// Part of an answer.
pub enum Piece {
    /// Text, and the log probabilities of its tokens if the request asked for them.
    Delta(Text, Vec<TokenLogprob>),
    /// Part of a tool call.
    Call {
        /// Number of the call in the answer, from zero.
        index: u32,
        /// Name of the tool, in the first piece of a call only.
        name: Option<Text>,
        /// Part of the arguments.
        arguments: Text,
    },
    /// The answer is complete.
    Done {
        /// Why it ended.
        finish_reason: FinishReason,
    },
    /// The answer ended with an error.
    Failed(Failure),
}

/// Errors that end an answer early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The engine reported a failure.
    Engine(EngineFailure),
    /// The prompt is longer than this machine's context, or than there is memory for.
    TooLong {
        /// Most tokens of the prompt and the answer together.
        most: u32,
    },
    /// The engine died, or was ended for breaking its protocol.
    Died,
}

impl Engine {
    /// Creates the handle. `concurrent` is the operator's limit of running generations.
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

    /// Returns a watch on the state of the engine.
    pub fn state(&self) -> watch::Receiver<EngineState> {
        self.state.clone()
    }

    /// Returns the model if the engine is ready, with a context no longer than there is memory for.
    pub fn model(&self) -> Option<ModelInfo> {
        let model = self.state.borrow().ready.clone()?;
        Some(ModelInfo {
            context_length: self.demand(&model).context(),
            ..model
        })
    }

    /// Limits the VM's memory for answers to `bytes`. Until this is called there is no limit.
    pub fn limit_memory(&self, bytes: u64) {
        self.admission.limit_memory(bytes);
    }

    /// Most tokens of an answer whose client sets no limit.
    pub fn usual(&self, generation: &Generation, told: Told) -> u32 {
        let model = self.state.borrow().ready.clone();
        model.map_or(1, |model| self.demand(&model).usual(generation, told))
    }

    fn demand(&self, model: &ModelInfo) -> Demand {
        Demand::new(model, self.admission.memory(), self.slots)
    }

    /// Returns the weights in the GPUs' memory; `None` if the engine uses no GPU.
    pub fn weights(&self) -> Option<Arc<Weights>> {
        self.state.borrow().weights.clone()
    }

    /// What receipts say of the engine's GPUs; `None` if it uses none.
    pub(crate) fn section(&self) -> Option<EngineSection> {
        let state = self.state.borrow();
        let weights = state.weights.as_ref()?;
        Some(EngineSection {
            weights_root: weights.root,
            scrubbed_bytes: weights.pool_bytes,
            residue_bytes: state.gpu?.residue_bytes,
        })
    }

    /// Number of generations that may run at once.
    pub fn slots(&self) -> usize {
        self.slots
    }

    /// Creates an identifier for a connection, whose requests take turns with those of others.
    pub fn source(&self) -> Source {
        Source(self.next_source.fetch_add(1, Ordering::Relaxed))
    }

    /// Number of requests that wait for slots.
    pub fn waiting(&self) -> usize {
        self.admission.waiting()
    }

    /// Lets no request wait for slots any more; running generations go on.
    pub fn drain(&self) {
        self.admission.close();
    }

    /// Ends the engine with everything that it works on, and starts no other. Returns when it is gone.
    pub async fn end(&self) {
        self.admission.close();
        self.end.send_replace(true);
        let mut state = self.state.clone();
        // The supervisor holds the sender for as long as there is an engine.
        while state.changed().await.is_ok() {}
    }

    /// Starts all of `generations` or none, when it is the turn of `source`, or returns why it cannot. `bytes` is the
    /// memory that the request holds while it waits. Dropping the future gives up the request.
    pub async fn generate(
        &self,
        mut generations: Vec<Generation>,
        told: Told,
        (source, bytes): (Source, usize),
        patience: &Patience,
    ) -> Result<Vec<Answer>, Unavailable> {
        let model = self.state.borrow().ready.clone();
        let model = model.ok_or(Unavailable::NotReady)?;
        // The pool of each engine has a size of its own.
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
        // The engine may have died in the meantime; the next one serves the requests that waited for it.
        self.ready(until).await?;
        let mut answers = Vec::with_capacity(generations.len());
        let tally = Arc::new(Tally::default());
        // The room has a slot and a place for each generation.
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

    /// Waits until an engine is ready.
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
    /// Held until the answer is dropped, and then by its cancellation until the engine is told.
    place: Option<Place>,
}

impl Answer {
    /// Returns the token counts of the request, which its answers share.
    pub(crate) fn tally(&self) -> &Arc<Tally> {
        &self.tally
    }

    /// Returns the next piece; `None` after [`Piece::Done`] or [`Piece::Failed`].
    pub async fn next(&mut self) -> Option<Piece> {
        std::future::poll_fn(|context| self.poll_next(context)).await
    }

    /// As [`Self::next`], for polling.
    pub fn poll_next(
        &mut self,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Piece>> {
        if self.ended {
            return std::task::Poll::Ready(None);
        }
        self.pieces.poll_recv(context).map(|piece| {
            // A channel that closes without an end means that the engine is gone.
            let piece = piece.unwrap_or(Piece::Failed(Failure::Died));
            self.ended = matches!(piece, Piece::Done { .. } | Piece::Failed(_));
            Some(piece)
        })
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if let (false, Some(place)) = (self.ended, self.place.take()) {
            // If the engine is being replaced, nothing receives this, and the generation is gone anyway.
            let cancel = Command::Cancel {
                id: self.id,
                _place: place,
            };
            let _ = self.commands.try_send(cancel);
        }
    }
}
