//! Every specification that is refused, with the reason.

use cocoon_qemu::VmSpec;
use cocoon_qemu::args::arguments;
use cocoon_qemu::spec::*;

use crate::{emulated, placed, snp, tdx, with_gpu};

#[test]
fn what_cannot_be_expressed_is_refused() {
    type Change = fn(&mut VmSpec);
    let name = |field, name: &str, max| SpecError::Name {
        field,
        name: name.into(),
        max,
    };
    let range = |field, value, min, max| SpecError::OutOfRange {
        field,
        value,
        min,
        max,
    };
    let cases: Vec<(Change, SpecError)> = vec![
        (|s| s.name = "a,b".into(), name("name", "a,b", 64)),
        (|s| s.vcpus = 0, range("vcpus", 0, 1, 255)),
        (|s| s.vcpus = 256, range("vcpus", 256, 1, 255)),
        (|s| s.memory_mib = 63, range("memory_mib", 63, 64, 1 << 24)),
        (
            |s| s.cmdline = "a\nb".into(),
            SpecError::ControlCharacter {
                field: "cmdline",
                character: '\n',
            },
        ),
        (
            |s| s.cmdline = "a\0b".into(),
            SpecError::ControlCharacter {
                field: "cmdline",
                character: '\0',
            },
        ),
        (
            |s| s.cmdline = "a".repeat(2048),
            SpecError::TooLong {
                field: "cmdline",
                length: 2048,
                max: 2047,
            },
        ),
        (
            |s| s.kernel = Blob::Path("/a\rb".into()),
            SpecError::ControlCharacter {
                field: "kernel",
                character: '\r',
            },
        ),
        (
            |s| s.kernel = Blob::Descriptor(2),
            SpecError::Descriptor {
                field: "kernel",
                fd: 2,
            },
        ),
        (
            |s| s.disks[0].serial = "a".repeat(21),
            name("disk serial", &"a".repeat(21), 20),
        ),
        (
            |s| s.disks.push(s.disks[0].clone()),
            SpecError::DuplicateSerial("model".into()),
        ),
        (
            |s| {
                s.network = Some(Network::User {
                    host_port: 0,
                    guest_port: 0,
                })
            },
            range("guest_port", 0, 1, 65535),
        ),
        (
            |s| s.qmp = Some(Endpoint::Path("/".repeat(108).into())),
            SpecError::TooLong {
                field: "QMP socket",
                length: 108,
                max: 107,
            },
        ),
        (
            |s| s.confidential = tdx().confidential,
            SpecError::NeedsKvm { tee: "TDX" },
        ),
        (
            |s| s.confidential = snp().confidential,
            SpecError::NeedsKvm { tee: "SEV-SNP" },
        ),
        (|s| s.gpu = with_gpu(snp()).gpu, SpecError::GpuNeedsKvm),
        (
            |s| *s = placed(tdx(), Some(HugePages::TwoMib), &[]),
            SpecError::HugePagesInTee { tee: "TDX" },
        ),
        (
            |s| *s = placed(snp(), Some(HugePages::OneGib), &[0]),
            SpecError::HugePagesInTee { tee: "SEV-SNP" },
        ),
        (
            |s| {
                *s = placed(emulated(), Some(HugePages::OneGib), &[]);
                s.memory_mib = 1536;
            },
            SpecError::PartOfPage {
                memory_mib: 1536,
                page_mib: 1024,
            },
        ),
        (
            |s| *s = placed(emulated(), None, &[1024]),
            range("NUMA node", 1024, 0, 1023),
        ),
        (
            |s| {
                s.network = Some(Network::Tap {
                    device: "tap0,script=x".into(),
                    vhost: false,
                    mac: [0; 6],
                })
            },
            name("tap device", "tap0,script=x", 15),
        ),
        (
            |s| {
                s.network = Some(Network::Passt {
                    socket: "/".repeat(108).into(),
                })
            },
            SpecError::TooLong {
                field: "passt socket",
                length: 108,
                max: 107,
            },
        ),
        (
            |s| {
                *s = with_gpu(snp());
                s.gpu.as_mut().expect("made above").mmio64_mib = 1024;
            },
            range("mmio64_mib", 1024, 32 << 10, 16 << 20),
        ),
        (
            |s| {
                *s = VmSpec {
                    firmware: None,
                    ..snp()
                }
            },
            SpecError::NeedsFirmware { tee: "SEV-SNP" },
        ),
    ];
    for (change, expected) in cases {
        let mut spec = emulated();
        change(&mut spec);
        assert_eq!(arguments(&spec), Err(expected));
    }
}
