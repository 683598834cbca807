//! The engine keeps nothing from one request for another: a repeated prompt is read again, at the same cost. With a
//! prompt cache, a client that guesses another client's prompt could confirm it by the time that the answer takes.

use std::time::Duration;

use cocoon_client::Upstreams;
use cocoon_tests::alphabet;
use cocoon_tests::processes::processor_time;
use http_body_util::BodyExt as _;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::appliance::{self, Appliance, MODEL, Setup};
use crate::clients;
use crate::leaving::{LAYERS, Relayed, Seen};

/// Time limit of every wait.
const DEADLINE: Duration = Duration::from_secs(300);
/// Bytes, and so tokens, of a prompt: most of the context.
const LONG: usize = 800;

#[tokio::test(flavor = "multi_thread")]
async fn a_prompt_that_comes_again_is_read_again() {
    let Some(engine) = clients::had("the engine", appliance::engine().await) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("alphabet-f32.gguf");
    std::fs::write(model, alphabet::of_layers(LAYERS)).unwrap();
    let (told, seen) = watch::channel(Seen::default());
    let setup = Setup {
        engine,
        folder: folder.path().to_owned(),
        model: MODEL.to_owned(),
        slots: 1,
    };
    let appliance = Appliance::with(Relayed { setup, told }, MODEL, 1)
        .await
        .unwrap();
    let process = seen.borrow().process;
    let upstreams = Upstreams::new(appliance.verifier(), vec![appliance.address.clone()]);

    // The first request warms up.
    read(&upstreams, &"w".repeat(LONG)).await;
    let costs = async |prompt: &str| {
        let before = processor_time(process).unwrap();
        read(&upstreams, prompt).await;
        processor_time(process).unwrap() - before
    };
    let prompt: String = ('a'..='z').cycle().take(LONG).collect();
    let first = costs(&prompt).await;
    assert!(!first.is_zero(), "this kernel tells no processor time");
    let again = costs(&prompt).await;
    // Slightly longer at the end, like the next turn of a conversation.
    let longer = costs(&format!("{prompt}!")).await;
    for (what, time) in [("again", again), ("and more", longer)] {
        assert!(
            time > first / 2,
            "a prompt of {LONG} tokens took {first:?} of the processors, and {time:?} {what}: it was remembered"
        );
    }
}

/// Sends a prompt and requests one token. Asserts that the appliance reports no cached tokens.
async fn read(upstreams: &Upstreams, prompt: &str) {
    let body = serde_json::json!({
        "model": MODEL,
        "messages": [{ "role": "user", "content": prompt }],
        "temperature": 0,
        "max_completion_tokens": 1,
    });
    let asked = upstreams.generate("/v1/chat/completions", body.to_string().into());
    let response = timeout(DEADLINE, asked).await.expect("in time").unwrap();
    assert_eq!(response.status(), 200);
    let answer = timeout(DEADLINE, response.into_body().collect()).await;
    let answer = answer.expect("in time").unwrap().to_bytes();
    let answer: serde_json::Value = serde_json::from_slice(&answer).unwrap();
    let usage = &answer["usage"];
    assert!(usage["prompt_tokens"].as_u64().unwrap() > LONG as u64);
    assert_eq!(usage["prompt_tokens_details"]["cached_tokens"], 0);
}
