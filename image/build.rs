//! Compiles a digest of this program's sources into it, so that it can tell whether those at hand are its own.

use std::path::Path;

#[path = "src/program/sources.rs"]
mod sources;

fn main() {
    let workspace = Path::new("..");
    // Outside of its workspace the program knows no sources, and none at hand are its own.
    let digest = sources::digest(workspace).unwrap_or_default();
    println!("cargo::rustc-env=COCOON_IMAGE_SOURCES={digest}");
    // A path that is not there would run this again each time.
    let parts = sources::PARTS.iter().map(|part| workspace.join(part));
    for part in parts.filter(|part| part.exists()) {
        println!("cargo::rerun-if-changed={}", part.display());
    }
}
