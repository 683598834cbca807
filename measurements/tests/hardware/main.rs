//! Predictions and verification held against evidence of real hardware, and against other people's calculators.
//!
//! Evidence is read from the folder named by `COCOON_VECTORS`, or from `../shared/vectors` beside the checkout.
//! Firmware and kernels as Debian ships them are read from `COCOON_ARTEFACTS`. Where a file is absent, the test
//! prints SKIPPED and why.

mod dstack;
mod event_logs;
mod firmware;
mod snp_launch;
mod snp_report;
mod tdx_quote;

use std::path::PathBuf;

/// The bytes of a vector such as `tdx/dcapqvl_tdx_quote`; prints SKIPPED when it is absent.
pub fn vector(path: &str) -> Option<Vec<u8>> {
    let beside = || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/vectors"));
    read(
        variable("COCOON_VECTORS").unwrap_or_else(beside).join(path),
        "COCOON_VECTORS",
    )
}

/// The bytes of an artefact such as `OVMF.inteltdx.ms.fd`; prints SKIPPED when it is absent.
pub fn artefact(path: &str) -> Option<Vec<u8>> {
    let Some(folder) = variable("COCOON_ARTEFACTS") else {
        println!("SKIPPED: {path} is needed: set COCOON_ARTEFACTS to the folder that holds it");
        return None;
    };
    read(folder.join(path), "COCOON_ARTEFACTS")
}

#[expect(
    clippy::disallowed_methods,
    reason = "tests find their evidence by environment; the crate itself does not"
)]
fn variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).map(PathBuf::from)
}

#[expect(
    clippy::disallowed_methods,
    reason = "tests read their evidence from files; the crate itself does not"
)]
fn read(path: PathBuf, variable: &str) -> Option<Vec<u8>> {
    match std::fs::read(&path) {
        Ok(bytes) => Some(bytes),
        Err(error) => {
            println!(
                "SKIPPED: cannot read {} ({error}); set {variable}",
                path.display()
            );
            None
        }
    }
}

/// Bytes from hexadecimal text, which may end with a newline.
pub fn unhex(text: &[u8]) -> Vec<u8> {
    hex::decode(
        text.trim_ascii()
            .strip_prefix(b"0x")
            .unwrap_or(text.trim_ascii()),
    )
    .unwrap()
}
