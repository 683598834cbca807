//! Checks the form of the repository's files.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Permitted top-level entries.
const TOP: &[&str] = &[
    ".cargo",
    ".ci",
    ".gitignore",
    "CHANGELOG.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "README.md",
    "SECURITY.md",
    "deny.toml",
    "guest-agent",
    "host-agent",
    "image",
    "kernels",
    "measurements",
    "rust-toolchain.toml",
    "tests",
];

/// Maximum lines of a source file: a longer one is about more than one thing.
const MAX_LINES: usize = 400;

#[test]
fn the_top_level_is_fixed() {
    let mut found: Vec<String> = tracked()
        .iter()
        .filter_map(|path| path.components().next())
        .map(|first| first.as_os_str().to_string_lossy().into_owned())
        .collect();
    found.sort();
    found.dedup();
    let unknown: Vec<&String> = found
        .iter()
        .filter(|name| !TOP.contains(&name.as_str()))
        .collect();
    assert!(
        unknown.is_empty(),
        "not part of the fixed top level: {unknown:?}"
    );
}

#[test]
fn a_source_file_opens_with_what_it_is_for_and_stays_short() {
    let mut faults = Vec::new();
    for path in tracked()
        .iter()
        .filter(|path| path.extension().is_some_and(|e| e == "rs"))
    {
        let text =
            fs::read_to_string(super::root().join(path)).expect("a tracked source file is UTF-8");
        if !text.starts_with("//!") {
            faults.push(format!("{} does not open with //!", path.display()));
        }
        let lines = text.lines().count();
        if lines > MAX_LINES {
            faults.push(format!(
                "{} has {lines} lines, at most {MAX_LINES} are allowed",
                path.display()
            ));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn no_registry_is_named_by_its_host() {
    // In parts, so that this file passes its own test.
    let hosts: Vec<String> = [
        ("deb", "ian"),
        ("py", "pi"),
        ("python", "hosted"),
        ("npm", "js"),
        ("crates", ""),
    ]
    .iter()
    .flat_map(|(a, b)| [".org", ".io", ".com"].map(|end| format!("{a}{b}{end}")))
    .collect();
    let mut faults = Vec::new();
    for path in tracked()
        .iter()
        .filter(|path| !path.ends_with("Cargo.lock"))
    {
        let Ok(text) = fs::read_to_string(super::root().join(path)) else {
            continue;
        };
        for host in hosts.iter().filter(|host| text.contains(host.as_str())) {
            faults.push(format!("{} names {host}", path.display()));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// Returns the files that belong to the repository: tracked, or new and not ignored.
fn tracked() -> Vec<PathBuf> {
    let output = Command::new("git")
        .args([
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ])
        .current_dir(super::root())
        .output()
        .expect("git runs");
    assert!(
        output.status.success(),
        "git ls-files: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8(output.stdout).expect("paths are UTF-8");
    let paths: Vec<PathBuf> = text
        .split('\0')
        .filter(|path| !path.is_empty())
        .map(PathBuf::from)
        .collect();
    assert!(paths.len() > 50, "git lists only {} files", paths.len());
    paths
        .into_iter()
        .filter(|path| super::root().join(Path::new(path)).exists())
        .collect()
}
