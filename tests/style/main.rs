//! Checks the form of the code: dependencies between crates, what may be linked where, and how a file begins.

mod dependencies;
mod files;

use std::path::PathBuf;

/// Returns the workspace's root.
fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the package lies in the workspace")
        .to_owned()
}
