//! Seeds in JSON and TOML, with and without frames.

use cocoon_measurements::manifest::sign;
use cocoon_measurements::policy::Policy;
use cocoon_measurements::tdx::tcb::TcbStatus;
use cocoon_protocol::batch::Batch;
use cocoon_protocol::binding::Tee;
use cocoon_protocol::bytes::{Blob, Hex};
use cocoon_protocol::config::OperatorConfig;
use cocoon_protocol::control::{
    CONTROL_VERSION, Configure, GuestMessage, HostMessage, Metrics, Phase,
};
use cocoon_protocol::document::{AttestRequest, Evidence};
use cocoon_protocol::gpu::collector::{
    COLLECTOR_VERSION, Found, FromCollector, GpuEvent, Held, Mode, NvmlCall, NvmlFailure,
    PciAddress, ReadyState, Shown, ToCollector,
};
use cocoon_protocol::gpu::{
    CollateralRequest, CollectedGpu, DriverState, GpuCollateral, GpuMetrics, GpuNeeds,
};
use cocoon_protocol::pieces::{Pieces, PiecesRequest};

use crate::manifests::SIGNER;
use crate::platform::{
    EVENT_LOG, FRESH, SNP_REPORT, TDX_COLLATERAL, TDX_QUOTE, made, reference, snp_document,
    tdx_document,
};

pub fn manifest() -> Vec<Vec<u8>> {
    let mut unlocked = reference();
    unlocked.unlocked = vec!["qemu 10.0 10.1".into()];
    vec![reference().to_json(), unlocked.to_json()]
}

pub fn envelope() -> Vec<Vec<u8>> {
    let signed = made(sign(&reference().to_json(), &SIGNER));
    vec![
        signed,
        br#"{"payloadType":"application/vnd.in-toto+json","payload":"","signatures":[]}"#.to_vec(),
    ]
}

/// Returns the payload of the pinned signer's envelope, and an empty statement.
pub fn statement() -> Vec<Vec<u8>> {
    let envelope: serde_json::Value = made(serde_json::from_slice(&envelope()[0]));
    let payload: Blob = made(serde_json::from_value(envelope["payload"].clone()));
    vec![payload.0, b"{}".to_vec()]
}

pub fn document() -> Vec<Vec<u8>> {
    let tdx = tdx_document(TDX_QUOTE.clone(), EVENT_LOG.clone(), TDX_COLLATERAL.clone());
    let mut small = tdx_document(vec![4, 0], Vec::new(), b"{}".to_vec());
    small.collateral = None;
    let request = AttestRequest { nonce: FRESH.nonce };
    let mut shared = small.clone();
    shared.batch = Some(Batch {
        leaves: 3,
        index: 2,
        path: vec![Hex([7; 32])],
    });
    let mut named = tdx.clone();
    named.name_collateral();
    vec![
        small.to_json(),
        shared.to_json(),
        named.to_json(),
        tdx.to_json(),
        snp_document(SNP_REPORT.clone()).to_json(),
        made(serde_json::to_vec(&request)),
    ]
}

fn host_messages() -> Vec<HostMessage> {
    let evidence = Evidence::Tdx {
        quote: Blob(vec![4, 0]),
        event_log: Blob::default(),
    };
    let configure = Configure {
        version: CONTROL_VERSION,
        address: "10.0.2.15/24".into(),
        config: Blob(OperatorConfig::default().canonical()),
        manifest_id: Hex([3; 32]),
        simulate: Some(Tee::Tdx),
        collateral: None,
    };
    vec![
        HostMessage::Configure(configure),
        HostMessage::Evidence {
            id: 1,
            result: Ok(evidence),
        },
        HostMessage::Evidence {
            id: 2,
            result: Err("no simulator".into()),
        },
        HostMessage::Collateral {
            collateral: None,
            gpu: Some(GpuCollateral {
                rims: vec!["<SoftwareIdentity/>".into()],
                ocsp: vec![Blob(vec![0x30, 0x03, 0x0a, 0x01, 0x06])],
            }),
        },
        HostMessage::Drain,
    ]
}

fn guest_messages() -> Vec<GuestMessage> {
    vec![
        GuestMessage::Hello {
            version: CONTROL_VERSION,
            tee: None,
        },
        GuestMessage::EvidenceRequest {
            id: 1,
            report_data: Hex([7; 64]),
        },
        GuestMessage::Metrics(Metrics::default()),
        GuestMessage::GpuMetrics {
            gpus: vec![GpuMetrics {
                memory_bytes: Some(85_520_809_984),
                memory_used_bytes: None,
                temperature_celsius: Some(41),
            }],
        },
        GuestMessage::Failed {
            phase: Phase::Model,
            reason: "the model volume differs".into(),
        },
        GuestMessage::CollateralRequest(CollateralRequest {
            evidence: None,
            gpus: vec![GpuNeeds {
                driver_rim: "NV_GPU_DRIVER_GH100_550.144.03".into(),
                vbios_rim: "NV_GPU_VBIOS_1010_0200_882_96005E0001".into(),
                chain: "-----BEGIN".into(),
            }],
        }),
        GuestMessage::Drained,
    ]
}

