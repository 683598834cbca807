//! Refusals over real TLS, by a client that has a prompt to send: another image than the manifest's, and endorsements
//! that have expired. The client never sends the prompt.

use std::sync::Arc;

use cocoon_client::{CollateralCache, ConnectError, Stage, now};
use cocoon_protocol::binding::{self, Freshness, Tee};
use cocoon_protocol::bytes::Hex32;
use cocoon_protocol::document::{ATTEST_PATH, Collateral, Document};
use cocoon_simulator::tdx::{CollateralDates, TcbStatus};

use crate::collateral::{DAY, STALE, intel};
use crate::connections::{keeps_its_prompt, rejected};
use crate::guest::{CURRENT, TODAY, verifier};
use crate::launches::SNP_LAUNCH;
use crate::machine::{Machine, Start};
use crate::rogue::{Rogue, Script, certificate, evidence, key, spki_sha256};

type Edit = fn(&mut Start);

/// Launches exactly what the manifest lists.
const AS_LISTED: Edit = |_| ();
const OTHER_INITRD: Edit = |start| start.opened.initrd.as_mut().unwrap().push(0);

/// Returns a VM that the host launched as changed by `edit`, with the TLS key `leaf`.
fn machine(tee: Tee, edit: Edit, leaf: Hex32) -> Machine {
    let mut vm = Machine::started(tee, edit);
    vm.claims.leaf_spki_sha256 = leaf;
    vm.claims.manifest_id = CURRENT.id();
    vm.collateral = Some(vm.vm.collateral(*TODAY).unwrap());
    vm
}

/// Starts a server whose certificate shows the evidence of one VM, and whose answers are those of another with the same key.
async fn started(
    tee: Tee,
    shown: Edit,
    answering: Edit,
    stapled: impl FnOnce(&mut Machine),
) -> Rogue {
    answering_with(tee, (shown, answering), stapled, |_| ()).await
}

/// Does the same as `started`, and changes each document with `last` before it is sent.
async fn answering_with(
    tee: Tee,
    (shown, answering): (Edit, Edit),
    stapled: impl FnOnce(&mut Machine),
    last: fn(&mut Document),
) -> Rogue {
    let own = key(7);
    let leaf = spki_sha256(&own);
    let boot = machine(tee, shown, leaf).boot_document().to_json();
    let mut vm = machine(tee, answering, leaf);
    stapled(&mut vm);
    Rogue::start(Script {
        certificate: certificate(&own, vec![evidence(true, &boot)]),
        key: own,
        answer: Box::new(move |fresh: Freshness| {
            let mut document = Document {
                nonce: fresh.nonce,
                evidence: vm.evidence(&binding::session(&vm.claims, &fresh)),
                ..vm.document()
            };
            last(&mut document);
            document.to_json()
        }),
    })
    .await
}

fn paths(rogue: &Rogue) -> Vec<String> {
    rogue.seen(|seen| seen.requests.iter().map(|(path, _)| path.clone()).collect())
}

#[tokio::test]
async fn another_image_gets_no_prompt() {
    const WRONG_INITRD: (&str, &str) = (
        "tdx.rtmr2",
        "wrong initrd: the kernel command line is the manifest's, the initrd is not",
    );
    const OTHER_REGISTER: (&str, &str) = (
        "tdx.rtmr2",
        "another kernel command line or another initrd than the manifest's; without an event log it cannot be told which",
    );
    // The certificate's evidence already shows the other image, so nothing is requested from such a VM.
    for (tee, row) in [
        (Tee::Tdx, OTHER_REGISTER),
        (Tee::SevSnp, ("snp.launch", SNP_LAUNCH)),
    ] {
        let rogue = started(tee, OTHER_INITRD, OTHER_INITRD, |_| ()).await;
        let error = keeps_its_prompt(verifier(), &rogue).await;
        rejected(&error, Stage::Handshake, &[row]);
        assert_eq!(paths(&rogue), Vec::<String>::new());
    }
    // The certificate hides the other image, and the answer to the nonce shows it.
    for (tee, row) in [
        (Tee::Tdx, WRONG_INITRD),
        (Tee::SevSnp, ("snp.launch", SNP_LAUNCH)),
    ] {
        let rogue = started(tee, AS_LISTED, OTHER_INITRD, |_| ()).await;
        let error = keeps_its_prompt(verifier(), &rogue).await;
        rejected(&error, Stage::Attest, &[row]);
        assert_eq!(paths(&rogue), [ATTEST_PATH]);
    }
}

#[tokio::test]
async fn expired_collateral_gets_no_prompt() {
    let rogue = started(Tee::Tdx, AS_LISTED, AS_LISTED, |vm| {
        let dates = CollateralDates {
            issued: *TODAY - DAY,
            next_update: *TODAY - 1,
        };
        vm.collateral = Some(intel(dates, TcbStatus::UpToDate));
    })
    .await;
    let before = now();
    let error = keeps_its_prompt(verifier(), &rogue).await;
    let text = |now: u64| {
        format!(
            "expired collateral, or this machine's clock is wrong; for tdx: the TCB information was valid until {} (Unix \
             time), and it is {now}: fetch a newer one",
            *TODAY - 1
        )
    };
    // The text contains the time at which the client judged, which is only known as an interval.
    let said = match &error {
        ConnectError::Rejected { verdict, .. } => verdict.failures().next(),
        _ => None,
    };
    let said = said.and_then(|row| row.cause.clone()).unwrap_or_default();
    let at = (before..=now()).find(|at| text(*at) == said);
    let at = at.unwrap_or(before);
    rejected(&error, Stage::Attest, &[("evidence.collateral", &text(at))]);
    assert_eq!(paths(&rogue), [ATTEST_PATH]);
}

/// A client's cache keeps bytes, not verdicts: cached collateral is judged by clock and policy like fetched collateral.
/// A host gains nothing by naming an old piece that the client still has.
#[tokio::test]
async fn cocoon_collateral_3() {
    let folder = tempfile::tempdir().unwrap();
    for (days, accepted) in [(1, true), (31, false)] {
        let dates = CollateralDates {
            issued: *TODAY - days * DAY,
            next_update: *TODAY + DAY,
        };
        let collateral = intel(dates, TcbStatus::UpToDate);
        let Collateral::Tdx { json } = &collateral else {
            panic!("Intel's collateral is JSON")
        };
        // As left there by a connection at which it was new.
        let file = folder.path().join(Hex32::sha256(&json.0).to_string());
        std::fs::write(&file, &json.0).unwrap();
        let stapled = |vm: &mut Machine| vm.collateral = Some(collateral.clone());
        let as_listed = (AS_LISTED, AS_LISTED);
        let name = |document: &mut Document| drop(document.name_collateral());
        let rogue = answering_with(Tee::Tdx, as_listed, stapled, name).await;
        let cache = Arc::new(CollateralCache::open(folder.path()).unwrap());
        let verifier = verifier().with_cache(cache);
        let used = match accepted {
            true => verifier.connect(&rogue.address).await.unwrap().collateral(),
            false => {
                let error = keeps_its_prompt(verifier, &rogue).await;
                rejected(&error, Stage::Attest, &[STALE]);
                error.collateral().unwrap()
            }
        };
        assert_eq!((used.pieces, used.cached_pieces), (1, 1));
        assert_eq!(paths(&rogue), [ATTEST_PATH]);
    }
}
