//! Tests of connecting: each way of failing has its own error, and no prompt is sent.

use std::time::Duration;

use bytes::Bytes;
use cocoon_measurements::verdict::Class;
use cocoon_protocol::bytes::{Hex, Hex32};
use cocoon_protocol::document::{ATTEST_PATH, DocumentError, Kind, MAX_BOOT_DOCUMENT_LEN};
use cocoon_protocol::pieces::COLLATERAL_PATH;
use http::{Method, StatusCode};
use tokio::net::TcpListener;

use super::double::{Attests, Carries, Double, STEERING, Script, content};
use crate::attested::AttestedConnection;
use crate::certificate::CertificateError;
use crate::error::{ConnectError, Stage, chain};
use crate::upstreams::{UpstreamError, Upstreams};
use crate::verifier::{Deadlines, Verifier};

const CANARY: &str = "the-canary-that-must-not-leave";

/// Connects, and then tries to send a prompt all the same. Returns the error of the first attempt.
pub async fn refused_by(verifier: Verifier, script: Script) -> ConnectError {
    let double = Double::start(script).await;
    let error = verifier
        .connect(&double.address)
        .await
        .expect_err("must be refused");
    let upstreams = Upstreams::new(verifier, vec![double.address.clone()]);
    let sent = upstreams
        .request(
            Method::POST,
            "/v1/chat/completions",
            Bytes::from_static(CANARY.as_bytes()),
        )
        .await;
    assert!(matches!(sent.map(drop), Err(UpstreamError::NoneUsable(errors)) if errors.len() == 1));
    assert!(
        double
            .paths()
            .iter()
            .all(|path| path == ATTEST_PATH || path == COLLATERAL_PATH),
        "only nonces and questions for collateral arrive: {:?}",
        double.paths()
    );
    let canary = |body: &Vec<u8>| {
        body.windows(CANARY.len())
            .any(|window| window == CANARY.as_bytes())
    };
    assert!(
        !double.bodies().iter().any(canary),
        "no byte of the prompt arrives"
    );
    error
}

async fn refused(script: Script) -> ConnectError {
    refused_by(content(), script).await
}

#[tokio::test]
async fn an_honest_appliance_is_accepted_over_its_own_session() {
    let double = Double::start(Script::default()).await;
    let mut connection = content().connect(&double.address).await.unwrap();
    assert_eq!(connection.verdict().class, Class::Confidential);
    // The judge compared the server's exporter with the client's; another connection has another
    // one.
    let other = content().connect(&double.address).await.unwrap();
    let exporter = |one: &AttestedConnection| one.claims().gpu_section_digest;
    assert_ne!(exporter(&connection), exporter(&other));
    assert_eq!(connection.models().await.unwrap().status(), StatusCode::OK);
    assert_eq!(double.paths(), [ATTEST_PATH, ATTEST_PATH, "/v1/models"]);
    assert!(
        double.bodies()[0] != double.bodies()[1],
        "every connection has a nonce of its own"
    );
}

#[tokio::test]
async fn certificates_without_usable_evidence() {
    let certificate = |carries| async move {
        match refused(Script {
            carries,
            ..Script::default()
        })
        .await
        {
            ConnectError::Certificate { source, .. } => source,
            other => panic!("{other}"),
        }
    };
    assert!(matches!(
        certificate(Carries::Nothing).await,
        CertificateError::NoEvidence
    ));
    assert!(matches!(
        certificate(Carries::Uncritical).await,
        CertificateError::NotCritical
    ));
    assert!(matches!(
        certificate(Carries::Twice).await,
        CertificateError::TooLong(_) | CertificateError::Repeated
    ));
    assert!(matches!(
        certificate(Carries::TooMuch).await,
        CertificateError::Document(DocumentError::TooLong {
            found: 16385,
            limit: MAX_BOOT_DOCUMENT_LEN
        })
    ));
    assert!(matches!(
        certificate(Carries::Garbage).await,
        CertificateError::Document(DocumentError::Malformed(_))
    ));
}

/// The names of fields in a server's documents are reported without control characters.
#[tokio::test]
async fn names_in_documents_are_told_without_what_steers() {
    let certificate = Script {
        carries: Carries::Garbage,
        ..Script::default()
    };
    let answer = Script {
        attests: Attests::With(StatusCode::OK, STEERING),
        ..Script::default()
    };
    for script in [certificate, answer] {
        let told = chain(&refused(script).await);
        assert!(told.contains("unknown field `[2JCONFIDENTIAL`"), "{told:?}");
        assert!(!told.contains(char::is_control), "{told:?}");
    }
}

