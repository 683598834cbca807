//! The arrows of the architecture: read from `cargo metadata`, so that a manifest cannot lie.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

/// Who may have whom as a normal dependency. Only `cocoon-tests`, which is not shipped, knows everybody.
const ARROWS: &[(&str, &[&str])] = &[
    ("cocoon-protocol", &[]),
    ("cocoon-inputs", &[]),
    ("cocoon-measurements", &["cocoon-protocol"]),
    ("cocoon-client", &["cocoon-measurements", "cocoon-protocol"]),
    (
        "cocoon-guest-agent",
        &["cocoon-measurements", "cocoon-protocol"],
    ),
    ("cocoon-engine", &["cocoon-measurements", "cocoon-protocol"]),
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

/// Crates that bring C, or another TLS stack, into a binary.
const FOREIGN: &[&str] = &[
    "aws-lc-sys",
    "cmake",
    "native-tls",
    "openssl-sys",
    "ring",
    "zstd-sys",
    "lzma-sys",
    "liblzma-sys",
];

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
            !closure(shipped, &[]).contains("cocoon-simulator"),
            "{shipped} links the simulator"
        );
    }
}

#[test]
fn the_agent_is_free_of_c_and_of_the_engine() {
    let crates = closure(
        "cocoon-guest-agent",
        &["--filter-platform", "x86_64-unknown-linux-musl"],
    );
    for name in FOREIGN {
        assert!(!crates.contains(*name), "the guest agent links {name}");
    }
    for name in [
        "cocoon-engine",
        "mistralrs",
        "mistralrs-core",
        "candle-core",
    ] {
        assert!(!crates.contains(name), "the guest agent links {name}");
    }
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
            !closure(name, &[]).contains("mistralrs"),
            "{name} builds mistral.rs without being asked to"
        );
    }
}

/// Names of the normal dependencies of `package`, all the way down, with its default features.
fn closure(package: &str, options: &[&str]) -> BTreeSet<String> {
    let mut arguments = vec![
        "tree",
        "--locked",
        "--package",
        package,
        "--edges",
        "normal",
        "--prefix",
        "none",
        "--format",
        "{lib}",
    ];
    let target = options
        .iter()
        .position(|o| *o == "--filter-platform")
        .map(|i| options[i + 1]);
    if let Some(target) = target {
        arguments.extend(["--target", target]);
    }
    let output = cargo(&arguments);
    output
        .lines()
        .map(|line| line.trim().replace('_', "-"))
        .filter(|line| !line.is_empty())
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
