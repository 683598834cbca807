//! The lengths of TLS records do not tell the lengths of tokens.

use std::collections::BTreeMap;

use cocoon_client::AttestedConnection;
use cocoon_protocol::openai::{ChatRequest, Message, Role, StreamOptions};
use cocoon_tests::trial::Appliance;
use http_body_util::BodyExt as _;
use serde_json::Value;

use crate::wire::Wire;

const TOKENS: u32 = 6;

/// Streams an answer at a high temperature; its text, and the lengths of its records.
async fn stream(
    connection: &mut AttestedConnection,
    wire: &Wire,
    model: &str,
    seed: i64,
    hidden: bool,
) -> (String, Vec<usize>) {
    let request = ChatRequest {
        model: model.to_owned(),
        messages: vec![Message {
            role: Role::User,
            content: "Hi".into(),
        }],
        stream: true,
        stream_options: Some(StreamOptions {
            include_usage: true,
            include_obfuscation: (!hidden).then_some(false),
        }),
        max_completion_tokens: Some(TOKENS),
        max_tokens: None,
        temperature: Some(2.0),
        top_p: None,
        seed: Some(seed),
        stop: None,
        padding: None,
    };
    let mark = wire.mark();
    let response = connection.chat(&request).await.unwrap();
    assert_eq!(response.status(), 200);
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let lengths = wire.lengths(mark);
    let body = String::from_utf8(body.to_vec()).unwrap();
    let said = body
        .split("\n\n")
        .filter_map(|event| serde_json::from_str::<Value>(event.strip_prefix("data: ")?).ok())
        .filter_map(|chunk| Some(chunk["choices"][0]["delta"]["content"].as_str()?.to_owned()))
        .collect();
    (said, lengths)
}

/// Six tokens each time, of one letter or of a long word: only without padding can they be told apart.
pub async fn do_not_tell_tokens(vm: &Appliance) {
    let wire = Wire::tap(vm.vm.endpoint).await;
    let address = format!("https://{}", wire.address).parse().unwrap();
    let verifier = vm.verifier().unwrap();
    let mut connection = verifier.connect(&address).await.unwrap();
    let model = &vm.image.manifest.model.id;

    let mut hidden = BTreeMap::new();
    let mut open = BTreeMap::new();
    for seed in 1..=6 {
        let (text, lengths) = stream(&mut connection, &wire, model, seed, true).await;
        eprintln!("{text:?} {lengths:?}");
        hidden.insert(text.len(), lengths);
        let (text, lengths) = stream(&mut connection, &wire, model, seed, false).await;
        eprintln!("{text:?} {lengths:?} open");
        open.insert(text.len(), lengths);
    }
    assert!(hidden.len() > 2, "answers of several lengths: {hidden:?}");
    let bytes = |lengths: &Vec<usize>| lengths.iter().sum::<usize>();
    let mut totals: Vec<usize> = hidden.values().map(bytes).collect();
    totals.dedup();
    assert_eq!(totals.len(), 1, "{hidden:?}");
    // The check can fail: without padding the lengths tell.
    let mut totals: Vec<usize> = open.values().map(bytes).collect();
    totals.dedup();
    assert!(totals.len() > 2, "{open:?}");
}
