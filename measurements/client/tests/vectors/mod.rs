//! Published evidence of real machines, which lies in no registry.

use std::io::Write as _;
use std::path::{Path, PathBuf};

/// Where a vector such as `nvidia/hopper_evidence.json` is; says SKIPPED where it is absent.
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
    // No failure even in continuous integration. Past the capture of a passing test's output; a closed standard error leaves
    // nobody to tell.
    let line = format!("SKIPPED: {shown} is needed: set COCOON_VECTORS\n");
    let _ = std::io::stderr().write_all(line.as_bytes());
    None
}
