//! mistral.rs 0.8.1 as a [`Backend`].
//!
//! Differences from the library's defaults:
//!
//! - no prefix cache: all requests share it, so timing would reveal to one user what another asked;
//! - arithmetic in F32 on a CPU and in BF16 on a GPU;
//! - tokens, stop strings and tool calls are handled here, tokens by [`crate::choose`];
//! - no device map: it reads the host's memory size from `/proc`, which the engine does not have;
//! - no logging.
//!
//! The library does not wipe the token lists, decoded strings, KV tensors and grammars of finished requests. They remain until
//! the allocator reuses their memory, and never leave this process. On a GPU the KV tensors are scrubbed.

mod grammar;
#[cfg_attr(not(feature = "cuda"), path = "cpu.rs")]
#[cfg_attr(feature = "cuda", path = "cuda/mod.rs")]
mod hardware;
mod request;
mod source;
#[cfg(not(feature = "cuda"))]
mod threads;
mod tokens;

use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use cocoon_protocol::config::MAX_CONCURRENT;
use cocoon_protocol::engine::{EngineFailure, Generation, ModelInfo, Prompt, Text, Utf8};
use cocoon_protocol::openai::FinishReason;
use cocoon_protocol::wiping::append;
use mistralrs_core::{
    DefaultSchedulerMethod, DeviceMapSetting, MistralRs, MistralRsBuilder, Request, Response,
    SchedulerConfig, TokenSource,
};
use tokio::sync::mpsc;
use zeroize::{Zeroize as _, Zeroizing};

use crate::backend::{Backend, Event, Gpu};
use crate::choose::{Choice, Chooser, Grammar, NoChoice};
use crate::making::{Limits, Maker};
use crate::marks::{Added, Marks};
use crate::turns::around;
use grammar::Grammars;
pub use hardware::{counted, driver_result};

use hardware::{Entered, Hardware};
use request::Template;
use source::Source;
use tokens::{Chosen, Tokens};

/// Most generations that run at once. The agent admits no more, and starts none in place of one that has not gone.
const MAX_SEQUENCES: usize = MAX_CONCURRENT as usize;
/// Exit status of an engine whose grammar work does not end.
const OVERRUN: i32 = 3;

/// A loaded model.
pub struct Mistral {
    hardware: Hardware,
    runner: Arc<MistralRs>,
    info: ModelInfo,
    tokens: Tokens,
    grammars: Arc<Grammars>,
    maker: Maker,
    template: Template,
    marks: Marks,
}

impl Mistral {
    /// Loads the only GGUF file in `folder`, or the safetensors in it with their `config.json`.
    ///
    /// The number of threads is `RAYON_NUM_THREADS`, which the agent sets to the number of the VM's processors. Both thread
    /// pools of the library read it and nothing else.
    pub async fn load(folder: &Path, id: &str) -> anyhow::Result<Self> {
        let hardware = Hardware::open()?;
        let source = Source::find(folder)?;
        let loader = source.loader(folder)?;
        let pipeline = loader
            .load_model_from_hf(
                None,
                TokenSource::None,
                &hardware::DTYPE,
                &hardware.device(),
                true,
                DeviceMapSetting::dummy(),
                None,
                Hardware::paged_attention()?,
            )
            .context("cannot load the weights")?;
        let (metadata, tokenizer, template) = {
            let pipeline = pipeline.lock().await;
            (
                pipeline.get_metadata(),
                pipeline.tokenizer(),
                pipeline.get_chat_template(),
            )
        };
        let environment = metadata.tok_env().context("the model has no tokenizer")?;
        let tokens = Tokens::new(environment, &metadata.eos_tok)?;
        let sequences = MAX_SEQUENCES.try_into().context("no room for a sequence")?;
        let scheduler = match metadata.cache_config.clone() {
            Some(config) => SchedulerConfig::PagedAttentionMeta {
                max_num_seqs: MAX_SEQUENCES,
                config,
            },
            None => SchedulerConfig::DefaultScheduler {
                method: DefaultSchedulerMethod::Fixed(sequences),
            },
        };
        let hardware = hardware.loaded(pipeline.clone()).await?;
        let runner = MistralRsBuilder::new(pipeline, scheduler, false, None)
            .with_no_prefix_cache(true)
            .with_prefix_cache_n(0)
            .build()
            .await;
        let hardware = hardware.cleaned().await?;
        let context = runner
            .max_sequence_length(None)
            .ok()
            .flatten()
            .context("the model states no context length")?;
        let shape = metadata.model_metadata.as_deref();
        let shape = shape.context("the library does not tell the model's shape")?;
        let cached = (0..shape.num_layers())
            .filter(|layer| shape.uses_own_kv_cache_for_layer(*layer))
            .map(|layer| {
                let dimensions =
                    shape.k_head_dim_for_layer(layer) + shape.v_head_dim_for_layer(layer);
                shape.num_kv_heads_for_layer(layer) * dimensions
            });
        let (context_length, costs) = hardware.room(context, cached.sum(), shape.hidden_size())?;
        let info = ModelInfo {
            id: id.to_owned(),
            context_length,
            quantization: source.quantization(),
            vocabulary: tokens.vocabulary(),
            costs,
        };
        let grammars = Arc::new(Grammars::new(tokens.clone()));
        let added = tokenizer.into_iter();
        let added = added.flat_map(|tokenizer| tokenizer.get_added_tokens_decoder());
        let added = added.map(|(_, token)| Added {
            word: token.content,
            special: token.special,
        });
        let marks = Marks::new(added, |word| request::writes(template.as_deref(), word));
        Ok(Self {
            hardware,
            runner,
            info,
            tokens,
            grammars,
            // The agent starts another engine.
            maker: Maker::new(Limits::default(), || std::process::exit(OVERRUN)),
            template: Template::of(template.as_deref()),
            marks,
        })
    }

