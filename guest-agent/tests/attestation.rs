//! Tests that a connection gets nothing before evidence, and that evidence is bound to the connection.

mod common;

use cocoon_guest_agent::api::Limits;
use cocoon_guest_agent::attester;
use cocoon_guest_agent::engine::EngineState;
use cocoon_guest_agent::keys::Keys;
use cocoon_guest_agent::tls::AttestedListener;
use cocoon_protocol::binding::{self, Freshness};
use cocoon_protocol::bytes::{Hex, Hex32};
use cocoon_protocol::document::{
    ATTEST_PATH, Document, EVIDENCE_OID, Evidence, Kind, MAX_BOOT_DOCUMENT_LEN,
};
use common::client::{read, refusal};
use common::{Client, FakeEngine, FakeTee, identity, machine};
use rustls::NamedGroup;
use x509_cert::der::Decode as _;

const UNATTESTED: &str = "The first request on every connection must be POST /.well-known/cocoon/attest with a nonce: use a client that verifies this machine.";

#[tokio::test]
async fn any_other_first_request_is_misdirected() {
    let machine = machine(FakeEngine::new().0, 1, Limits::default()).await;
    for (method, path) in [
        ("GET", "/healthz"),
        ("GET", "/v1/models"),
        ("POST", "/v1/chat/completions"),
        ("GET", ATTEST_PATH),
        ("GET", "/nowhere"),
    ] {
        let mut client = Client::connect(machine.address).await;
        let (status, param, code, message) = refusal(client.send(method, path, "{}").await).await;
        assert_eq!(
            (status, code.as_deref()),
            (421, Some("attestation_required")),
            "{method} {path}"
        );
        assert_eq!((param, message.as_str()), (None, UNATTESTED));
    }
    assert_eq!(
        machine.counters.metrics(&EngineState::default()).requests,
        0
    );
}

#[tokio::test]
async fn session_evidence_commits_to_nonce_and_connection() {
    let machine = machine(FakeEngine::new().0, 1, Limits::default()).await;
    let mut client = Client::connect(machine.address).await;
    assert_eq!(client.group, NamedGroup::X25519MLKEM768);
    let nonce = Hex([9; 32]);
    let document = client.attest(nonce).await;
    assert_eq!((document.kind, document.nonce), (Kind::Session, nonce));
    assert_eq!(document.claims, machine.identity.claims);
    let bytes = binding::session(
        &document.claims,
        &Freshness {
            nonce,
            exporter: client.exporter,
        },
    );
    let Evidence::Tdx { quote, event_log } = &document.evidence else {
        panic!("not TDX")
    };
    assert_eq!(quote.0[568..632], binding::report_data(&bytes).0);
    assert_eq!(event_log.0, [1, 2, 3]);

    let mut other = Client::connect(machine.address).await;
    assert_ne!(other.exporter, client.exporter);
    assert_ne!(other.attest(nonce).await.evidence, document.evidence);
    // Evidence for one connection has no effect on another.
    let mut third = Client::connect(machine.address).await;
    assert_eq!(
        refusal(third.send("GET", "/v1/models", "").await).await.0,
        421
    );
}

#[tokio::test]
async fn certificate_carries_the_boot_document() {
    let machine = machine(FakeEngine::new().0, 1, Limits::default()).await;
    let client = Client::connect(machine.address).await;
    let certificate = x509_cert::Certificate::from_der(&client.certificate)
        .unwrap()
        .tbs_certificate;
    let extensions = certificate.extensions.unwrap();
    assert_eq!(extensions.len(), 1);
    assert_eq!(
        (
            extensions[0].extn_id.to_string().as_str(),
            extensions[0].critical
        ),
        (EVIDENCE_OID, true)
    );
    let document =
        Document::parse(extensions[0].extn_value.as_bytes(), MAX_BOOT_DOCUMENT_LEN).unwrap();
    assert_eq!(
        (document.kind, document.nonce, document.collateral.is_some()),
        (Kind::Boot, Hex32::ZERO, false)
    );
    let Evidence::Tdx { quote, event_log } = &document.evidence else {
        panic!("not TDX")
    };
    assert_eq!(
        quote.0[568..632],
        binding::report_data(&binding::boot(&document.claims)).0
    );
    assert!(event_log.0.is_empty());
    use x509_cert::der::Encode as _;
    let spki = certificate.subject_public_key_info.to_der().unwrap();
    assert_eq!(document.claims.leaf_spki_sha256, Hex32::sha256(&spki));
    assert_eq!(
        certificate.validity.not_before.to_unix_duration().as_secs(),
        0
    );
}

#[tokio::test]
async fn bad_nonces_and_too_many_attempts_cost_no_evidence() {
    let limits = Limits {
        attestations: 3,
        ..Limits::default()
    };
    let machine = machine(FakeEngine::new().0, 1, limits).await;
    let mut client = Client::connect(machine.address).await;
    let calls = machine.tee.calls.load(std::sync::atomic::Ordering::Relaxed);
    for body in [
        "",
        "{\"nonce\":\"00\"}",
        "{\"nonce\":\"zz\",\"prompt\":\"secret\"}",
    ] {
        let (status, param, _, message) =
            refusal(client.send("POST", ATTEST_PATH, body).await).await;
        assert_eq!((status, param.as_deref()), (400, Some("nonce")));
        assert_eq!(
            message,
            "The body must be {\"nonce\": 64 hexadecimal digits}."
        );
    }
    let response = client.send("POST", ATTEST_PATH, "").await;
    assert_eq!(response.headers()["retry-after"], "1");
    let (status, _, code, message) = refusal(response).await;
    assert_eq!(
        (status, code.as_deref()),
        (429, Some("rate_limit_exceeded"))
    );
    assert_eq!(
        message,
        "This connection has attested too often: open another."
    );
    assert_eq!(
        machine.tee.calls.load(std::sync::atomic::Ordering::Relaxed),
        calls
    );

    let mut client = Client::connect(machine.address).await;
    let (status, body) = read(client.send("POST", ATTEST_PATH, &"x".repeat(4097)).await).await;
    assert_eq!(status.as_u16(), 413, "{}", String::from_utf8_lossy(&body));
}

#[tokio::test]
async fn evidence_over_another_key_opens_no_port() {
    let tee = FakeTee::new();
    let (keys, others) = (Keys::generate().unwrap(), Keys::generate().unwrap());
    let boot = attester::boot(&tee, &identity(&others, &tee.config)).unwrap();
    let error = AttestedListener::bind(([127, 0, 0, 1], 0).into(), &keys, &boot)
        .await
        .err()
        .unwrap();
    assert_eq!(
        error.to_string(),
        "boot evidence commits to another TLS key"
    );
    // Neither does evidence of a launch that measured another configuration.
    let error = attester::boot(&tee, &identity(&keys, b"another"))
        .err()
        .unwrap();
    assert_eq!(
        error.to_string(),
        "the host's configuration is not the one that the launch measured"
    );
}

#[tokio::test]
async fn port_in_use_is_told() {
    let tee = FakeTee::new();
    let keys = Keys::generate().unwrap();
    let boot = attester::boot(&tee, &identity(&keys, &tee.config)).unwrap();
    let first = AttestedListener::bind(([127, 0, 0, 1], 0).into(), &keys, &boot)
        .await
        .unwrap();
    let address = first.local_address().unwrap();
    let error = AttestedListener::bind(address, &keys, &boot)
        .await
        .err()
        .unwrap();
    assert_eq!(error.to_string(), format!("cannot listen on {address}"));
}
