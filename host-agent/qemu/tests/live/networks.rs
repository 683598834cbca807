//! TAP and passt, as far as any host can test them: a real QEMU connects to the socket and accepts every option.

use std::path::PathBuf;

use cocoon_qemu::args::arguments;
use cocoon_qemu::qmp::{QmpError, RunState};
use cocoon_qemu::spec::*;
use cocoon_qemu::{Accel, Qmp, Vm, VmSpec, socket};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;
use tokio::net::UnixListener;

use crate::guest::{PATIENCE, Running, guest, qemu, start};

/// Returns a machine in which only the network matters.
fn machine(network: Network, kernel: PathBuf, qmp: Endpoint) -> VmSpec {
    VmSpec {
        name: "network".into(),
        accel: Accel::Emulated,
        confidential: Confidential::None,
        vcpus: 2,
        memory_mib: 64,
        placement: Placement::default(),
        firmware: None,
        kernel: Blob::Path(kernel),
        initrd: None,
        cmdline: String::new(),
        disks: Vec::new(),
        control: None,
        console: Console::Discard,
        network: Some(network),
        gpu: None,
        qmp: Some(qmp),
        pid_file: None,
    }
}

/// The test stands in for passt: QEMU connects, and the machine runs on.
#[tokio::test]
async fn qemu_connects_to_a_passt() {
    let Some(qemu) = qemu().await else { return };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("passt.sock");
    let passt = UnixListener::bind(&path).expect("a socket");
    let kernel = folder.path().join("kernel");
    std::fs::write(&kernel, guest()).expect("a kernel");
    let listening = socket::listen(&folder.path().join("qmp")).expect("a socket");
    let spec = machine(Network::Passt { socket: path }, kernel, listening.endpoint);
    let vm = Vm::spawn(&qemu, &spec, vec![listening.fd]).expect("started");
    let connected = tokio::time::timeout(PATIENCE, passt.accept()).await;
    let (mut stream, _) = connected.expect("QEMU connects").expect("a connection");
    let qmp = Qmp::connect(&folder.path().join("qmp"), PATIENCE).await;
    let qmp = qmp.unwrap_or_else(|error| panic!("{error}: {}", vm.diagnostics()));
    assert_eq!(qmp.status().await.expect("a state"), RunState::Running);
    // The peer receives the announcement: a length, then a frame with the card's source address.
    qmp.announce().await.expect("announced");
    let mut frame = [0; 4 + 60];
    let heard = tokio::time::timeout(PATIENCE, stream.read_exact(&mut frame)).await;
    heard.expect("in time").expect("a frame");
    assert_eq!(frame[..4], 60_u32.to_be_bytes());
    assert_eq!(frame[10..16], [0x52, 0x54, 0x00, 0x12, 0x34, 0x56]);
    // Each vCPU has a thread, identified by its kernel thread id.
    let threads = qmp.cpu_threads().await.expect("threads");
    assert_eq!(threads.len(), 2);
    for thread in threads {
        let own = format!("/proc/{}/task/{thread}", vm.pid());
        assert!(std::path::Path::new(&own).exists(), "{own}");
    }
    vm.stop(Some(&qmp), PATIENCE).await.expect("ended");
}

/// With privileges, the device is created and disappears with QEMU; without, the kernel refuses it. QEMU refuses an unknown
/// option before that.
#[tokio::test]
async fn every_option_of_a_tap_is_one_of_qemus() {
    let Some(qemu) = qemu().await else { return };
    let Running { vm, qmp, .. } = start(&qemu).await;
    let tap = Network::Tap {
        device: "cocoon-none".into(),
        vhost: false,
        mac: [0x52, 0x54, 0, 0, 0, 1],
    };
    let spec = machine(tap, "/kernel".into(), Endpoint::Connected(9));
    let line = arguments(&spec).expect("a command line");
    let netdev = line.iter().find(|argument| argument.flag == "-netdev");
    let netdev = netdev.and_then(|argument| argument.value.clone());
    let ours = members(&netdev.expect("a network"));
    let said = add(&qmp, ours.clone()).await;
    let read = ["accepted", "/dev/net/tun", "cocoon-none"];
    assert!(read.iter().any(|words| said.contains(words)), "{said}");
    let mut wrong = ours;
    wrong["scripts"] = json!("no");
    let said = add(&qmp, wrong).await;
    assert!(said.contains("Parameter 'scripts' is unexpected"), "{said}");
    vm.stop(Some(&qmp), PATIENCE).await.expect("ended");
}

/// Converts an option of the command line to the form that QMP takes.
fn members(text: &str) -> Value {
    let mut parts = text.split(',');
    let mut members = json!({ "type": parts.next() });
    for part in parts {
        let (name, value) = part.split_once('=').expect("a member");
        members[name] = match value {
            "on" => json!(true),
            "off" => json!(false),
            text => json!(text),
        };
    }
    // An id other than that of the machine's own network.
    members["id"] = json!("another");
    members
}

/// Returns QEMU's response to adding this network.
async fn add(qmp: &Qmp, network: Value) -> String {
    match qmp.execute::<Value>("netdev_add", network).await {
        Ok(_) => "accepted".to_owned(),
        Err(QmpError::Refused { description, .. }) => description,
        Err(other) => panic!("{other}"),
    }
}
