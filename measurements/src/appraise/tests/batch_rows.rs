//! Evidence that several sessions share: the cause names what is wrong with a session's place in the batch.

use cocoon_protocol::batch::{Batch, Shared, share};

use super::{super::report_data::report_data, *};
use crate::appraise::binding::document as rows;

/// Returns the bindings of `count` sessions, with this verifier's at `at`.
fn waiting(claims: &Claims, count: u8, at: u8) -> Vec<[u8; binding::BINDING_LEN]> {
    let one = |number: u8| {
        let other = Freshness {
            nonce: Hex([0x80 | number; 32]),
            exporter: Hex([0x40 | number; 32]),
        };
        binding::session(claims, if number == at { &FRESH } else { &other })
    };
    (0..count).map(one).collect()
}

fn shared(bindings: &[[u8; binding::BINDING_LEN]]) -> Shared {
    share(bindings).unwrap()
}

/// Returns the row on the report data of the session at place 2 of 5, whose document `edit` changes after the evidence was
/// made.
#[track_caller]
fn judged(edit: impl FnOnce(&mut Document)) -> Check {
    let manifest = trusted(&sample());
    let mut document = document(Tee::Tdx, &manifest);
    let shared = shared(&waiting(&document.claims, 5, 2));
    document.batch = shared.places[2].clone();
    edit(&mut document);
    report_data(&session(&document), &manifest, &shared.report_data)
}

#[track_caller]
fn cause(edit: impl FnOnce(&mut Document)) -> String {
    let check = judged(edit);
    assert_eq!(
        (check.id, check.outcome),
        ("evidence.report_data", Outcome::Fail)
    );
    check.cause.unwrap()
}

fn place(document: &mut Document) -> &mut Batch {
    document.batch.as_mut().unwrap()
}

const MOVED: &str = "the place in the batch was changed: the evidence holds this session in another place than the document says";
const STRANGE: &str = "this session is not in the batch that the evidence is of: nonce and claims fit, so the path is of another \
    batch or place, or was made in another TLS session than this one (or for a changed meter key)";

#[test]
fn cocoon_batch_4() {
    assert_eq!(judged(|_| ()).outcome, Outcome::Pass);
    assert_eq!(cause(|d| place(d).index = 3), MOVED);
    // In a batch of seven, the path of place 2 has the same length.
    assert_eq!(cause(|d| place(d).leaves = 7), MOVED);
    assert_eq!(cause(|d| place(d).path[1].0[0] ^= 1), STRANGE);
    assert_eq!(cause(|d| place(d).path.swap(0, 1)), STRANGE);
    // An impossible place is refused before anything is hashed.
    assert_eq!(
        cause(|d| place(d).path.truncate(2)),
        "a path of 2 hashes, where session 2 of a batch of 5 has 3"
    );
    // Another session's place, in a document with this session's nonce.
    let manifest = trusted(&sample());
    let others = shared(&waiting(&document(Tee::Tdx, &manifest).claims, 5, 2));
    assert_eq!(cause(|d| d.batch = others.places[1].clone()), STRANGE);
    assert_eq!(
        cause(|d| d.batch = None),
        "exporter mismatch: nonce and claims fit, so the evidence was made in another TLS session than this one (or for a \
         changed meter key, or for a batch whose path was left out): the connection is relayed by someone who holds the \
         guest's key, or an old document was given this session's nonce"
    );
}

/// Batches with another binding in this session's place, and evidence that is not of a batch.
#[test]
fn bindings_of_another_kind_in_a_batch() {
    let manifest = trusted(&sample());
    let mut document = document(Tee::Tdx, &manifest);
    let mut bindings = waiting(&document.claims, 5, 2);
    let good = shared(&bindings);
    document.batch = good.places[2].clone();
    let cause = |document: &Document, found: &Hex64| {
        let check = report_data(&session(document), &manifest, found);
        assert_eq!(check.outcome, Outcome::Fail);
        check.cause.unwrap()
    };
    assert_eq!(
        cause(&document, &bound(&document.claims, FRESH)),
        "the place in a batch was added to the document: the evidence is of this session alone"
    );
    let boot = binding::boot(&document.claims);
    assert_eq!(
        cause(&document, &binding::report_data(&boot)),
        "the evidence is that of the boot, shown as if it were of this session"
    );
    bindings[2] = boot;
    assert_eq!(
        cause(&document, &shared(&bindings).report_data),
        "the batch holds the boot binding where this session's belongs, and boot evidence authorises nothing"
    );
    // Changed inputs are named in a batch too.
    bindings[2] = binding::session(
        &document.claims,
        &Freshness {
            nonce: Hex([9; 32]),
            ..FRESH
        },
    );
    document.nonce = Hex([9; 32]);
    assert_eq!(
        cause(&document, &shared(&bindings).report_data),
        "replayed nonce: the evidence is of this TLS session, but answers an earlier challenge"
    );
    document.nonce = FRESH.nonce;
    document.claims.model_digest.0[0] ^= 1;
    assert_eq!(
        cause(&document, &good.report_data),
        "the model digest in the document was changed: the evidence is of the manifest's model"
    );
}

/// The form is also checked in documents that were not parsed.
#[test]
fn places_that_there_cannot_be() {
    let manifest = trusted(&sample());
    let failed = |kind, leaves| {
        let mut document = document(Tee::Tdx, &manifest);
        document.kind = kind;
        document.batch = Some(Batch {
            leaves,
            index: 0,
            path: vec![Hex([1; 32])],
        });
        let rows = rows(&session(&document), &manifest, &Policy::default());
        rows.into_iter()
            .find(|row| row.id == "document.form")
            .and_then(|row| row.cause)
    };
    assert_eq!(failed(Kind::Session, 2), None);
    assert_eq!(
        failed(Kind::Session, 1).as_deref(),
        Some(
            "attestation document has a place in a batch that there cannot be: a batch has 2 to 32 sessions, this one has 1"
        )
    );
    assert_eq!(
        failed(Kind::Boot, 2).as_deref(),
        Some(
            "attestation document of the boot has a place in a batch: only sessions share evidence"
        )
    );
}
