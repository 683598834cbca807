//! Whole answers are as long as their tokens make them, and are written into memory of that size.

use cocoon_protocol::engine::Alternative;
use proptest::prelude::*;

use super::*;

fn usage(tokens: u32) -> Usage {
    Usage {
        prompt_tokens: 30,
        completion_tokens: tokens,
        total_tokens: 30 + tokens,
    }
}

fn told(text: &str, tokens: u32, reason: FinishReason, top: Option<u8>) -> Bytes {
    let envelope = Envelope {
        kind: Kind::Chat,
        id: "chatcmpl-000000000000000000000000".into(),
        created: 1_800_000_000,
        model: "smollm2-135m-instruct-q4_1".into(),
        fingerprint: "fp_0123456789ab".into(),
    };
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
