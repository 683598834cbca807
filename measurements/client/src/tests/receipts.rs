//! Tests of receipts: answers with valid ones are passed on and kept, all others end with a
//! specific error.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use cocoon_measurements::receipt::judge;
use cocoon_measurements::verdict::Outcome;
use cocoon_protocol::bytes::Hex32;
use cocoon_protocol::document::ATTEST_PATH;
use cocoon_protocol::receipt::{EngineSection, Receipt, Tokens};
use http::StatusCode;
use http_body_util::BodyExt;

use super::double::{Double, Script, content, reply};
use super::receipting::Receipts;
use crate::chat::{ChatError, ChatOptions, Conversation};
use crate::receipts::{AnswerError, Bodies, Bundle, BundleError, Keeper, ReceiptFault};
use crate::upstreams::Upstreams;

const STREAM: &str = concat!(
    "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Bonjour\"},\"finish_reason\":\"stop\"}]}\n\n",
    "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":2,\"total_tokens\":5}}\n\n",
    "data: [DONE]\n\n",
);
const WHOLE: &str = "{\"choices\":[]}";
const PATH: &str = "/v1/chat/completions";

async fn upstreams(body: &'static str, receipts: Receipts) -> (Double, Upstreams) {
    let kind = match body.starts_with('{') {
        true => "application/json",
        false => "text/event-stream",
    };
    let script = Script {
        answers: Box::new(move || reply(StatusCode::OK, kind, body)),
        receipts,
        ..Script::default()
    };
    let double = Double::start(script).await;
    let upstreams = Upstreams::new(content(), vec![double.address.clone()]);
    (double, upstreams)
}

/// Returns the body of one answer, or the fault of its receipt.
async fn answer(upstreams: &Upstreams) -> Result<String, ReceiptFault> {
    let response = upstreams.generate(PATH, "{}".into()).await.unwrap();
    match response.into_body().collect().await {
        Ok(body) => Ok(String::from_utf8(body.to_bytes().to_vec()).unwrap()),
        Err(AnswerError::Receipt(fault)) => Err(fault),
        Err(error) => panic!("{error}"),
    }
}

/// Returns the check that refuses a receipt.
async fn refused_by(body: &'static str, receipts: Receipts) -> &'static str {
    let (_double, upstreams) = upstreams(body, receipts).await;
    match answer(&upstreams).await {
        Err(ReceiptFault::Refused(check)) => check.id,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn good_receipts_let_answers_pass_as_they_are() {
    for body in [STREAM, WHOLE] {
        let (double, upstreams) = upstreams(body, Receipts::Honest).await;
        for _ in 0..3 {
            let told = answer(&upstreams).await.unwrap();
            let without: String = told
                .split_inclusive("\n\n")
                .filter(|event| !event.starts_with(": cocoon-receipt "))
                .collect();
            assert_eq!(without, body);
            assert_eq!(told.len() > body.len(), body == STREAM);
        }
        // One connection, and three receipt numbers.
        assert_eq!(double.paths().len(), 4);
    }
}

#[tokio::test]
async fn cocoon_receipt_13() {
    let refused = |body, receipts| async move {
        let (_double, upstreams) = upstreams(body, receipts).await;
        answer(&upstreams).await.expect_err("must be refused")
    };
    for body in [STREAM, WHOLE] {
        let missing = refused(body, Receipts::Withheld).await;
        assert!(matches!(missing, ReceiptFault::Missing), "{missing}");
        let rubbish = refused(body, Receipts::Replaced("AAAA")).await;
        assert!(matches!(rubbish, ReceiptFault::Malformed(_)), "{rubbish}");
        assert_eq!(
            refused_by(body, Receipts::Forged).await,
            "receipt.signature"
        );
        let residue = |one: &mut Receipt| {
            one.engine = Some(EngineSection {
                weights_root: Hex32::ZERO,
                scrubbed_bytes: 2,
                residue_bytes: 1,
            });
        };
        let edits: [(fn(&mut Receipt), _); 8] = [
            (residue, "receipt.engine"),
            (|one| one.manifest_id.0[0] ^= 1, "receipt.manifest"),
            (|one| one.model_digest.0[0] ^= 1, "receipt.model"),
            (|one| one.evidence_digest.0[0] ^= 1, "receipt.evidence"),
            (|one| one.nonce.0[0] ^= 1, "receipt.nonce"),
            (|one| one.number += 1, "receipt.number"),
            (|one| one.request.0[0] ^= 1, "receipt.request"),
            (|one| one.response.0[0] ^= 1, "receipt.response"),
        ];
        for (edit, id) in edits {
            assert_eq!(refused_by(body, Receipts::Changed(edit)).await, id);
        }
    }
    let twice = refused(STREAM, Receipts::Twice).await;
    assert!(matches!(twice, ReceiptFault::Behind), "{twice}");
    let long = "x".repeat(600).leak();
    let endless = refused(STREAM, Receipts::Replaced(long)).await;
    assert!(matches!(endless, ReceiptFault::TooLong), "{endless}");
    let cut = STREAM.trim_end_matches("data: [DONE]\n\n");
    let cut = refused(cut, Receipts::Honest).await;
    assert!(matches!(cut, ReceiptFault::CutShort), "{cut}");
}

/// A connection whose receipt was withheld gets no more requests.
#[tokio::test]
async fn a_connection_without_its_receipts_is_given_up() {
    for body in [STREAM, WHOLE] {
        let (double, upstreams) = upstreams(body, Receipts::Withheld).await;
        for _ in 0..2 {
            let fault = answer(&upstreams).await.expect_err("must be refused");
            assert!(matches!(fault, ReceiptFault::Missing), "{fault}");
        }
        let attested = |path: &&String| *path == ATTEST_PATH;
        assert_eq!(double.paths().iter().filter(attested).count(), 2);
    }
}

#[tokio::test]
async fn tokens_that_the_answer_tells_are_those_that_are_signed() {
    let tokens = Tokens {
        prompt: 3,
        completion: 3,
    };
    let (_double, upstreams) = upstreams(STREAM, Receipts::Counting(tokens)).await;
    let error = Conversation::new(upstreams, ChatOptions::default(), None)
        .ask("hello", |_| {})
        .await
        .expect_err("must be refused");
    let fault = ReceiptFault::Usage { told: 5, signed: 6 };
    assert!(matches!(error, ChatError::Receipt(_)), "{error}");
    assert_eq!(error.to_string(), fault.to_string());
}

/// Returns the files of a folder of receipts in order, and checks that only their owner can read
/// them.
pub fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let mode = entry.metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
            let name = entry.file_name().into_string().unwrap();
            (name, std::fs::read(entry.path()).unwrap())
        })
        .collect();
    files.sort();
    files
}

