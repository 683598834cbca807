//! A kernel that panics while prompts are in flight. The requests are running, waiting, refused because no slot was
//! free, abandoned, or half received. What the host has of the VM afterwards reveals nothing of them.
//!
//! The host makes the kernel panic as hardware would: it reports a broken processor, by a machine check with a corrupt
//! context. This needs no back door in the image and no other command line. Under emulation the host could read the
//! guest's memory at any time; only a TEE prevents that, and it is not tested here.

use std::path::Path;

use cocoon_host_agent::UpError;
use cocoon_protocol::binding::Tee;
use cocoon_protocol::bytes::Hex;
use cocoon_protocol::document::{ATTEST_PATH, AttestRequest};
use cocoon_tests::trial::{Model, Trial};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use crate::canaries::{Places, found, gather, is_in_none_of};
use crate::stranger::{Connection, DEADLINE, Stranger};
use crate::wire::Wire;

const CANARY: &str = "K8bKanarienpanik";
const CHAT: &str = "/v1/chat/completions";
/// QEMU monitor command: valid, uncorrected, enabled, context corrupt, in bank 1 of the first processor, with
/// a machine check in progress.
const MACHINE_CHECK: &str = "mce 0 1 0xb200000000000000 0x4 0 0";

/// Returns a streaming chat request with the canary in every place where a client can put text.
fn question(model: &str) -> String {
    let parameters = json!({ "type": "object", "properties": { CANARY: { "enum": [CANARY] } } });
    let function =
        json!({ "name": CANARY, "description": CANARY, "parameters": parameters, "strict": false });
    let call = json!({ "name": CANARY, "arguments": json!({ CANARY: CANARY }).to_string() });
    json!({
        "model": model,
        "messages": [
            { "role": "system", "content": CANARY },
            { "role": "user", "content": CANARY },
            { "role": "assistant", "tool_calls": [{ "id": CANARY, "type": "function", "function": call }] },
            { "role": "tool", "tool_call_id": CANARY, "content": CANARY },
        ],
        "tools": [{ "type": "function", "function": function }],
        "user": CANARY,
        "stream": true,
        "max_tokens": 500,
    })
    .to_string()
}

/// Opens a connection through the tapped wire, and completes the attestation exchange on it.
async fn attested(stranger: &Stranger, wire: &Wire) -> Connection {
    let mut connection = stranger.connect(wire.address).await;
    let nonce = AttestRequest {
        nonce: Hex([5; 32]),
    };
    let nonce = serde_json::to_string(&nonce).unwrap();
    assert_eq!(connection.ask("POST", ATTEST_PATH, &nonce).await.0, 200);
    connection
}

/// Sends the head of a request and the first `sent` bytes of its body.
async fn send(connection: &mut Connection, body: &str, sent: usize) {
    let head = format!(
        "POST {CHAT} HTTP/1.1\r\nhost: cocoon\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let bytes = [head.as_bytes(), &body.as_bytes()[..sent]].concat();
    connection.0.write_all(&bytes).await.unwrap();
    connection.0.flush().await.unwrap();
}

/// Reads until `enough` is satisfied. Returns false if the connection ends before.
async fn read(connection: &mut Connection, enough: impl Fn(&str) -> bool) -> bool {
    let mut answer = Vec::new();
    let reading = async {
        while !enough(&String::from_utf8_lossy(&answer)) {
            if !matches!(connection.0.read_buf(&mut answer).await, Ok(1..)) {
                return false;
            }
        }
        true
    };
    timeout(DEADLINE, reading).await.expect("read in time")
}

/// Runs the whole test.
pub async fn tells_nothing() {
    let demo = Path::new(env!("CARGO_BIN_EXE_demo"));
    // The real model takes seconds per token, so a running answer lasts until the panic.
    let trial = Trial::new(demo, "panic", Tee::Tdx, Model::Real).await;
    let mut trial = trial.unwrap();
    trial.options.config.max_concurrent_requests = 1;
    let mut vm = trial.up().await.unwrap();
    let wire = Wire::tap(vm.vm.endpoint).await;
    let stranger = Stranger::new();
    let question = question(&vm.image.manifest.model.id);

    let mut running = attested(&stranger, &wire).await;
    send(&mut running, &question, question.len()).await;
    let begun = |answer: &str| answer.contains("assistant");
    assert!(read(&mut running, begun).await, "it has its slot");
    let mut refused = attested(&stranger, &wire).await;
    let (status, _) = refused.ask("POST", CHAT, &question).await;
    assert_eq!(status, 429, "it waited in vain");
    let mut gone = attested(&stranger, &wire).await;
    send(&mut gone, &question, question.len()).await;
    drop(gone);
    let mut waiting = attested(&stranger, &wire).await;
    send(&mut waiting, &question, question.len()).await;
    let mut half = attested(&stranger, &wire).await;
    send(&mut half, &question, question.len() / 2).await;
    let told = vm.seen.metrics(|told| told.errors >= 1).await.unwrap();
    assert_eq!((told.requests, told.attestations), (1, 5));

    vm.vm.qmp.human(MACHINE_CHECK).await.unwrap();
    let error = vm.vm.wait().await.expect_err("it panics");
    let UpError::Failed { console, .. } = &error else {
        panic!("{error}")
    };
    let panic = "Kernel panic - not syncing: Fatal";
    assert!(console.iter().any(|line| line.contains(panic)), "{error:?}");
    let over = |answer: &str| answer.contains("[DONE]");
    for connection in [&mut running, &mut waiting, &mut half] {
        assert!(!read(connection, over).await, "it was in flight");
    }

    let mut places: Places = gather(&vm.folder, &vm.seen, &wire, told);
    places.push((
        "the error".to_owned(),
        format!("{error:?} {error}").into_bytes(),
    ));
    // The search finds text that is present, and the panic is visible.
    assert!(found(&places, panic).len() >= 2, "console, error");
    assert_eq!(
        found(&places, "cocoon: serving").len(),
        3,
        "console, log, error"
    );
    is_in_none_of(&places, CANARY);
    let dumps = places.iter().find(|(name, _)| {
        let name = Path::new(name).file_name();
        name.is_some_and(|name| name.to_string_lossy().starts_with("core"))
    });
    assert!(dumps.is_none(), "{:?}", dumps.map(|(name, _)| name));
}
