//! Tests that the memory for answers bounds how many begin and how long they may be.

use cocoon_protocol::engine::Costs;

use super::*;

/// The memory promised to answers never exceeds what there is: other requests wait, and those that can never fit are refused.
#[tokio::test]
async fn answers_wait_for_the_memory_that_they_take() {
    let (mut engine, _cancelled) = FakeEngine::new();
    engine.costs = Costs {
        token: 1000,
        step: 1,
        prompt: 0,
        pair: 0,
        pool: None,
    };
    let machine = machine(engine, 4, Limits::default()).await;
    // In addition to its KV cache, each token of a whole answer takes 256 bytes.
    machine.engine.limit_memory(1024 * 1256);
    assert_eq!(machine.engine.model().unwrap().context_length, 1024);
    let mut client = Client::attested(machine.address).await;
    let said = |body: &[u8]| {
        let answer: serde_json::Value = serde_json::from_slice(body).unwrap();
        let content = answer["choices"][0]["message"]["content"].as_str();
        content.unwrap().to_owned()
    };
    // A prompt has at most as many tokens as bytes, plus what a template adds.
    let prompt = "say your room".len() + 64 + 16;
    let (_, body) = read(client.chat("say your room", ",\"max_tokens\":100").await).await;
    assert_eq!(said(&body), format!("{} 100", prompt + 100));
    // Without a limit from the client, an answer gets a quarter of the memory.
    let (_, body) = read(client.chat("say your room", "").await).await;
    assert_eq!(said(&body), format!("256 {}", 256 - prompt));
    let (_, body) = read(client.chat("say your room", ",\"max_tokens\":1000").await).await;
    assert_eq!(said(&body), "1024 1000");
    let refused = client.chat("hello", ",\"max_tokens\":1025").await;
    let (status, param, _, message) = refusal(refused).await;
    assert_eq!((status, param.as_deref()), (400, Some("max_tokens")));
    assert_eq!(
        message,
        "`max_tokens` must be 1 to 1024, the context of the model on this machine."
    );
    let refused = client.chat("hello", ",\"max_tokens\":400,\"n\":3").await;
    let (status, param, code, message) = refusal(refused).await;
    assert_eq!((status, param.as_deref()), (400, Some("n")));
    assert_eq!(code.as_deref(), Some("context_length_exceeded"));
    assert_eq!(
        message,
        "This machine has no memory for `n` answers of that length: ask for fewer, or for fewer tokens."
    );

    let held = client
        .chat("wait", ",\"stream\":true,\"max_tokens\":800")
        .await;
    assert_eq!(held.status(), 200);
    // Its prompt has seven tokens, and no memory is kept for more. What is left, a slot and some memory, suffices for a
    // small answer but not for another as large.
    let mut other = Client::attested(machine.address).await;
    let small = other.chat("hello", ",\"max_tokens\":10").await;
    assert_eq!(read(small).await.0, 200);
    let waiting = tokio::spawn(async move { other.chat("hello", ",\"max_tokens\":800").await });
    until_waiting(&machine, 1).await;
    drop((held, client));
    let answer = timeout(DEADLINE, waiting).await.expect("in time").unwrap();
    assert_eq!(read(answer).await.0, 200);
}

#[tokio::test]
async fn memory_that_is_taken_is_told() {
    let (mut engine, _cancelled) = FakeEngine::new();
    engine.costs.token = 1000;
    let machine = machine(engine, 4, impatient()).await;
    machine.engine.limit_memory(1024 * 1256);
    let mut client = Client::attested(machine.address).await;
    let held = client
        .chat("wait", ",\"stream\":true,\"max_tokens\":900")
        .await;
    assert_eq!(held.status(), 200);
    let mut other = Client::attested(machine.address).await;
    let refused = other.chat("hello", ",\"max_tokens\":900").await;
    assert_eq!(
        refused_with(refused).await,
        "The answers that run, or are not read to their end yet, take all of this machine's memory: try again, read yours, or ask for fewer tokens."
    );
}

/// The engine reports the size of a GPU's pool. The pool bounds answers as memory does, whatever the VM has.
#[tokio::test]
async fn answers_wait_for_the_pool_of_a_gpu() {
    let (mut engine, _cancelled) = FakeEngine::new();
    engine.costs = Costs {
        token: 1000,
        step: 32,
        pool: Some(1_024_000),
        ..Costs::default()
    };
    let machine = machine(engine, 4, Limits::default()).await;
    machine.engine.limit_memory(1_024_000);
    assert_eq!(machine.engine.model().unwrap().context_length, 1024);
    let mut client = Client::attested(machine.address).await;
    let refused = client.chat("hello", ",\"max_tokens\":400,\"n\":3").await;
    let (status, param, code, _) = refusal(refused).await;
    assert_eq!((status, param.as_deref()), (400, Some("n")));
    assert_eq!(code.as_deref(), Some("context_length_exceeded"));
    let held = client
        .chat("wait", ",\"stream\":true,\"max_tokens\":900")
        .await;
    assert_eq!(held.status(), 200);
    let mut other = Client::attested(machine.address).await;
    let waiting = tokio::spawn(async move { other.chat("hello", ",\"max_tokens\":800").await });
    until_waiting(&machine, 1).await;
    drop((held, client));
    let answer = timeout(DEADLINE, waiting).await.expect("in time").unwrap();
    assert_eq!(read(answer).await.0, 200);
}
