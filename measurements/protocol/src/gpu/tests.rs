//! Tests of each limit, one step beyond it, and of the encoding on the wire.

use super::collector::*;
use super::*;
use crate::bytes::Hex;
use proptest::prelude::*;

fn gpu() -> CollectedGpu {
    CollectedGpu {
        report: Blob(vec![1; MAX_REPORT]),
        chain: "\n".repeat(MAX_CHAIN),
        driver: DriverState {
            confidential_computing: true,
            developer_mode: false,
            protected_pcie: false,
            driver_version: "580.65.06".into(),
            vbios_version: "96.00.5E.00.01".into(),
        },
    }
}

fn needs() -> GpuNeeds {
    GpuNeeds {
        driver_rim: "NV_GPU_DRIVER_GH100_550.144.03".into(),
        vbios_rim: "NV_GPU_VBIOS_1010_0200_882_96005E0001".into(),
        chain: "\n".repeat(MAX_CHAIN),
    }
}

fn held(bus: u8) -> Held {
    Held {
        pci: PciAddress {
            domain: 0,
            bus,
            device: 0,
        },
        device: 0x2330,
        vbios_version: "96.00.5E.00.01".into(),
        persistent: true,
    }
}

fn found(gpus: Vec<Held>) -> FromCollector {
    FromCollector::Attached {
        version: COLLECTOR_VERSION,
        found: Found::Gpus {
            driver_version: "580.65.06".into(),
            mode: Mode {
                confidential_computing: true,
                developer_mode: false,
                protected_pcie: false,
            },
            gpus,
        },
    }
}

#[test]
fn evidence_of_a_gpu_has_bounds() {
    let refused = |edit: fn(&mut CollectedGpu)| {
        let mut gpu = gpu();
        edit(&mut gpu);
        gpu.check().unwrap_err().to_string()
    };
    assert_eq!(gpu().check(), Ok(()));
    assert_eq!(
        refused(|gpu| gpu.report.0.push(0)),
        "8193 bytes of GPU report, where at most 8192 are allowed"
    );
    assert_eq!(
        refused(|gpu| gpu.report.0.clear()),
        "no bytes of GPU report, where there must be some"
    );
    assert_eq!(
        refused(|gpu| gpu.chain.push('\n')),
        "8193 bytes of GPU certificates, where at most 8192 are allowed"
    );
    assert_eq!(
        refused(|gpu| gpu.chain.insert(0, '\0')),
        "8193 bytes of GPU certificates, where at most 8192 are allowed"
    );
    assert_eq!(
        refused(|gpu| gpu.chain.replace_range(..1, "\0")),
        "the bytes of GPU certificates hold one that does not belong there"
    );
    assert_eq!(
        refused(|gpu| gpu.driver.driver_version = "1".repeat(65)),
        "65 characters of the driver's version, where at most 64 are allowed"
    );
    assert_eq!(
        refused(|gpu| gpu.driver.vbios_version = "96.00\n".into()),
        "the characters of the VBIOS's version hold one that does not belong there"
    );
}

#[test]
fn a_request_for_collateral_has_bounds() {
    let request = |gpus| CollateralRequest {
        evidence: None,
        gpus,
    };
    assert_eq!(request(vec![needs(); MAX_GPUS]).check(), Ok(()));
    assert_eq!(
        request(vec![needs(); MAX_GPUS + 1])
            .check()
            .unwrap_err()
            .to_string(),
        "17 GPUs, where at most 16 are allowed"
    );
    for name in ["../../etc/passwd", "NV_GPU/..", "nv_gpu", "..", "NV_ä"] {
        let mut gpu = needs();
        gpu.vbios_rim = name.into();
        assert_eq!(
            request(vec![gpu]).check().unwrap_err().to_string(),
            "the characters of the name of the VBIOS's manifest hold one that does not belong there",
            "{name}"
        );
    }
    let mut log = request(Vec::new());
    log.evidence = Some(Evidence::Tdx {
        quote: Blob(vec![1]),
        event_log: Blob(vec![1]),
    });
    assert_eq!(log.check(), Err(GpuError::EventLog));
}

/// The largest message of each kind fits in its channel.
#[test]
fn the_largest_messages_fit_their_channels() {
    use crate::control::{GuestMessage, HostMessage, MAX_GUEST_MESSAGE, MAX_HOST_MESSAGE};
    use crate::frame::encode;
    let request = CollateralRequest {
        evidence: Some(Evidence::Tdx {
            quote: Blob(vec![0; 16 * 1024]),
            event_log: Blob::default(),
        }),
        gpus: vec![needs(); MAX_GPUS],
    };
    assert!(encode(&GuestMessage::CollateralRequest(request), MAX_GUEST_MESSAGE).is_ok());
    let collateral = GpuCollateral {
        rims: vec!["\"".repeat(MAX_RIM); MAX_RIMS],
        ocsp: vec![Blob(vec![0; MAX_OCSP]); MAX_OCSP_RESPONSES],
    };
    assert_eq!(collateral.check(), Ok(()));
    let message = HostMessage::Collateral {
        collateral: None,
        gpu: Some(collateral),
    };
    assert!(encode(&message, MAX_HOST_MESSAGE).is_ok());
    let evidence = FromCollector::Evidence {
        nonce: Hex([0; 32]),
        gpus: vec![Shown::Evidence(gpu()); MAX_GPUS],
    };
    assert_eq!(evidence.check(), Ok(()));
    assert!(encode(&evidence, MAX_FROM_COLLECTOR).is_ok());
    let nonce = Hex([0xff; 32]);
    assert!(encode(&ToCollector::Evidence { nonce }, MAX_TO_COLLECTOR).is_ok());
}

