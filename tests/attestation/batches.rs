//! Evidence that several sessions share (SPEC.md §2.1), signed by simulated hardware and judged as by a client.

use std::sync::Arc;

use cocoon_client::Verifier;
use cocoon_measurements::appraise::Freshness;
use cocoon_protocol::batch::{self, Batch};
use cocoon_protocol::binding::{self, BINDING_LEN, Tee};
use cocoon_protocol::bytes::{Hex, Hex32};
use cocoon_protocol::document::{ATTEST_PATH, AttestRequest, Document, Kind, MAX_DOCUMENT_LEN};
use tokio::task::yield_now;
use tokio::time::timeout;

use crate::guest::{Guest, verifier};
use crate::machine::{FRESH, Machine, accepted, judge, policy, refused};
use crate::stranger::{Connection, DEADLINE, Stranger};

const BOTH: [Tee; 2] = [Tee::Tdx, Tee::SevSnp];
const REPORT_DATA: &str = "evidence.report_data";
const MOVED: &str = "the place in the batch was changed: the evidence holds this session in another place than the document says";
const STRANGE: &str = "this session is not in the batch that the evidence is of: nonce and claims fit, so the path is of another \
    batch or place, or was made in another TLS session than this one (or for a changed meter key)";
const FORM: &str = "document.form";

/// Returns the bindings of `count` sessions of `vm`; the one at index `at` is the verifier's.
fn waiting(vm: &Machine, count: u8, at: u8) -> Vec<[u8; BINDING_LEN]> {
    let others = (0..count).map(|number| Freshness {
        nonce: Hex([number; 32]),
        exporter: Hex([0x80 | number; 32]),
    });
    let mut all: Vec<_> = others
        .map(|fresh| binding::session(&vm.claims, &fresh))
        .collect();
    all[usize::from(at)] = binding::session(&vm.claims, &FRESH);
    all
}

/// Returns the verifier's document with evidence over all `bindings`, for the position `at`.
fn over(vm: &Machine, bindings: &[[u8; BINDING_LEN]], at: u8) -> Document {
    let mut shared = batch::share(bindings).unwrap();
    Document {
        evidence: vm.vm.evidence(&shared.report_data).unwrap(),
        batch: shared.places.swap_remove(at.into()),
        ..vm.document()
    }
}

/// Changes a document at index 1 of 4 with `edit`, and asserts that it is refused for the expected reasons.
#[track_caller]
fn changed(edit: impl Fn(&mut Document), expected: &[(&str, &str)]) {
    for tee in BOTH {
        let vm = Machine::good(tee);
        let mut document = over(&vm, &waiting(&vm, 4, 1), 1);
        edit(&mut document);
        refused(&judge(&document, &policy()), expected);
    }
}

fn place(document: &mut Document) -> &mut Batch {
    document.batch.as_mut().unwrap()
}

#[test]
fn every_place_of_a_batch_counts() {
    for tee in BOTH {
        let vm = Machine::good(tee);
        for (count, at) in [(2, 0), (2, 1), (3, 2), (5, 4), (32, 0), (32, 31)] {
            let document = over(&vm, &waiting(&vm, count, at), at);
            let read = Document::parse(&document.to_json(), MAX_DOCUMENT_LEN).unwrap();
            accepted(&judge(&read, &policy()));
        }
    }
}

#[test]
fn another_place_or_path() {
    changed(|d| place(d).index = 0, &[(REPORT_DATA, MOVED)]);
    // The path keeps its length, but the tree has one leaf less on the other side.
    changed(|d| place(d).leaves = 3, &[(REPORT_DATA, MOVED)]);
    changed(|d| place(d).path[0].0[31] ^= 1, &[(REPORT_DATA, STRANGE)]);
    changed(|d| place(d).path.swap(0, 1), &[(REPORT_DATA, STRANGE)]);
}

#[test]
fn paths_of_another_length() {
    let long = "a path of 3 hashes, where session 1 of a batch of 4 has 2";
    let short = "a path of 1 hashes, where session 1 of a batch of 4 has 2";
    let in_document = |cause: &str| {
        format!("attestation document has a place in a batch that there cannot be: {cause}")
    };
    changed(
        |d| place(d).path.push(Hex32::ZERO),
        &[(FORM, &in_document(long)), (REPORT_DATA, long)],
    );
    changed(
        |d| place(d).path.truncate(1),
        &[(FORM, &in_document(short)), (REPORT_DATA, short)],
    );
}

