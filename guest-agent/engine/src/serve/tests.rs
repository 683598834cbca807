//! What a cancellation costs: no more than the token that is being computed.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use cocoon_protocol::engine::{Choice, Format, ModelInfo, Prompt, Sampling, Text};
use cocoon_protocol::openai::FinishReason;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::*;
use crate::backend::Event;

const DEADLINE: Duration = Duration::from_secs(60);

/// Computes one token for each permit, for whoever asks.
struct Stepwise {
    info: ModelInfo,
    computed: AtomicU32,
    steps: Semaphore,
}

impl Backend for Stepwise {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    async fn generate(&self, request: Generation, events: mpsc::Sender<Event>) {
        if events
            .send(Event::Started { prompt_tokens: 1 })
            .await
            .is_err()
        {
            return;
        }
        for _ in 0..request.max_tokens {
            let Ok(step) = self.steps.acquire().await else {
                return;
            };
            step.forget();
            self.computed.fetch_add(1, Ordering::Relaxed);
            let token = Event::Token {
                text: Text("x".into()),
                logprob: None,
            };
            if events.send(token).await.is_err() {
                return;
            }
        }
        let finish_reason = FinishReason::Length;
        let _ = events.send(Event::Done { finish_reason }).await;
    }
}

fn generation(max_tokens: u32) -> Generation {
    Generation {
        prompt: Prompt::Text("count".into()),
        tools: Vec::new(),
        choice: Choice::Auto,
        parallel: true,
        format: Format::Text,
        max_tokens,
        sampling: Sampling::default(),
        stop: Vec::new(),
        top_logprobs: None,
    }
}

/// The agent's side.
struct Agent {
    socket: UnixStream,
    decoder: Decoder,
}

impl Agent {
    async fn tell(&mut self, message: &ToEngine) {
        let frame = encode(message, MAX_TO_ENGINE).unwrap();
        self.socket.write_all(&frame).await.unwrap();
    }

    async fn hear(&mut self) -> FromEngine {
        let hearing = async {
            loop {
                if let Some(message) = self.decoder.next().unwrap() {
                    return message;
                }
                let mut chunk = [0; 4096];
                let count = self.socket.read(&mut chunk).await.unwrap();
                assert_ne!(count, 0, "the engine ended");
                self.decoder.push(&chunk[..count]);
            }
        };
        timeout(DEADLINE, hearing).await.expect("it speaks in time")
    }
}

#[tokio::test]
async fn a_cancelled_generation_computes_no_more_than_one_further_token() {
    let backend = Arc::new(Stepwise {
        info: ModelInfo {
            id: "m".into(),
            context_length: 1000,
            quantization: "F32".into(),
            vocabulary: 10,
        },
        computed: AtomicU32::new(0),
        steps: Semaphore::new(3),
    });
    let (ours, theirs) = UnixStream::pair().unwrap();
    let served = tokio::spawn(serve(theirs, Arc::clone(&backend)));
    let mut agent = Agent {
        socket: ours,
        decoder: Decoder::new(MAX_FROM_ENGINE),
    };
    assert!(matches!(agent.hear().await, FromEngine::Ready(_)));
    let request = generation(500);
    agent.tell(&ToEngine::Generate { id: 1, request }).await;
    let mut told = 0;
    while told < 3 {
        match agent.hear().await {
            FromEngine::Started { id: 1, .. } => {}
            FromEngine::Delta { id: 1, tokens, .. } => told += tokens,
            other => panic!("{}", unexpected(&other)),
        }
    }
    agent.tell(&ToEngine::Cancel { id: 1 }).await;
    // Frames are obeyed in order: when the second one has begun, the first has been cancelled.
    let request = generation(0);
    agent.tell(&ToEngine::Generate { id: 2, request }).await;
    while !matches!(agent.hear().await, FromEngine::Done { id: 2, .. }) {}
    // As much as it likes.
    backend.steps.add_permits(400);
    let request = generation(100);
    agent.tell(&ToEngine::Generate { id: 3, request }).await;
    loop {
        match agent.hear().await {
            FromEngine::Done { id: 3, .. } => break,
            FromEngine::Started { id, .. } | FromEngine::Delta { id, .. } => assert_eq!(id, 3),
            other => panic!("{}", unexpected(&other)),
        }
    }
    let computed = backend.computed.load(Ordering::Relaxed);
    assert!((103..=104).contains(&computed), "{computed} tokens");
    drop(agent);
    timeout(DEADLINE, served).await.unwrap().unwrap().unwrap();
}

/// A message that nobody expected.
fn unexpected(message: &FromEngine) -> &'static str {
    match message {
        FromEngine::Failed { .. } => "it failed",
        _ => "another message",
    }
}
