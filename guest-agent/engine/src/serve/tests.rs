//! Tests of cancellation, which may cost at most the token that is being computed, and of the frames about a GPU.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use cocoon_protocol::bytes::Hex;
use cocoon_protocol::engine::{
    Choice, Costs, Format, ModelInfo, Prompt, Sampling, TensorRoot, Text, Weights,
};
use cocoon_protocol::openai::FinishReason;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::*;
use crate::backend::Event;

const DEADLINE: Duration = Duration::from_secs(60);

/// Backend that computes one token per permit, for any generation.
struct Stepwise {
    info: ModelInfo,
    computed: AtomicU32,
    steps: Semaphore,
    gpu: Option<Gpu>,
}

impl Stepwise {
    fn new(steps: usize, gpu: Option<Gpu>) -> Self {
        Self {
            info: ModelInfo {
                id: "m".into(),
                context_length: 1000,
                quantization: "F32".into(),
                vocabulary: 10,
                costs: Costs::default(),
            },
            computed: AtomicU32::new(0),
            steps: Semaphore::new(steps),
            gpu,
        }
    }
}

impl Backend for Stepwise {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn gpu(&self) -> Option<&Gpu> {
        self.gpu.as_ref()
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
        room: 1000,
        sampling: Sampling::default(),
        stop: Vec::new(),
        top_logprobs: None,
    }
}

/// The agent's end of the socket.
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

type Served = JoinHandle<Result<(), ServeError>>;

fn started(backend: &Arc<Stepwise>) -> (Agent, Served) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let served = tokio::spawn(serve(theirs, Arc::clone(backend)));
    let agent = Agent {
        socket: ours,
        decoder: Decoder::new(MAX_FROM_ENGINE),
    };
    (agent, served)
}

#[tokio::test]
async fn a_cancelled_generation_computes_no_more_than_one_further_token() {
    let backend = Arc::new(Stepwise::new(3, None));
    let (mut agent, served) = started(&backend);
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
    // Frames are processed in order: once the second generation has begun, the first has been cancelled.
    let request = generation(0);
    agent.tell(&ToEngine::Generate { id: 2, request }).await;
    while !matches!(agent.hear().await, FromEngine::Done { id: 2, .. }) {}
    // Enough permits for both generations.
    backend.steps.add_permits(400);
    let request = generation(100);
    agent.tell(&ToEngine::Generate { id: 3, request }).await;
    let (mut done, mut gone) = (false, false);
    while !(done && gone) {
        match agent.hear().await {
            FromEngine::Done { id: 3, .. } => done = true,
            FromEngine::Gone { id: 1 } => gone = true,
            FromEngine::Started { id, .. } | FromEngine::Delta { id, .. } => assert_eq!(id, 3),
            other => panic!("{}", unexpected(&other)),
        }
    }
    let computed = backend.computed.load(Ordering::Relaxed);
    assert!((103..=104).contains(&computed), "{computed} tokens");
    drop(agent);
    timeout(DEADLINE, served).await.unwrap().unwrap().unwrap();
}

/// A backend cannot stop while it reads a prompt. The agent hears of the end when that is over, and nothing before.
#[tokio::test]
async fn who_is_cancelled_has_gone_when_the_backend_lets_go_of_it() {
    let backend = Arc::new(Stepwise::new(0, None));
    let (mut agent, served) = started(&backend);
    assert!(matches!(agent.hear().await, FromEngine::Ready(_)));
    for id in 1..=3 {
        let request = generation(500);
        agent.tell(&ToEngine::Generate { id, request }).await;
        assert!(matches!(agent.hear().await, FromEngine::Started { .. }));
        agent.tell(&ToEngine::Cancel { id }).await;
    }
    let request = generation(0);
    agent.tell(&ToEngine::Generate { id: 4, request }).await;
    assert!(matches!(
        agent.hear().await,
        FromEngine::Started { id: 4, .. }
    ));
    assert!(matches!(agent.hear().await, FromEngine::Done { id: 4, .. }));
    let early = timeout(Duration::from_millis(100), agent.hear()).await;
    assert!(early.is_err(), "they are still computed");
    backend.steps.add_permits(3);
    let mut gone = Vec::new();
    while gone.len() < 3 {
        match agent.hear().await {
            FromEngine::Gone { id } => gone.push(id),
            other => panic!("{}", unexpected(&other)),
        }
    }
    gone.sort_unstable();
    assert_eq!(gone, [1, 2, 3]);
    assert_eq!(backend.computed.load(Ordering::Relaxed), 3);
    drop(agent);
    timeout(DEADLINE, served).await.unwrap().unwrap().unwrap();
}

