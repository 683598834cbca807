//! Checks the dependencies between this workspace's crates, as reported by `cargo metadata`.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

/// Normal dependencies that each crate may have on others of the workspace. Only `cocoon-tests`, which is not
/// shipped, may use almost all.
const ARROWS: &[(&str, &[&str])] = &[
    ("cocoon-protocol", &[]),
    ("cocoon-inputs", &[]),
    ("cocoon-kernels", &[]),
    ("cocoon-measurements", &["cocoon-protocol"]),
    ("cocoon-client", &["cocoon-measurements", "cocoon-protocol"]),
    (
        "cocoon-guest-agent",
        &["cocoon-measurements", "cocoon-protocol"],
    ),
    (
        "cocoon-engine",
        // Only for the feature that builds for GPUs.
        &["cocoon-kernels", "cocoon-measurements", "cocoon-protocol"],
    ),
    ("cocoon-gpu", &["cocoon-measurements", "cocoon-protocol"]),
    (
        "cocoon-simulator",
        &["cocoon-measurements", "cocoon-protocol"],
    ),
    (
        "cocoon-fuzz",
        &["cocoon-measurements", "cocoon-protocol", "cocoon-simulator"],
    ),
    ("cocoon-qemu", &["cocoon-inputs"]),
    (
        "cocoon-image",
        &["cocoon-inputs", "cocoon-measurements", "cocoon-protocol"],
    ),
    (
        "cocoon-host-agent",
        &[
            "cocoon-inputs",
            "cocoon-measurements",
            "cocoon-protocol",
            "cocoon-qemu",
        ],
    ),
    (
        "cocoon-tests",
        &[
            "cocoon-client",
            "cocoon-engine",
            "cocoon-gpu",
            "cocoon-guest-agent",
            "cocoon-host-agent",
            "cocoon-image",
            "cocoon-inputs",
            "cocoon-measurements",
            "cocoon-protocol",
            "cocoon-qemu",
            "cocoon-simulator",
        ],
    ),
];

/// Packages that build scripts use to compile C, or to find C libraries on the machine.
const BUILDS_C: &[&str] = &[
    "autotools",
    "bindgen",
    "cc",
    "cmake",
    "nasm-rs",
    "pkg-config",
    "system-deps",
    "vcpkg",
];
/// Packages named like bindings to a library that are pure Rust. `dirs-sys` finds a user's folders; the parser
/// of SNP reports depends on it.
const RUST_ALONE: &[&str] = &["dirs-sys"];
/// TLS stacks that this project does not use.
const FOREIGN: &[&str] = &["aws-lc-rs", "native-tls", "openssl", "ring"];

#[test]
fn arrows_are_the_ones_of_the_architecture() {
    let metadata = metadata(&["--no-deps"]);
    let allowed: BTreeMap<&str, &[&str]> = ARROWS.iter().copied().collect();
    let mut seen = BTreeSet::new();
    for package in metadata["packages"].as_array().expect("packages") {
        let name = text(&package["name"]);
        let arrows = allowed
            .get(name)
            .unwrap_or_else(|| panic!("{name} is not in the table of arrows"));
        seen.insert(name);
        for dependency in package["dependencies"].as_array().expect("dependencies") {
            let other = text(&dependency["name"]);
            let ours = dependency["path"].is_string();
            if ours && dependency["kind"].is_null() {
                assert!(arrows.contains(&other), "{name} must not depend on {other}");
            }
        }
    }
    let expected: BTreeSet<&str> = allowed.keys().copied().collect();
    assert_eq!(
        seen, expected,
        "the table of arrows names packages that are not there"
    );
}

#[test]
fn nothing_shipped_links_the_simulator() {
    for shipped in [
        "cocoon-client",
        "cocoon-guest-agent",
        "cocoon-engine",
        "cocoon-host-agent",
        "cocoon-image",
    ] {
        assert!(
            !closure(shipped).contains("cocoon-simulator"),
            "{shipped} links the simulator"
        );
    }
}

