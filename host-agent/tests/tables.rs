//! `cocoon-host tables`: refusals, and the tables of a real image as far as this machine has what that takes.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use cocoon_host_agent::tables::FILES;
use cocoon_measurements::tdx::rtmr0::{PlatformDigests, PlatformTables};
use cocoon_measurements::tdx::smbios::ProcessorId;
use serde_json::Value;

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

/// With an image that the repository's tests have built, and the private QEMU that they have unpacked.
#[test]
fn the_tables_of_an_image_can_be_measured() {
    let Some(cache) = cache() else {
        println!("SKIPPED: there is no cache folder");
        return;
    };
    let (image, copies) = (cache.join("tests/image"), cache.join("qemu"));
    for needed in [&image.join("OVMF.tdx.fd"), &copies] {
        if !needed.exists() {
            println!("SKIPPED: there is no {}", needed.display());
            return;
        }
    }
    let folder = tempfile::tempdir().unwrap();
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

fn cache() -> Option<PathBuf> {
    let folder = |name: &str| std::env::var_os(name).map(PathBuf::from);
    folder("COCOON_CACHE")
        .or_else(|| Some(folder("XDG_CACHE_HOME")?.join("cocoon")))
        .or_else(|| Some(folder("HOME")?.join(".cache/cocoon")))
}
