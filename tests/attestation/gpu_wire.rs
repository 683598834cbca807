//! GPU evidence over real TLS: the real agent with its gate and the real client, and a server that is not an agent.
//! Also limits the size of evidence and collateral.

use std::sync::Arc;

use cocoon_client::{CollateralCache, ConnectError, Stage, TableStyle, table};
use cocoon_protocol::binding::{Claims, Freshness, Tee};
use cocoon_protocol::bytes::{Hex, Hex32};
use cocoon_protocol::document::{Document, Evidence};
use cocoon_protocol::gpu_section::GpuSection;
use cocoon_simulator::nvidia::{Fault, GpuSimulator};
use tokio::task::yield_now;
use tokio::time::timeout;

use crate::connections::{attested, keeps_its_prompt, pieces, rejected};
use crate::gpu_machine::{CUDA_TODAY, Passed, believing, gpus, keys_of, launched, shown, verifier};
use crate::guest::{Guest, TODAY};
use crate::machine::accepted;
use crate::rogue::{Rogue, Script, certificate, evidence, key, spki_sha256};
use crate::stranger::{DEADLINE, Stranger};

const BOTH: [Tee; 2] = [Tee::Tdx, Tee::SevSnp];
/// Maximum bytes of a session's evidence in JSON: quote, GPU report, claims and names of collateral, without event log.
const MAX_EVIDENCE: usize = 20_000;
/// Maximum bytes of NVIDIA's collateral for one model, driver and VBIOS.
const MAX_GPU_COLLATERAL: usize = 60_000;

