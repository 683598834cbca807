//! Compiles a digest of `cocoon-image`'s sources into the program, which can then tell whether a workspace holds the sources
//! that it was compiled from.

use std::path::Path;

#[path = "src/program/sources.rs"]
mod sources;

fn main() {
    let workspace = Path::new("..");
    // Outside the workspace the digest is empty, and the program treats no sources as its own.
    let digest = sources::digest(workspace).unwrap_or_default();
    println!("cargo::rustc-env=COCOON_IMAGE_SOURCES={digest}");
    // Cargo would rerun the script in every build for a path that does not exist.
    let parts = sources::PARTS.iter().map(|part| workspace.join(part));
    for part in parts.filter(|part| part.exists()) {
        println!("cargo::rerun-if-changed={}", part.display());
    }
}