#[test]
fn the_agent_is_free_of_c_and_of_the_engine() {
    let target = "x86_64-unknown-linux-musl";
    let options = ["--edges", "normal,build", "--target", target];
    let crates = packages("cocoon-guest-agent", &options);
    assert!(crates.contains("rustls"), "not the list: {crates:?}");
    let brings_c: Vec<_> = crates.iter().filter(|name| brings_c(name)).collect();
    assert_eq!(
        brings_c,
        Vec::<&String>::new(),
        "the guest agent, or a build script of its, takes C"
    );
    for name in FOREIGN.iter().chain(&[
        "cocoon-engine",
        "mistralrs",
        "mistralrs-core",
        "candle-core",
    ]) {
        assert!(!crates.contains(*name), "the guest agent links {name}");
    }
}

/// The engine does use C, in build scripts and in bindings. This shows that the search finds it.
#[test]
fn c_would_be_noticed() {
    let options = ["--edges", "normal,build", "--features", "mistralrs"];
    let crates = packages("cocoon-engine", &options);
    assert!(crates.contains("cc"), "no compiler of C: {crates:?}");
    assert!(crates.iter().any(|name| name.ends_with("-sys")));
    assert!(brings_c("cc") && brings_c("zstd-sys") && brings_c("openssl-src"));
    assert!(!brings_c("rustls") && !brings_c("sys-info"));
}

/// The kernels do not even link a run-time compiler: what runs on a GPU is what was measured.
#[test]
fn kernels_are_light_and_compile_nothing_at_run_time() {
    let mut arguments = vec!["tree", "--locked", "--package", "cocoon-kernels"];
    arguments.extend(["--edges", "normal,build", "--prefix", "none"]);
    arguments.extend(["--format", "{p} {f}"]);
    let tree = cargo(&arguments);
    let cudarc = tree.lines().find(|line| line.starts_with("cudarc "));
    let features: Vec<&str> = cudarc
        .and_then(|line| line.split_whitespace().nth(2))
        .expect("cudarc with its features")
        .split(',')
        .collect();
    assert_eq!(
        features,
        ["cuda-12040", "driver", "fallback-dynamic-loading", "std"]
    );
    let crates: BTreeSet<&str> = tree
        .lines()
        .filter_map(|line| line.split(' ').next())
        .collect();
    assert!(crates.len() < 30, "{} crates: {crates:?}", crates.len());
    assert!(!crates.iter().any(|name| brings_c(name)), "{crates:?}");
}

/// By convention, a `-sys` package binds a library that is not Rust, and a `-src` package contains its sources.
fn brings_c(package: &str) -> bool {
    if RUST_ALONE.contains(&package) {
        return false;
    }
    BUILDS_C.contains(&package) || package.ends_with("-sys") || package.ends_with("-src")
}

#[test]
fn only_the_guest_build_turns_the_engine_on() {
    for name in [
        "cocoon-engine",
        "cocoon-tests",
        "cocoon-host-agent",
        "cocoon-client",
    ] {
        assert!(
            !closure(name).contains("mistralrs"),
            "{name} builds mistral.rs without being asked to"
        );
    }
}

/// Returns the names of all direct and indirect normal dependencies of `package`, with its default features.
fn closure(package: &str) -> BTreeSet<String> {
    packages(package, &["--edges", "normal"])
}

/// Returns the names of the packages in the dependency tree of `package`.
fn packages(package: &str, options: &[&str]) -> BTreeSet<String> {
    let mut arguments = vec!["tree", "--locked", "--package", package];
    arguments.extend(["--prefix", "none", "--format", "{p}"]);
    arguments.extend(options);
    // Each line has the name, then version and path.
    cargo(&arguments)
        .lines()
        .filter_map(|line| Some(line.split_whitespace().next()?.to_owned()))
        .collect()
}

fn metadata(options: &[&str]) -> Value {
    let mut arguments = vec!["metadata", "--format-version", "1", "--locked"];
    arguments.extend(options);
    serde_json::from_str(&cargo(&arguments)).expect("cargo metadata prints JSON")
}

fn cargo(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO"))
        .args(arguments)
        .current_dir(super::root())
        .output()
        .expect("cargo runs");
    assert!(
        output.status.success(),
        "cargo {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("cargo prints UTF-8")
}

fn text(value: &Value) -> &str {
    value.as_str().expect("a string")
}
