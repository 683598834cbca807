//! Finds the evidence and the artefacts for the benchmarks.
//!
//! Evidence is read from the folder named by `COCOON_VECTORS`, or from `../shared/vectors` beside the checkout, or from the
//! sources of the crates `dcap-qvl` and `sev` as cargo unpacked them. Firmware and kernel are read from `COCOON_ARTEFACTS`, a
//! folder made by `cocoon-image build` or one with Debian's files. A file that is missing while its variable is unset is
//! reported as SKIPPED. If the variable is set, it ends the benchmark, because half a table of figures looks like a whole
//! one.

use std::path::{Path, PathBuf};

/// Returns the bytes of a vector such as `tdx/dcapqvl_tdx_quote`.
pub fn vector(path: &str) -> Option<Vec<u8>> {
    let folder = folder();
    let found = read(&folder.join(path)).or_else(|| read(&shipped(path)?));
    if found.is_none() {
        assert!(
            variable("COCOON_VECTORS").is_none(),
            "{path} is not below {}, which COCOON_VECTORS names",
            folder.display()
        );
        println!(
            "SKIPPED: {path} is not below {}: set COCOON_VECTORS",
            folder.display()
        );
    }
    found
}

/// Returns the path of a vector in the folder of vectors.
pub fn path_of(path: &str) -> PathBuf {
    folder().join(path)
}

fn folder() -> PathBuf {
    let beside = || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/vectors"));
    variable("COCOON_VECTORS").unwrap_or_else(beside)
}

/// Returns the bytes of an artefact by one of its names, such as `OVMF.snp.fd` in an image and `OVMF.amdsev.fd` in Debian.
pub fn artefact(names: &[&str]) -> Option<Vec<u8>> {
    let names_shown = names.join(" or ");
    let Some(folder) = variable("COCOON_ARTEFACTS") else {
        println!("SKIPPED: {names_shown} is needed: set COCOON_ARTEFACTS to an image's folder");
        return None;
    };
    let found = names.iter().find_map(|name| read(&folder.join(name)));
    assert!(
        found.is_some(),
        "{names_shown} is not in {}, which COCOON_ARTEFACTS names",
        folder.display()
    );
    found
}

/// Returns the path of a vector in the sources of the crate that publishes it.
fn shipped(path: &str) -> Option<PathBuf> {
    const CRATES: [(&str, &str, &str); 2] = [
        ("tdx/dcapqvl_", "dcap-qvl-0.", "sample"),
        ("snp/sev_", "sev-8.", "tests/certs_data"),
    ];
    let (name, package, folder) = CRATES.iter().find_map(|(prefix, package, folder)| {
        Some((path.strip_prefix(prefix)?, package, folder))
    })?;
    let home = variable("CARGO_HOME").or_else(|| Some(variable("HOME")?.join(".cargo")))?;
    let registries = entries(&home.join("registry/src"));
    let of_package = |path: &PathBuf| {
        let own = path.file_name().map(|name| name.to_string_lossy());
        own.is_some_and(|own| own.starts_with(package))
    };
    registries
        .iter()
        .flat_map(|registry| entries(registry))
        .filter(of_package)
        .map(|sources| sources.join(folder).join(name))
        .find(|file| read(file).is_some())
}

#[expect(
    clippy::disallowed_methods,
    reason = "a benchmark finds its evidence by environment; the crate itself does not"
)]
pub fn variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).map(PathBuf::from)
}

#[expect(
    clippy::disallowed_methods,
    reason = "a benchmark reads its evidence from files; the crate itself does not"
)]
fn read(path: &Path) -> Option<Vec<u8>> {
    std::fs::read(path).ok()
}

#[expect(
    clippy::disallowed_methods,
    reason = "a benchmark looks for its evidence; the crate itself does not"
)]
fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect()
}
