//! Tests of the memory that the largest inputs take. The results are exact, because every allocation is counted.

use cocoon_fuzz::memory::peak;
use cocoon_measurements::ccel::{self, EventLog, LoggedEvent, MAX_EVENTS, MAX_LOG};
use cocoon_measurements::nvidia::ocsp::{MAX_OCSP, readable};
use cocoon_measurements::nvidia::rim::Rim;
use cocoon_measurements::nvidia::spdm::{MAX_REPORT, Report};
use cocoon_measurements::roots::TrustRoot;
use cocoon_measurements::tdx::event::{Rtmr, event_type};
use cocoon_measurements::tdx::quote::{MAX_QUOTE, verify};
use cocoon_measurements::tdx::tcb::TcbPolicy;
use cocoon_protocol::binding::{Claims, Tee};
use cocoon_protocol::bytes::{Blob, Hex32, Hex48};
use cocoon_protocol::document::{Collateral, DOCUMENT_VERSION, Document, Evidence, Kind};
use cocoon_protocol::gpu::{GpuCollateral, MAX_OCSP_RESPONSES, MAX_RIMS};
use cocoon_protocol::pieces::{MAX_CERTIFICATES, MAX_PIECES_LEN, Names, Pieces, PiecesError};

/// Limit of the tests that allow "a few MiB", in bytes.
const LIMIT: usize = 4 << 20;
const NOW: u64 = 1_752_048_802;

/// A quote of 64 KiB in each version, filled with lengths that exceed the available data.
#[test]
fn a_quote_of_64_kib_takes_no_more_than_a_few_mib() {
    for version in [4, 5] {
        for filler in [0x00, 0x01, 0x7f, 0xff] {
            let mut quote = vec![filler; MAX_QUOTE];
            let header = [version, 0, 2, 0, 0x81, 0, 0, 0];
            quote[..8].copy_from_slice(&header);
            if version == 5 {
                quote[48..54].copy_from_slice(&[2, 0, 0x48, 2, 0, 0]);
            }
            let policy = TcbPolicy::judged_by_caller();
            let (judged, most) = peak(|| verify(&quote, b"{}", &TrustRoot::Vendor, &policy, NOW));
            assert!(judged.is_err());
            assert!(
                most <= LIMIT,
                "version {version}, {filler:#x}: {most} bytes"
            );
        }
    }
}

/// A log of 1 MiB with the maximum number of events, whose data fill the log.
#[test]
fn a_log_of_1_mib_takes_no_more_than_a_few_mib() {
    let data = vec![0x5a; MAX_LOG / MAX_EVENTS - 70];
    let event = LoggedEvent {
        rtmr: Rtmr::Rtmr0,
        event_type: event_type::EFI_ACTION,
        digest: [7; 48],
        data: &data,
    };
    let mut log = ccel::encode(vec![event; MAX_EVENTS]).unwrap();
    assert!(log.len() > MAX_LOG - (8 << 10), "{}", log.len());
    log.resize(MAX_LOG, 0xff);
    let (parsed, most) = peak(|| EventLog::parse(&log).map(|log| log.events().len()));
    assert_eq!(parsed, Ok(MAX_EVENTS));
    assert!(most <= LIMIT, "{most} bytes");
    let (replayed, most) = peak(|| EventLog::parse(&log).unwrap().replay());
    assert_ne!(replayed[0], [0; 48]);
    assert!(most <= LIMIT, "{most} bytes");
}

/// Reference manifests of 64 KiB with very many elements, inherited namespaces or attributes, with text that grows in
/// canonical form, and with an empty signature.
#[test]
fn a_manifest_of_64_kib_takes_no_more_than_a_few_mib() {
    let namespaces: String = (0..16)
        .map(|n| format!(" xmlns:n{n}=\"urn:{n}\""))
        .collect();
    let open = format!("<r{namespaces}>");
    let attributes: String = (0..9000).map(|n| format!(" a{n}=\"\"")).collect();
    let bodies = [
        ["<e>".repeat(2000), "</e>".repeat(2000)].concat(),
        "<e/>".repeat(10_000),
        "<e b=\"\"/>".repeat(2000),
        format!("<e{}/>", attributes.get(..60_000).unwrap_or(&attributes)),
        ">".repeat(60_000),
        format!("<e a='{}'/>", "\t".repeat(60_000)),
        "<Signature xmlns=\"http://www.w3.org/2000/09/xmldsig#\"/>".to_owned(),
    ];
    for body in bodies {
        let text = format!("{open}{body}</r>");
        let (judged, most) = peak(|| Rim::parse(text.as_bytes()).map(|_| ()));
        let shown: String = body.chars().take(20).collect();
        assert!(judged.is_err(), "{shown}");
        assert!(most <= LIMIT, "{shown}: {most} bytes");
    }
}

/// A report of 8 KiB and an OCSP response of 16 KiB, filled with lengths that exceed the available data.
#[test]
fn reports_and_responses_take_no_more_than_they_have() {
    for filler in [0x00, 0x01, 0x30, 0x7f, 0x82, 0xff] {
        let mut report = vec![filler; MAX_REPORT];
        report[..4].copy_from_slice(&[0x11, 0xe0, 1, 0xff]);
        let (judged, most) = peak(|| Report::parse(&report).map(|_| ()));
        assert!(judged.is_err());
        assert!(most <= 64 << 10, "{filler:#x}: {most} bytes");
        let mut response = vec![filler; MAX_OCSP];
        response[..4].copy_from_slice(&[0x30, 0x82, 0x3f, 0xfc]);
        let (judged, most) = peak(|| readable(&response));
        assert!(judged.is_err());
        assert!(most <= 64 << 10, "{filler:#x}: {most} bytes");
    }
}

/// One piece of 4 MiB, named in every place that a document has.
#[test]
fn a_piece_with_many_places_is_not_copied_into_them() {
    let mut pieces = Pieces::default();
    let name = pieces.insert(vec![0; MAX_PIECES_LEN]);
    let mut document = Document {
        version: DOCUMENT_VERSION,
        kind: Kind::Session,
        claims: Claims {
            tee: Tee::SevSnp,
            leaf_spki_sha256: Hex32::ZERO,
            meter_key: Hex32::ZERO,
            manifest_id: Hex32::ZERO,
            model_digest: Hex32::ZERO,
            config_digest: Hex48::ZERO,
            gpu_section_digest: Hex32::ZERO,
        },
        nonce: Hex32::ZERO,
        evidence: Evidence::SevSnp {
            report: Blob(Vec::new()),
            certificates: Vec::new(),
        },
        config: Blob(Vec::new()),
        collateral: None,
        batch: None,
        gpu: None,
        gpu_collateral: None,
        named: Some(Names {
            collateral: Some(Collateral::SevSnp {
                certificates: vec![name; MAX_CERTIFICATES],
                crl: Some(name),
            }),
            gpu_collateral: Some(GpuCollateral {
                rims: vec![name; MAX_RIMS],
                ocsp: vec![name; MAX_OCSP_RESPONSES],
            }),
        }),
    };
    let (filled, most) = peak(|| document.fill(&pieces));
    assert!(matches!(filled, Err(PiecesError::TooLong { .. })));
    assert!(most <= 64 << 10, "{most} bytes");
}
