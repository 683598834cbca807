//! Predictions and verification held against evidence of real hardware, and against other people's calculators.
//!
//! Evidence is read from the folder named by `COCOON_VECTORS`, or from `../shared/vectors` beside the checkout, or
//! else, as far as it is published there, from the crates `dcap-qvl` and `sev` where Cargo has unpacked them: a plain
//! checkout tests real evidence, too. Where a file is absent, the test says SKIPPED and why on standard error, even with
//! `COCOON_NO_SKIP`: no lock fetches published evidence. But where `COCOON_VECTORS` names a folder, what it lacks is a
//! failure: `.ci/run` names the one beside the checkout. `tests/predictions` holds the same code against what a lock can
//! fetch, firmware and kernel of the image among it.

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

/// The bytes of a vector such as `tdx/dcapqvl_tdx_quote`; prints SKIPPED when it is absent.
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

/// A folder named in the environment.
#[expect(
    clippy::disallowed_methods,
    reason = "tests find their evidence by environment; the crate itself does not"
)]
pub fn variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).map(PathBuf::from)
}

/// The bytes of a file.
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

/// Says SKIPPED and why on the real standard error: what `println!` prints in a test that passes is never seen.
pub fn skip(why: impl Display) {
    let line = format!("SKIPPED: {why}\n");
    // One write, so that lines of tests that run at once stay whole; a closed standard error fails no test.
    let _ = std::io::stderr().write_all(line.as_bytes());
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
