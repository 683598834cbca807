//! Tests that an engine that hangs is ended in time, and that a working one is not, however long its work takes.

use std::sync::Arc;

use cocoon_protocol::engine::{Choice, Format, Generation, Prompt, Sampling, Text};
use tokio::task::spawn_blocking;
use tokio::time::advance;

use super::late::LOADING;
use super::*;
use crate::engine::admission::{Admission, Asking, Room};
use crate::engine::{Bounds, Patience, Slot, Source};

const MODEL: &str = "m";
const PATIENCE: Patience = Patience {
    time: Duration::ZERO,
    bounds: Bounds::NONE,
};

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn model() -> ModelInfo {
    ModelInfo {
        id: MODEL.into(),
        context_length: 8192,
        quantization: "F32".into(),
        vocabulary: 10,
        costs: Costs::default(),
    }
}

fn generate(id: u64, slot: Slot, prompt: usize) -> (Command, mpsc::Receiver<Piece>) {
    let generation = Generation {
        // A template may add 64 tokens.
        prompt: Prompt::Text("x".repeat(prompt - 64)),
        tools: vec![],
        choice: Choice::Auto,
        parallel: true,
        format: Format::Text,
        max_tokens: 10,
        room: 8192,
        sampling: Sampling::default(),
        stop: vec![],
        top_logprobs: None,
    };
    let (pieces, received) = mpsc::channel(100);
    let command = Command::Generate {
        id,
        generation: Box::new(generation),
        pieces,
        tally: Arc::default(),
        slot,
    };
    (command, received)
}

async fn room(count: usize) -> Room {
    let asking = Asking {
        source: Source(0),
        count,
        bytes: 1,
        memory: 0,
        pooled: false,
        unread: 0,
    };
    let entered = Admission::new(count).enter(asking, &PATIENCE).await;
    entered.unwrap()
}

/// The next deadline from now on, and the error for it.
fn due(link: &Link<'_>) -> Option<(Duration, LinkError)> {
    let (due, late) = link.overdue()?;
    Some((due - Instant::now(), late))
}

/// Lets the engine report that it has started `id`.
fn started(link: &mut Link<'_>, id: u64) {
    link.heard = Instant::now();
    let prompt_tokens = 7;
    link.hear(FromEngine::Started { id, prompt_tokens })
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_engine_may_be_silent_as_long_as_its_prompts_are() {
    let state = watch::Sender::new(EngineState::default());
    let (messages, _told) = mpsc::channel(100);
    let mut link = Link::new(messages, &state, MODEL);
    let silent = |link: &Link<'_>| match due(link) {
        Some((after, LinkError::Silent(patience))) if after == patience => after,
        other => panic!("{other:?}"),
    };
    assert_eq!(silent(&link), LOADING);
    link.hear(FromEngine::Ready(model())).unwrap();
    assert!(due(&link).is_none(), "nothing to do");
    let room = room(3).await;
    let prompts = [(1, 100), (2, 200), (3, 5000)];
    // An hour for all prompts together.
    let patience = [1000, 1800, 4200];
    for (((id, prompt), slot), patience) in prompts.into_iter().zip(room.slots).zip(patience) {
        link.obey(generate(id, slot, prompt).0).unwrap();
        assert_eq!(silent(&link), seconds(patience));
    }
    for (id, patience) in [(2, 4200), (3, 1000), (1, 600)] {
        advance(seconds(500)).await;
        started(&mut link, id);
        assert_eq!(silent(&link), seconds(patience));
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_cancelled_may_wait_for_all_that_is_read_before_it() {
    let state = watch::Sender::new(EngineState::default());
    let (messages, _told) = mpsc::channel(100);
    let mut link = Link::new(messages, &state, MODEL);
    link.hear(FromEngine::Ready(model())).unwrap();
    let Room { mut slots, places } = room(4).await;
    let mut places = places.into_iter();
    let mut begin = |link: &mut Link<'_>, id, prompt| {
        let (command, _) = generate(id, slots.pop().unwrap(), prompt);
        link.obey(command).unwrap();
    };
    let mut cancel = |link: &mut Link<'_>, id| {
        let _place = places.next().unwrap();
        link.obey(Command::Cancel { id, _place }).unwrap();
    };
    let holds = |link: &Link<'_>| match due(link) {
        Some((after, LinkError::Holds)) => Some(after),
        _ => None,
    };
    begin(&mut link, 1, 100);
    begin(&mut link, 2, 100);
    cancel(&mut link, 2);
    // One prompt may be read after the other.
    assert_eq!(holds(&link), Some(seconds(600 + 400 + 400)));
    advance(seconds(400)).await;
    started(&mut link, 1);
    // Its own prompt may be read next.
    assert_eq!(holds(&link), Some(seconds(1000)));
    advance(seconds(900)).await;
    link.heard = Instant::now();
    assert_eq!(holds(&link), Some(seconds(100)));
    // Another generation began in the meantime, whose prompt may be read in the same step.
    begin(&mut link, 3, 500);
    assert_eq!(holds(&link), Some(seconds(100 + 2000)));
    // What becomes of other generations does not matter.
    cancel(&mut link, 3);
    assert_eq!(holds(&link), Some(seconds(100 + 2000)));
    link.hear(FromEngine::Gone { id: 3 }).unwrap();
    // Here too, an hour for all prompts together.
    begin(&mut link, 4, 5000);
    assert_eq!(holds(&link), Some(seconds(600 + 3600 - 1300)));
    link.hear(FromEngine::Gone { id: 2 }).unwrap();
    assert!(matches!(due(&link), Some((_, LinkError::Silent(_)))));
}

/// The paused clock advances by itself only while nothing runs on another thread.
#[tokio::test(start_paused = true)]
async fn a_long_prompt_costs_nobody_the_engine_and_a_hang_does() {
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let clock = spawn_blocking(move || stopped.recv());
    let (ours, mut engine) = UnixStream::pair().unwrap();
    let (commands, mut received) = mpsc::channel(10);
    let state = watch::Sender::new(EngineState::default());
    let mut ready = state.subscribe();
    let link = tokio::spawn(async move { run(ours, &mut received, &state, MODEL).await });
    let encode = |message: &FromEngine| frame::encode(message, MAX_FROM_ENGINE).unwrap();
    let model = FromEngine::Ready(model());
    engine.write_all(&encode(&model)).await.unwrap();
    ready.wait_for(|state| state.ready.is_some()).await.unwrap();
    let room = room(1).await;
    let (command, mut pieces) = generate(1, room.slots.into_iter().next().unwrap(), 100);
    commands.send(command).await.unwrap();
    // The engine has received the request.
    let mut first = [0];
    engine.read_exact(&mut first).await.unwrap();
    advance(seconds(999)).await;
    let said = [
        FromEngine::Started {
            id: 1,
            prompt_tokens: 7,
        },
        FromEngine::Delta {
            id: 1,
            text: Text("x".into()),
            tokens: 1,
            logprobs: vec![],
        },
    ];
    for message in &said {
        engine.write_all(&encode(message)).await.unwrap();
    }
    assert!(matches!(pieces.recv().await, Some(Piece::Delta(..))));
    drop(stop);
    let _ = clock.await.unwrap();
    let begun = Instant::now();
    let end = link.await.unwrap();
    assert!(matches!(end, LinkError::Silent(patience) if patience == seconds(600)));
    assert_eq!(begun.elapsed().as_secs(), 600);
    assert!(matches!(
        pieces.recv().await,
        Some(Piece::Failed(Failure::Died))
    ));
    assert!(ready.borrow().ready.is_none(), "who waits is not refused");
}