/// Returns whether a kept receipt is valid for these bodies.
pub fn holds(bundle: &[u8], request: &[u8], response: &[u8]) -> bool {
    let bundle = Bundle::parse(bundle).unwrap();
    let (_, mut expected) = bundle.document().unwrap();
    expected.request = Some(Hex32::sha256(request));
    expected.response = Some(Hex32::sha256(response));
    let checks = judge(&bundle.delivery().unwrap(), &expected);
    checks.iter().all(|check| check.outcome != Outcome::Fail)
}

#[tokio::test]
async fn kept_receipts_hold_offline_and_say_nothing_of_the_conversation() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("receipts");
    let (double, upstreams) = upstreams(STREAM, Receipts::Honest).await;
    let keeper = Keeper::open(&folder, Bodies::Left).unwrap();
    let kept = upstreams.clone().with_receipts(keeper);
    for question in ["the canary", "another"] {
        Conversation::new(kept.clone(), ChatOptions::default(), None)
            .ask(question, |_| {})
            .await
            .unwrap();
    }
    let mode = std::fs::metadata(&folder).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    let found = files(&folder);
    let [first, second] = &found[..] else {
        panic!("{found:?}")
    };
    assert!(first.0.ends_with("-0001.receipt.json"), "{}", first.0);
    assert!(second.0.ends_with("-0002.receipt.json"), "{}", second.0);
    let covered = STREAM.trim_end_matches("data: [DONE]\n\n").as_bytes();
    let asked = &double.bodies()[1];
    assert!(holds(&first.1, asked, covered));
    assert!(!holds(&first.1, b"{}", covered) && !holds(&first.1, asked, b""));
    assert!(!holds(&second.1, asked, covered));
    let text = String::from_utf8(first.1.clone()).unwrap();
    assert!(!text.contains("canary") && !text.contains("Bonjour"));

    let folder = home.path().join("bodies");
    let keeper = Keeper::open(&folder, Bodies::Kept).unwrap();
    let kept = upstreams.with_receipts(keeper);
    answer(&kept).await.unwrap();
    let found = files(&folder);
    let [bundle, request, response] = &found[..] else {
        panic!("{found:?}")
    };
    assert!(request.0.ends_with(".receipt.request") && response.0.ends_with(".receipt.response"));
    assert_eq!((&request.1[..], &response.1[..]), (&b"{}"[..], covered));
    assert!(holds(&bundle.1, &request.1, &response.1));
}

#[test]
fn a_bundle_of_another_form_is_refused() {
    let malformed = |json: &str| Bundle::parse(json.as_bytes()).unwrap_err();
    assert!(matches!(malformed("{}"), BundleError::Malformed(_)));
    let zeroes = Hex32::ZERO;
    let json = format!(
        "{{\"version\":2,\"received\":0,\"receipt\":\"\",\"salt\":\"{zeroes}\",\"document\":\"\",\"leaf_spki_sha256\":\"{zeroes}\",\"exporter\":\"{zeroes}\"}}"
    );
    assert!(matches!(malformed(&json), BundleError::Version(2)));
    let bundle = Bundle::parse(json.replace(":2,", ":1,").as_bytes()).unwrap();
    assert!(matches!(bundle.delivery(), Err(BundleError::Receipt(_))));
    assert!(matches!(bundle.document(), Err(BundleError::Document(_))));
}
