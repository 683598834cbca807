//! What `up --tee` starts on captured machines, and what it refuses if something is missing.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::{Arc, Mutex};

use cocoon_host_agent::Host;
use cocoon_host_agent::config::HostConfig;
use cocoon_host_agent::doctor::source::Refusal;
use cocoon_host_agent::relay::{Door, DoorState};
use cocoon_host_agent::supervisor::Launch;
use cocoon_host_agent::tee::{NotReady, confidential};
use cocoon_protocol::binding::Tee;
use cocoon_protocol::config;
use cocoon_qemu::spec::{Confidential, QuoteSocket, Snp, Tdx};

use crate::captured::{Captured, LAPTOP, SNP, TDX};
use crate::hardware::roomy;
use crate::image::{SIGNER, make};

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
    // Old firmware can start VMs, too. Only `doctor` reports that clients refuse them.
    let old = machine
        .edited("snp status", "SNP 27", "SNP 26")
        .edited("snp status", "alias check yes", "alias check no")
        .edited("snp status", "id masked no", "id masked yes");
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

/// An address that the appliance still has to take must be free. An address that its supervisor, or the old VM of an update,
/// already has is no obstacle.
#[test]
fn the_public_address_matters_until_somebody_has_it_for_the_vm() {
    let mut machine = Captured::new(TDX);
    machine.taken = Err(Refusal::AddrInUse);
    assert_eq!(
        start(&machine, Tee::Tdx).unwrap_err().to_string(),
        "this machine cannot start a VM in real TDX: port: 127.0.0.1:8443 is taken; needed: a public address for clients; \
         fix: stop what listens there (`cocoon-host ps` shows VMs), or choose another with --listen"
    );
    machine.wanted.listen = None;
    assert!(matches!(
        start(&machine, Tee::Tdx),
        Ok(Confidential::Tdx(_))
    ));
}

/// Starts an appliance of the daemon's file in a real TEE, up to the start of QEMU: as its supervisor does, and as an update
/// does beside the old VM.
#[tokio::test]
async fn a_supervisor_that_has_the_public_address_starts_a_trust_domain() {
    let folder = tempfile::tempdir().unwrap();
    let qemu = folder.path().join("qemu");
    let script = "#!/bin/sh\ncase \"$*\" in\n*--version) echo 'QEMU emulator version 11.1.3' ;;\n\
        *tdx-guest*) echo 'told of a trust domain' >&2; exit 1 ;;\n*) exit 1 ;;\nesac\n";
    std::fs::write(&qemu, script).unwrap();
    std::fs::set_permissions(&qemu, Permissions::from_mode(0o700)).unwrap();
    let image = make(folder.path(), "image", "quiet", 1, &SIGNER);
    let text = format!(
        "version = 1\nstatus.listen = \"off\"\n[host]\nstate = {:?}\nqemu = {qemu:?}\n[[appliance]]\nname = \"first\"\n\
         image = {image:?}\nmemory = \"1G\"\nvcpus = 1\ntee = \"tdx\"\nlisten = \"127.0.0.1:0\"\n",
        folder.path().join("state")
    );
    let file = folder.path().join("host.toml");
    std::fs::write(&file, text).unwrap();
    let config = HostConfig::load(&file, &roomy()).unwrap();
    let launch = Launch::new(&config.appliances[0], &config.host);
    for waits in [false, true] {
        let door = Door::shut();
        let launch = launch.clone().waiting(waits);
        let mut options = launch.options(&config.host.state, &door).await.unwrap();
        let state = match waits {
            false => DoorState::Open,
            true => DoorState::Shut,
        };
        assert_eq!(door.state(), state);
        let help = format!("run {} -object help", qemu.display());
        let mut machine = Captured::new(TDX).with(&help, "List:\n  iommufd\n  tdx-guest");
        machine.taken = Err(Refusal::AddrInUse);
        options.world = Arc::new(machine);
        let notes = Arc::<Mutex<Vec<String>>>::default();
        let heard = Arc::clone(&notes);
        let up = Host::up(options, move |progress| {
            heard.lock().unwrap().extend(progress.line());
        });
        let error = up.await.expect_err("no QEMU");
        assert_eq!(
            error.to_string(),
            "QEMU does not run: told of a trust domain"
        );
        // The manifest expires in an hour, which is reported.
        let notes = notes.lock().unwrap();
        let told = |note: &String| note.starts_with("the image's manifest ends on ");
        assert!(notes.iter().any(told), "{notes:#?}");
    }
}
