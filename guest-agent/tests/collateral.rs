//! Tests of collateral: the session document names it, and the same connection hands it out, once for each document.

mod common;

use std::sync::Arc;

use cocoon_guest_agent::api::{self, Limits};
use cocoon_guest_agent::attester::Attester;
use cocoon_guest_agent::tee::Tee;
use cocoon_protocol::bytes::{Blob, Hex, Hex32};
use cocoon_protocol::document::{ATTEST_PATH, Collateral};
use cocoon_protocol::pieces::{COLLATERAL_PATH, MAX_PIECES_LEN, Pieces};
use common::client::{read, refusal};
use common::{Client, FakeEngine, Parts, parts};
use hyper::StatusCode;
use tokio::sync::watch;

const ONCE: &str = "Collateral is handed out once for each document, and only what that document names: POST /.well-known/cocoon/attest again.";

fn collateral(json: &[u8]) -> Option<Collateral> {
    Some(Collateral::Tdx {
        json: Blob(json.to_vec()),
    })
}

/// A service whose host hands over the collateral that is sent to the returned sender.
async fn machine(json: &[u8]) -> (std::net::SocketAddr, watch::Sender<Option<Collateral>>) {
    let Parts {
        listener,
        mut service,
        tee,
        identity,
    } = parts(FakeEngine::new().0, 1, Limits::default()).await;
    let (host, stapled) = watch::channel(collateral(json));
    service.attester = Attester::start(tee as Arc<dyn Tee>, identity, stapled);
    let address = listener.local_address().unwrap();
    let (drain, draining) = watch::channel(false);
    tokio::spawn(async move {
        api::serve(listener, service, draining).await;
        drop(drain);
    });
    (address, host)
}

fn question(names: &[Hex32]) -> String {
    serde_json::json!({ "pieces": names }).to_string()
}

/// Collateral is handed out only to a client that got the document that names it, only what it names, and only once.
#[tokio::test]
async fn cocoon_collateral_4() {
    let (address, host) = machine(b"{\"old\":1}").await;
    let [old, new] = [b"{\"old\":1}", b"{\"new\":1}"].map(|json| Hex32::sha256(json));
    let answer = |json: &[u8]| {
        let mut pieces = Pieces::default();
        let name = pieces.insert(json.to_vec());
        pieces.encode(&[name]).unwrap()
    };
    let mut client = Client::connect(address).await;
    let before = client
        .send("POST", COLLATERAL_PATH, &question(&[old]))
        .await;
    assert_eq!(refusal(before).await.0, 421);
    let document = client.attest(Hex([1; 32])).await;
    assert_eq!(
        (document.collateral.as_ref(), document.names()),
        (None, vec![old])
    );

    // Collateral that the host brings in the meantime belongs to the next document.
    host.send_replace(collateral(b"{\"new\":1}"));
    let mut other = Client::connect(address).await;
    assert_eq!(other.attest(Hex([2; 32])).await.names(), [new]);
    let foreign = other.send("POST", COLLATERAL_PATH, &question(&[old])).await;
    let (status, _, code, message) = refusal(foreign).await;
    assert_eq!((status, code.as_deref()), (404, Some("unknown_collateral")));
    assert_eq!(message, ONCE);

    let response = client
        .send("POST", COLLATERAL_PATH, &question(&[old]))
        .await;
    assert_eq!(
        response.headers()["content-type"],
        "application/octet-stream"
    );
    assert_eq!(response.headers()["cache-control"], "no-store");
    let (status, body) = read(response).await;
    assert_eq!(
        (status, &body[..]),
        (StatusCode::OK, &answer(b"{\"old\":1}")[..])
    );
    let again = client
        .send("POST", COLLATERAL_PATH, &question(&[old]))
        .await;
    assert_eq!(refusal(again).await.3, ONCE);
    // The next document of the connection has its own collateral.
    assert_eq!(client.attest(Hex([3; 32])).await.names(), [new]);
    let (status, body) = client.post(COLLATERAL_PATH, &question(&[new])).await;
    assert_eq!(
        (status, &body[..]),
        (StatusCode::OK, &answer(b"{\"new\":1}")[..])
    );
}

#[tokio::test]
async fn questions_that_are_none_cost_nothing() {
    let (address, _host) = machine(b"{}").await;
    let name = Hex32::sha256(b"{}");
    let mut client = Client::attested(address).await;
    let bad = [
        String::new(),
        "{\"pieces\":[\"00\"]}".to_owned(),
        question(&[]),
        question(&[name, name]),
        question(&vec![name; 106]),
    ];
    for body in bad {
        let refused = client.send("POST", COLLATERAL_PATH, &body).await;
        let (status, param, _, message) = refusal(refused).await;
        assert_eq!((status, param.as_deref()), (400, Some("pieces")), "{body}");
        assert_eq!(
            message,
            "The body must be {\"pieces\": [1 to 105 different digests of 64 hexadecimal digits]}."
        );
    }
    let long = client
        .send("POST", COLLATERAL_PATH, &" ".repeat(16 * 1024 + 1))
        .await;
    assert_eq!(refusal(long).await.0, 413);
    let get = client.send("GET", COLLATERAL_PATH, "").await;
    assert_eq!(get.headers()["allow"], "POST");
    assert_eq!(refusal(get).await.0, 405);
    assert_eq!(
        client.post(COLLATERAL_PATH, &question(&[name])).await.0,
        StatusCode::OK
    );
}

#[tokio::test]
async fn more_than_clients_fetch_is_told_and_not_named() {
    let (address, host) = machine(&vec![b' '; MAX_PIECES_LEN]).await;
    let mut client = Client::connect(address).await;
    let nonce = format!("{{\"nonce\":\"{}\"}}", Hex32::ZERO);
    let refused = client.send("POST", ATTEST_PATH, &nonce).await;
    let (status, _, code, message) = refusal(refused).await;
    assert_eq!(
        (status, code.as_deref()),
        (503, Some("collateral_too_large"))
    );
    assert_eq!(
        message,
        "The vendors' answers that this machine's host hands over are larger than clients fetch: its operator has to look after them."
    );
    host.send_replace(None);
    assert_eq!(client.attest(Hex32::ZERO).await.named, None);
}
