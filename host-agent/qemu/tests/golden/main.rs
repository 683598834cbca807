//! Golden tests of QEMU's whole command line for each kind of machine, and of every specification that is refused.
//!
//! `COCOON_BLESS=1` rewrites the expected files; read the difference before you commit it.

mod refused;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use cocoon_qemu::args::arguments;
use cocoon_qemu::spec::*;
use cocoon_qemu::{Accel, VmSpec};

fn emulated() -> VmSpec {
    VmSpec {
        name: "demo".into(),
        accel: Accel::Emulated,
        confidential: Confidential::None,
        vcpus: 2,
        memory_mib: 1024,
        placement: Placement::default(),
        firmware: Some(Blob::Descriptor(10)),
        kernel: Blob::Descriptor(11),
        initrd: Some(Blob::Descriptor(12)),
        cmdline: "console=ttyS0 panic=-1 model=a,b".into(),
        disks: vec![Disk {
            source: Blob::Descriptor(13),
            serial: "model".into(),
        }],
        control: Some(Channel {
            port: "cocoon.control".into(),
            endpoint: Endpoint::Listener(14),
        }),
        console: Console::File("/run/cocoon, demo/console.log".into()),
        network: Some(Network::User {
            host_port: 0,
            guest_port: 8443,
        }),
        gpu: None,
        qmp: Some(Endpoint::Path("/run/cocoon, demo/qmp.sock".into())),
        pid_file: None,
    }
}

fn tdx() -> VmSpec {
    let mut mrconfigid = [0; 48];
    mrconfigid[0] = 0xfb;
    mrconfigid[47] = 1;
    VmSpec {
        accel: Accel::Kvm,
        confidential: Confidential::Tdx(Tdx {
            mrconfigid,
            quotes: QuoteSocket::Vsock { cid: 2, port: 4050 },
        }),
        console: Console::Discard,
        pid_file: Some("/run/cocoon/demo,1.pid".into()),
        ..emulated()
    }
}

fn snp() -> VmSpec {
    let snp = Snp {
        host_data: [7; 32],
        policy: 0x30000,
        cbitpos: 51,
        reduced_phys_bits: 1,
        cpu: "EPYC-v4".into(),
        id: None,
    };
    VmSpec {
        accel: Accel::Kvm,
        confidential: Confidential::Snp(snp),
        console: Console::Stream(Endpoint::Connected(15)),
        ..emulated()
    }
}

fn with_gpu(spec: VmSpec) -> VmSpec {
    let address = "0000:17:00.0".parse().expect("an address");
    VmSpec {
        gpu: Some(Gpu {
            address,
            mmio64_mib: 256 << 10,
        }),
        disks: [("cocoon-model", 13), ("cocoon-runtime", 16)]
            .map(|(serial, fd)| Disk {
                source: Blob::Descriptor(fd),
                serial: serial.into(),
            })
            .into(),
        ..spec
    }
}

fn placed(spec: VmSpec, hugepages: Option<HugePages>, nodes: &[u32]) -> VmSpec {
    let nodes = nodes.to_vec();
    VmSpec {
        placement: Placement { hugepages, nodes },
        ..spec
    }
}

/// Returns the value of the `-object` of this type.
fn object(spec: &VmSpec, kind: &str) -> String {
    let arguments = arguments(spec).expect("a command line");
    let values = arguments
        .into_iter()
        .filter(|argument| argument.flag == "-object");
    values
        .filter_map(|argument| argument.value)
        .find(|value| value.contains(kind))
        .expect("the object")
}

#[test]
fn emulated_machine() {
    compare("emulated", &emulated());
}

#[test]
fn kvm_machine_with_paths() {
    let spec = VmSpec {
        accel: Accel::Kvm,
        firmware: None,
        kernel: Blob::Path("/boot/a,b".into()),
        initrd: None,
        disks: vec![Disk {
            source: Blob::Path("/disks/a,b".into()),
            serial: "runtime".into(),
        }],
        control: None,
        network: None,
        qmp: None,
        ..emulated()
    };
    compare("kvm", &spec);
}

#[test]
fn tdx_machine() {
    compare("tdx", &tdx());
}

#[test]
fn snp_machine() {
    compare("snp", &snp());
}

#[test]
fn machines_with_a_gpu() {
    for (name, spec) in [("tdx-gpu", tdx()), ("snp-gpu", snp())] {
        compare(name, &with_gpu(spec));
    }
}

