//! Published evidence of real machines, which is in no package registry.

use std::io::Write as _;
use std::path::{Path, PathBuf};

/// Returns the path of a vector such as `nvidia/hopper_evidence.json`; prints SKIPPED if it is
/// missing.
pub fn vector(name: &str) -> Option<String> {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/vectors");
    let named = std::env::var_os("COCOON_VECTORS").map(PathBuf::from);
    let path = named.clone().unwrap_or_else(beside).join(name);
    if let Ok(found) = path.canonicalize() {
        return Some(found.display().to_string());
    }
    let shown = path.display();
    assert!(
        named.is_none(),
        "{shown} is not there, and COCOON_VECTORS names its folder: unset it, or name a folder with all vectors"
    );
    // This is no failure, not even in continuous integration. Written directly, so that the output
    // of a passing test is not captured. A closed standard error is ignored.
    let line = format!("SKIPPED: {shown} is needed: set COCOON_VECTORS\n");
    let _ = std::io::stderr().write_all(line.as_bytes());
    None
}
