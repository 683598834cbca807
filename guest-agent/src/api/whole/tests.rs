//! Tests that the length of a whole answer depends on its tokens only, and that it is written into memory of that size.

use std::sync::Arc;
use std::time::Duration;

use cocoon_protocol::engine::{
    Alternative, Choice as Called, Costs, EngineFailure, Format, Generation, ModelInfo, Prompt,
    Sampling,
};
use proptest::prelude::*;
use tokio::sync::watch;
use tokio::time::timeout;

use super::*;
use crate::api::Limits;
use crate::engine::{Command, Engine, EngineState, Failure, Told};
use crate::metering::Counters;

fn usage(tokens: u32) -> Usage {
    Usage {
        prompt_tokens: 30,
        completion_tokens: tokens,
        total_tokens: 30 + tokens,
    }
}

fn envelope() -> Envelope {
    Envelope {
        kind: Kind::Chat,
        id: "chatcmpl-000000000000000000000000".into(),
        created: 1_800_000_000,
        model: "smollm2-135m-instruct-q4_1".into(),
        fingerprint: "fp_0123456789ab".into(),
    }
}

fn told(text: &str, tokens: u32, reason: FinishReason, top: Option<u8>) -> Bytes {
    let envelope = envelope();
    let one = |bytes: &str| Alternative {
        bytes: bytes.into(),
        logprob: -9.123_456,
    };
    let logprobs: Vec<TokenLogprob> = text
        .split_inclusive(' ')
        .map(|word| TokenLogprob {
            chosen: one(word),
            top: vec![one(word); top.unwrap_or(0).into()],
        })
        .collect();
    let choice = ChatChoice {
        index: 0,
        message: Some(Message {
            role: "assistant",
            content: Some(text),
            refusal: None,
            tool_calls: &[],
        }),
        delta: None,
        logprobs: top.map(|_| ChatLogprobs::of(&logprobs)),
        finish_reason: Some(reason),
    };
    let shown = Shown {
        choices: 1,
        top_logprobs: top,
    };
    encode(&envelope, [choice], usage(tokens), &shown)
}

#[test]
fn answers_of_as_many_tokens_have_one_length() {
    let short = told("I I I", 3, FinishReason::Stop, None);
    let long = told(
        "electricity transformers overwhelmingly",
        3,
        FinishReason::Length,
        None,
    );
    assert_eq!((short.len(), long.len()), (3 * BUCKET, 3 * BUCKET));
    let short = told("I I I", 3, FinishReason::Stop, Some(5));
    let long = told(
        "electricity transformers overwhelmingly",
        3,
        FinishReason::Stop,
        Some(5),
    );
    assert_eq!(short.len(), long.len());
    assert!(told("I", 300, FinishReason::Stop, None).len() > 3 * BUCKET);
}

#[tokio::test(start_paused = true)]
async fn a_choice_that_fails_cancels_those_before_it_at_once() {
    let model = ModelInfo {
        id: "m".into(),
        context_length: 2048,
        quantization: "F32".into(),
        vocabulary: 256,
        costs: Costs::default(),
    };
    let (_state, watched) = watch::channel(EngineState {
        ready: Some(model),
        ..EngineState::default()
    });
    let (engine, mut commands, _end) = Engine::new(2, watched);
    let generation = Generation {
        prompt: Prompt::Text("p".into()),
        tools: vec![],
        choice: Called::Auto,
        parallel: true,
        format: Format::Text,
        max_tokens: 10,
        room: 0,
        sampling: Sampling::default(),
        stop: vec![],
        top_logprobs: None,
    };
    let patience = Limits::default().patience;
    let source = (engine.source(), 0);
    let answers = engine.generate(vec![generation; 2], Told::Whole, source, &patience);
    let answers = answers.await.unwrap();
    let (Some(first), Some(second)) = (commands.recv().await, commands.recv().await) else {
        panic!("two are asked for")
    };
    let Command::Generate { pieces, .. } = &second else {
        panic!("it is asked for")
    };
    let failed = Piece::Failed(Failure::Engine(EngineFailure::Internal));
    assert!(pieces.try_send(failed).is_ok(), "there is room");
    let meter = Meter::begin(&Arc::new(Counters::default()), &answers);
    let envelope = envelope();
    let collected = collect(answers, &envelope, &meter, None);
    // Nothing else happens: a collector that waits for the first choice would wait for ever.
    let collected = timeout(Duration::from_secs(1), collected).await;
    assert!(collected.expect("at once").is_err());
    let Command::Generate { id: begun, .. } = first else {
        panic!("it is asked for")
    };
    assert!(matches!(commands.recv().await, Some(Command::Cancel { id, .. }) if id == begun));
}

proptest! {
    #[test]
    fn an_answer_is_json_whatever_it_says_and_a_multiple_of_the_usual(text in "\\PC{0,4000}", tokens in 0..400_u32) {
        let bytes = told(&text, tokens, FinishReason::Stop, None);
        let shown = Shown { choices: 1, top_logprobs: None };
        prop_assert_eq!(bytes.len() % shown.usual(tokens), 0);
        let value: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        prop_assert_eq!(value["choices"][0]["message"]["content"].as_str(), Some(text.as_str()));
        prop_assert_eq!(&value["usage"]["completion_tokens"], tokens);
        prop_assert!(value["obfuscation"].as_str().unwrap().bytes().all(|byte| byte == b'0'));
    }
}
