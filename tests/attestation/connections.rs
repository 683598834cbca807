//! Attested connections (SPEC.md §4) between the real guest and the real client, and what each side refuses.

use std::collections::BTreeSet;

use cocoon_client::{Address, ConnectError, Stage, UpstreamError, Upstreams, Verifier, chain};
use cocoon_guest_agent::engine::EngineState;
use cocoon_measurements::appraise::{Presented, appraise};
use cocoon_measurements::policy::Policy;
use cocoon_measurements::verdict::{Class, Verdict};
use cocoon_protocol::binding::{self, Freshness, Tee};
use cocoon_protocol::bytes::{Hex, Hex32};
use cocoon_protocol::document::{ATTEST_PATH, AttestRequest, Document, MAX_DOCUMENT_LEN};
use cocoon_protocol::openai::ErrorBody;
use cocoon_protocol::pieces::{COLLATERAL_PATH, Pieces, PiecesRequest};
use hyper::Method;
use hyper::body::Bytes;
use rustls::{HandshakeKind, NamedGroup, ProtocolVersion};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::guest::{CURRENT, Guest, TODAY, machine, verifier};
use crate::hello::{extensions, tls12};
use crate::machine::{accepted, policy, refused};
use crate::rogue::{Rogue, Script, certificate, evidence, key, spki_sha256};
use crate::stranger::{Connection, DEADLINE, Stranger};

const CANARY: &str = "the-canary-that-must-not-leave";
const EXPORTER: &str = "exporter mismatch: nonce and claims fit, so the evidence was made in another TLS session than this one \
     (or for a changed meter key, or for a batch whose path was left out): the connection is relayed by someone who holds \
     the guest's key, or an old document was given this session's nonce";

fn attest(nonce: Hex32) -> String {
    serde_json::to_string(&AttestRequest { nonce }).unwrap()
}

pub async fn attested(connection: &mut Connection, nonce: Hex32) -> Document {
    let (status, body) = connection.ask("POST", ATTEST_PATH, &attest(nonce)).await;
    assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
    Document::parse(&body, MAX_DOCUMENT_LEN).unwrap()
}

/// Requests the pieces of collateral that a document names, on the document's connection.
pub async fn pieces(connection: &mut Connection, document: &Document) -> Pieces {
    let names = document.names();
    let question = serde_json::to_string(&PiecesRequest {
        pieces: names.clone(),
    });
    let question = question.unwrap();
    let (status, answer) = connection.ask("POST", COLLATERAL_PATH, &question).await;
    assert_eq!(status, 200, "{}", String::from_utf8_lossy(&answer));
    Pieces::decode(&answer, &names).unwrap()
}

/// Requests a document with its collateral.
async fn whole(connection: &mut Connection, nonce: Hex32) -> Document {
    let mut document = attested(connection, nonce).await;
    let pieces = pieces(connection, &document).await;
    document.fill(&pieces).unwrap();
    document
}

#[tokio::test]
async fn cocoon_tls_1() {
    let guest = Guest::start(Tee::SevSnp).await;
    // A client that would resume a session if the guest gave it a ticket.
    let stranger = Stranger::new();
    for _ in 0..2 {
        let mut connection = stranger.connect(guest.socket).await;
        attested(&mut connection, Hex([1; 32])).await;
        let session = connection.0.get_mut().1;
        assert_eq!(session.protocol_version(), Some(ProtocolVersion::TLSv1_3));
        assert_eq!(session.handshake_kind(), Some(HandshakeKind::Full));
        assert_eq!(session.tls13_tickets_received(), 0);
        assert!(session.early_data().is_none());
        let group = session.negotiated_key_exchange_group().unwrap().name();
        assert_eq!(group, NamedGroup::X25519MLKEM768);
    }
    // A client of TLS 1.2 at most receives the fatal alert 70, protocol_version.
    let mut tcp = TcpStream::connect(guest.socket).await.unwrap();
    tcp.write_all(&tls12()).await.unwrap();
    let mut alert = [0; 7];
    timeout(DEADLINE, tcp.read_exact(&mut alert))
        .await
        .unwrap()
        .unwrap();
    assert_eq!((alert[0], &alert[3..]), (21, &[0, 2, 2, 70][..]));

    // The client offers only TLS 1.3, and neither a session to resume nor early data.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address: Address = format!("https://{}", listener.local_addr().unwrap())
        .parse()
        .unwrap();
    let client = tokio::spawn(async move { verifier().connect(&address).await });
    let (mut tcp, _) = listener.accept().await.unwrap();
    let offered = extensions(&mut tcp).await;
    drop(tcp);
    let versions = offered.iter().find(|(kind, _)| *kind == 43).unwrap();
    assert_eq!(versions.1, [2, 3, 4], "TLS 1.3 and nothing else");
    for forbidden in [41, 42, 35] {
        let found = offered.iter().any(|(kind, _)| *kind == forbidden);
        assert!(!found, "pre_shared_key, early_data, session_ticket");
    }
    assert!(matches!(
        client.await.unwrap(),
        Err(ConnectError::Handshake { .. })
    ));

    // The client does not use a ticket that a server gave it.
    let rogue = honest_rogue(|_, document| document).await;
    let verifier = verifier();
    for _ in 0..2 {
        let mut connection = verifier.connect(&rogue.address).await.unwrap();
        connection.models().await.unwrap();
    }
    assert_eq!(
        rogue.seen(|seen| seen.handshakes.clone()),
        [HandshakeKind::Full, HandshakeKind::Full]
    );
}

