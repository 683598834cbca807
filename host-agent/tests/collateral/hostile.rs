//! Every kind of bad answer, with the exact error message. None of them is kept.

use std::time::{Duration, Instant};

use cocoon_host_agent::collateral::Want;
use cocoon_host_agent::text::chain;
use cocoon_measurements::nvidia::simulated::status::{Status, Times};
use serde_json::json;

use super::double::{Double, Reply};
use super::nvidia::{DRIVER_RIM, NOW, filed, needs, policy, responded, scene, times};
use super::{keeper, keeper_in};

fn manifest() -> Want {
    Want::Rim {
        name: DRIVER_RIM.into(),
    }
}

/// Returns the error for a manifest that is answered with `reply`. The service's address is replaced by `URL`.
fn refused(reply: impl Fn() -> Reply + Send + 'static) -> String {
    let double = Double::start(move |_| reply());
    let (_folder, keeper) = keeper(&double, policy(&scene()));
    let error = keeper.fetch(&manifest(), NOW).unwrap_err();
    assert_eq!(keeper.store.get(&manifest()), None);
    let failure = keeper.store.failure(&manifest()).unwrap();
    assert_eq!((failure.at, failure.times), (NOW, 1));
    let text = chain(&error);
    assert_eq!(failure.why, text);
    text.replace(&double.url(), "URL")
}

const AT: &str = "URL/v1/rim/NV_GPU_DRIVER_GH100_550.144.03";
const WRONG: &str = "the reference manifest from NVIDIA is not what it should be";

#[test]
fn a_service_that_refuses_or_sends_elsewhere() {
    assert_eq!(
        refused(|| Reply::Status(429)),
        format!("{AT}: HTTP status 429")
    );
    assert_eq!(
        refused(|| Reply::Status(500)),
        format!("{AT}: HTTP status 500")
    );
    assert_eq!(
        refused(|| Reply::Moved("https://elsewhere.invalid/")),
        format!("{AT}: HTTP status 302")
    );
}

#[test]
fn an_answer_that_breaks_off_or_never_comes() {
    let broken = refused(|| Reply::Truncated(b"{\"rim\":\"".to_vec()));
    assert!(
        broken.starts_with(&format!("{AT}: no answer; ")),
        "{broken}"
    );
    let double = Double::start(|_| Reply::Silence);
    let folder = tempfile::tempdir().unwrap();
    let keeper = keeper_in(folder.path(), &double, policy(&scene()));
    let began = Instant::now();
    let error = chain(&keeper.fetch(&manifest(), NOW).unwrap_err());
    assert!(error.contains(": no answer; "), "{error}");
    assert!(
        began.elapsed() < Duration::from_secs(30),
        "{:?}",
        began.elapsed()
    );
}

#[test]
fn an_answer_that_never_ends() {
    let endless = || Reply::body(vec![b' '; 200 << 10]);
    assert_eq!(refused(endless), format!("{AT}: more than 131072 bytes"));
}

#[test]
fn an_answer_that_is_no_manifest() {
    let page = refused(|| Reply::body("<html>sign in</html>"));
    assert_eq!(page, format!("{WRONG}: expected value at line 1 column 1"));
    let other = refused(|| Reply::body(json!({ "id": "x" }).to_string()));
    assert_eq!(
        other,
        format!("{WRONG}: missing field `rim` at line 1 column 10")
    );
    let base64 = refused(|| Reply::body(json!({ "rim": "*" }).to_string()));
    assert!(base64.starts_with(&format!("{WRONG}: Invalid")), "{base64}");
    let xml = refused(|| filed("<SoftwareIdentity/>"));
    assert!(xml.starts_with(&format!("{WRONG}: ")), "{xml}");
}

#[test]
fn a_manifest_that_was_changed_or_stands_under_another_root() {
    let changed = refused(|| filed(&scene().rims[0].replacen("True", "False", 1)));
    assert_eq!(
        changed,
        format!(
            "{WRONG}: the reference manifest's signature is refused: the manifest's digest is not the one in its signature: it was changed after it was signed"
        )
    );
    let double = Double::start(|_| filed(&scene().rims[0]));
    let (_folder, keeper) = keeper(&double, Default::default());
    let error = chain(&keeper.fetch(&manifest(), NOW).unwrap_err());
    assert!(error.starts_with(&format!("{WRONG}: ")), "{error}");
    assert!(error.contains("development root not named"), "{error}");
}