pub fn control_messages() -> Vec<Vec<u8>> {
    let host = host_messages()
        .iter()
        .map(serde_json::to_vec)
        .map(made)
        .collect::<Vec<_>>();
    let guest = guest_messages()
        .iter()
        .map(serde_json::to_vec)
        .map(made)
        .collect();
    [host, guest].concat()
}

/// Returns each message alone, then all messages of each side in one stream. The first byte is the length of the pieces.
pub fn control_frames() -> Vec<Vec<u8>> {
    let mut seeds = streams(&control_messages(), 3);
    let all = |messages: &[Vec<u8>]| {
        [vec![7], messages.iter().flat_map(|m| framed(m)).collect()].concat()
    };
    let (host, guest) = (host_messages().len(), control_messages());
    seeds.extend([all(&guest[..host]), all(&guest[host..])]);
    seeds
}

/// Returns messages of both sides, with and without frames.
pub fn collector_frames() -> Vec<Vec<u8>> {
    let driver_version = "550.144.03".to_owned();
    let vbios_version = "96.00.5E.00.01".to_owned();
    let (nonce, version) = (Hex([5; 32]), COLLECTOR_VERSION);
    let mode = Mode {
        confidential_computing: true,
        developer_mode: false,
        protected_pcie: false,
    };
    let held = Held {
        pci: PciAddress {
            domain: 0,
            bus: 1,
            device: 0,
        },
        device: 0x2330,
        vbios_version: vbios_version.clone(),
        persistent: true,
    };
    let evidence = Shown::Evidence(CollectedGpu {
        report: Blob(vec![0x11, 0xe0]),
        chain: "-----BEGIN".into(),
        driver: DriverState {
            confidential_computing: true,
            developer_mode: false,
            protected_pcie: false,
            driver_version: driver_version.clone(),
            vbios_version,
        },
    });
    let found = Found::Gpus {
        driver_version,
        mode,
        gpus: vec![held],
    };
    let failure = NvmlFailure {
        call: NvmlCall::Report,
        code: 15,
    };
    let from = [
        FromCollector::Attached { version, found },
        FromCollector::Evidence {
            nonce,
            gpus: vec![evidence, Shown::Off, Shown::Failed(failure)],
        },
        FromCollector::Ready {
            state: ReadyState::Ready,
        },
        FromCollector::Event(GpuEvent::Xid {
            gpu: Some(0),
            code: 79,
        }),
        FromCollector::Event(GpuEvent::Deaf(failure)),
    ];
    let to = [
        ToCollector::Attach { version },
        ToCollector::Evidence { nonce },
        ToCollector::SetReady { ready: true },
    ];
    let from = from.iter().map(serde_json::to_vec).map(made);
    let texts: Vec<_> = from
        .chain(to.iter().map(serde_json::to_vec).map(made))
        .collect();
    [streams(&texts, 5), texts].concat()
}

/// Returns a request for the pieces `a` and `b`, and the answer to it.
pub fn collateral_pieces() -> Vec<Vec<u8>> {
    let mut pieces = Pieces::default();
    let asked = [b"a", b"b"].map(|piece| pieces.insert(piece.to_vec()));
    let answer = pieces.encode(&asked).unwrap_or_default();
    let request = PiecesRequest {
        pieces: asked.to_vec(),
    };
    vec![
        made(serde_json::to_vec(&request)),
        [b"ab", &answer[..]].concat(),
    ]
}

pub fn policy() -> Vec<Vec<u8>> {
    let loose = Policy {
        accepted_tcb_statuses: vec![TcbStatus::UpToDate, TcbStatus::SwHardeningNeeded],
        accepted_advisories: vec!["INTEL-SA-00615".into()],
        accept_missing_aml_guard: true,
        ..Policy::default()
    };
    [Policy::default(), loose]
        .iter()
        .map(|policy| made(toml::to_string(policy)).into_bytes())
        .collect()
}

pub fn configuration() -> Vec<Vec<u8>> {
    let paid = OperatorConfig {
        name: "appliance-1".into(),
        payout_address: Some(format!("UQ{}", "a".repeat(46))),
        price_prompt_million: 1,
        price_completion_million: u64::MAX,
        ..OperatorConfig::default()
    };
    vec![OperatorConfig::default().canonical(), paid.canonical()]
}

pub(super) fn streams(messages: &[Vec<u8>], step: u8) -> Vec<Vec<u8>> {
    messages
        .iter()
        .map(|message| [vec![step], framed(message)].concat())
        .collect()
}

fn framed(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    [&length.to_be_bytes()[..], message].concat()
}
