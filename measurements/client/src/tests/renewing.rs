//! Tests of the renewal of settings while a program runs, and of the memory of appliances.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use cocoon_measurements::appraise::Presented;
use cocoon_measurements::verdict::Class;
use cocoon_protocol::document::ATTEST_PATH;
use http::Method;
use http_body_util::BodyExt;

use super::double::{Double, Judges, Script, content, said, verifier};
use crate::address::Address;
use crate::beliefs::{Beliefs, CALM, SOON, Source};
use crate::chat::{Appliance, ChatOptions, Conversation};
use crate::error::ConnectError;
use crate::judge::{Judge, Judgement};
use crate::moment::slept;
use crate::upstreams::{UpstreamError, Upstreams};
use crate::verifier::Verifier;

/// A source that, once `renewed` is set, returns a new verifier each time that accepts every
/// appliance.
#[derive(Default)]
struct Written {
    renewed: AtomicBool,
    read: AtomicUsize,
    accepted: Mutex<Vec<(Address, Class)>>,
}

impl Source for Written {
    fn read(&self, _: &Verifier) -> Option<Verifier> {
        self.read.fetch_add(1, Ordering::SeqCst);
        self.renewed.load(Ordering::SeqCst).then(content)
    }

    fn accepted(&self, appliance: &Address, class: Class) {
        let mut accepted = self.accepted.lock().unwrap();
        accepted.push((appliance.clone(), class));
    }
}

/// Returns a verifier that refuses every manifest.
fn outdated() -> Verifier {
    verifier(Class::Simulated, Class::Rejected, false)
}

async fn asked(upstreams: &Upstreams) -> Result<(), UpstreamError> {
    let request = upstreams.request(Method::GET, "/v1/models", Bytes::new());
    request.await?.into_body().collect().await.unwrap();
    Ok(())
}

#[tokio::test]
async fn a_refused_manifest_is_read_again_and_once_a_minute_at_most() {
    let double = Double::start(Script::default()).await;
    let source = Arc::new(Written::default());
    let beliefs = Beliefs::renewed(outdated(), source.clone());
    let upstreams = Upstreams::under(beliefs, vec![double.address.clone()]);
    let read = || source.read.load(Ordering::SeqCst);
    for (later, times) in [
        (Duration::ZERO, 0),
        (SOON, 1),
        (Duration::ZERO, 1),
        (SOON - Duration::from_secs(1), 1),
        (Duration::from_secs(1), 2),
    ] {
        slept(later);
        let error = asked(&upstreams).await.expect_err("nothing is renewed");
        assert!(error.is_rejection(), "{error}");
        assert_eq!(read(), times);
    }
    assert_eq!(*source.accepted.lock().unwrap(), []);

    source.renewed.store(true, Ordering::SeqCst);
    slept(SOON);
    asked(&upstreams).await.unwrap();
    assert_eq!(read(), 3);
    let accepted = (double.address.clone(), Class::Confidential);
    assert_eq!(*source.accepted.lock().unwrap(), [accepted]);
}

/// A connection that was accepted under older settings is not used any more after a renewal.
#[tokio::test]
async fn everything_is_read_again_after_a_while() {
    let double = Double::start(Script::default()).await;
    let source = Arc::new(Written::default());
    let beliefs = Beliefs::renewed(content(), source.clone());
    let upstreams = Upstreams::under(beliefs, vec![double.address.clone()]);
    let attested = || {
        let paths = double.paths();
        paths.iter().filter(|path| *path == ATTEST_PATH).count()
    };
    for (again, renewed, (read, connections)) in [
        (false, false, (0, 1)),
        (false, true, (0, 1)),
        (true, true, (1, 2)),
        (false, true, (1, 2)),
    ] {
        source.renewed.store(renewed, Ordering::SeqCst);
        if again {
            slept(CALM);
        }
        asked(&upstreams).await.unwrap();
        assert_eq!(source.read.load(Ordering::SeqCst), read);
        assert_eq!(attested(), connections);
    }
}

