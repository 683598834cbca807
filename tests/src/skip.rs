//! Reports that a test is skipped. Test targets of several packages include this file.

use std::fmt::Display;
use std::io::Write as _;

/// Environment variable that makes skipped tests fail; set in continuous integration.
const NO_SKIP: &str = "COCOON_NO_SKIP";

/// Prints that the calling test is skipped, and why. Panics if `COCOON_NO_SKIP` is set.
pub fn skipped(why: impl Display) {
    let line = format!("SKIPPED: {why}\n");
    assert!(
        std::env::var_os(NO_SKIP).is_none_or(|value| value.is_empty()),
        "{line}"
    );
    // Written to standard error itself, because the harness hides what a passing test prints, and a skipped test must
    // not look like one that passed. One write keeps the lines of concurrent tests whole. An error is ignored:
    // standard error may be closed.
    let _ = std::io::stderr().write_all(line.as_bytes());
}