#[tokio::test]
async fn cocoon_attest_1() {
    let guest = Guest::start(Tee::SevSnp).await;
    let stranger = Stranger::new();
    for (method, path, body) in [
        ("GET", "/healthz", ""),
        ("GET", "/v1/models", ""),
        ("POST", "/v1/chat/completions", "{}"),
        ("GET", ATTEST_PATH, ""),
        ("POST", "/", ""),
    ] {
        let mut connection = stranger.connect(guest.socket).await;
        let (status, body) = connection.ask(method, path, body).await;
        let error = serde_json::from_slice::<ErrorBody>(&body).unwrap().error;
        assert_eq!(
            (status, error.code.as_deref(), error.message.as_str()),
            (
                421,
                Some("attestation_required"),
                "The first request on every connection must be POST /.well-known/cocoon/attest with a nonce: use a client that verifies this machine."
            ),
            "{method} {path}"
        );
    }
    // A failed attestation exchange does not count.
    let mut connection = stranger.connect(guest.socket).await;
    assert_eq!(connection.ask("POST", ATTEST_PATH, "{}").await.0, 400);
    assert_eq!(connection.ask("GET", "/v1/models", "").await.0, 421);
    attested(&mut connection, Hex([1; 32])).await;
    assert_ne!(connection.ask("GET", "/v1/models", "").await.0, 421);
    // The exchange counts only for its own connection.
    let mut other = stranger.connect(guest.socket).await;
    assert_eq!(other.ask("GET", "/v1/models", "").await.0, 421);
}

#[tokio::test]
async fn cocoon_attest_2() {
    // The guest takes the exporter from the connection on which it received the nonce.
    for tee in [Tee::Tdx, Tee::SevSnp] {
        let guest = Guest::start(tee).await;
        let stranger = Stranger::new();
        let (mut one, mut two) = (
            stranger.connect(guest.socket).await,
            stranger.connect(guest.socket).await,
        );
        let nonce = Hex([5; 32]);
        let (first, second) = (whole(&mut one, nonce).await, whole(&mut two, nonce).await);
        let judged = |document: &Document, connection: &Connection| -> Verdict {
            let presented = Presented {
                document,
                leaf_spki_sha256: guest.claims.leaf_spki_sha256,
                fresh: Some(Freshness {
                    nonce,
                    exporter: connection.exporter(),
                }),
                handshake_gpus: None,
            };
            appraise(&presented, &CURRENT, &policy(), *TODAY)
        };
        accepted(&judged(&first, &one));
        accepted(&judged(&second, &two));
        refused(
            &judged(&second, &one),
            &[("evidence.report_data", EXPORTER)],
        );
    }

    // The client uses a fresh nonce for every connection.
    let rogue = honest_rogue(|_, document| document).await;
    let verifier = verifier();
    for _ in 0..8 {
        verifier.connect(&rogue.address).await.unwrap();
    }
    let nonces: BTreeSet<Hex32> = rogue.seen(|seen| {
        let bodies = seen.requests.iter().map(|(_, body)| body);
        bodies
            .map(|body| serde_json::from_slice::<AttestRequest>(body).unwrap().nonce)
            .collect()
    });
    assert_eq!(nonces.len(), 8);
    for nonce in nonces {
        let distinct: BTreeSet<u8> = nonce.0.into();
        assert!(distinct.len() > 8, "{nonce} is not random");
    }
}

/// Starts a server with good evidence whose answers `edit` may change, like an attacker between client and guest.
async fn honest_rogue(edit: fn(Freshness, Document) -> Document) -> Rogue {
    let own = key(7);
    let vm = machine(Tee::SevSnp, spki_sha256(&own));
    let boot = vm.boot_document().to_json();
    Rogue::start(Script {
        certificate: certificate(&own, vec![evidence(true, &boot)]),
        key: own,
        answer: Box::new(move |fresh| {
            let document = Document {
                nonce: fresh.nonce,
                evidence: vm.evidence(&binding::session(&vm.claims, &fresh)),
                ..vm.document()
            };
            edit(fresh, document).to_json()
        }),
    })
    .await
}

