//! What verdicts lead to: refusal, fail-over, reuse.

use std::time::Duration;

use bytes::Bytes;
use cocoon_measurements::verdict::Class;
use cocoon_protocol::document::ATTEST_PATH;
use http::Method;
use http_body_util::BodyExt;

use super::connecting::refused_by;
use super::double::{Carries, Double, Script, content, verifier};
use crate::error::{ConnectError, Stage};
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
    // Simulated counts only for those who named a development root.
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

    // And never where the real thing was before.
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

/// Guests close connections that are idle for two minutes: nobody should notice.
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

    // Before the two minutes are over, so that request and closing do not meet.
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(101)).await;
    tokio::time::resume();
    ask().await;
    assert_eq!(double.paths(), attested_and_asked.repeat(3));
}
