//! Compares SEV-SNP launch digests with those of the Python package `sev-snp-measure`.

use std::path::Path;
use std::process::Command;

use cocoon_measurements::snp::cpu::CpuModel;
use cocoon_measurements::snp::firmware::SnpFirmware;
use cocoon_measurements::snp::launch::{FEATURE_SNP, KernelHashes, Vcpus, launch_digest};

use crate::artefacts::Artefacts;
use crate::tools::{had, output, read, wheel};

/// Numbers of virtual processors. The lengths of the three lists share no factor, so their values combine differently.
const VCPUS: [u32; 4] = [1, 2, 4, 64];
/// Values of `SEV_FEATURES`: SNP alone, with debug register swap, with secure TSC, with both, with VMSA register protection.
const FEATURES: [u64; 5] = [
    FEATURE_SNP,
    FEATURE_SNP | 0x20,
    FEATURE_SNP | 0x200,
    FEATURE_SNP | 0x220,
    FEATURE_SNP | 0x4000,
];
/// Minimum number of combinations for a meaningful comparison.
const LEAST: usize = 12;

/// What is booted, as paths, because the peer reads files.
struct Boot<'a> {
    kernel: Option<&'a Path>,
    initrd: Option<&'a Path>,
    command_line: Option<&'a str>,
}

/// Every CPU model that the peer knows, each with other artefacts, numbers of processors and features.
#[test]
fn launch_digests_equal_those_of_sev_snp_measure() {
    let Some((artefacts, peer)) = had("sev-snp-measure", || {
        Ok((Artefacts::open()?, Peer::open()?))
    }) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let initrd = folder.path().join("initrd");
    std::fs::write(&initrd, vec![b'A'; 1 << 20]).unwrap();
    let kernel = Some(artefacts.kernel.as_path());
    let boots = [
        Boot {
            kernel,
            initrd: Some(&initrd),
            command_line: Some("console=ttyS0 quiet"),
        },
        Boot {
            kernel: None,
            initrd: None,
            command_line: None,
        },
        Boot {
            kernel,
            initrd: None,
            command_line: None,
        },
    ];
    let firmware = SnpFirmware::parse(&read(&artefacts.snp_firmware).unwrap()).unwrap();
    let models = peer.models();
    assert!(models.len() >= LEAST, "the peer knows only {models:?}");
    let mut seen = Vec::new();
    for (number, model) in models.iter().enumerate() {
        let boot = &boots[number % boots.len()];
        let vcpus = Vcpus {
            count: VCPUS[number % VCPUS.len()],
            model: model.parse::<CpuModel>().unwrap(),
            guest_features: FEATURES[number % FEATURES.len()],
        };
        let hashes = boot.kernel.map(|kernel| {
            let initrd = boot.initrd.map(|initrd| read(initrd).unwrap());
            let command_line = boot.command_line.unwrap_or_default();
            KernelHashes::of(&read(kernel).unwrap(), initrd.as_deref(), command_line)
        });
        let ours = launch_digest(&firmware, hashes.as_ref(), &vcpus).unwrap();
        let theirs = peer.digest(&artefacts.snp_firmware, boot, &vcpus);
        println!(
            "{model} × {}, features {:#x}, kernel {}, initrd {}: {theirs}",
            vcpus.count,
            vcpus.guest_features,
            boot.kernel.is_some(),
            boot.initrd.is_some(),
        );
        assert_eq!(hex::encode(ours), theirs, "{model}");
        seen.push(theirs);
    }
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), models.len(), "some combinations do not differ");
}

/// Firmware without support for kernel hashes has a launch digest as well.
#[test]
fn launch_digests_of_other_firmware_equal_those_of_sev_snp_measure() {
    let Some((artefacts, peer)) = had("sev-snp-measure", || {
        Ok((Artefacts::open()?, Peer::open()?))
    }) else {
        return;
    };
    let path = artefacts.ovmf.file("usr/share/ovmf/OVMF.fd");
    let firmware = SnpFirmware::parse(&read(&path).unwrap()).unwrap();
    let boot = Boot {
        kernel: None,
        initrd: None,
        command_line: None,
    };
    for (count, model) in [(1, "EPYC-Genoa"), (3, "EPYC-Turin")] {
        let vcpus = Vcpus {
            count,
            model: model.parse().unwrap(),
            guest_features: FEATURE_SNP,
        };
        let ours = launch_digest(&firmware, None, &vcpus).unwrap();
        let theirs = peer.digest(&path, &boot, &vcpus);
        println!("OVMF.fd, {model} × {count}: {theirs}");
        assert_eq!(hex::encode(ours), theirs);
    }
}

/// The Python package, run from its wheel.
struct Peer {
    wheel: std::path::PathBuf,
}

impl Peer {
    fn open() -> anyhow::Result<Self> {
        let peer = Self {
            wheel: wheel("sev-snp-measure")?,
        };
        output(peer.python().args(["-c", "import sevsnpmeasure.cli"]))?;
        Ok(peer)
    }

    fn python(&self) -> Command {
        let mut command = Command::new("python3");
        command
            .env("PYTHONPATH", &self.wheel)
            .env("PYTHONDONTWRITEBYTECODE", "1");
        command
    }

    fn models(&self) -> Vec<String> {
        let script = "from sevsnpmeasure.vcpu_types import CPU_SIGS; print(*CPU_SIGS)";
        let said = output(self.python().args(["-c", script])).unwrap();
        said.split_whitespace().map(str::to_owned).collect()
    }

    fn digest(&self, firmware: &Path, boot: &Boot<'_>, vcpus: &Vcpus) -> String {
        let mut command = self.python();
        command
            .args(["-m", "sevsnpmeasure.cli", "--mode", "snp", "--ovmf"])
            .arg(firmware)
            .arg(format!("--vcpus={}", vcpus.count))
            .arg(format!("--vcpu-type={}", vcpus.model))
            .arg(format!("--guest-features={:#x}", vcpus.guest_features));
        for (flag, file) in [("--kernel", boot.kernel), ("--initrd", boot.initrd)] {
            if let Some(file) = file {
                command.arg(flag).arg(file);
            }
        }
        if let Some(command_line) = boot.command_line {
            command.arg(format!("--append={command_line}"));
        }
        output(&mut command).unwrap().trim().to_owned()
    }
}