/// Tries to send a prompt to `rogue`. Asserts that only nonces arrive there, and returns the client's error.
pub async fn keeps_its_prompt(verifier: Verifier, rogue: &Rogue) -> ConnectError {
    let upstreams = Upstreams::new(verifier, vec![rogue.address.clone()]);
    let body = Bytes::from_static(CANARY.as_bytes());
    let sent = upstreams
        .request(Method::POST, "/v1/chat/completions", body)
        .await;
    let mut errors = match sent.map(drop) {
        Err(UpstreamError::NoneUsable(errors)) => errors,
        other => panic!("{other:?}"),
    };
    rogue.seen(|seen| {
        for (path, body) in &seen.requests {
            assert_eq!(path, ATTEST_PATH);
            assert!(serde_json::from_slice::<AttestRequest>(body).is_ok());
        }
    });
    assert_eq!(errors.len(), 1);
    errors.remove(0)
}

/// Asserts that the verdict refused at this stage, for exactly these reasons.
#[track_caller]
pub fn rejected(error: &ConnectError, at: Stage, expected: &[(&str, &str)]) {
    let ConnectError::Rejected { stage, verdict, .. } = error else {
        panic!("{}", chain(error))
    };
    assert_eq!(*stage, at);
    refused(verdict, expected);
}

#[tokio::test]
async fn cocoon_attest_3() {
    // An honest server receives the prompt, so the refusals below are not due to a client that never sends one.
    let honest = honest_rogue(|_, document| document).await;
    let upstreams = Upstreams::new(verifier(), vec![honest.address.clone()]);
    let body = Bytes::from_static(CANARY.as_bytes());
    let answer = upstreams
        .request(Method::POST, "/v1/chat/completions", body)
        .await;
    assert!(answer.is_ok());
    honest.seen(|seen| {
        let paths: Vec<_> = seen
            .requests
            .iter()
            .map(|(path, _)| path.as_str())
            .collect();
        assert_eq!(paths, [ATTEST_PATH, "/v1/chat/completions"]);
        assert_eq!(seen.requests[1].1, CANARY.as_bytes());
    });

    // Evidence of another TLS session with the same key.
    let relayed = honest_rogue(|fresh, document| {
        let elsewhere = Freshness {
            exporter: Hex([9; 32]),
            ..fresh
        };
        let vm = machine(Tee::SevSnp, document.claims.leaf_spki_sha256);
        let evidence = vm.evidence(&binding::session(&document.claims, &elsewhere));
        Document {
            evidence,
            ..document
        }
    })
    .await;
    let error = keeps_its_prompt(verifier(), &relayed).await;
    rejected(&error, Stage::Attest, &[("evidence.report_data", EXPORTER)]);

    // Boot evidence as the answer.
    let boot = honest_rogue(|_, document| {
        let vm = machine(Tee::SevSnp, document.claims.leaf_spki_sha256);
        let evidence = vm.evidence(&binding::boot(&document.claims));
        Document {
            evidence,
            ..document
        }
    })
    .await;
    let error = keeps_its_prompt(verifier(), &boot).await;
    rejected(
        &error,
        Stage::Attest,
        &[(
            "evidence.report_data",
            "the evidence is that of the boot, shown as if it were of this session",
        )],
    );

    // Endorsements removed on the way.
    let stripped = honest_rogue(|_, document| Document {
        collateral: None,
        ..document
    })
    .await;
    let error = keeps_its_prompt(verifier(), &stripped).await;
    rejected(
        &error,
        Stage::Attest,
        &[(
            "evidence.collateral",
            "no revocation list of AMD was presented: a revoked processor could not be told from a good one",
        )],
    );

    // An old answer.
    let replayed = honest_rogue(|_, document| Document {
        nonce: Hex([3; 32]),
        ..document
    })
    .await;
    let error = keeps_its_prompt(verifier(), &replayed).await;
    let sent = replayed.seen(|seen| serde_json::from_slice::<AttestRequest>(&seen.requests[0].1));
    assert_eq!(
        chain(&error),
        format!(
            "{} answers nonce {} instead of {}: the document is a replay",
            replayed.address,
            Hex([3; 32]),
            sent.unwrap().nonce
        )
    );
}

/// A client whose policy names no development root refuses the real guest on simulated hardware, with a reason specific
/// to the TEE, and requests nothing but evidence.
#[tokio::test]
async fn simulated_guests_are_refused_without_their_root() {
    let strict = || Verifier::new(CURRENT.clone(), Policy::default());
    let connect = async |tee| {
        let guest = Guest::start(tee).await;
        let error = strict().connect(&guest.address).await.expect_err("refused");
        assert_eq!(guest.counters.metrics(&EngineState::default()).requests, 0);
        error
    };
    rejected(
        &connect(Tee::Tdx).await,
        Stage::Attest,
        &[(
            "evidence.root",
            "development root not named: this TDX quote comes from simulated hardware, and no development root for it was named",
        )],
    );
    // SNP's boot evidence includes its certificates, so it is refused during the handshake.
    rejected(
        &connect(Tee::SevSnp).await,
        Stage::Handshake,
        &[(
            "evidence.root",
            "development root not named: this SEV-SNP report comes from simulated hardware, and no development root for it was named",
        )],
    );
    let guest = Guest::start(Tee::Tdx).await;
    let connection = verifier().connect(&guest.address).await.unwrap();
    assert_eq!(connection.verdict().class, Class::Simulated);
}
