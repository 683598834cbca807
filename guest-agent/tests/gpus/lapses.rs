//! Tests of collateral that NVIDIA does not renew in time, and of faults that might hide behind this.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use cocoon_guest_agent::api::error::Refusal;
use cocoon_guest_agent::attester::AttestError;
use cocoon_guest_agent::gpu::GpuSource;
use cocoon_guest_agent::gpu::gate::{Gate, GateError, Setup};
use cocoon_guest_agent::gpu::judge::Roots;
use cocoon_protocol::gpu::GpuCollateral;
use cocoon_simulator::nvidia::Fault;
use tokio::sync::watch;

use super::bench::{Bench, NONCE, simulator};

const LAPSED: &str = "NVIDIA's word on this machine's GPUs is missing or over its time: its host has to fetch it anew; use another machine meanwhile.";

/// While the vendor's service is unavailable, sessions get no evidence, but the machine goes on.
#[test]
fn what_lapses_fails_sessions_and_nothing_else() {
    let open = |bench: &Arc<Bench>| {
        let (host, collateral) = watch::channel(Some(bench.collateral()));
        let setup = Setup {
            source: Arc::clone(bench) as Arc<dyn GpuSource>,
            count: Box::new(|| Ok(1)),
            roots: Roots::Development,
            collateral,
        };
        (
            host,
            Gate::open(setup, &NONCE, |_| (), Duration::ZERO).unwrap(),
        )
    };
    let bench = Bench::new(&["1001"]);
    let (host, gate) = open(&bench);
    let without = |edit: fn(&mut GpuCollateral)| {
        let mut collateral = bench.collateral();
        edit(&mut collateral);
        Some(collateral)
    };
    for handed in [
        None,
        without(|all| all.ocsp.truncate(0)),
        without(|all| *all = GpuCollateral::default()),
    ] {
        host.send_replace(handed);
        let error = gate.evidence(&NONCE).unwrap_err();
        let refusal = Refusal::from(AttestError::Gpus(error.clone()));
        let told = (refusal.status.as_u16(), refusal.code, &*refusal.message);
        assert_eq!(told, (503, Some("gpu_collateral_lapsed"), LAPSED));
        let error = error.to_string();
        let text = "an answer of NVIDIA's about the GPUs is absent or over its time, and the host has to fetch it \
                    (`cocoon-host collateral`): gpu.revocation";
        assert_eq!(error, text);
        assert!(gate.failed().borrow().is_none());
    }
    // Manifests that the host withdraws are still used for verification, and still handed to clients.
    let all = bench.collateral();
    for left in 0..=all.rims.len() {
        let mut handed = all.clone();
        handed.rims.truncate(left);
        host.send_replace(Some(handed));
        let proven = gate.evidence(&NONCE).unwrap();
        let shown = proven.collateral.unwrap();
        assert_eq!(shown.ocsp, all.ocsp);
        let shown: BTreeSet<_> = shown.rims.into_iter().collect();
        assert_eq!(shown, all.rims.iter().cloned().collect());
    }
    // Lapsed collateral hides no other fault: another GPU, a damaged response or a revoked certificate.
    host.send_replace(None);
    assert!(matches!(gate.evidence(&NONCE), Err(GateError::Lapsed(_))));
    *bench.simulator.lock().unwrap() = simulator(&["2002"]);
    let error = gate.evidence(&NONCE).unwrap_err().to_string();
    assert!(
        error.starts_with("the evidence of the GPUs was refused by "),
        "{error}"
    );
    assert!(error.ends_with(", gpu.keys"), "{error}");
    assert!(gate.failed().borrow().is_some());
    // Withheld manifests do not hide measurements that differ from those that NVIDIA published.
    let bench = Bench::new(&["1001"]);
    let (host, gate) = open(&bench);
    host.send_replace(without(|all| all.rims.truncate(0)));
    bench.simulator.lock().unwrap().fault = Some(Fault::OtherVbios);
    let error = gate.evidence(&NONCE).unwrap_err();
    assert!(matches!(error, GateError::Refused(_)), "{error}");
    assert!(error.to_string().contains("gpu.measurement"), "{error}");
    assert!(gate.failed().borrow().is_some());
    let bench = Bench::new(&["1001"]);
    let (host, gate) = open(&bench);
    let mut damaged = bench.collateral();
    damaged.ocsp[0].0.truncate(40);
    host.send_replace(Some(damaged));
    assert_eq!(
        gate.evidence(&NONCE).unwrap_err().to_string(),
        "the evidence of the GPUs was refused by gpu.revocation"
    );
    assert!(gate.failed().borrow().is_some());
    let bench = Bench::new(&["1001"]);
    let (host, gate) = open(&bench);
    bench.simulator.lock().unwrap().fault = Some(Fault::Revoked);
    host.send_replace(Some(bench.collateral()));
    assert_eq!(
        gate.evidence(&NONCE).unwrap_err().to_string(),
        "the evidence of the GPUs was refused by gpu.revocation"
    );
    assert!(gate.failed().borrow().is_some());
}