#[test]
fn collateral_has_bounds() {
    let check = |rims: Vec<usize>, ocsp: Vec<usize>| {
        GpuCollateral {
            rims: rims.into_iter().map(|n| "<".repeat(n)).collect(),
            ocsp: ocsp.into_iter().map(|n| Blob(vec![0; n])).collect(),
        }
        .check()
        .map_err(|error| error.to_string())
    };
    let refused = |text: &str| Err(text.to_owned());
    assert_eq!(check(vec![], vec![]), Ok(()));
    assert_eq!(
        check(vec![1; 33], vec![]),
        refused("33 reference manifests, where at most 32 are allowed")
    );
    assert_eq!(
        check(vec![], vec![1; 65]),
        refused("65 OCSP responses, where at most 64 are allowed")
    );
    assert_eq!(
        check(vec![MAX_RIM + 1], vec![]),
        refused("65537 bytes of a reference manifest, where at most 65536 are allowed")
    );
    assert_eq!(
        check(vec![], vec![0]),
        refused("no bytes of an OCSP response, where there must be some")
    );
}

#[test]
fn gpus_are_listed_once_each() {
    assert_eq!(found(vec![held(1), held(2)]).check(), Ok(()));
    for gpus in [vec![held(2), held(1)], vec![held(1), held(1)]] {
        assert_eq!(found(gpus).check(), Err(GpuError::Order));
    }
    assert_eq!(found(Vec::new()).check(), Err(GpuError::None("GPUs")));
    let many = (0..17).map(held).collect();
    assert_eq!(
        found(many).check().unwrap_err().to_string(),
        "17 GPUs, where at most 16 are allowed"
    );
}

#[test]
fn messages_of_the_collector_stand_as_documented() {
    let json = |message: &FromCollector| serde_json::to_string(message).unwrap();
    let off = FromCollector::Evidence {
        nonce: Hex([0; 32]),
        gpus: vec![Shown::Off],
    };
    let zero = "00".repeat(32);
    assert_eq!(
        json(&off),
        format!(r#"{{"type":"evidence","nonce":"{zero}","gpus":[{{"what":"off"}}]}}"#)
    );
    let xid = FromCollector::Event(GpuEvent::Xid {
        gpu: Some(0),
        code: 79,
    });
    assert_eq!(
        json(&xid),
        r#"{"type":"event","event":"xid","gpu":0,"code":79}"#
    );
    let metrics = FromCollector::Metrics {
        gpus: vec![GpuMetrics {
            memory_bytes: Some(85_520_809_984),
            memory_used_bytes: None,
            temperature_celsius: Some(41),
        }],
    };
    assert_eq!(
        serde_json::to_string(&metrics).unwrap(),
        r#"{"type":"metrics","gpus":[{"memory_bytes":85520809984,"memory_used_bytes":null,"temperature_celsius":41}]}"#
    );
    let many = FromCollector::Metrics {
        gpus: vec![GpuMetrics::default(); MAX_GPUS + 1],
    };
    assert_eq!(
        many.check().unwrap_err().to_string(),
        "17 GPUs, where at most 16 are allowed"
    );
    let failed = FromCollector::Ready {
        state: ReadyState::Failed(NvmlFailure {
            call: NvmlCall::SetReady,
            code: 4,
        }),
    };
    assert_eq!(
        json(&failed),
        r#"{"type":"ready","state":{"what":"failed","call":"set-ready","code":4}}"#
    );
    assert_eq!(held(0x1a).pci.to_string(), "0000:1a:00.0");
    for message in [off, xid, failed, found(vec![held(1)])] {
        assert_eq!(
            serde_json::from_str::<FromCollector>(&json(&message)).unwrap(),
            message
        );
    }
}

proptest! {
    /// Every accepted name is a single component of a path and of a URL.
    #[test]
    fn a_name_of_a_manifest_is_one_plain_word(name in "[ -~]{0,40}|NV_[A-Z0-9._/%?-]{0,40}") {
        if rim_name("name", &name).is_ok() {
            prop_assert!(!name.contains(['/', '%', '?', '#', ' ', '\\']));
            prop_assert!(name.starts_with("NV_"));
        }
    }
}
