//! What `doctor` predicts that clients will say: a good image on good machines, and each refusal.

use std::collections::BTreeMap;
use std::path::Path;

use cocoon_host_agent::doctor::clients::{self, Artefacts, ArtefactsError, Shape};
use cocoon_host_agent::doctor::finding::{Finding, Mode, Severity};
use cocoon_host_agent::doctor::policy::PolicyFile;
use cocoon_host_agent::doctor::{Readiness, Report};
use cocoon_measurements::manifest::{self, RELEASE_FLOOR};
use cocoon_measurements::policy::GpuRequirement;
use cocoon_measurements::snp::firmware::SnpFirmware;
use cocoon_measurements::snp::launch::{FEATURE_SNP, KernelHashes, Vcpus, launch_digest};
use cocoon_measurements::tdx::event::replay;
use cocoon_measurements::tdx::mrtd::{PageOrder, mrtd};
use cocoon_measurements::tdx::rtmr::{rtmr1, rtmr2};
use cocoon_measurements::tdx::rtmr0::Machine;
use cocoon_measurements::tdx::tdvf::Tdvf;
use cocoon_protocol::bytes::{Hex, Hex32};
use cocoon_protocol::manifest::{
    Artefact, MANIFEST_VERSION, Manifest, Model, PlatformSource, SnpLaunch, SnpReference,
    TdxPlatform, TdxReference, manifest_id,
};

use crate::captured::{Captured, LAPTOP, SNP, TDX, faults};

#[path = "../../../image/tests/image/world/firmware.rs"]
#[expect(dead_code, reason = "the image's own tests use more of it")]
mod firmware;

/// Clock of the captured machines, as Unix time.
const NOW: u64 = 1_782_864_000;
const CMDLINE: &str = "console=ttyS0 quiet";
const MEMORY_MIB: u64 = 4096;

/// Returns a small image in its real formats for 4 GiB and two vCPUs, measured by the functions that builders use.
pub fn image() -> Artefacts {
    let (kernel, initrd) = (firmware::kernel(), firmware::noise(4, 5000));
    let (tdx, snp) = (firmware::tdx(), firmware::snp());
    let mut events = rtmr1(&kernel).unwrap();
    events.extend(rtmr2(CMDLINE, Some(&initrd), Machine::simulated(0).edk2));
    let registers = replay(events.iter().map(|event| (event.rtmr, &event.digest)));
    let platform = |name: &str, source| TdxPlatform {
        name: name.into(),
        memory_mib: MEMORY_MIB,
        vcpus: None,
        mmio64_mib: None,
        source,
        rtmr0_events: Vec::new(),
    };
    let vcpus = Vcpus {
        count: 2,
        model: "EPYC-v4".parse().unwrap(),
        guest_features: FEATURE_SNP,
    };
    let hashes = KernelHashes::of(&kernel, Some(&initrd), CMDLINE);
    let parsed = SnpFirmware::parse(&snp).unwrap();
    let digest = launch_digest(&parsed, Some(&hashes), &vcpus).unwrap();
    let artefact = |bytes: &[u8]| Artefact {
        sha256: Hex32::sha256(bytes),
        size: bytes.len() as u64,
    };
    let manifest = Manifest {
        version: MANIFEST_VERSION,
        release: RELEASE_FLOOR,
        variant: "cpu".into(),
        source_revision: "0".repeat(40),
        not_before: NOW - 1000,
        not_after: NOW + 1000,
        inputs_lock: Hex([9; 32]),
        unlocked: Vec::new(),
        aml_guard: true,
        gpu: None,
        artefacts: BTreeMap::from([
            ("vmlinuz".into(), artefact(&kernel)),
            ("initrd.img".into(), artefact(&initrd)),
            ("cmdline".into(), artefact(CMDLINE.as_bytes())),
            ("OVMF.tdx.fd".into(), artefact(&tdx)),
            ("OVMF.snp.fd".into(), artefact(&snp)),
        ]),
        cmdline: CMDLINE.into(),
        model: Model {
            id: "tiny".into(),
            verity_root: Hex([4; 32]),
            verity_salt: Hex([5; 32]),
            verity_data_blocks: 100,
            files: BTreeMap::new(),
        },
        tdx: TdxReference {
            mrtd: Hex(mrtd(&Tdvf::parse(&tdx).unwrap(), PageOrder::SinglePass)),
            rtmr1: Hex(registers[1]),
            rtmr2: Hex(registers[2]),
            platforms: vec![
                platform("simulated, 4096 MiB", PlatformSource::Simulator),
                platform("2 vCPUs, 4096 MiB, QEMU 11.1.3", PlatformSource::Computed),
            ],
        },
        snp: SnpReference {
            guest_features: FEATURE_SNP,
            launch: vec![SnpLaunch {
                cpu_model: "EPYC-v4".into(),
                vcpus: 2,
                digest: Hex(digest),
            }],
        },
    };
    let (manifest_bytes, manifest_id) = bytes(&manifest);
    Artefacts {
        kernel,
        initrd,
        cmdline: CMDLINE.into(),
        cmdline_file: CMDLINE.into(),
        tdx_firmware: tdx,
        snp_firmware: snp,
        manifest,
        manifest_bytes,
        manifest_id,
        envelope: None,
    }
}

