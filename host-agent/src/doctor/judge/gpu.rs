//! Whether a GPU can be given to a VM in confidential-computing mode. If the image needs none, nothing here is a failure.

use super::super::facts::{CcMode, Facts, Gpu, Wanted};
use super::super::finding::{Finding, Mode, Severity};
use super::super::source::Refusal;

/// Lowest VBIOS version of Hopper GPUs with confidential computing (NVIDIA's deployment guide for confidential computing).
const VBIOS_HOPPER: &str = "96.00.5E.00.00";

pub(super) fn findings(facts: &Facts, wanted: &Wanted) -> Vec<Finding> {
    let gpus = &facts.gpus;
    let mut findings = Vec::new();
    if gpus.all.is_empty() {
        findings.push(
            Finding::failure("gpu", Mode::REAL, "none of NVIDIA's")
                .needed("a GPU with a confidential mode: H100, H200 or later")
                .fix("use the image's variant without a GPU, or another machine"),
        );
        return weighed(findings, wanted);
    }
    findings.extend(host(facts, wanted));
    for gpu in &gpus.all {
        findings.extend(one(gpu, gpus.tool));
    }
    weighed(findings, wanted)
}

/// Lowers every finding to a note if the image needs no GPU.
fn weighed(mut findings: Vec<Finding>, wanted: &Wanted) -> Vec<Finding> {
    if !wanted.gpu {
        for finding in &mut findings {
            finding.severity = finding.severity.min(Severity::Note);
        }
    }
    findings
}

fn host(facts: &Facts, wanted: &Wanted) -> Vec<Finding> {
    let gpus = &facts.gpus;
    let mut findings = Vec::new();
    let id = "iommu";
    findings.push(if gpus.iommu_groups > 0 {
        Finding::ok(id, Mode::REAL, format!("{} groups", gpus.iommu_groups))
    } else {
        Finding::failure(id, Mode::REAL, "the kernel has no IOMMU groups")
            .needed("an IOMMU: without one no device can be passed to a machine")
            .fix("enable VT-d or AMD's IOMMU in the BIOS; on Intel add intel_iommu=on to the kernel's command line")
    });
    findings.push(if gpus.vfio {
        Finding::ok("vfio", Mode::REAL, "vfio-pci is there")
    } else {
        Finding::failure("vfio", Mode::REAL, "the driver vfio-pci is not loaded")
            .needed("vfio-pci, which hands devices to machines")
            .fix("modprobe vfio-pci, and name it in /etc/modules-load.d")
    });
    let id = "vfio.iommufd";
    findings.push(match gpus.iommufd {
        Ok(()) => Finding::ok(id, Mode::REAL, "/dev/iommu can be used"),
        Err(Refusal::PermissionDenied) => {
            Finding::failure(id, Mode::REAL, "/dev/iommu may not be opened by this user")
                .needed("iommufd, through which QEMU maps the GPU")
                .fix(
                    "give QEMU's user access to /dev/iommu and /dev/vfio: the package's udev rules \
                     (60-cocoon-host.rules) give them to the group kvm",
                )
        }
        Err(error) => Finding::failure(id, Mode::REAL, format!("/dev/iommu: {error}"))
            .needed("iommufd, through which QEMU maps the GPU")
            .fix("modprobe iommufd; the kernel needs CONFIG_IOMMUFD and CONFIG_VFIO_DEVICE_CDEV"),
    });
    let needed = u64::from(wanted.memory_mib) << 20;
    findings.push(match facts.host.locked_memory {
        Some(limit) if limit >= needed => Finding::ok("limits.memlock", Mode::REAL, "enough"),
        limit => {
            let shown = limit.map_or("unknown".to_owned(), |limit| format!("{} MiB", limit >> 20));
            Finding::failure(
                "limits.memlock",
                Mode::REAL,
                format!("{shown} may be locked"),
            )
            .needed(format!(
                "{} MiB: a passed-through GPU pins the guest's memory",
                wanted.memory_mib
            ))
            .fix("ulimit -l unlimited, or LimitMEMLOCK=infinity in the unit")
        }
    });
    findings.push(if gpus.switches == 0 {
        Finding::ok(
            "gpu.fabric",
            Mode::REAL,
            "no switches: each GPU stands alone",
        )
    } else {
        Finding::warning(
            "gpu.fabric",
            Mode::REAL,
            format!("{} NVSwitches join the GPUs", gpus.switches),
        )
        .needed("one GPU for one machine; several GPUs in one machine are not supported")
        .fix("give each machine one GPU; keep the fabric manager off")
    });
    findings.push(match gpus.tool {
        Some(tool) => Finding::ok("gpu.tool", Mode::REAL, format!("{tool} is installed")),
        None => Finding::warning(
            "gpu.tool",
            Mode::REAL,
            "NVIDIA's admin tool is not installed",
        )
        .needed("the tool that reads and sets the confidential mode")
        .fix("put nvidia_gpu_tools.py of NVIDIA's gpu-admin-tools on the PATH, and run as root"),
    });
    findings
}