/// The emulated machine, which has the fewest arguments of its own, with every network and placement.
#[test]
fn machines_on_other_networks_and_in_other_places() {
    let tap = Network::Tap {
        device: "cocoon0".into(),
        vhost: true,
        mac: [0x52, 0x54, 0x00, 0x4d, 0x00, 0x02],
    };
    let passt = Network::Passt {
        socket: "/run/cocoon, demo/passt.sock".into(),
    };
    let on = |network| VmSpec {
        network: Some(network),
        ..emulated()
    };
    compare("tap", &placed(on(tap), Some(HugePages::OneGib), &[0, 2]));
    compare("passt", &placed(on(passt), Some(HugePages::TwoMib), &[]));
    compare("tdx-placed", &placed(tdx(), None, &[1]));
    compare("snp-placed", &placed(snp(), None, &[1]));
}

/// Network and placement change neither what a guest sees nor what is measured.
#[test]
fn a_guest_cannot_tell_where_it_is() {
    let seen = |spec: &VmSpec| {
        let arguments = arguments(spec).expect("a command line");
        let host = ["-netdev", "-object"];
        let rest = arguments
            .into_iter()
            .filter(|argument| !host.contains(&argument.flag));
        let rest = rest.map(|argument| argument.to_string().replace(",memory-backend=ram0", ""));
        rest.collect::<Vec<_>>()
    };
    let user = seen(&emulated());
    assert_eq!(
        seen(&placed(emulated(), Some(HugePages::TwoMib), &[0])),
        user
    );
    let network = Some(Network::Passt {
        socket: "/run/passt".into(),
    });
    assert_eq!(
        seen(&VmSpec {
            network,
            ..emulated()
        }),
        user
    );
    assert_eq!(seen(&placed(tdx(), None, &[1])), seen(&tdx()));
    let machine = user.iter().any(|argument| argument.contains("-numa"));
    assert!(!machine, "{user:?}");
}

#[test]
fn an_id_block_is_part_of_the_guest_object() {
    let mut spec = snp();
    let Confidential::Snp(snp) = &mut spec.confidential else {
        unreachable!("made above")
    };
    snp.id = Some(IdBlock {
        block: [1; 96],
        auth: Box::new([2; 4096]),
        author_key: true,
    });
    let object = object(&spec, "sev-snp-guest");
    let block = "AQEB".repeat(32);
    let auth = format!("{}Ag==", "AgIC".repeat(1365));
    let end = format!(r#""id-block":"{block}","id-auth":"{auth}","author-key-enabled":true}}"#);
    assert!(object.ends_with(&end), "{object}");
}

#[test]
fn the_window_holds_the_bars_of_known_gpus() {
    const MIB: u64 = 1 << 20;
    // No GPU; H100 80 GB (BAR1 128 GiB); H200 (256 GiB); more than any machine can address.
    for (bars, mib) in [
        (&[][..], 32 << 10),
        (&[16 * MIB, 128 << 30, 32 * MIB][..], 256 << 10),
        (&[16 * MIB, 256 << 30, 32 * MIB][..], 512 << 10),
        (&[u64::MAX, u64::MAX][..], 16 << 20),
    ] {
        assert_eq!(mmio64_mib(bars), mib);
    }
}

#[test]
fn a_quote_service_on_a_unix_socket() {
    let mut spec = tdx();
    let Confidential::Tdx(tdx) = &mut spec.confidential else {
        unreachable!("made above")
    };
    tdx.quotes = QuoteSocket::Unix("/run/qgs/\"a\".socket".into());
    let end = r#""quote-generation-socket":{"type":"unix","path":"/run/qgs/\"a\".socket"}}"#;
    let object = object(&spec, "tdx-guest");
    assert!(object.ends_with(end), "{object}");
}

#[test]
fn every_argument_has_a_reason_and_no_random_device_exists() {
    for spec in [emulated(), with_gpu(tdx()), with_gpu(snp())] {
        for argument in arguments(&spec).expect("a command line") {
            assert!(argument.reason.len() > 8, "{argument}");
            // The guest's kernel does not credit the host's randomness, so no such device is offered.
            assert!(!argument.to_string().contains("rng"), "{argument}");
        }
    }
}

#[test]
fn the_descriptors_are_those_of_the_command_line() {
    let spec = snp();
    let mut descriptors = spec.descriptors();
    descriptors.sort_unstable();
    assert_eq!(descriptors, [10, 11, 12, 13, 14, 15]);
}

fn compare(name: &str, spec: &VmSpec) {
    let mut text = String::new();
    for argument in arguments(spec).expect("a command line") {
        writeln!(text, "{argument}\n    # {}", argument.reason).expect("a string takes everything");
    }
    let file: PathBuf = [
        env!("CARGO_MANIFEST_DIR"),
        "tests/golden",
        &format!("{name}.txt"),
    ]
    .iter()
    .collect();
    if std::env::var_os("COCOON_BLESS").is_some() {
        std::fs::write(&file, &text).expect("the golden file can be written");
    }
    assert_eq!(text, read(&file), "{name} differs from {}", file.display());
}

fn read(file: &Path) -> String {
    std::fs::read_to_string(file).unwrap_or_default()
}