/// Writes the image to a folder.
pub fn lay_down(folder: &Path) -> Artefacts {
    let image = image();
    let mut files = image.files().to_vec();
    files.push(("model.img", b"model"));
    files.push(("manifest.json", &image.manifest_bytes));
    for (name, bytes) in files {
        std::fs::write(folder.join(name), bytes).unwrap();
    }
    image
}

fn bytes(manifest: &Manifest) -> (Vec<u8>, Hex32) {
    let bytes = manifest.to_json();
    let id = manifest_id(&bytes);
    (bytes, id)
}

pub fn manifest(edit: impl FnOnce(&mut Manifest)) -> Artefacts {
    let mut image = image();
    edit(&mut image.manifest);
    (image.manifest_bytes, image.manifest_id) = bytes(&image.manifest);
    image
}

fn judge(machine: &Captured, image: &Artefacts, policy: &PolicyFile, vcpus: u16) -> Vec<Finding> {
    let shape = Shape {
        vcpus,
        cpu_model: "EPYC-v4".into(),
        tables: None,
    };
    clients::judge(image, policy, &machine.facts(), &machine.wanted, &shape)
}

/// Returns the row for a machine that is good for TDX, under the default policy.
fn row(id: &str, image: &Artefacts) -> Finding {
    let rows = judge(&Captured::new(TDX), image, &PolicyFile::default(), 2);
    rows.into_iter().find(|row| row.id == id).expect("the row")
}

#[test]
fn nothing_is_missing_for_a_good_image_on_a_good_machine() {
    for (text, mode) in [(TDX, Mode::Tdx), (SNP, Mode::SevSnp)] {
        let machine = Captured::new(text);
        let rows = judge(&machine, &image(), &PolicyFile::default(), 2);
        let mode = Readiness::of(mode, &rows);
        assert_eq!(mode.because, Vec::<&str>::new(), "{rows:#?}");
        let report = Report::new(machine.findings(), Some(rows), &[mode.mode]);
        assert!(report.accepted(), "{report}");
    }
    let machine = Captured::new(LAPTOP);
    let rows = judge(&machine, &image(), &PolicyFile::default(), 2);
    let report = Report::new(machine.findings(), Some(rows), &[Mode::SimulatedKvm]);
    assert!(report.accepted());
    assert!(
        report
            .to_string()
            .contains("accepted as simulated only, and with --trust-root")
    );
}