fn one(gpu: &Gpu, tool: Option<&str>) -> Vec<Finding> {
    let name = gpu.shown();
    let prepare = format!("cocoon-host gpu prepare {}", gpu.address);
    let mut findings = Vec::new();
    let mut add = |finding: Finding| findings.push(finding);
    if !gpu.answers {
        add(Finding::failure("gpu.bus", Mode::REAL, format!("{name} does not answer: it has fallen off the bus"))
            .needed("a GPU that answers")
            .fix("reset the slot (nvidia_gpu_tools.py --recover-broken-gpu), or power the server off and on"));
        return findings;
    }
    add(match gpu.model {
        Some(_) => Finding::ok("gpu.model", Mode::REAL, name.clone()),
        None => Finding::failure("gpu.model", Mode::REAL, name.clone())
            .needed("a GPU that is known to have a confidential mode: H100, H200 or later")
            .fix("use another GPU, or the image's variant without one"),
    });
    add(match &gpu.driver {
        _ if gpu.in_use => Finding::note(
            "gpu.driver",
            Mode::REAL,
            format!("{name} belongs to a machine that runs"),
        ),
        Some(driver) if driver == "vfio-pci" => Finding::ok(
            "gpu.driver",
            Mode::REAL,
            format!("{name} is held by vfio-pci"),
        ),
        other => {
            let holder = other.as_deref().unwrap_or("no driver");
            Finding::failure(
                "gpu.driver",
                Mode::REAL,
                format!("{name} is held by {holder}"),
            )
            .needed("vfio-pci, which hands it to a machine")
            .fix(prepare.clone())
        }
    });
    let strangers: Vec<String> = (gpu.companions.iter())
        .filter(|(_, driver)| driver.as_deref().is_some_and(|driver| driver != "vfio-pci"))
        .map(|(address, driver)| format!("{address} ({})", driver.as_deref().unwrap_or_default()))
        .collect();
    add(if gpu.group.is_none() {
        Finding::failure(
            "gpu.group",
            Mode::REAL,
            format!("{name} is in no IOMMU group"),
        )
        .needed("an IOMMU group of its own")
        .fix("enable the IOMMU in the BIOS")
    } else if strangers.is_empty() {
        Finding::ok(
            "gpu.group",
            Mode::REAL,
            format!("{name} shares its IOMMU group with no other driver"),
        )
    } else {
        Finding::failure("gpu.group", Mode::REAL, format!("{name} shares its IOMMU group with {}", strangers.join(", ")))
            .needed("a group that can be handed over whole")
            .fix("bind the others to vfio-pci too, or put the GPU into a slot of its own (ACS on in the BIOS)")
    });
    add(if gpu.resets.iter().any(|method| method == "flr") {
        Finding::ok(
            "gpu.reset",
            Mode::REAL,
            format!("{name} resets by itself (FLR)"),
        )
    } else {
        let found = format!(
            "{name} has no function-level reset ({})",
            gpu.resets.join(", ")
        );
        Finding::failure("gpu.reset", Mode::REAL, found)
            .needed("FLR: in confidential mode a GPU takes one attach for each reset")
            .fix("update the GPU's firmware; reset_method in its folder below /sys/bus/pci/devices must name flr")
    });
    add(if gpu.may_sleep {
        Finding::warning(
            "gpu.power",
            Mode::REAL,
            format!("{name} may be put to sleep when nobody uses it"),
        )
        .needed("power/control set to on: some GPUs do not wake up again")
        .fix(prepare.clone())
    } else {
        Finding::ok("gpu.power", Mode::REAL, format!("{name} stays awake"))
    });
    add(mode(gpu, &name, &prepare, tool));
    add(firmware(gpu, &name));
    findings
}

fn mode(gpu: &Gpu, name: &str, prepare: &str, tool: Option<&str>) -> Finding {
    let (id, needed) = ("gpu.cc", "confidential mode on");
    match gpu.cc {
        Some(CcMode::On) => Finding::ok(id, Mode::REAL, format!("{name}: confidential mode is on")),
        Some(CcMode::Off) => {
            Finding::failure(id, Mode::REAL, format!("{name}: confidential mode is off"))
                .needed(needed)
                .fix(prepare)
        }
        Some(CcMode::DevTools) => Finding::failure(
            id,
            Mode::REAL,
            format!("{name}: developer mode, in which the host sees everything"),
        )
        .needed(needed)
        .fix(prepare),
        None if tool.is_some() && !gpu.in_use => {
            Finding::note(id, Mode::REAL, format!("{name}: not asked"))
                .fix("add --gpu, as root, to ask")
        }
        None => {
            Finding::note(id, Mode::REAL, format!("{name}: cannot be told here")).needed(needed)
        }
    }
}

fn firmware(gpu: &Gpu, name: &str) -> Finding {
    let id = "gpu.vbios";
    let Some(vbios) = &gpu.vbios else {
        return Finding::note(id, Mode::REAL, format!("{name}: only NVIDIA's driver tells its firmware's version"))
            .needed("a version whose reference measurements NVIDIA publishes; the GPU's own report names it");
    };
    // The versions have a fixed width in hexadecimal, so they compare as text.
    let old = gpu.device >> 8 == 0x23 && vbios.as_str() < VBIOS_HOPPER;
    if old {
        Finding::failure(id, Mode::REAL, format!("{name}: firmware {vbios}"))
            .needed(format!("{VBIOS_HOPPER} or later"))
            .fix("ask the server's vendor or NVIDIA for newer GPU firmware")
    } else {
        Finding::ok(id, Mode::REAL, format!("{name}: firmware {vbios}"))
    }
}
