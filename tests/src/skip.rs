//! How a test says that it does not take place. Test targets of several packages include this file.

use std::fmt::Display;
use std::io::Write as _;

/// Makes a skipped test fail, as in continuous integration.
const NO_SKIP: &str = "COCOON_NO_SKIP";

/// Says that, and why, the calling test does not take place; fails where everything must.
pub fn skipped(why: impl Display) {
    let line = format!("SKIPPED: {why}\n");
    assert!(
        std::env::var_os(NO_SKIP).is_none_or(|value| value.is_empty()),
        "{line}"
    );
    // Past the capture of a passing test's output: a test that does not take place must not look like one that did. In
    // one write, so that lines of tests that run at once stay whole; a closed standard error leaves nobody to tell.
    let _ = std::io::stderr().write_all(line.as_bytes());
}
