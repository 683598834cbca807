//! Findings about GPUs, each in each of its bad forms, on a server whose image needs a GPU.

use cocoon_host_agent::doctor::facts::{CcMode, Gpus, Look, Modes};
use cocoon_host_agent::doctor::finding::{Mode, Severity};
use cocoon_qemu::spec::mmio64_mib;

use crate::captured::{Captured, Case, H100_NVIDIA, H100_VFIO, SNP, check, covered};

const DEVICE: &str = "file /sys/bus/pci/devices/0000:17:00.0/device";
const CONFIG: &str = "hex /sys/bus/pci/devices/0000:17:00.0/config";
const DRIVER: &str = "link /sys/bus/pci/devices/0000:17:00.0/driver";
const GROUP: &str = "link /sys/bus/pci/devices/0000:17:00.0/iommu_group";
const RESETS: &str = "file /sys/bus/pci/devices/0000:17:00.0/reset_method";
const POWER: &str = "file /sys/bus/pci/devices/0000:17:00.0/power/control";
const MODE: &str = "run nvidia_gpu_tools.py --devices 0000:17:00.0 --query-cc-mode";
const INFORMATION: &str = "file /proc/driver/nvidia/gpus/0000:17:00.0/information";

fn server() -> Captured {
    Captured::new(SNP).and(H100_VFIO).wanting_gpu()
}

/// A disk controller in the GPU's IOMMU group.
const COMPANION: &str = "\
=== names /sys/kernel/iommu_groups/42/devices
0000:00:02.0 0000:17:00.0 0000:17:00.1
=== file /sys/bus/pci/devices/0000:17:00.1/vendor
0x144d
=== file /sys/bus/pci/devices/0000:17:00.1/class
0x010802
=== link /sys/bus/pci/devices/0000:17:00.1/driver
nvme
";

const SWITCH: &str = "\
=== file /sys/bus/pci/devices/0000:c3:00.0/vendor
0x10de
=== file /sys/bus/pci/devices/0000:c3:00.0/class
0x068000
";

const CASES: &[Case] = &[
    (
        |_| Captured::new(SNP).wanting_gpu(),
        "gpu",
        Severity::Failure,
        "none of NVIDIA's",
    ),
    (
        |m| m.with("names /sys/kernel/iommu_groups", ""),
        "iommu",
        Severity::Failure,
        "the kernel has no IOMMU groups",
    ),
    (
        |m| m.without("names /sys/bus/pci/drivers/vfio-pci"),
        "vfio",
        Severity::Failure,
        "the driver vfio-pci is not loaded",
    ),
    (
        |m| m.with("device /dev/iommu", "denied"),
        "vfio.iommufd",
        Severity::Failure,
        "/dev/iommu may not be opened by this user",
    ),
    (
        |m| m.without("device /dev/iommu"),
        "vfio.iommufd",
        Severity::Failure,
        "/dev/iommu: entity not found",
    ),
    (
        |m| {
            m.edited(
                "file /proc/self/limits",
                "unlimited            unlimited",
                "8388608 8388608",
            )
        },
        "limits.memlock",
        Severity::Failure,
        "8 MiB may be locked",
    ),
    (
        |m| m.and(SWITCH),
        "gpu.fabric",
        Severity::Warning,
        "1 NVSwitches join the GPUs",
    ),
    (
        |m| m.without("run nvidia_gpu_tools.py --help"),
        "gpu.tool",
        Severity::Warning,
        "NVIDIA's admin tool is not installed",
    ),
    (
        |m| m.with(CONFIG, "ffffffff"),
        "gpu.bus",
        Severity::Failure,
        "0000:17:00.0 (H100 PCIe) does not answer: it has fallen off the bus",
    ),
    (
        |m| m.with(DEVICE, "0x20b5"),
        "gpu.model",
        Severity::Failure,
        "0000:17:00.0 (10de:20b5)",
    ),
    (
        |m| m.and(H100_NVIDIA),
        "gpu.driver",
        Severity::Failure,
        "is held by nvidia",
    ),
    (
        |m| m.without(DRIVER),
        "gpu.driver",
        Severity::Failure,
        "is held by no driver",
    ),
    (
        |m| m.with("device /dev/vfio/42", "busy"),
        "gpu.driver",
        Severity::Note,
        "belongs to a machine that runs",
    ),
    (
        |m| m.without(GROUP),
        "gpu.group",
        Severity::Failure,
        "is in no IOMMU group",
    ),
    (
        |m| m.and(COMPANION),
        "gpu.group",
        Severity::Failure,
        "shares its IOMMU group with 0000:17:00.1 (nvme)",
    ),
    (
        |m| m.with(RESETS, "bus"),
        "gpu.reset",
        Severity::Failure,
        "has no function-level reset (bus)",
    ),
    (
        |m| m.with(POWER, "auto"),
        "gpu.power",
        Severity::Warning,
        "may be put to sleep",
    ),
    (
        |m| m.edited(MODE, "CC mode is on", "CC mode is off"),
        "gpu.cc",
        Severity::Failure,
        "confidential mode is off",
    ),
    (
        |m| m.edited(MODE, "CC mode is on", "CC mode is devtools"),
        "gpu.cc",
        Severity::Failure,
        "developer mode, in which the host sees everything",
    ),
    (
        |m| m.and(H100_NVIDIA),
        "gpu.cc",
        Severity::Failure,
        "confidential mode is off",
    ),
    (|m| m.without(MODE), "gpu.cc", Severity::Note, "not asked"),
    (
        |m| m.without("run nvidia_gpu_tools.py --help"),
        "gpu.cc",
        Severity::Note,
        "cannot be told here",
    ),
    (
        |m| {
            m.and(H100_NVIDIA)
                .edited(INFORMATION, "96.00.5e.00.01", "96.00.30.00.01")
        },
        "gpu.vbios",
        Severity::Failure,
        "firmware 96.00.30.00.01",
    ),
    (
        |m| m.and(H100_NVIDIA),
        "gpu.vbios",
        Severity::Ok,
        "firmware 96.00.5E.00.01",
    ),
];

