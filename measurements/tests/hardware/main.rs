//! Tests predictions and verification with evidence of real hardware and against independent calculators.
//!
//! Evidence is read from the folder that `COCOON_VECTORS` names, or from `../shared/vectors` beside the checkout. Files that
//! the crates `dcap-qvl` and `sev` publish are otherwise read from where Cargo unpacked them, so a plain checkout tests real
//! evidence, too. If a file is absent, the test prints SKIPPED and the reason on standard error, even with `COCOON_NO_SKIP`,
//! because no lock file fetches published evidence. If `COCOON_VECTORS` is set, an absent file is a failure; `.ci/run` sets
//! it to the folder beside the checkout. `tests/predictions` tests the same code with what a lock file can fetch, including
//! the image's firmware and kernel.

mod boot_logs;
mod crates;
mod dstack;
mod event_logs;
mod id_block;
mod nvidia;
mod snp_chains;
mod snp_launch;
mod snp_report;
mod tdx_quote;
mod tdx_quote_5;

use std::{
    fmt::Display,
    io::Write as _,
    path::{Path, PathBuf},
};

/// Returns the bytes of a vector such as `tdx/dcapqvl_tdx_quote`; prints SKIPPED when it is absent.
pub fn vector(path: &str) -> Option<Vec<u8>> {
    let beside = || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/vectors"));
    let file = variable("COCOON_VECTORS").unwrap_or_else(beside).join(path);
    let shipped = || open(&crates::shipped(path)?).ok();
    match open(&file) {
        Ok(bytes) => Some(bytes),
        Err(error) => shipped().or_else(|| {
            assert!(
                variable("COCOON_VECTORS").is_none(),
                "cannot read {} ({error}), and COCOON_VECTORS names its folder: unset it, or name a folder with all vectors",
                file.display()
            );
            skipped(&file, &error, "COCOON_VECTORS");
            None
        }),
    }
}

/// Returns the path in an environment variable, if it is set.
#[expect(
    clippy::disallowed_methods,
    reason = "tests find their evidence by environment; the crate itself does not"
)]
pub fn variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).map(PathBuf::from)
}

/// Reads a file.
#[expect(
    clippy::disallowed_methods,
    reason = "tests read their evidence from files; the crate itself does not"
)]
pub fn open(path: &Path) -> std::io::Result<Vec<u8>> {
    std::fs::read(path)
}

fn skipped(path: &Path, error: &std::io::Error, variable: &str) {
    skip(format_args!(
        "cannot read {} ({error}); set {variable}",
        path.display()
    ));
}

/// Prints SKIPPED and the reason on the real standard error, because a passing test's `println!` output is not shown.
pub fn skip(why: impl Display) {
    let line = format!("SKIPPED: {why}\n");
    // A single write keeps the lines of concurrent tests whole. A closed standard error must not fail a test.
    let _ = std::io::stderr().write_all(line.as_bytes());
}

/// Decodes hexadecimal text, which may begin with `0x` and end with a newline.
pub fn unhex(text: &[u8]) -> Vec<u8> {
    hex::decode(
        text.trim_ascii()
            .strip_prefix(b"0x")
            .unwrap_or(text.trim_ascii()),
    )
    .unwrap()
}
