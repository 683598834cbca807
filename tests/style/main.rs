//! How the code itself is shaped: who may know whom, what may be linked where, how a file opens.

mod dependencies;
mod files;

use std::path::PathBuf;

/// The workspace's root.
fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the package lies in the workspace")
        .to_owned()
}