    /// Compiles the grammar of the answer where it delays no other request.
    async fn grammar(
        &self,
        request: Generation,
    ) -> Result<(Generation, Option<Box<dyn Grammar>>), EngineFailure> {
        if !Grammars::needed(&request) {
            return Ok((request, None));
        }
        let grammars = Arc::clone(&self.grammars);
        let work = move || {
            let grammar = grammars.of(&request);
            (request, grammar)
        };
        let (request, grammar) = self.maker.make(work).await?;
        Ok((request, grammar?))
    }

    /// Refuses a prompt for which there is no memory, before any is taken. Only prompts that may be too long are tokenized.
    fn check_room(&self, request: &Generation) -> Result<(), EngineFailure> {
        let texts = request::texts(request, &self.template);
        let room = usize::try_from(request.room).unwrap_or(usize::MAX);
        let around = around(&request.prompt, texts.len());
        // A token has at least one byte.
        let bytes: usize = texts.iter().map(|text| text.len()).sum();
        if bytes + around <= room {
            return Ok(());
        }
        let mut tokens = around;
        for text in &texts {
            let mut told = self.tokens.environment().tokenize(text);
            tokens += told.len();
            told.zeroize();
            if tokens > room {
                return Err(EngineFailure::ContextLength);
            }
        }
        Ok(())
    }

    /// Runs one generation. Completes only once the library has let go of the request, whatever the result.
    async fn run(
        &self,
        request: Generation,
        events: &mpsc::Sender<Event>,
    ) -> Result<FinishReason, EngineFailure> {
        let (mut request, grammar) = tokio::select! {
            made = self.grammar(request) => made?,
            // Nobody waits for the answer any more.
            () = events.closed() => return Err(EngineFailure::Internal),
        };
        tokio::task::block_in_place(|| {
            // Only now, because the grammar must be made of the tools as the client sent them.
            self.marks.break_in(&mut request);
            self.check_room(&request)
        })?;
        let token_bytes = self.tokens.clone();
        let chooser = Chooser {
            sampling: request.sampling.clone(),
            top: request.top_logprobs,
            grammar,
            ends: self.tokens.ends().to_vec(),
            bytes: Box::new(move |token| token_bytes.bytes(token, true)),
            prompt_tokens: None,
        };
        // Unbounded, but it gets one message per token, and the number of tokens is bounded.
        let (choices, mut chosen) = mpsc::unbounded_channel();
        // Has room for the whole answer, because the library's loop waits for this queue and must not wait for a slow reader.
        let most = request.max_tokens.min(request.room);
        let (responses, received) = mpsc::channel(usize::try_from(most).unwrap_or(0) + 8);
        let mut received = self.hardware.enter(received).await;
        let end = self.tokens.ends().first().copied();
        let processor = tokens::processor(chooser, choices, end);
        let normal = request::normal(&request, &self.template, responses, processor)?;
        let sender = self
            .runner
            .get_sender(None)
            .map_err(|_| EngineFailure::Internal)?;
        let sent = sender.send(Request::Normal(Box::new(normal))).await;
        sent.map_err(|_| EngineFailure::Internal)?;
        let ended = self
            .answer(&request, &mut chosen, &mut received, events)
            .await;
        // The library now stops after its current step. It holds the processor, and with it the sender of `chosen`, for as
        // long as it holds anything of the request.
        drop(received);
        while chosen.recv().await.is_some() {}
        ended
    }