/// The same for a connection that was idle for only one second.
#[tokio::test]
async fn idle_connections_end_with_what_they_were_accepted_under() {
    let double = Double::start(Script::default()).await;
    let source = Arc::new(Written::default());
    let beliefs = Beliefs::renewed(content(), source.clone());
    let upstreams = Upstreams::under(beliefs, vec![double.address.clone()]);
    slept(CALM - Duration::from_secs(1));
    asked(&upstreams).await.unwrap();
    source.renewed.store(true, Ordering::SeqCst);
    slept(Duration::from_secs(1));
    asked(&upstreams).await.unwrap();
    let asked = [ATTEST_PATH, "/v1/models"];
    assert_eq!(double.paths(), asked.repeat(2));
}

/// Confidential until the flag is set, simulated afterwards.
struct Falling(AtomicBool);

impl Judge for Falling {
    fn judge(&self, presented: &Presented<'_>, now: u64) -> Judgement {
        let session = match self.0.load(Ordering::SeqCst) {
            false => Class::Confidential,
            true => Class::Simulated,
        };
        let boot = Class::Simulated;
        Judges { boot, session }.judge(presented, now)
    }
}

#[tokio::test]
async fn a_downgrade_within_one_run_is_refused() {
    let double = Double::start(Script::default()).await;
    let judge = Arc::new(Falling(AtomicBool::new(false)));
    let verifier = Verifier::with_judge(judge.clone(), true);
    verifier.connect(&double.address).await.unwrap();
    judge.0.store(true, Ordering::SeqCst);
    // The memory is shared by clones and by later verifiers.
    let simulated = self::verifier(Class::Simulated, Class::Simulated, true);
    for later in [verifier.clone(), simulated.remembering(&verifier)] {
        let error = later.connect(&double.address).await.map(drop);
        assert!(
            matches!(error, Err(ConnectError::Downgrade { .. })),
            "{error:?}"
        );
    }
}

#[tokio::test]
async fn another_appliance_is_told_once() {
    let doubles = [
        Double::start(Script::default()).await,
        Double::start(Script::default()).await,
    ];
    let upstreams = Upstreams::new(content(), vec![doubles[0].address.clone()]);
    let mut seen = Vec::new();
    for double in &doubles {
        let connection = content().connect(&double.address).await.unwrap();
        seen.push(Appliance::of(&connection));
    }
    let [first, other] = &seen[..] else {
        panic!("{seen:?}")
    };
    let fallen = Appliance {
        class: Class::Simulated,
        ..other.clone()
    };
    let conversation = Conversation::new(upstreams, ChatOptions::default(), None);
    let mut conversation = conversation.with_shown(first.clone());
    for (appliance, told) in [
        (first, false),
        (other, true),
        (other, false),
        (&fallen, true),
        (&fallen, false),
        (first, true),
    ] {
        assert_eq!(conversation.changes_to(appliance), told);
    }
}

/// The text of a refusal, and whether a newer manifest could help.
#[test]
fn a_refusal_says_what_to_do_about_its_first_reason() {
    let rejected = |edit: fn(&mut cocoon_measurements::verdict::Check)| {
        let mut verdict = said(Class::Rejected).verdict;
        edit(&mut verdict.checks[0]);
        ConnectError::Rejected {
            address: "https://a.example".parse().unwrap(),
            stage: crate::error::Stage::Attest,
            verdict: Box::new(verdict),
            collateral: None,
        }
    };
    let short = rejected(|check| check.advice = Some("get the current one".to_owned()));
    assert!(
        short
            .to_string()
            .ends_with("; what to do: get the current one"),
        "{short}"
    );
    let long = rejected(|check| check.advice = Some("a".repeat(301)));
    assert!(!long.to_string().contains("what to do"), "{long}");
    for (error, about) in [
        (rejected(|check| check.id = "document.manifest"), true),
        (rejected(|check| check.id = "manifest.time"), true),
        (rejected(|_| {}), true),
        (rejected(|check| check.id = "tdx.mrtd"), false),
    ] {
        assert_eq!(error.is_about_the_manifest(), about);
    }
}
