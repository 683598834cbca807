//! How a test says that this machine, or the world, lacks what nobody could fetch for it: published evidence, a route, a
//! device. No failure anywhere, unlike [what can be had](skip.rs). Test targets of several packages include this file.

use std::fmt::Display;
use std::io::Write as _;

/// Says that, and why, the calling test does not take place, even where everything that can be had must be.
pub fn absent(why: impl Display) {
    let line = format!("SKIPPED: {why}\n");
    // Past the capture of a passing test's output: a test that does not take place must not look like one that did. In
    // one write, so that lines of tests that run at once stay whole; a closed standard error leaves nobody to tell.
    let _ = std::io::stderr().write_all(line.as_bytes());
}
