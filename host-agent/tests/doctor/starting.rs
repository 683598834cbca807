//! What `up --tee` starts, on captured machines; and its refusal where a piece is missing.

use cocoon_host_agent::tee::{NotReady, confidential};
use cocoon_protocol::binding::Tee;
use cocoon_protocol::config;
use cocoon_qemu::spec::{Confidential, QuoteSocket, Snp, Tdx};

use crate::captured::{Captured, LAPTOP, SNP, TDX};

const CONFIG: &[u8] = b"{}";

fn start(machine: &Captured, tee: Tee) -> Result<Confidential, NotReady> {
    confidential(tee, &machine.facts(), &machine.wanted, CONFIG, "EPYC-v4")
}

#[test]
fn a_trust_domain_has_the_configuration_and_the_machines_quote_service() {
    let tdx = |quotes| {
        Ok(Confidential::Tdx(Tdx {
            mrconfigid: config::digest(Tee::Tdx, CONFIG).0,
            quotes,
        }))
    };
    let machine = Captured::new(TDX);
    let socket = QuoteSocket::Unix("/var/run/tdx-qgs/qgs.socket".into());
    assert_eq!(start(&machine, Tee::Tdx), tdx(socket));
    let machine = machine
        .with("file /etc/qgs.conf", "port = 4050")
        .with("peer vsock 2:4050", "ok");
    assert_eq!(
        start(&machine, Tee::Tdx),
        tdx(QuoteSocket::Vsock { cid: 2, port: 4050 })
    );
}

#[test]
fn an_snp_guest_has_the_configuration_and_the_processors_numbers() {
    let expected = Snp {
        host_data: config::digest(Tee::SevSnp, CONFIG).0[..32]
            .try_into()
            .unwrap(),
        policy: 0x30000,
        cbitpos: 51,
        reduced_phys_bits: 5,
        cpu: "EPYC-v4".into(),
        id: None,
    };
    let machine = Captured::new(SNP);
    assert_eq!(
        start(&machine, Tee::SevSnp),
        Ok(Confidential::Snp(expected.clone()))
    );
    // Old firmware starts VMs, too; that clients refuse them is for `doctor` to say.
    let old = machine.edited("run snphost show tcb", "SNP:         23", "SNP:         1");
    assert_eq!(start(&old, Tee::SevSnp), Ok(Confidential::Snp(expected)));
}

#[test]
fn a_machine_without_is_told_what_it_lacks() {
    let laptop = Captured::new(LAPTOP);
    assert_eq!(
        start(&laptop, Tee::Tdx).unwrap_err().to_string(),
        "this machine cannot start a VM in real TDX: cpu.tdx: 11th Gen Intel(R) Core(TM) i7-1165G7 @ 2.80GHz \
         (family 6, model 140, stepping 1); needed: a Xeon of the 4th generation (with TDX), the 5th or later; \
         fix: use another machine; this one has no TDX"
    );
    let error = start(&laptop, Tee::SevSnp).unwrap_err();
    assert!(
        matches!(&error, NotReady::Missing { finding, more: 0, .. } if finding.id == "cpu.snp"),
        "{error:?}"
    );
}

#[test]
fn the_first_of_several_pieces_is_named_and_the_others_counted() {
    let machine = Captured::new(TDX)
        .with("file /sys/module/kvm_intel/parameters/tdx", "N")
        .without("peer /var/run/tdx-qgs/qgs.socket");
    let error = start(&machine, Tee::Tdx).unwrap_err().to_string();
    assert!(
        error.contains(": kvm.tdx: kvm_intel was loaded without TDX"),
        "{error}"
    );
    assert!(
        error.ends_with("(and 1 more: `cocoon-host doctor --for tdx` lists them)"),
        "{error}"
    );
}