#[test]
fn each_finding_in_each_bad_form() {
    check(server, CASES);
}

#[test]
fn every_finding_has_a_bad_form() {
    let mut findings = server().findings();
    let names = ["gpu", "vfio", "limits.memlock"];
    findings.retain(|finding| {
        finding.id == "iommu" || names.iter().any(|name| finding.id.starts_with(name))
    });
    covered(&findings, CASES);
}

/// An image without a GPU runs even if the machine has a broken one.
#[test]
fn what_is_not_needed_prevents_nothing() {
    let bad = Captured::new(SNP).and(H100_VFIO).with(CONFIG, "ffffffff");
    let finding = bad.finding("gpu.bus");
    assert_eq!(finding.severity, Severity::Note);
    assert!(!finding.prevents(Mode::SevSnp));
    assert_eq!(Captured::new(SNP).finding("gpu").severity, Severity::Note);
}

/// A second GPU, which is in use.
const SECOND: &str = "\
=== file /sys/bus/pci/devices/0000:18:00.0/vendor
0x10de
=== file /sys/bus/pci/devices/0000:18:00.0/device
0x2331
=== file /sys/bus/pci/devices/0000:18:00.0/class
0x030200
=== link /sys/bus/pci/devices/0000:18:00.0/driver
vfio-pci
=== link /sys/bus/pci/devices/0000:18:00.0/iommu_group
43
=== device /dev/vfio/43
busy
";

/// Opening a GPU's IOMMU group makes a VM fail that takes the GPU at the same moment. So a start opens only the group of its
/// own GPU, and none without a GPU.
#[test]
fn no_groups_are_opened_but_those_that_are_meant() {
    let machine = || Captured::new(SNP).and(H100_VFIO).and(SECOND);
    let groups = |look| {
        let machine = machine();
        let gpus = Gpus::read(&machine, look, Modes::Told);
        let used: Vec<bool> = gpus.all.iter().map(|gpu| gpu.in_use).collect();
        let mut opened = machine.opened.lock().unwrap().clone();
        opened.retain(|device| device.starts_with("/dev/vfio/"));
        (Vec::from_iter(opened), used)
    };
    let (first, second) = ("/dev/vfio/42".to_owned(), "/dev/vfio/43".to_owned());
    let at = |address: &str| Look::At(address.parse().unwrap());
    assert_eq!(groups(Look::Nowhere), (vec![], vec![false, false]));
    assert_eq!(
        groups(at("0000:17:00.0")),
        (vec![first.clone()], vec![false, false])
    );
    assert_eq!(
        groups(at("0000:18:00.0")),
        (vec![second.clone()], vec![false, true])
    );
    assert_eq!(
        groups(Look::Everywhere),
        (vec![first, second], vec![false, true])
    );

    // The facts that `up --tee` and the daemon's supervisors read.
    let machine = machine();
    machine.facts();
    let opened = machine.opened.lock().unwrap();
    assert!(!opened.iter().any(|device| device.starts_with("/dev/vfio/")));
}

/// The admin tool reads the GPU's registers, so it is only run for unused GPUs, and only if the mode is needed.
#[test]
fn a_gpu_in_use_is_not_asked() {
    let mode = |machine: &Captured| machine.facts().gpus.all[0].cc;
    assert_eq!(mode(&server()), Some(CcMode::On));
    assert_eq!(mode(&server().with("device /dev/vfio/42", "busy")), None);
    assert_eq!(mode(&Captured::new(SNP).and(H100_VFIO)), None);
    assert_eq!(mode(&server().and(H100_NVIDIA)), Some(CcMode::Off));
}

/// Waiting for a GPU means reading it again and again, which must not start a program each time.
#[test]
fn who_wants_no_mode_starts_no_program() {
    for text in ["", H100_NVIDIA] {
        let ran = |modes| {
            let machine = Captured::new(SNP).and(H100_VFIO).and(text);
            Gpus::read(&machine, Look::Everywhere, modes);
            let ran = machine.ran.lock().unwrap();
            ran.len()
        };
        assert_eq!(ran(Modes::Ignored), 0);
        assert!(ran(Modes::Told) > 0 && ran(Modes::Asked) >= ran(Modes::Told));
    }
}

#[test]
fn the_window_is_that_of_the_gpus_own_bars() {
    let gpu = server().facts().gpus.all.remove(0);
    assert_eq!(mmio64_mib(&gpu.bars), 256 << 10);
}