#[tokio::test]
async fn the_document_without_its_key_is_worth_nothing() {
    let other_key = Hex([9; 32]);
    let script = Script {
        carries: Carries::OtherKey,
        ..Script::default()
    };
    assert!(
        matches!(refused(script).await, ConnectError::OtherKey { document, .. } if document == other_key)
    );
    let script = Script {
        attests: Attests::WithOtherKey,
        ..Script::default()
    };
    assert!(
        matches!(refused(script).await, ConnectError::OtherKey { document, .. } if document == other_key)
    );
    let script = Script {
        signs_with_other_key: true,
        ..Script::default()
    };
    assert!(matches!(
        refused(script).await,
        ConnectError::KeyNotHeld { .. }
    ));
}

#[tokio::test]
async fn boot_and_session_documents_do_not_change_places() {
    let script = Script {
        carries: Carries::SessionKind,
        ..Script::default()
    };
    let error = refused(script).await;
    assert!(
        matches!(
            error,
            ConnectError::WrongKind {
                expected: Kind::Boot,
                found: Kind::Session,
                ..
            }
        ),
        "{error}"
    );
    let script = Script {
        attests: Attests::WithBootKind,
        ..Script::default()
    };
    let error = refused(script).await;
    assert!(
        matches!(
            error,
            ConnectError::WrongKind {
                expected: Kind::Session,
                found: Kind::Boot,
                ..
            }
        ),
        "{error}"
    );
}

#[tokio::test]
async fn a_replayed_nonce_is_named() {
    let old = Hex([3; 32]);
    let error = refused(Script {
        attests: Attests::WithNonce(old),
        ..Script::default()
    })
    .await;
    assert!(
        matches!(error, ConnectError::OtherNonce { found, sent, .. } if found == old && sent != Hex32::ZERO)
    );
}

#[tokio::test]
async fn answers_that_are_no_documents() {
    let text = r#"{"error":{"message":"attest\u001b[2J first","type":"invalid_request_error","param":null,"code":null}}"#;
    match refused(Script {
        attests: Attests::With(StatusCode::MISDIRECTED_REQUEST, text),
        ..Script::default()
    })
    .await
    {
        ConnectError::NoEvidence {
            status, message, ..
        } => {
            assert_eq!((status, message.as_str()), (421, "attest[2J first"));
        }
        other => panic!("{other}"),
    }
    let error = refused(Script {
        attests: Attests::With(StatusCode::OK, "nonsense"),
        ..Script::default()
    })
    .await;
    assert!(
        matches!(
            error,
            ConnectError::Document {
                source: DocumentError::Malformed(_),
                ..
            }
        ),
        "{error}"
    );
    let error = refused(Script {
        attests: Attests::WithTooMuch,
        ..Script::default()
    })
    .await;
    assert!(
        matches!(error, ConnectError::DocumentTooLong { .. }),
        "{error}"
    );
    let error = refused(Script {
        attests: Attests::ByHangingUp,
        ..Script::default()
    })
    .await;
    assert!(matches!(error, ConnectError::Broken { .. }), "{error}");
}

fn impatient() -> Verifier {
    let short = Duration::from_millis(200);
    content().with_deadlines(Deadlines {
        reach: short,
        handshake: short,
        attest: short,
    })
}

#[tokio::test]
async fn silence_ends_at_a_deadline() {
    let patient_handshake = Deadlines {
        attest: Duration::from_millis(200),
        ..Deadlines::default()
    };
    let script = Script {
        attests: Attests::ByHanging,
        ..Script::default()
    };
    let error = refused_by(content().with_deadlines(patient_handshake), script).await;
    assert!(
        matches!(
            error,
            ConnectError::Deadline {
                stage: Stage::Attest,
                ..
            }
        ),
        "{error}"
    );

    // Accepts TCP connections into its queue and never sends anything.
    let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("https://{}", mute.local_addr().unwrap())
        .parse()
        .unwrap();
    let error = impatient()
        .connect(&address)
        .await
        .expect_err("nobody answers");
    assert!(
        matches!(
            error,
            ConnectError::Deadline {
                stage: Stage::Handshake,
                ..
            }
        ),
        "{error}"
    );
}

#[tokio::test]
async fn nobody_there_and_no_tls_there() {
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("https://{}", gone.local_addr().unwrap())
        .parse()
        .unwrap();
    drop(gone);
    let error = content()
        .connect(&address)
        .await
        .expect_err("nobody is there");
    assert!(
        matches!(error, ConnectError::Unreachable { .. }) && !error.is_rejection(),
        "{error}"
    );

    let babbler = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("https://{}", babbler.local_addr().unwrap())
        .parse()
        .unwrap();
    tokio::spawn(async move {
        let (mut tcp, _) = babbler.accept().await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut tcp, b"SSH-2.0-something\r\n")
            .await
            .unwrap();
    });
    let error = content()
        .connect(&address)
        .await
        .expect_err("that is no TLS");
    assert!(matches!(error, ConnectError::Handshake { .. }), "{error}");
}
