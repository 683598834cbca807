//! Tests of collateral: what is fetched and cached, and that an appliance gains nothing by sending
//! other pieces.

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};

use cocoon_measurements::appraise::Presented;
use cocoon_measurements::verdict::Class;
use cocoon_protocol::bytes::{Blob, Hex32};
use cocoon_protocol::document::{ATTEST_PATH, Collateral, Kind};
use cocoon_protocol::pieces::{COLLATERAL_PATH, PiecesRequest};
use http::StatusCode;
use tempfile::TempDir;

use super::connecting::refused_by;
use super::double::{self, Double, Judges, Script, content, verifier};
use super::stapling::{Hands, Stapled};
use crate::collateral::{CollateralCache, CollateralUse};
use crate::error::chain;
use crate::judge::{Judge, Judgement};
use crate::receipts::{BUNDLE_VERSION, Bundle};
use crate::verifier::Verifier;

const CHAIN: [&[u8]; 3] = [b"chip", b"intermediate", b"list"];

fn stapled(certificates: &[&[u8]], hands: Hands) -> Script {
    Script {
        stapled: Some(Stapled::new(certificates, hands)),
        ..Script::default()
    }
}

fn honest() -> Script {
    stapled(&CHAIN, Hands::Honestly)
}

/// Returns a verifier that caches collateral in the folder.
fn keeping(verifier: Verifier, folder: &Path) -> Verifier {
    verifier.with_cache(Arc::new(CollateralCache::open(folder).unwrap()))
}

async fn connect(verifier: &Verifier, double: &Double) -> CollateralUse {
    verifier
        .connect(&double.address)
        .await
        .unwrap()
        .collateral()
}

/// Returns the requests for pieces so far.
fn asked(double: &Double) -> Vec<Vec<Hex32>> {
    let seen = double.paths().into_iter().zip(double.bodies());
    let questions = seen.filter(|(path, _)| path == COLLATERAL_PATH);
    questions
        .map(|(_, body)| {
            serde_json::from_slice::<PiecesRequest>(&body)
                .unwrap()
                .pieces
        })
        .collect()
}

fn used(pieces: usize, cached_pieces: usize, cached_bytes: usize) -> CollateralUse {
    CollateralUse {
        pieces,
        bytes: 20,
        cached_pieces,
        cached_bytes,
    }
}

/// A judge that records the collateral with which sessions are appraised.
struct Witness(Mutex<Vec<Option<Collateral>>>);

impl Judge for Witness {
    fn judge(&self, presented: &Presented<'_>, now: u64) -> Judgement {
        if presented.fresh.is_some() {
            let collateral = presented.document.collateral.clone();
            self.0.lock().unwrap().push(collateral);
        }
        let (boot, session) = (Class::Simulated, Class::Confidential);
        Judges { boot, session }.judge(presented, now)
    }
}

