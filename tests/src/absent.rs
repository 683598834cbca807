//! Reports that a test does not run because something it needs cannot be obtained here or anywhere: published
//! evidence, a route, a device. Unlike [skipped tests](skip.rs), such a test never fails. Test targets of several
//! packages include this file.

use std::fmt::Display;
use std::io::Write as _;

/// Prints that the calling test does not run, and why. It does not fail the test, even where `COCOON_NO_SKIP` is set.
pub fn absent(why: impl Display) {
    let line = format!("SKIPPED: {why}\n");
    // Written to standard error itself, because the harness hides what a passing test prints, and a skipped test must
    // not look like one that passed. One write keeps the lines of concurrent tests whole. An error is ignored:
    // standard error may be closed.
    let _ = std::io::stderr().write_all(line.as_bytes());
}