async fn guest(tee: Tee, gpus: &Arc<Passed>) -> Guest {
    let launch = |leaf| launched(tee, leaf, &CUDA_TODAY, *TODAY);
    let open = |claims: &Claims| gpus.open(claims);
    Guest::of(launch, open).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gpu_proves_itself_to_the_client_over_the_same_channel() {
    for tee in BOTH {
        let passed = Passed::through(gpus("1001"));
        let guest = guest(tee, &passed).await;
        let connection = verifier().connect(&guest.address).await.unwrap();
        accepted(connection.verdict());
        let text = table(connection.verdict(), TableStyle::default());
        println!("{text}");
        for row in [
            "GPU section",
            "measurements of driver and VBIOS",
            "GPUs of the boot",
        ] {
            assert!(text.contains(&format!("ok    {row} ")), "{row}");
        }
        // Once at boot and once for the session.
        assert_eq!(passed.collected(), 2);
    }
}

/// Evidence and collateral stay within their limits, so that a session remains cheap for a phone.
#[tokio::test(flavor = "multi_thread")]
async fn evidence_and_collateral_are_small() {
    for tee in BOTH {
        let passed = Passed::through(gpus("1001"));
        let guest = guest(tee, &passed).await;
        let mut connection = Stranger::new().connect(guest.socket).await;
        let mut document = attested(&mut connection, Hex([5; 32])).await;
        let pieces = pieces(&mut connection, &document).await;
        let named = document.named.clone().unwrap();
        let gpu = named.gpu_collateral.unwrap();
        let sizes = gpu
            .rims
            .iter()
            .chain(&gpu.ocsp)
            .map(|name| pieces.get(name).unwrap().len());
        let collateral: usize = sizes.sum();
        if let Evidence::Tdx { event_log, .. } = &mut document.evidence {
            event_log.0.clear();
        }
        let evidence = document.to_json().len();
        println!(
            "{tee}: evidence {evidence} bytes of {MAX_EVIDENCE}, GPU collateral {collateral} of {MAX_GPU_COLLATERAL}"
        );
        assert!(evidence <= MAX_EVIDENCE, "{evidence}");
        assert!(collateral <= MAX_GPU_COLLATERAL, "{collateral}");
    }
}

/// The vendors' collateral is the same for the next connection, and for another machine with the same GPU, driver and VBIOS.
#[tokio::test(flavor = "multi_thread")]
async fn collateral_is_fetched_once() {
    for tee in BOTH {
        let folder = tempfile::tempdir().unwrap();
        let cache = Arc::new(CollateralCache::open(folder.path()).unwrap());
        let verifier = verifier().with_cache(cache);
        let passed = Passed::through(gpus("1001"));
        let first = guest(tee, &passed).await;
        let connect = |guest: &Guest| {
            let (verifier, address) = (verifier.clone(), guest.address.clone());
            async move {
                let connection = verifier.connect(&address).await.unwrap();
                accepted(connection.verdict());
                connection.collateral()
            }
        };
        let all = connect(&first).await;
        assert!(all.pieces > 4 && all.cached_pieces == 0, "{all}");
        let again = connect(&first).await;
        assert_eq!((again.pieces, again.bytes), (all.pieces, all.bytes));
        assert_eq!(
            (again.cached_pieces, again.cached_bytes),
            (all.pieces, all.bytes)
        );
        // The second machine's CPU has its own collateral, but NVIDIA's is unchanged.
        let second = guest(tee, &passed).await;
        let other = connect(&second).await;
        assert!(other.cached_pieces >= all.pieces - 4, "{other}");
    }
}

/// Connections that wait together share one GPU report, as they share one quote, and each is judged separately.
#[tokio::test(flavor = "multi_thread")]
async fn sessions_that_wait_together_share_one_report() {
    const CLIENTS: usize = 5;
    let passed = Passed::through(gpus("1001"));
    let guest = guest(Tee::Tdx, &passed).await;
    guest.tee.hold(true);
    let stranger = Stranger::new();
    let mut first = stranger.connect(guest.socket).await;
    let first = tokio::spawn(async move { attested(&mut first, Hex([1; 32])).await });
    until(|| passed.collected() == 2).await;
    let verifier = verifier();
    let connecting: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let (verifier, address) = (verifier.clone(), guest.address.clone());
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
    assert_eq!(passed.collected(), 3);
}

/// The agent refuses a GPU that was exchanged while the guest runs, before a client sees it, and stays in that state.
#[tokio::test(flavor = "multi_thread")]
async fn a_gpu_that_is_exchanged_under_the_agent_ends_its_documents() {
    let passed = Passed::through(gpus("1001"));
    let guest = guest(Tee::Tdx, &passed).await;
    assert!(verifier().connect(&guest.address).await.is_ok());
    passed.exchange(gpus("2002"));
    for _ in 0..2 {
        let error = verifier().connect(&guest.address).await.unwrap_err();
        let ConnectError::NoEvidence {
            status, message, ..
        } = &error
        else {
            panic!("{error}")
        };
        assert_eq!(
            (*status, message.as_str()),
            (503, "This machine cannot produce evidence now.")
        );
        passed.exchange(gpus("1001"));
    }
    let gate = guest.attester.gpus().unwrap();
    let failed = gate.failed().borrow().clone().unwrap();
    assert_eq!(
        failed.to_string(),
        "the evidence of the GPUs was refused by gpu.keys"
    );
}

/// Starts a server that is not an agent. Its certificate commits to GPU 1001, and its answers show `gpus`, changed by `edit`.
async fn rogue(gpus: fn() -> GpuSimulator, edit: fn(&mut Option<GpuSection>)) -> Rogue {
    let own = key(7);
    let leaf = spki_sha256(&own);
    let mut boot = launched(Tee::Tdx, leaf, &CUDA_TODAY, *TODAY);
    boot.claims.gpu_section_digest = keys_of("1001", &believing());
    let boot = boot.boot_document().to_json();
    Rogue::start(Script {
        certificate: certificate(&own, vec![evidence(true, &boot)]),
        key: own,
        answer: Box::new(move |fresh: Freshness| {
            let mut vm = launched(Tee::Tdx, leaf, &CUDA_TODAY, *TODAY);
            let document: Document = shown(&mut vm, &fresh, &gpus(), *TODAY, edit);
            document.to_json()
        }),
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_gpus_get_no_prompt() {
    fn with(fault: Fault) -> GpuSimulator {
        let mut gpus = gpus("1001");
        gpus.fault = Some(fault);
        gpus
    }
    type Case = (
        fn() -> GpuSimulator,
        fn(&mut Option<GpuSection>),
        &'static [(&'static str, &'static str)],
    );
    const OTHER_FIRMWARE: &str = "the GPU runs other firmware, or firmware with other settings, than NVIDIA published for this version";
    let cases: [Case; 6] = [
        (
            || with(Fault::WrongNonce),
            |_| (),
            &[(
                "gpu.nonce",
                "the report answers another question: an old one, or somebody else's",
            )],
        ),
        (
            || with(Fault::OtherVbios),
            |_| (),
            &[
                ("gpu.measurement", OTHER_FIRMWARE),
                ("gpu.measurements", OTHER_FIRMWARE),
            ],
        ),
        (
            || with(Fault::DeveloperMode),
            |_| (),
            &[(
                "gpu.developer_mode",
                "developer mode: debuggers and profilers can read everything",
            )],
        ),
        (
            || gpus("2002"),
            |_| (),
            &[(
                "gpu.keys",
                "other GPUs than those that the certificate of this connection committed to when the guest started: one was \
                 exchanged, reset with other firmware, or another machine's evidence is shown",
            )],
        ),
        (
            || gpus("1001"),
            |section| section.as_mut().unwrap().functions = 2,
            &[(
                "gpu.count",
                "a GPU without evidence could do anything with what it is given",
            )],
        ),
        (
            || gpus("1001"),
            |section| *section = None,
            &[(
                "document.gpu",
                "the manifest is of a GPU image, and the guest shows no evidence of a GPU: prompts would reach one that \
                 nobody has checked",
            )],
        ),
    ];
    for (gpus, edit, expected) in cases {
        let rogue = rogue(gpus, edit).await;
        let error = keeps_its_prompt(verifier(), &rogue).await;
        rejected(&error, Stage::Attest, expected);
    }
    // The texts of these refusals contain times, so only the row is compared.
    for fault in [Fault::Revoked, Fault::Expired] {
        let gpus = match fault {
            Fault::Revoked => || with(Fault::Revoked),
            _ => || with(Fault::Expired),
        };
        let rogue = rogue(gpus, |_| ()).await;
        let error = keeps_its_prompt(verifier(), &rogue).await;
        let ConnectError::Rejected { verdict, .. } = &error else {
            panic!("{error}")
        };
        let rows: Vec<_> = verdict.failures().map(|check| check.id).collect();
        let count = if fault == Fault::Revoked { 1 } else { 6 };
        assert_eq!(rows, vec!["gpu.revocation"; count]);
    }
}

/// A certificate that commits to no GPU is refused before the client sends any request.
#[tokio::test(flavor = "multi_thread")]
async fn a_boot_without_a_gpu_gets_no_question() {
    let own = key(7);
    let vm = launched(Tee::Tdx, spki_sha256(&own), &CUDA_TODAY, *TODAY);
    assert_eq!(vm.claims.gpu_section_digest, Hex32::ZERO);
    let boot = vm.boot_document().to_json();
    let rogue = Rogue::start(Script {
        certificate: certificate(&own, vec![evidence(true, &boot)]),
        key: own,
        answer: Box::new(|_| Vec::new()),
    })
    .await;
    let error = keeps_its_prompt(verifier(), &rogue).await;
    rejected(
        &error,
        Stage::Handshake,
        &[(
            "document.gpu",
            "the manifest is of a GPU image, and the guest shows no evidence of a GPU: prompts would reach one that nobody has \
             checked",
        )],
    );
}

async fn until(reached: impl Fn() -> bool) {
    let wait = async {
        while !reached() {
            yield_now().await;
        }
    };
    timeout(DEADLINE, wait).await.expect("in time");
}