/// The OCSP responses are about another certificate, expired, made in the future, or not OCSP responses at all.
#[test]
fn responses_that_say_nothing_about_what_was_asked() {
    type Answer = fn(&super::double::Asked) -> Reply;
    let ended = format!(
        "the OCSP response from NVIDIA is not what it should be: the OCSP response was valid until {} (Unix time), and it is \
         {NOW}: fetch a newer one",
        NOW - 1000
    );
    let early = format!(
        "the OCSP response from NVIDIA is not what it should be: the OCSP response is valid from {} (Unix time), and it is \
         {NOW}: check the clock",
        NOW + 1000
    );
    let cases: [(Answer, &str); 4] = [
        (
            |_| {
                // The same response for every request.
                Reply::body(scene().ocsp.remove(0))
            },
            "the OCSP response from NVIDIA is not what it should be: it is about another certificate",
        ),
        (
            |asked| {
                let old = Times {
                    this_update: NOW - 2000,
                    next_update: Some(NOW - 1000),
                };
                let response = responded(&scene(), asked, Status::Good, old);
                response.map_or(Reply::Status(404), Reply::body)
            },
            &ended,
        ),
        (
            |asked| {
                let early = Times {
                    this_update: NOW + 1000,
                    ..times()
                };
                let response = responded(&scene(), asked, Status::Good, early);
                response.map_or(Reply::Status(404), Reply::body)
            },
            &early,
        ),
        (
            |_| Reply::body("unauthorized"),
            "the OCSP response from NVIDIA is not what it should be: the OCSP response is not DER of the form of RFC 6960",
        ),
    ];
    for (place, (answer, expected)) in cases.into_iter().enumerate() {
        let double = Double::start(answer);
        let (_folder, keeper) = keeper(&double, policy(&scene()));
        let gathered = keeper.gather(&needs(&scene()), NOW).unwrap();
        let told: Vec<&String> = gathered
            .missing
            .iter()
            .filter(|(title, _)| title.starts_with("NVIDIA, revocation of "))
            .map(|(_, why)| why)
            .collect();
        // The only response of the first case matches one of the three requests.
        assert_eq!(told.len(), if place == 0 { 2 } else { 3 }, "case {place}");
        for why in told {
            assert!(why.starts_with(expected), "case {place}: {why}");
        }
    }
}

/// As on a full disk: checked answers are still used, vendors are not asked more often, and the message about the store stays
/// the same until the store works again.
#[test]
fn a_store_that_takes_nothing_costs_no_answer_and_no_questions() {
    let double = Double::start(
        |asked| match responded(&scene(), asked, Status::Good, times()) {
            Some(response) => Reply::body(response),
            None if asked.line.ends_with(DRIVER_RIM) => filed(&scene().rims[0]),
            None => Reply::Status(404),
        },
    );
    let (folder, keeper) = keeper(&double, policy(&scene()));
    let names = ["objects", "entries", "failures"];
    for name in names {
        std::fs::remove_dir(folder.path().join(name)).unwrap();
    }
    let first = keeper.gather(&needs(&scene()), NOW).unwrap();
    let gpu = first.gpu.clone().expect("what was answered");
    assert_eq!((gpu.rims.len(), gpu.ocsp.is_empty()), (1, false));
    let unkept = first.unkept.clone().expect("what is wrong with the store");
    assert!(unkept.starts_with("cannot write "), "{unkept}");
    assert!(!unkept.contains("partial"), "{unkept}");
    // The failed item is requested again after the usual pause.
    assert_eq!(first.next, NOW + 30);
    let asked = double.take().len();
    let again = keeper.gather(&needs(&scene()), NOW).unwrap();
    assert_eq!(double.lines(), Vec::<String>::new(), "of {asked} before");
    assert_eq!(again.next, NOW + 30);
    assert_eq!(again.missing, first.missing);
    assert_eq!(again.unkept, first.unkept);
    assert!(
        again.gpu == first.gpu,
        "what was answered is not what is held"
    );
    // Once the store works again, the answers held in memory are written to it without a new request.
    for name in names {
        std::fs::create_dir(folder.path().join(name)).unwrap();
    }
    let mended = keeper.gather(&needs(&scene()), NOW + 30).unwrap();
    assert_eq!(double.take().len(), 1, "the one that failed");
    assert_eq!((mended.missing, mended.unkept), (first.missing, None));
    assert!(mended.gpu == first.gpu, "what was held is not what is kept");
    assert!(keeper.store.get(&manifest()).is_some());
    assert_eq!(keeper.store.failures().len(), 1);
}