    /// Sends the chosen tokens as events until the answer is over.
    async fn answer(
        &self,
        request: &Generation,
        chosen: &mut mpsc::UnboundedReceiver<Chosen>,
        received: &mut Entered,
        events: &mpsc::Sender<Event>,
    ) -> Result<FinishReason, EngineFailure> {
        let special = !request.tools.is_empty();
        let trim = matches!(request.prompt, Prompt::Conversation(_));
        let room = usize::try_from(request.room.min(self.info.context_length));
        let room = room.unwrap_or(usize::MAX);
        let mut answer = Progress {
            events,
            text: Utf8::default(),
            tokens: 0,
        };
        loop {
            tokio::select! {
                // Choices made before the library gave up still count.
                biased;
                () = events.closed() => return Err(EngineFailure::Internal),
                Some(choice) = chosen.recv() => {
                    let choice = choice.map_err(|reason| match reason {
                        NoChoice::TooComplex => EngineFailure::GrammarLimit,
                        NoChoice::Nothing => EngineFailure::Internal,
                    })?;
                    let bytes = Zeroizing::new(self.tokens.bytes(choice.token, special));
                    let last = self.tokens.ends().contains(&choice.token);
                    let full = choice.before + 1 >= room;
                    let over = last || full || answer.tokens + 1 >= request.max_tokens;
                    let bytes = if last { &[] } else { &bytes[..] };
                    answer.take(choice, bytes, Take { last, over, trim }).await?;
                    match (last, over) {
                        (true, _) => return Ok(FinishReason::Stop),
                        (false, true) => return Ok(FinishReason::Length),
                        (false, false) => {}
                    }
                }
                response = received.recv() => match response {
                    Some(Response::Chunk(_) | Response::CompletionChunk(_)) => {}
                    // The library's error text may contain the prompt, so only its kind is passed on.
                    Some(Response::ValidationError(error)) => return Err(validation(error.as_ref())),
                    Some(_) | None => return Err(EngineFailure::Internal),
                },
            }
        }
    }
}

impl Backend for Mistral {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    async fn generate(&self, request: Generation, events: mpsc::Sender<Event>) {
        let end = match self.run(request, &events).await {
            Ok(finish_reason) => Event::Done { finish_reason },
            Err(failure) => Event::Failed(failure),
        };
        // Fails if the client has gone and nobody listens any more.
        let _ = events.send(end).await;
    }

    fn gpu(&self) -> Option<&Gpu> {
        self.hardware.gpu()
    }

    async fn close(&self) {
        self.hardware.close().await;
    }
}

/// State of one answer.
struct Progress<'a> {
    events: &'a mpsc::Sender<Event>,
    text: Utf8,
    tokens: u32,
}

/// Properties of a token in an answer.
#[derive(Clone, Copy)]
struct Take {
    /// The token ends the answer and is not text.
    last: bool,
    /// No token follows.
    over: bool,
    /// Leading white space of the first token belongs to the template.
    trim: bool,
}

impl Progress<'_> {
    async fn take(
        &mut self,
        choice: Choice,
        bytes: &[u8],
        take: Take,
    ) -> Result<(), EngineFailure> {
        if self.tokens == 0 {
            let prompt_tokens = u32::try_from(choice.before).unwrap_or(u32::MAX);
            self.send(Event::Started { prompt_tokens }).await?;
        }
        let mut text = self.text.push(bytes);
        if take.over {
            // Completes the text with a character that stays incomplete.
            append(&mut text.0, &self.text.rest().0);
        }
        if self.tokens == 0 && take.trim {
            // The first token of an answer usually begins with a space that belongs to the template.
            text = Text(text.0.trim_start().to_owned());
        }
        self.tokens = self.tokens.saturating_add(1);
        // The end token has no text and therefore no log probability.
        let logprob = choice.told_as(bytes).filter(|_| !take.last);
        self.send(Event::Token { text, logprob }).await
    }

    async fn send(&self, event: Event) -> Result<(), EngineFailure> {
        let sent = self.events.send(event).await;
        sent.map_err(|_| EngineFailure::Internal)
    }
}

fn validation(error: &dyn std::error::Error) -> EngineFailure {
    if error.to_string().contains("sequence length") {
        EngineFailure::ContextLength
    } else {
        EngineFailure::Template
    }
}
