//! Sends canary strings in every place where a client can put text, and searches everything that the
//! host has of the VM for them.

use std::path::{Path, PathBuf};

use cocoon_protocol::control::Metrics;
use cocoon_protocol::document::{ATTEST_PATH, AttestRequest};
use cocoon_protocol::receipt::{DELIVERY_LEN, Delivery, RECEIPT_COMMENT};
use cocoon_tests::seen::Seen;
use cocoon_tests::trial::Appliance;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::questions::{self, CANARY};
use crate::stranger::{Connection, Stranger};
use crate::wire::Wire;

/// Sends all questions, shuts the VM down, and asserts that no canary is found.
pub async fn are_nowhere(vm: Appliance) {
    let wire = Wire::tap(vm.vm.endpoint).await;
    let mut connection = attested(&wire).await;
    let questions = questions::all(&vm.image.manifest.model.id);
    let mut receipts = Vec::new();
    for question in &questions {
        let (path, body) = (&question.path, &question.body);
        let streamed = question.status == 200 && body.contains("\"stream\":true");
        let found = match streamed {
            true => {
                let answer = streamed_answer(&mut connection, path, body).await;
                receipts.push(receipt(&answer));
                answer.split(' ').nth(1).unwrap().parse().unwrap()
            }
            false => {
                let (status, answer) = connection.ask(question.method, path, body).await;
                if question.says {
                    says(&answer);
                }
                status
            }
        };
        assert_eq!(found, question.status, "{path} {body:.200}");
    }
    drop(connection);
    let refused = questions.iter().filter(|one| one.status != 200).count();
    let told = vm
        .seen
        .metrics(|metrics| metrics.errors >= refused as u64)
        .await;
    let told = told.unwrap();

    let manifest = vm.image.manifest.cmdline.clone();
    let places = all_places(vm, &wire, told).await;
    // The search finds text that is present.
    assert_eq!(found(&places, "cocoon: serving").len(), 2, "console, log");
    assert_eq!(found(&places, &manifest).len(), 1, "the manifest");
    assert!(found(&places, "errors").contains(&"news"));
    is_in_none_of(&places, CANARY);
    assert!(receipts.len() > 1, "{} receipts", receipts.len());
    for receipt in receipts {
        is_the_clients_alone(&places, &receipt);
    }
}

/// Opens a connection and completes the attestation exchange on it.
pub async fn attested(wire: &Wire) -> Connection {
    let mut connection = Stranger::new().connect(wire.address).await;
    let nonce = serde_json::to_string(&AttestRequest {
        nonce: cocoon_protocol::bytes::Hex([5; 32]),
    });
    connection.ask("POST", ATTEST_PATH, &nonce.unwrap()).await;
    connection
}

/// Asserts that every choice of the client's answer contains the canary, so that there is something to find.
fn says(answer: &[u8]) {
    let text = String::from_utf8_lossy(answer);
    let answer: serde_json::Value = serde_json::from_slice(answer).unwrap();
    let choices = answer["choices"].as_array().unwrap();
    for choice in choices {
        let message = &choice["message"];
        let called = message["tool_calls"][0]["function"]["arguments"].as_str();
        let said = called.or(message["content"].as_str()).unwrap();
        let value: serde_json::Value = serde_json::from_str(said).unwrap();
        assert_eq!(value[CANARY], CANARY, "{text}");
    }
    assert!(!choices.is_empty(), "{text}");
}

/// Returns the receipt in a streamed answer.
fn receipt(answer: &str) -> Delivery {
    let (_, rest) = answer.split_once(RECEIPT_COMMENT).expect("a receipt");
    Delivery::parse(&rest.as_bytes()[..DELIVERY_LEN]).unwrap()
}

/// Asserts that the secrets of a receipt are found nowhere. With the salt, or with both commitments and a list of
/// likely texts, the host could guess what was said.
fn is_the_clients_alone(places: &Places, delivery: &Delivery) {
    let receipt = &delivery.signed.receipt;
    for secret in [delivery.salt, receipt.request, receipt.response] {
        is_in_none_of(places, &secret.to_string());
        let holds = |bytes: &[u8]| bytes.windows(32).any(|window| window == secret.0);
        let raw = places.iter().find(|(_, bytes)| holds(bytes));
        assert!(raw.is_none(), "{:?}", raw.map(|(name, _)| name));
    }
    let text = delivery.to_text();
    let salt = &text[DELIVERY_LEN - 40..DELIVERY_LEN - 2];
    assert_eq!(found(places, salt), Vec::<&str>::new());
}

/// Everything that the host has of a VM: names and contents.
pub type Places = Vec<(String, Vec<u8>)>;

/// Shuts the VM down, and collects what the host has of it.
pub async fn all_places(vm: Appliance, wire: &Wire, told: Metrics) -> Places {
    let Appliance {
        vm: running,
        folder,
        seen,
        ..
    } = vm;
    running.shutdown().await.unwrap();
    gather(&folder, &seen, wire, told)
}

/// Collects what the host has of a VM that has ended.
pub fn gather(folder: &Path, seen: &Seen, wire: &Wire, told: Metrics) -> Places {
    let mut places = vec![
        ("the wire".to_owned(), wire.bytes()),
        ("news".to_owned(), seen.all().into_bytes()),
        ("counters".to_owned(), format!("{told:?}").into_bytes()),
    ];
    for file in files(folder) {
        let bytes = std::fs::read(&file).unwrap();
        places.push((file.display().to_string(), bytes));
    }
    places
}

/// Returns the names of the places that contain a text.
pub fn found<'a>(places: &'a Places, needle: &str) -> Vec<&'a str> {
    let holds = |bytes: &[u8]| bytes.windows(needle.len()).any(|w| w == needle.as_bytes());
    let places = places.iter().filter(|(_, bytes)| holds(bytes));
    places.map(|(name, _)| name.as_str()).collect()
}

/// Asserts that neither the canary nor any encoding of it is found.
pub fn is_in_none_of(places: &Places, canary: &str) {
    for text in spellings(canary) {
        assert_eq!(
            found(places, &text),
            Vec::<&str>::new(),
            "{text:?} was found"
        );
    }
}

/// Sends a request, and returns head and chunks of the answer, up to the last chunk.
pub async fn streamed_answer(connection: &mut Connection, path: &str, body: &str) -> String {
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: cocoon\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let stream = &mut connection.0;
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(body.as_bytes()).await.unwrap();
    stream.flush().await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"0\r\n\r\n") {
        assert_ne!(stream.read_buf(&mut answer).await.unwrap(), 0, "cut short");
    }
    String::from_utf8(answer).unwrap()
}

/// Returns the canary as it is, and in the encodings in which other formats would contain it.
fn spellings(canary: &str) -> Vec<String> {
    let hex: String = canary.bytes().map(|byte| format!("{byte:02x}")).collect();
    let list = format!("{:?}", canary.as_bytes());
    let inside = list.trim_matches(['[', ']']).to_owned();
    let mut all = vec![canary.to_owned(), hex.to_uppercase(), hex, inside];
    // Base64 has three alignments. The first and last characters depend on the neighbouring bytes, so they are left out.
    for before in 0..3 {
        let text = format!("{}{canary}", "x".repeat(before));
        let blob = cocoon_protocol::bytes::Blob(text.into_bytes());
        let text = serde_json::to_value(blob).unwrap();
        let text = text.as_str().unwrap();
        all.push(text[4..text.len() - 4].to_owned());
    }
    all
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.is_file() {
            found.push(path);
        }
    }
    assert!(found.len() > 2, "{found:?}");
    found
}
