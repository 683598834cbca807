//! Tests of receipts: each request that reached the engine gets one, which states its outcome and its tokens.

mod common;

use cocoon_guest_agent::api::Limits;
use cocoon_guest_agent::engine::EngineState;
use cocoon_protocol::bytes::{Hex, Hex32};
use cocoon_protocol::document::ATTEST_PATH;
use cocoon_protocol::receipt::{
    Delivery, Outcome, RECEIPT_COMMENT, RECEIPT_HEADER, Receipt, Tokens, commit_request,
    commit_response,
};
use common::client::{DEADLINE, read};
use common::{Client, FakeEngine, MODEL, Machine, machine};
use ed25519_dalek::{Signature, VerifyingKey};
use http_body_util::BodyExt as _;
use serde_json::Value;
use tokio::time::timeout;

const CHAT: &str = "/v1/chat/completions";
const STREAM: &str = r#","stream":true"#;

/// A connection, and the values that its receipts must contain.
struct Session {
    client: Client,
    meter_key: VerifyingKey,
    nonce: Hex32,
    evidence_digest: Hex32,
}

/// An answer, with its verified receipt.
struct Answer {
    status: u16,
    text: String,
    receipt: Receipt,
    salt: Hex32,
}

impl Session {
    async fn open(machine: &Machine) -> Self {
        let mut client = Client::connect(machine.address).await;
        let (nonce, evidence_digest) = attest(&mut client, 1).await;
        let meter_key = VerifyingKey::from_bytes(&machine.identity.claims.meter_key.0).unwrap();
        Self {
            client,
            meter_key,
            nonce,
            evidence_digest,
        }
    }

    async fn ask(&mut self, prompt: &str, extra: &str) -> Answer {
        let body = body(prompt, extra);
        let response = self.client.send("POST", CHAT, &body).await;
        let header = response.headers().get(RECEIPT_HEADER).cloned();
        let (status, told) = read(response).await;
        let text = String::from_utf8(told.to_vec()).unwrap();
        let (covered, delivered) = match header {
            Some(header) => {
                assert!(!text.contains(RECEIPT_COMMENT));
                (text.as_str(), header.to_str().unwrap().to_owned())
            }
            None => {
                let (covered, rest) = text.split_once(RECEIPT_COMMENT).expect("a receipt");
                let (delivered, end) = rest.split_once("\n\n").unwrap();
                assert!(["", "data: [DONE]\n\n"].contains(&end), "{end}");
                (covered, delivered.to_owned())
            }
        };
        let Delivery { signed, salt } = Delivery::parse(delivered.as_bytes()).unwrap();
        let receipt = signed.receipt;
        let signature = Signature::from_bytes(&signed.signature.0);
        self.meter_key
            .verify_strict(&receipt.encode(), &signature)
            .unwrap();
        let digest = Hex32::sha256(body.as_bytes());
        assert_eq!(receipt.request, commit_request(&salt, &digest));
        let digest = Hex32::sha256(covered.as_bytes());
        assert_eq!(receipt.response, commit_response(&salt, &digest));
        assert_eq!(
            (receipt.nonce, receipt.evidence_digest),
            (self.nonce, self.evidence_digest)
        );
        assert_eq!(
            (receipt.manifest_id, receipt.model_digest),
            (Hex([3; 32]), Hex([4; 32]))
        );
        Answer {
            status: status.as_u16(),
            text,
            receipt,
            salt,
        }
    }
}

async fn attest(client: &mut Client, nonce: u8) -> (Hex32, Hex32) {
    let nonce: Hex32 = Hex([nonce; 32]);
    let request = format!("{{\"nonce\":\"{nonce}\"}}");
    let (_, document) = client.post(ATTEST_PATH, &request).await;
    (nonce, Hex32::sha256(&document))
}

fn body(prompt: &str, extra: &str) -> String {
    format!(
        "{{\"model\":\"{MODEL}\",\"messages\":[{{\"role\":\"user\",\"content\":\"{prompt}\"}}]{extra}}}"
    )
}

const fn tokens(prompt: u64, completion: u64) -> Tokens {
    Tokens { prompt, completion }
}