/// The verifier's session and a neighbour are swapped, or the document comes with another session's path.
#[test]
fn swapped_leaves() {
    for tee in BOTH {
        let vm = Machine::good(tee);
        let mut bindings = waiting(&vm, 4, 1);
        let shown = over(&vm, &bindings, 1).batch;
        bindings.swap(1, 2);
        let swapped = Document {
            batch: shown,
            ..over(&vm, &bindings, 2)
        };
        refused(&judge(&swapped, &policy()), &[(REPORT_DATA, STRANGE)]);
        let others = Document {
            batch: over(&vm, &bindings, 1).batch,
            ..over(&vm, &bindings, 2)
        };
        refused(&judge(&others, &policy()), &[(REPORT_DATA, STRANGE)]);
    }
}

/// A tree node is presented as a leaf of a smaller tree, or a leaf as a node of a larger one.
#[test]
fn leaves_and_nodes_in_each_others_place() {
    // The node over leaves 0 and 1 has one sibling above it.
    changed(
        |d| {
            let top = place(d).path[1];
            *place(d) = Batch {
                leaves: 2,
                index: 0,
                path: vec![top],
            };
        },
        &[(REPORT_DATA, STRANGE)],
    );
    for tee in BOTH {
        let vm = Machine::good(tee);
        let good = over(&vm, &waiting(&vm, 2, 0), 0);
        // The neighbour's leaf, as if it were a node over two leaves.
        let deeper = Document {
            batch: Some(Batch {
                leaves: 3,
                index: 2,
                path: good.batch.clone().unwrap().path,
            }),
            ..good
        };
        refused(&judge(&deeper, &policy()), &[(REPORT_DATA, MOVED)]);
    }
}

/// Evidence for a single session with a batch position added, and batch evidence with the position removed.
#[test]
fn places_around_evidence_that_is_not_shared() {
    for tee in BOTH {
        let vm = Machine::good(tee);
        let shared = over(&vm, &waiting(&vm, 4, 1), 1);
        let replayed = Document {
            batch: shared.batch.clone(),
            ..vm.document()
        };
        refused(
            &judge(&replayed, &policy()),
            &[(
                REPORT_DATA,
                "the place in a batch was added to the document: the evidence is of this session alone",
            )],
        );
        let stripped = Document {
            batch: None,
            ..shared
        };
        refused(
            &judge(&stripped, &policy()),
            &[(REPORT_DATA, crate::bindings::EXPORTER)],
        );
    }
}

#[test]
fn boot_bindings_in_batches() {
    const AUTHORISES_NOTHING: &str = "the batch holds the boot binding where this session's belongs, and boot evidence authorises nothing";
    for tee in BOTH {
        let vm = Machine::good(tee);
        let mut bindings = waiting(&vm, 4, 1);
        bindings[1] = binding::boot(&vm.claims);
        let mut document = over(&vm, &bindings, 1);
        refused(
            &judge(&document, &policy()),
            &[(REPORT_DATA, AUTHORISES_NOTHING)],
        );
        // With its true kind the document is malformed: boot evidence is never shared.
        document.kind = Kind::Boot;
        let error = Document::parse(&document.to_json(), MAX_DOCUMENT_LEN).unwrap_err();
        assert_eq!(
            error.to_string(),
            "attestation document of the boot has a place in a batch: only sessions share evidence"
        );
    }
}

/// The real client and the real guest: connections that wait together share one piece of evidence, and each is accepted.
#[tokio::test(flavor = "multi_thread")]
async fn clients_that_wait_together_are_served_by_one_call() {
    const CLIENTS: usize = 6;
    for tee in BOTH {
        let guest = Guest::start(tee).await;
        let before = guest.tee.calls();
        guest.tee.hold(true);
        // The first client keeps the hardware busy until all others wait.
        let stranger = Stranger::new();
        let first = stranger.connect(guest.socket).await;
        let first = tokio::spawn(async move { exchange(first).await });
        until(|| guest.tee.calls() == before + 1).await;
        let verifier: Arc<Verifier> = Arc::new(verifier());
        let connecting: Vec<_> = (0..CLIENTS)
            .map(|_| {
                let (verifier, address) = (Arc::clone(&verifier), guest.address.clone());
                tokio::spawn(async move { verifier.connect(&address).await })
            })
            .collect();
        until(|| guest.attester.waiting() == CLIENTS).await;
        guest.tee.hold(false);
        timeout(DEADLINE, first).await.unwrap().unwrap();
        for connected in connecting {
            let connection = timeout(DEADLINE, connected).await.unwrap().unwrap();
            accepted(connection.unwrap().verdict());
        }
        assert_eq!(guest.tee.calls(), before + 2);
    }
}

async fn exchange(mut connection: Connection) {
    let body = serde_json::to_string(&AttestRequest {
        nonce: Hex([1; 32]),
    });
    let (status, body) = connection.ask("POST", ATTEST_PATH, &body.unwrap()).await;
    assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
}

async fn until(reached: impl Fn() -> bool) {
    let wait = async {
        while !reached() {
            yield_now().await;
        }
    };
    timeout(DEADLINE, wait).await.expect("in time");
}