/// What is appraised is exactly what the document names, wherever it came from; anything else is
/// refused before appraisal.
#[tokio::test]
async fn cocoon_collateral_2() {
    let witness = Arc::new(Witness(Mutex::default()));
    let judged = || std::mem::take(&mut *witness.0.lock().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let plain = Verifier::with_judge(witness.clone(), false);
    let keeping = keeping(plain.clone(), folder.path());

    let whole = Stapled::new(&CHAIN, Hands::Honestly);
    let [chip, intermediate, list] = whole.names()[..] else {
        panic!("three pieces")
    };
    let double = Double::start(honest()).await;
    for verifier in [&plain, &keeping, &keeping] {
        connect(verifier, &double).await;
    }
    assert_eq!(judged(), vec![Some(whole.collateral()); 3]);

    // Files whose content does not match their name are fetched again.
    let path = |name: &Hex32| folder.path().join(name.to_string());
    fs::write(path(&chip), b"Chip").unwrap();
    fs::copy(path(&intermediate), path(&list)).unwrap();
    assert_eq!(connect(&keeping, &double).await, used(3, 1, 12));
    assert_eq!(asked(&double).last().unwrap()[..], [chip, list]);
    assert_eq!(judged(), [Some(whole.collateral())]);
    assert_eq!(fs::read(path(&chip)).unwrap(), b"chip");

    let turned = Hex32::sha256(b"bhip");
    let cases = [
        (
            Hands::Exchanged,
            format!(
                "the piece of collateral {chip} came with the digest {turned}: it was exchanged or damaged"
            ),
        ),
        (
            Hands::InAnotherOrder,
            format!(
                "the piece of collateral {chip} came with the digest {list}: it was exchanged or damaged"
            ),
        ),
        (
            Hands::CutShort,
            "the answer ends in the middle of a piece of collateral".to_owned(),
        ),
        (
            Hands::WithMore,
            "the answer goes on behind the last piece of collateral that was asked for".to_owned(),
        ),
    ];
    for (hands, why) in cases {
        let error = refused_by(plain.clone(), stapled(&CHAIN, hands)).await;
        assert!(error.is_rejection());
        let text = chain(&error);
        let expected = format!(
            "sends other collateral than its document names: try again, or another appliance: {why}"
        );
        assert!(text.ends_with(&expected), "{text}");
    }
    let withheld = r#"{"error":{"message":"no\u001b[2Jthing","type":"invalid_request_error","param":null,"code":null}}"#;
    let hands = Hands::With(StatusCode::NOT_FOUND, withheld);
    let error = refused_by(plain.clone(), stapled(&CHAIN, hands)).await;
    assert!(error.is_rejection());
    let expected = "withholds collateral that its document names: status 404: no[2Jthing";
    assert!(error.to_string().ends_with(expected), "{error}");
    let error = refused_by(plain.clone(), stapled(&CHAIN, Hands::WithTooMuch)).await;
    let expected = "sends more than the 4194304 bytes that collateral may have";
    assert!(error.to_string().ends_with(expected), "{error}");
    let error = refused_by(plain, stapled(&CHAIN, Hands::ByHangingUp)).await;
    assert!(!error.is_rejection(), "{error}");
    assert!(judged().is_empty(), "nothing is judged with anything else");
}

#[tokio::test]
async fn only_what_is_not_kept_is_fetched() {
    let folder = tempfile::tempdir().unwrap();
    let keeping = keeping(content(), folder.path());
    let first = Double::start(honest()).await;
    assert_eq!(connect(&keeping, &first).await, used(3, 0, 0));
    assert_eq!(connect(&keeping, &first).await, used(3, 3, 20));
    assert_eq!(first.paths(), [ATTEST_PATH, COLLATERAL_PATH, ATTEST_PATH]);
    // A second machine of the same kind, with a newer revocation list.
    let newer = [CHAIN[0], CHAIN[1], b"List"];
    let second = Double::start(stapled(&newer, Hands::Honestly)).await;
    assert_eq!(connect(&keeping, &second).await, used(3, 2, 16));
    assert_eq!(asked(&second), [[Hex32::sha256(b"List")]]);
    // A client without a cache fetches everything each time, in one more round trip.
    let third = Double::start(honest()).await;
    for _ in 0..2 {
        assert_eq!(connect(&content(), &third).await, used(3, 0, 0));
    }
    let round = [ATTEST_PATH, COLLATERAL_PATH];
    assert_eq!(third.paths(), [round, round].concat());
    assert_eq!(
        used(3, 2, 16).to_string(),
        "3 pieces, 20 bytes: 2 from the cache, 1 fetched (4 bytes)"
    );
    assert_eq!(
        CollateralUse::default().to_string(),
        "in the document itself"
    );
}

/// A refused appliance leaves nothing in the client's cache.
#[tokio::test]
async fn cocoon_collateral_5() {
    let folder = TempDir::new().unwrap();
    let files = || fs::read_dir(folder.path()).unwrap().count();
    let refusing = keeping(
        verifier(Class::Simulated, Class::Rejected, false),
        folder.path(),
    );
    let error = refused_by(refusing, honest()).await;
    assert_eq!(error.collateral(), Some(used(3, 0, 0)));
    assert_eq!(files(), 0);
    let bad = keeping(content(), folder.path());
    refused_by(bad, stapled(&CHAIN, Hands::WithMore)).await;
    assert_eq!(files(), 0);
    let double = Double::start(honest()).await;
    connect(&keeping(content(), folder.path()), &double).await;
    assert_eq!(files(), 3);
}

/// A cache that cannot be written to costs a round trip, but no connection.
#[tokio::test]
async fn without_a_folder_everything_is_fetched() {
    let folder = tempfile::tempdir().unwrap();
    let keeping = keeping(content(), &folder.path().join("gone"));
    fs::remove_dir_all(folder.path().join("gone")).unwrap();
    let double = Double::start(honest()).await;
    for _ in 0..2 {
        assert_eq!(connect(&keeping, &double).await, used(3, 0, 0));
    }
}

/// A kept receipt contains the collateral of its session, because the appliance may no longer have
/// it.
#[test]
fn a_kept_receipt_brings_its_collateral() {
    let whole = Stapled::new(&CHAIN, Hands::Honestly);
    let mut document = double::document(Kind::Session, Hex32::ZERO, Hex32::ZERO, Hex32::ZERO);
    whole.name(&mut document);
    let mut bundle = Bundle {
        version: BUNDLE_VERSION,
        received: 0,
        receipt: Blob::default(),
        salt: Hex32::ZERO,
        document: Blob(document.to_json()),
        collateral: CHAIN.iter().map(|piece| Blob(piece.to_vec())).collect(),
        leaf_spki_sha256: Hex32::ZERO,
        exporter: Hex32::ZERO,
    };
    let read = Bundle::parse(&bundle.to_json()).unwrap();
    let (found, _) = read.document().unwrap();
    assert_eq!(found.collateral, Some(whole.collateral()));
    bundle.collateral[1].0.push(0);
    let error = bundle.document().unwrap_err();
    assert_eq!(
        chain(&error),
        format!(
            "its session document is not whole: the piece of collateral {}, which the document names, is missing",
            whole.names()[1]
        )
    );
}