#[tokio::test]
async fn cocoon_receipt_5() {
    let machine = machine(FakeEngine::new().0, 3, Limits::default()).await;
    let mut session = Session::open(&machine).await;
    for stream in ["", STREAM] {
        let answer = session.ask("one two three", stream).await;
        assert_eq!(answer.receipt.outcome, Outcome::Complete);
        assert_eq!(answer.receipt.tokens, tokens(7, 3));

        let extra = format!(r#"{stream},"n":3,"seed":1"#);
        let several = session.ask("say your seed", &extra).await;
        assert_eq!(
            several.text.matches(RECEIPT_COMMENT).count(),
            stream.len().min(1)
        );
        assert_eq!(several.receipt.tokens, tokens(7, 3));

        let extra = format!(r#"{stream},"max_tokens":2"#);
        let cut = session.ask("speak at length", &extra).await;
        assert_eq!(cut.receipt.outcome, Outcome::Length);
        assert_eq!(cut.receipt.tokens, tokens(7, 2));

        let failed = session.ask("wrong roles", stream).await;
        assert_eq!(failed.status, if stream.is_empty() { 400 } else { 200 });
        assert_eq!(failed.receipt.outcome, Outcome::Failed);
        assert_eq!(failed.receipt.tokens, tokens(0, 0));
        assert!(!failed.text.contains("[DONE]"), "{}", failed.text);
    }
    // The receipt of an answer that broke off counts the tokens generated so far.
    let broken = session.ask("die halfway", STREAM).await;
    assert_eq!(broken.receipt.outcome, Outcome::Failed);
    assert_eq!(broken.receipt.tokens, tokens(7, 1));
}

#[tokio::test]
async fn cocoon_receipt_6() {
    let machine = machine(FakeEngine::new().0, 1, Limits::default()).await;
    let mut session = Session::open(&machine).await;
    for (number, prompt) in (1..).zip(["one", "wrong roles", "two"]) {
        let answer = session.ask(prompt, "").await;
        assert_eq!(answer.receipt.number, number);
        // A request that did not reach the engine has neither a receipt nor a number.
        let refused = session.client.chat("x", r#","audio":{}"#).await;
        assert_eq!(refused.status(), 400);
        assert!(!refused.headers().contains_key(RECEIPT_HEADER));
        drop(read(refused).await);
    }
    // After another attestation, receipts name the newest document and go on counting.
    let newer = attest(&mut session.client, 2).await;
    assert_ne!(newer.1, session.evidence_digest);
    (session.nonce, session.evidence_digest) = newer;
    assert_eq!(session.ask("three", STREAM).await.receipt.number, 4);
    let mut other = Session::open(&machine).await;
    assert_eq!(other.ask("one", "").await.receipt.number, 1);
}

/// Counters and receipts agree on answers that are complete, and on those whose client leaves.
#[tokio::test]
async fn cocoon_receipt_7() {
    let (engine, mut cancelled) = FakeEngine::new();
    let machine = machine(engine, 2, Limits::default()).await;
    let mut session = Session::open(&machine).await;
    let told = session.ask("one two three", "").await;
    let usage: Value = serde_json::from_str(&told.text).unwrap();
    assert_eq!(usage["usage"]["completion_tokens"], 3);
    assert_eq!(told.receipt.tokens, tokens(7, 3));
    let counted = |metrics: &cocoon_protocol::control::Metrics| {
        tokens(metrics.prompt_tokens, metrics.completion_tokens)
    };
    assert_eq!(
        counted(&machine.counters.metrics(&EngineState::default())),
        tokens(7, 3)
    );

    for (already, stream) in [(tokens(7, 3), STREAM), (tokens(14, 5), "")] {
        let mut leaving = Client::attested(machine.address).await;
        // Two choices of one prompt, each with one token so far.
        let extra = format!(r#"{stream},"n":2"#);
        if stream.is_empty() {
            let sending = leaving.chat("wait", &extra);
            let short = std::time::Duration::from_millis(300);
            assert!(timeout(short, sending).await.is_err(), "it ended");
        } else {
            let mut response = leaving.chat("wait", &extra).await;
            let mut seen = String::new();
            while seen.matches("first").count() < 2 {
                let frame = timeout(DEADLINE, response.frame()).await.expect("in time");
                let data = frame.unwrap().unwrap().into_data().unwrap();
                seen.push_str(std::str::from_utf8(&data).unwrap());
            }
        }
        assert_eq!(
            counted(&machine.counters.metrics(&EngineState::default())),
            already
        );
        drop(leaving);
        for _ in 0..2 {
            let heard = timeout(DEADLINE, cancelled.recv()).await;
            heard.expect("cancelled in time").unwrap();
        }
        let more = tokens(already.prompt + 7, already.completion + 2);
        let settled = async {
            while counted(&machine.counters.metrics(&EngineState::default())) != more {
                tokio::task::yield_now().await;
            }
        };
        timeout(DEADLINE, settled).await.expect("counted in time");
    }
}

#[tokio::test]
async fn cocoon_receipt_8() {
    let machine = machine(FakeEngine::new().0, 1, Limits::default()).await;
    let mut session = Session::open(&machine).await;
    let one = session.ask("one", STREAM).await;
    let same = session.ask("one", STREAM).await;
    assert_ne!(one.salt, same.salt);
    assert_ne!(one.receipt.request, same.receipt.request);
    assert!(!one.salt.is_zero() && !same.salt.is_zero());
    // The counters for the host contain none of these values either.
    let metrics =
        serde_json::to_string(&machine.counters.metrics(&EngineState::default())).unwrap();
    for secret in [one.salt, one.receipt.request, one.receipt.response] {
        assert!(!metrics.contains(&secret.to_string()));
    }
}
