//! mistral.rs 0.8.1 as a [`Backend`].
//!
//! Chosen against its defaults: no prefix cache (it is shared by all requests, so timing tells one
//! user what another asked), F32 arithmetic (the fastest on a CPU, and the automatic choice of F16
//! is not), greedy choice after our own noise ([`crate::sample`]), no device map (it reads
//! the host's memory size from `/proc`, which the engine does not have), no logging.
//!
//! What stays in the library's hands and is not wiped: token lists, decoded strings and KV tensors
//! of finished requests, until the allocator reuses their memory. They never leave this process.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use cocoon_protocol::engine::{EngineFailure, Generation, ModelInfo, Text};
use cocoon_protocol::openai::{FinishReason, Role};
use mistralrs::{Device, RequestLike as _, Tensor, TextMessageRole, TextMessages};
use mistralrs_core::{
    Constraint, CustomLogitsProcessor, DefaultSchedulerMethod, DeviceMapSetting, GGUFLoaderBuilder,
    GGUFSpecificConfig, Loader, MistralRs, MistralRsBuilder, ModelDType, NormalLoaderBuilder,
    NormalRequest, NormalSpecificConfig, Request, Response, SamplingParams, SchedulerConfig,
    StopTokens, TokenSource,
};
use tokio::sync::mpsc;

use crate::backend::{Backend, Event};
use crate::sample::Sampling;

/// Generations that run at once; the agent admits fewer.
const MAX_SEQUENCES: usize = 64;

/// A loaded model.
pub struct Mistral {
    runner: Arc<MistralRs>,
    info: ModelInfo,
}

impl Mistral {
    /// Loads the one GGUF file, or the safetensors folder with its `config.json`, in `folder`.
    ///
    /// The arithmetic runs on as many threads as `RAYON_NUM_THREADS` says, which the agent sets to
    /// the VM's processors: both thread pools under the library read nothing else.
    pub async fn load(folder: &Path, id: &str) -> anyhow::Result<Self> {
        let source = Source::find(folder)?;
        let loader = source.loader(folder)?;
        let pipeline = loader
            .load_model_from_hf(
                None,
                TokenSource::None,
                &ModelDType::F32,
                &Device::Cpu,
                true,
                DeviceMapSetting::dummy(),
                None,
                None,
            )
            .context("cannot load the weights")?;
        let sequences = MAX_SEQUENCES.try_into().context("no room for a sequence")?;
        let scheduler = SchedulerConfig::DefaultScheduler {
            method: DefaultSchedulerMethod::Fixed(sequences),
        };
        let runner = MistralRsBuilder::new(pipeline, scheduler, false, None)
            .with_no_prefix_cache(true)
            .with_prefix_cache_n(0)
            .build()
            .await;
        let context = runner
            .max_sequence_length(None)
            .ok()
            .flatten()
            .context("the model states no context length")?;
        let info = ModelInfo {
            id: id.to_owned(),
            context_length: u32::try_from(context).unwrap_or(u32::MAX),
            quantization: source.quantization(),
        };
        Ok(Self { runner, info })
    }
}

impl Backend for Mistral {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    async fn generate(&self, request: Generation, events: mpsc::Sender<Event>) {
        // Room for the whole answer: the library's loop waits for this queue, and must not wait
        // for a slow reader.
        let room =
            usize::try_from(request.max_tokens.min(self.info.context_length)).unwrap_or(0) + 8;
        let (responses, mut received) = mpsc::channel(room);
        let request = Request::Normal(Box::new(to_request(&request, responses)));
        let sent = match self.runner.get_sender(None) {
            Ok(sender) => sender.send(request).await.is_ok(),
            Err(_) => false,
        };
        if !sent {
            let _ = events.send(Event::Failed(EngineFailure::Internal)).await;
            return;
        }
        let mut tokens = 0;
        while let Some(response) = received.recv().await {
            for event in to_events(response, &mut tokens) {
                let last = !matches!(event, Event::Delta { .. });
                if events.send(event).await.is_err() || last {
                    return;
                }
            }
        }
        let _ = events.send(Event::Failed(EngineFailure::Internal)).await;
    }
}

/// Where weights come from.
enum Source {
    Gguf(String),
    Safetensors,
}

impl Source {
    fn find(folder: &Path) -> anyhow::Result<Self> {
        let mut gguf: Vec<PathBuf> = Vec::new();
        for entry in std::fs::read_dir(folder)
            .with_context(|| format!("cannot list {}", folder.display()))?
        {
            let path = entry
                .with_context(|| format!("cannot list {}", folder.display()))?
                .path();
            if path
                .extension()
                .is_some_and(|extension| extension == "gguf")
            {
                gguf.push(path);
            }
        }
        match gguf.as_slice() {
            [one] => {
                let name = one
                    .file_name()
                    .and_then(|name| name.to_str())
                    .context("the GGUF file's name is not UTF-8")?;
                Ok(Self::Gguf(name.to_owned()))
            }
            [] if folder.join("config.json").is_file() => Ok(Self::Safetensors),
            [] => bail!(
                "{} holds neither a .gguf file nor a config.json",
                folder.display()
            ),
            _ => bail!(
                "{} holds several .gguf files: a model volume holds one",
                folder.display()
            ),
        }
    }