#[test]
fn predictions_are_the_manifests_digests() {
    let image = image();
    let tdx = row("client.tdx.mrtd", &image);
    assert_eq!(tdx.severity, Severity::Ok);
    assert!(tdx.found.contains(&image.manifest.tdx.mrtd.to_string()));
    let kernel = row("client.tdx.kernel", &image);
    assert_eq!(kernel.severity, Severity::Ok, "{kernel:?}");
    let registers = &image.manifest.tdx;
    for register in [registers.rtmr1, registers.rtmr2] {
        assert!(kernel.found.contains(&register.to_string()), "{kernel:?}");
    }
    let launch = row("client.snp.launch", &image);
    let digest = image.manifest.snp.launch[0].digest;
    assert_eq!(
        launch.found,
        format!("EPYC-v4 with 2 vCPUs will measure {digest}, as the manifest says")
    );
    let shape = row("client.tdx.rtmr0", &image);
    assert_eq!(
        (shape.severity, shape.found.as_str()),
        (
            Severity::Note,
            "shapes with 2 vCPUs and 4096 MiB: 2 vCPUs, 4096 MiB, QEMU 11.1.3"
        )
    );
}

#[test]
fn a_kernel_from_before_6_16_measures_another_mrtd() {
    let old = Captured::new(TDX).with("file /proc/sys/kernel/osrelease", "6.12.0");
    let rows = judge(&old, &image(), &PolicyFile::default(), 2);
    assert!(faults(&rows, Severity::Failure).contains(&"client.tdx.mrtd"));
}

#[test]
fn each_refusal_of_an_image() {
    let mut odd_kernel = image();
    odd_kernel.kernel = b"no executable".to_vec();
    let mut other_initrd = image();
    other_initrd.initrd.push(0);
    let mut odd_tdx = image();
    odd_tdx.tdx_firmware = vec![0; 4096];
    let mut odd_snp = image();
    odd_snp.snp_firmware = vec![0; 4096];
    let cases = [
        (
            "client.manifest",
            manifest(|m| m.not_after = NOW - 1),
            "expired",
        ),
        ("client.manifest", manifest(|m| m.release = 0), "release"),
        (
            "client.manifest",
            manifest(|m| m.unlocked = vec!["qemu 1 2".into()]),
            "qemu 1 2",
        ),
        (
            "client.image",
            other_initrd.clone(),
            "not the manifest's: initrd.img",
        ),
        ("client.tdx.kernel", other_initrd.clone(), "RTMR2 will be "),
        (
            "client.snp.launch",
            other_initrd,
            "which the manifest does not list",
        ),
        (
            "client.tdx.kernel",
            manifest(|m| m.tdx.rtmr1 = Hex([0; 48])),
            "RTMR1 will be ",
        ),
        ("client.tdx.kernel", odd_kernel, "PE"),
        ("client.tdx.mrtd", odd_tdx, "OVMF.tdx.fd is no TDX firmware"),
        (
            "client.tdx.mrtd",
            manifest(|m| m.tdx.mrtd = Hex([0; 48])),
            "MRTD will be ",
        ),
        (
            "client.tdx.rtmr0",
            manifest(|m| drop(m.tdx.platforms.pop())),
            "no shape of a real machine with 2 vCPUs and 4096 MiB; known are: none",
        ),
        (
            "client.tdx.rtmr0",
            manifest(|m| m.tdx.platforms[1].memory_mib = 1),
            "known are: 2 vCPUs, 4096 MiB, QEMU 11.1.3",
        ),
        ("client.snp.launch", odd_snp, "firmware"),
        (
            "client.snp.aml",
            manifest(|m| m.aml_guard = false),
            "the kernel runs the host's ACPI code",
        ),
        (
            "client.gpu",
            manifest(|m| m.variant = "cuda-simulated".into()),
            "the image's GPU is simulated",
        ),
        (
            "client.simulated",
            manifest(|m| drop(m.tdx.platforms.remove(0))),
            "no simulated shape with 4096 MiB",
        ),
    ];
    for (id, image, said) in cases {
        let row = row(id, &image);
        assert_eq!(row.severity, Severity::Failure, "{row:?}");
        assert!(row.found.contains(said), "{said:?} in {row:?}");
        assert!(!row.needed.is_empty() && !row.fix.is_empty(), "{row:?}");
    }
}

