//! Tests of what verdicts lead to: refusal, fail-over, reuse of connections.

use std::time::Duration;

use bytes::Bytes;
use cocoon_measurements::verdict::Class;
use cocoon_protocol::document::ATTEST_PATH;
use http::{Method, StatusCode};
use http_body_util::BodyExt;

use super::connecting::refused_by;
use super::double::{Attests, Carries, Double, Script, content, verifier};
use super::serving::{CHAT, error, local};
use crate::error::{ConnectError, Stage};
use crate::moment::{set_back, slept};
use crate::trust::KnownHost;
use crate::upstreams::Upstreams;

#[tokio::test]
async fn verdicts_decide() {
    let error = refused_by(
        verifier(Class::Rejected, Class::Confidential, true),
        Script::default(),
    )
    .await;
    assert!(
        matches!(
            &error,
            ConnectError::Rejected {
                stage: Stage::Handshake,
                ..
            }
        ) && error.is_rejection(),
        "{error}"
    );
    let error = refused_by(
        verifier(Class::Confidential, Class::Rejected, true),
        Script::default(),
    )
    .await;
    assert!(
        matches!(
            &error,
            ConnectError::Rejected {
                stage: Stage::Attest,
                ..
            }
        ),
        "{error}"
    );
    assert_eq!(error.verdict().unwrap().class, Class::Rejected);
    // Simulated evidence is accepted only if a development root was named.
    let error = refused_by(
        verifier(Class::Simulated, Class::Simulated, false),
        Script::default(),
    )
    .await;
    assert!(
        matches!(
            &error,
            ConnectError::Rejected {
                stage: Stage::Attest,
                ..
            }
        ),
        "{error}"
    );
    let double = Double::start(Script::default()).await;
    let simulated = verifier(Class::Simulated, Class::Simulated, true);
    assert_eq!(
        simulated
            .connect(&double.address)
            .await
            .unwrap()
            .verdict()
            .class,
        Class::Simulated
    );

    // It is never accepted where a confidential appliance was seen before.
    let known = [(double.address.authority(), KnownHost { release: 0 })].into();
    let error = simulated
        .with_known_hosts(known)
        .connect(&double.address)
        .await
        .expect_err("a downgrade");
    assert!(
        matches!(&error, ConnectError::Downgrade { found, .. } if found == "simulated"),
        "{error}"
    );
    let known = [(double.address.authority(), KnownHost { release: 1 })].into();
    let error = content()
        .with_known_hosts(known)
        .connect(&double.address)
        .await
        .expect_err("a rollback");
    assert!(
        matches!(&error, ConnectError::Downgrade { found, .. } if found == "of release 0"),
        "{error}"
    );
}

#[tokio::test]
async fn the_next_appliance_takes_over_and_connections_are_reused() {
    let liar = Double::start(Script {
        carries: Carries::OtherKey,
        ..Script::default()
    })
    .await;
    let honest = Double::start(Script::default()).await;
    let upstreams = Upstreams::new(
        content(),
        vec![liar.address.clone(), honest.address.clone()],
    );
    for _ in 0..3 {
        let answer = upstreams
            .request(Method::GET, "/v1/models", Bytes::new())
            .await
            .unwrap();
        assert_eq!(
            answer.body().connection().unwrap().address(),
            &honest.address
        );
        answer.into_body().collect().await.unwrap();
    }
    assert_eq!(liar.paths(), Vec::<String>::new());
    assert_eq!(
        honest.paths(),
        [ATTEST_PATH, "/v1/models", "/v1/models", "/v1/models"]
    );
}

/// The guest closes connections that are idle for two minutes; users must not notice.
#[tokio::test]
async fn a_closed_idle_connection_gives_way_to_one_attested_anew() {
    let double = Double::start(Script::default()).await;
    let upstreams = Upstreams::new(content(), vec![double.address.clone()]);
    let ask = async || {
        let request = upstreams.request(Method::GET, "/v1/models", Bytes::new());
        let answer = request.await.unwrap().into_body();
        answer.collect().await.unwrap();
    };
    ask().await;
    double.cut().await;
    ask().await;
    let attested_and_asked = [ATTEST_PATH, "/v1/models"];
    assert_eq!(double.paths(), attested_and_asked.repeat(2));

    // Idle connections are dropped before these two minutes, so that a request does not meet the
    // closing.
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(101)).await;
    tokio::time::resume();
    ask().await;
    assert_eq!(double.paths(), attested_and_asked.repeat(3));
    // The machine slept for so long, or its clock was set back to before the connection was idle.
    slept(Duration::from_secs(101));
    ask().await;
    assert_eq!(double.paths(), attested_and_asked.repeat(4));
    set_back(Duration::from_secs(1));
    ask().await;
    assert_eq!(double.paths(), attested_and_asked.repeat(5));
}

/// An appliance that is too busy to present evidence is not rejected.
#[test]
fn busy_is_not_rejected() {
    for (status, rejected) in [(429, false), (503, false), (421, true), (500, true)] {
        let address = || "https://a.example".parse().unwrap();
        let message = String::new;
        let errors = [
            ConnectError::NoEvidence {
                address: address(),
                status,
                message: message(),
            },
            ConnectError::NoCollateral {
                address: address(),
                status,
                message: message(),
            },
        ];
        for error in errors {
            assert_eq!(error.is_rejection(), rejected, "{error}");
        }
    }
}

/// Applications are told that the appliance was reached but cannot be used now.
#[tokio::test]
async fn busy_is_a_502_until_it_is_over() {
    let busy = r#"{"error":{"message":"busy","type":"server_error","param":null,"code":null}}"#;
    let double = Double::start(Script {
        attests: Attests::With(StatusCode::SERVICE_UNAVAILABLE, busy),
        ..Script::default()
    })
    .await;
    let local = local(content(), &[&double]).await;
    let (status, code, message) = error(local.chat(CHAT).await).await;
    assert_eq!((status, code.as_str()), (502, "no_appliance_usable"));
    assert!(message.ends_with("no prompt was sent"), "{message}");
}