    fn loader(&self, folder: &Path) -> anyhow::Result<Box<dyn Loader>> {
        let folder = folder
            .to_str()
            .context("the model folder's name is not UTF-8")?
            .to_owned();
        Ok(match self {
            Self::Gguf(file) => GGUFLoaderBuilder::new(
                None,
                None,
                folder,
                vec![file.clone()],
                GGUFSpecificConfig { topology: None },
                false,
                None,
            )
            .build(),
            Self::Safetensors => NormalLoaderBuilder::new(
                NormalSpecificConfig::default(),
                None,
                None,
                Some(folder),
                false,
                None,
            )
            .build(None)?,
        })
    }

    /// The weight format, from the file's name: the usual place for it.
    fn quantization(&self) -> String {
        match self {
            Self::Gguf(file) => {
                let stem = file.trim_end_matches(".gguf");
                let word = stem.rsplit(['.', '-']).next().unwrap_or(stem);
                word.to_uppercase()
            }
            Self::Safetensors => "none".to_owned(),
        }
    }
}

fn to_request(request: &Generation, responses: mpsc::Sender<Response>) -> NormalRequest {
    let mut messages = TextMessages::new();
    for message in &request.messages {
        let role = match message.role {
            Role::System => TextMessageRole::System,
            Role::User => TextMessageRole::User,
            Role::Assistant => TextMessageRole::Assistant,
        };
        messages = messages.add_message(role, &message.content);
    }
    let sampling_params = SamplingParams {
        // Not `None`: the library replaces that by 1.0. Zero is its greedy choice.
        temperature: Some(0.0),
        max_len: usize::try_from(request.max_tokens).ok(),
        stop_toks: (!request.stop.is_empty()).then(|| StopTokens::Seqs(request.stop.clone())),
        ..SamplingParams::neutral()
    };
    let mut normal = NormalRequest::new_simple(
        messages.take_messages(),
        sampling_params,
        responses,
        0,
        None,
        None,
    );
    normal.is_streaming = true;
    normal.constraint = Constraint::None;
    normal.logits_processors = noise(request).map(|processor| vec![processor]);
    normal
}

/// Our sampler as a logits processor; `None` is greedy.
fn noise(request: &Generation) -> Option<Arc<dyn CustomLogitsProcessor>> {
    if request.temperature <= 0.0 {
        return None;
    }
    let sampling = Sampling {
        temperature: request.temperature,
        top_p: request.top_p,
        seed: request.seed,
    };
    Some(Arc::new(move |logits: &Tensor, context: &[u32]| {
        let mut values = logits.to_vec1::<f32>()?;
        sampling.perturb(&mut values, context.len() as u64);
        Tensor::from_vec(values, logits.dims(), logits.device())
    }))
}

/// The library's response as events; `tokens` counts what was generated.
fn to_events(response: Response, tokens: &mut u32) -> Vec<Event> {
    let chunk = match response {
        Response::Chunk(chunk) => chunk,
        // The library's words may carry the prompt: only their kind goes on.
        Response::ValidationError(error) => return vec![Event::Failed(validation(error.as_ref()))],
        _ => return vec![Event::Failed(EngineFailure::Internal)],
    };
    let mut events = Vec::new();
    let usage = chunk.usage;
    for choice in chunk.choices {
        *tokens = tokens.saturating_add(1);
        let text = Text(choice.delta.content.unwrap_or_default());
        events.push(Event::Delta { text, tokens: 1 });
        if let Some(reason) = choice.finish_reason {
            let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
            events.push(match reason.as_str() {
                "canceled" => Event::Failed(EngineFailure::Internal),
                reason => Event::Done {
                    finish_reason: if reason == "length" {
                        FinishReason::Length
                    } else {
                        FinishReason::Stop
                    },
                    prompt_tokens: usage.as_ref().map_or(0, |usage| count(usage.prompt_tokens)),
                    completion_tokens: usage
                        .as_ref()
                        .map_or(*tokens, |usage| count(usage.completion_tokens)),
                },
            });
        }
    }
    events
}

fn validation(error: &dyn std::error::Error) -> EngineFailure {
    if error.to_string().contains("sequence length") {
        EngineFailure::ContextLength
    } else {
        EngineFailure::Template
    }
}
