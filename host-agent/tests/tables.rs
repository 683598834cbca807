//! `cocoon-host tables`: refusals, and the tables of a real image if this machine can compute them.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output};

use cocoon_host_agent::tables::FILES;
use cocoon_measurements::tdx::rtmr0::{PlatformDigests, PlatformTables};
use cocoon_measurements::tdx::smbios::ProcessorId;
use cocoon_protocol::bytes::Hex;
use cocoon_protocol::manifest::{MANIFEST_VERSION, Manifest, Model, SnpReference, TdxReference};
use serde_json::Value;

#[path = "../qemu/tests/live/inputs.rs"]
mod inputs;
#[path = "../../tests/src/skip.rs"]
mod skip;

fn run(arguments: &[&str], image: &Path, out: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_cocoon-host"))
        .args(["tables", "--image"])
        .arg(image)
        .arg("--out")
        .arg(out)
        .args(arguments)
        .env_remove("COCOON_QEMU")
        .output()
        .unwrap()
}

fn refused(arguments: &[&str], image: &Path, out: &Path) -> String {
    let output = run(arguments, image, out);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(!out.exists());
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn what_has_no_tables_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("tables");
    let image = folder.path().join("none");
    let shape = ["--memory", "768", "--vcpus", "1"];
    let error = refused(&shape, &image, &out);
    assert!(
        error.starts_with("cocoon-host: the image is incomplete: cannot read "),
        "{error}"
    );
    let snp = [&shape[..], &["--tee", "sev-snp"]].concat();
    let error = refused(&snp, &image, &out);
    assert!(
        error.contains("SEV-SNP measures no tables: use tdx"),
        "{error}"
    );
    let error = refused(&["--memory", "much", "--vcpus", "1"], &image, &out);
    assert!(
        error.contains("\"much\" is no amount of memory: write it like 1G or 1536M"),
        "{error}"
    );
}

/// Uses the locked firmware and kernel. The tables do not depend on the image's other files.
#[test]
fn the_tables_of_an_image_can_be_measured() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("image");
    if !lay_down(&image) {
        return;
    }
    let out = folder.path().join("tables");
    let output = run(
        &["--json", "--memory", "768M", "--vcpus", "1"],
        &image,
        &out,
    );
    assert!(output.status.success(), "{output:?}");
    let events = String::from_utf8(output.stdout).unwrap();
    let last: Value = serde_json::from_str(events.lines().last().unwrap()).unwrap();
    assert_eq!(
        (
            &last["event"],
            &last["memory_mib"],
            &last["vcpus"],
            &last["machine"]
        ),
        (
            &"tables".into(),
            &768.into(),
            &1.into(),
            &"pc-q35-10.0".into()
        )
    );
    assert!(last["qemu"].as_str().unwrap().split('.').count() == 3);

    let [loader, rsdp, tables, smbios] = FILES.map(|name| std::fs::read(out.join(name)).unwrap());
    assert!(rsdp.starts_with(b"RSD PTR "));
    assert!(tables.windows(4).any(|part| part == b"FACP"));
    assert!(smbios.windows(11).any(|part| part == b"pc-q35-10.0"));
    let tables = PlatformTables {
        acpi_loader: &loader,
        acpi_rsdp: &rsdp,
        acpi_tables: &tables,
        smbios: &smbios,
    };
    let processor = ProcessorId {
        signature: 0x000c_06f2,
        features: 0x1f8b_fbff,
    };
    PlatformDigests::of_tables(&tables, processor).unwrap();
}

/// Writes an image that boots as far as its kernel. Returns `false` after reporting that the files cannot be obtained.
fn lay_down(image: &Path) -> bool {
    std::fs::create_dir(image).unwrap();
    let (Some(kernel), Some(firmware)) = (inputs::kernel(image), inputs::firmware(image)) else {
        return false;
    };
    std::fs::rename(kernel, image.join("vmlinuz")).unwrap();
    std::fs::rename(firmware, image.join("OVMF.tdx.fd")).unwrap();
    let manifest = manifest().to_json();
    for (name, bytes) in [
        ("initrd.img", &b"none"[..]),
        ("model.img", b"none"),
        ("OVMF.snp.fd", b"none"),
        ("cmdline", b"console=ttyS0"),
        ("manifest.json", &manifest),
    ] {
        std::fs::write(image.join(name), bytes).unwrap();
    }
    true
}

fn manifest() -> Manifest {
    Manifest {
        version: MANIFEST_VERSION,
        release: 1,
        variant: "cpu".into(),
        source_revision: "0".repeat(40),
        not_before: 0,
        not_after: 1,
        inputs_lock: Hex([0; 32]),
        unlocked: vec![],
        aml_guard: false,
        gpu: None,
        artefacts: BTreeMap::new(),
        cmdline: "console=ttyS0".into(),
        model: Model {
            id: "none".into(),
            verity_root: Hex([0; 32]),
            verity_salt: Hex([0; 32]),
            verity_data_blocks: 1,
            files: BTreeMap::new(),
        },
        tdx: TdxReference {
            mrtd: Hex([0; 48]),
            rtmr1: Hex([0; 48]),
            rtmr2: Hex([0; 48]),
            platforms: vec![],
        },
        snp: SnpReference {
            guest_features: 1,
            launch: vec![],
        },
    }
}