#[test]
fn a_machine_of_another_size_measures_another_digest() {
    let rows = judge(&Captured::new(SNP), &image(), &PolicyFile::default(), 3);
    let row = rows
        .iter()
        .find(|row| row.id == "client.snp.launch")
        .unwrap();
    assert_eq!(row.severity, Severity::Failure);
    assert!(
        row.needed.ends_with("for this model it lists vCPUs 2"),
        "{row:?}"
    );
}

#[test]
fn a_policy_loosens_and_tightens() {
    let machine = Captured::new(TDX);
    let under = |edit: fn(&mut PolicyFile), image: &Artefacts| {
        let mut policy = PolicyFile::default();
        edit(&mut policy);
        judge(&machine, image, &policy, 2)
    };
    let unguarded = manifest(|manifest| manifest.aml_guard = false);
    let rows = under(|p| p.policy.accept_missing_aml_guard = true, &unguarded);
    assert!(faults(&rows, Severity::Warning).contains(&"client.snp.aml"));
    assert!(!faults(&rows, Severity::Failure).contains(&"client.snp.aml"));
    let rows = under(|p| p.policy.gpu = GpuRequirement::Required, &image());
    assert!(faults(&rows, Severity::Failure).contains(&"client.gpu"));
    let machine = format!("intel-ppid:{}", "c0".repeat(16)).parse().unwrap();
    let mut policy = PolicyFile::default();
    policy.policy.machines = vec![machine];
    let rows = judge(&Captured::new(TDX), &image(), &policy, 2);
    assert!(faults(&rows, Severity::Warning).contains(&"client.machine"));
    let rows = under(|p| p.release_floor = 7, &image());
    assert!(faults(&rows, Severity::Failure).contains(&"client.manifest"));
}

#[test]
fn signers_of_the_policy_must_have_signed() {
    let secret = [7; 32];
    let policy = PolicyFile {
        signers: vec![Hex(manifest::public_key(&secret))],
        ..PolicyFile::default()
    };
    let mut image = image();
    let manifest_row = |image: &Artefacts| {
        let rows = judge(&Captured::new(TDX), image, &policy, 2);
        rows.into_iter()
            .find(|row| row.id == "client.manifest")
            .unwrap()
    };
    let unsigned = manifest_row(&image);
    assert_eq!(unsigned.severity, Severity::Failure);
    assert!(unsigned.found.contains("is not signed"), "{unsigned:?}");
    image.envelope = Some(manifest::sign(&image.manifest_bytes, &secret).unwrap());
    let signed = manifest_row(&image);
    assert_eq!(signed.severity, Severity::Ok, "{signed:?}");
    assert_eq!(row("client.manifest", &image).severity, Severity::Note);
}

#[test]
fn a_folder_is_read_whole_or_the_missing_file_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let image = lay_down(folder.path());
    let read = || Artefacts::read(folder.path());
    let manifest = folder.path().join("manifest.json");
    std::fs::rename(&manifest, folder.path().join("elsewhere")).unwrap();
    let missing = read().unwrap_err();
    assert!(matches!(missing, ArtefactsError::Image(_)), "{missing:?}");
    assert!(missing.to_string().contains("manifest.json"), "{missing}");
    std::fs::rename(folder.path().join("elsewhere"), &manifest).unwrap();
    let found = read().unwrap();
    assert_eq!(found.files(), image.files());
    assert_eq!(
        (found.manifest_id, found.envelope),
        (image.manifest_id, None)
    );
    std::fs::write(folder.path().join("manifest.json.dsse"), "{}").unwrap();
    assert_eq!(read().unwrap().envelope, Some(b"{}".to_vec()));
}