/// This also holds for an answer that a stop string ended.
#[tokio::test]
async fn an_answer_ends_when_the_backend_lets_go_of_it() {
    let backend = Arc::new(Stepwise::new(1, None));
    let (mut agent, served) = started(&backend);
    assert!(matches!(agent.hear().await, FromEngine::Ready(_)));
    let mut request = generation(500);
    request.stop = vec!["x".to_owned()];
    agent.tell(&ToEngine::Generate { id: 1, request }).await;
    assert!(matches!(agent.hear().await, FromEngine::Started { .. }));
    // One frame for the token, one for the end of the answer.
    for expected in [1, 0] {
        let FromEngine::Delta { tokens, .. } = agent.hear().await else {
            panic!("another message");
        };
        assert_eq!(tokens, expected);
    }
    let early = timeout(Duration::from_millis(100), agent.hear()).await;
    assert!(early.is_err(), "it is still computed");
    backend.steps.add_permits(1);
    assert!(matches!(agent.hear().await, FromEngine::Done { id: 1, .. }));
    drop(agent);
    timeout(DEADLINE, served).await.unwrap().unwrap().unwrap();
}

/// The tensors do not fit in one frame. The counters follow, for as long as they are reliable.
#[tokio::test]
async fn what_a_gpu_holds_is_told_before_and_while_it_serves() {
    let (change, counts) = watch::channel(GpuCounts::default());
    let tensor = |root: usize| TensorRoot {
        root: Hex([u8::try_from(root % 200).unwrap(); 32]),
        bytes: 1,
    };
    let weights = Weights {
        root: Hex([9; 32]),
        pool_bytes: 5,
        tensors: (0..MAX_TENSORS_IN_FRAME + 1).map(tensor).collect(),
        derived: vec![tensor(7)],
    };
    let gpu = Gpu {
        devices: 1,
        weights: weights.clone(),
        counts,
    };
    let backend = Arc::new(Stepwise::new(0, Some(gpu)));
    let (mut agent, served) = started(&backend);
    assert!(matches!(
        agent.hear().await,
        FromEngine::Devices { count: 1 }
    ));
    let mut told = Vec::new();
    for length in [MAX_TENSORS_IN_FRAME, 1] {
        let FromEngine::Tensors { tensors } = agent.hear().await else {
            panic!("no tensors");
        };
        assert_eq!(tensors.len(), length);
        told.extend(tensors);
    }
    assert_eq!(told, weights.tensors);
    let FromEngine::Derived { tensors } = agent.hear().await else {
        panic!("nothing was derived");
    };
    assert_eq!(tensors, weights.derived);
    let FromEngine::Measured { root, pool_bytes } = agent.hear().await else {
        panic!("no root");
    };
    assert_eq!((root, pool_bytes), (Hex([9; 32]), 5));
    assert!(
        matches!(agent.hear().await, FromEngine::Gpu(counts) if counts == GpuCounts::default())
    );
    assert!(matches!(agent.hear().await, FromEngine::Ready(_)));

    let now = GpuCounts {
        scrubbed_bytes: 7,
        ..GpuCounts::default()
    };
    change.send_replace(now);
    assert!(matches!(agent.hear().await, FromEngine::Gpu(counts) if counts == now));
    drop(change);
    let ended = timeout(DEADLINE, served).await.unwrap().unwrap();
    assert_eq!(
        ended.unwrap_err().to_string(),
        "the GPU's memory cannot be scrubbed any more, or was not clean after it"
    );
}

/// The agent is slow to read the frames before. The error that ends the loop must not stop the writer.
#[tokio::test]
async fn what_a_scrub_has_left_is_told_before_the_end() {
    let (change, counts) = watch::channel(GpuCounts::default());
    let tensor = TensorRoot {
        root: Hex([7; 32]),
        bytes: 1,
    };
    // More than the socket's buffer holds.
    let frames = 32;
    let gpu = Gpu {
        devices: 1,
        weights: Weights {
            root: Hex([9; 32]),
            pool_bytes: 5,
            tensors: vec![tensor; frames * MAX_TENSORS_IN_FRAME],
            derived: Vec::new(),
        },
        counts,
    };
    let backend = Arc::new(Stepwise::new(0, Some(gpu)));
    let left = GpuCounts {
        scrubbed_bytes: 7,
        residue_bytes: 1,
        ..GpuCounts::default()
    };
    change.send_replace(left);
    drop(change);
    let (mut agent, served) = started(&backend);
    let mut told = Vec::new();
    while told.len() < 2 {
        match agent.hear().await {
            FromEngine::Gpu(counts) => told.push(counts),
            FromEngine::Devices { .. }
            | FromEngine::Tensors { .. }
            | FromEngine::Measured { .. }
            | FromEngine::Ready(_) => {}
            other => panic!("{}", unexpected(&other)),
        }
    }
    // Sent once before the engine is ready, and once because the counters changed.
    assert_eq!(told, [left; 2]);
    let ended = timeout(DEADLINE, served).await.unwrap().unwrap();
    assert!(matches!(ended, Err(ServeError::Gpu)));
}

/// Describes an unexpected message without its text.
fn unexpected(message: &FromEngine) -> &'static str {
    match message {
        FromEngine::Failed { .. } => "it failed",
        _ => "another message",
    }
}
