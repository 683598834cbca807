//! Checks that every MUST of SPEC.md has a test of its name in the repository, and every such test a MUST.

#![expect(
    clippy::disallowed_methods,
    reason = "this test reads the repository; the crate itself reads nothing"
)]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

const FAMILIES: [&str; 15] = [
    "bind",
    "batch",
    "doc",
    "collateral",
    "cert",
    "tls",
    "attest",
    "manifest",
    "config",
    "verdict",
    "root",
    "tdx",
    "snp",
    "gpu",
    "receipt",
];

#[test]
fn every_must_has_its_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let musts = musts(&fs::read_to_string(root.join("SPEC.md")).unwrap());
    assert!(musts.len() > 40, "SPEC.md has lost its MUSTs: {musts:?}");
    let mut tests = BTreeSet::new();
    let mut folders = vec![root.parent().unwrap().to_owned()];
    while let Some(folder) = folders.pop() {
        for path in entries(&folder) {
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                tests.extend(tests_in(&fs::read_to_string(&path).unwrap()));
            }
        }
    }
    let missing: Vec<_> = musts.difference(&tests).collect();
    assert!(
        missing.is_empty(),
        "MUSTs of SPEC.md without a test of their name: {missing:?}"
    );
    let unknown: Vec<_> = tests.difference(&musts).collect();
    assert!(
        unknown.is_empty(),
        "tests named after MUSTs that SPEC.md does not have: {unknown:?}"
    );
}

/// Each MUST appears once, in bold, at the beginning of a list item.
#[test]
fn musts_are_numbered_without_gaps() {
    let spec = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("SPEC.md")).unwrap();
    let listed: Vec<String> = spec.lines().filter_map(name_of).collect();
    let once: BTreeSet<_> = listed.iter().collect();
    assert_eq!(once.len(), listed.len(), "a MUST is numbered twice");
    for family in FAMILIES {
        let prefix = format!("cocoon_{family}_");
        let mut numbers: Vec<usize> = listed
            .iter()
            .filter_map(|name| name.strip_prefix(&prefix)?.parse().ok())
            .collect();
        numbers.sort_unstable();
        assert_eq!(numbers, (1..=numbers.len()).collect::<Vec<_>>(), "{family}");
    }
}

fn musts(spec: &str) -> BTreeSet<String> {
    spec.lines().filter_map(name_of).collect()
}

/// `- **COCOON-BIND-1** …` gives `cocoon_bind_1`.
fn name_of(line: &str) -> Option<String> {
    let (name, _) = line.strip_prefix("- **")?.split_once("**")?;
    name.starts_with("COCOON-")
        .then(|| name.to_lowercase().replace('-', "_"))
}

/// Returns the names of test functions named after MUSTs: `fn cocoon_bind_1(`, with or without `async`, below a test
/// attribute.
fn tests_in(source: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut is_test = false;
    for line in source.lines().map(str::trim) {
        let function = line
            .strip_prefix("async ")
            .unwrap_or(line)
            .strip_prefix("fn ");
        if line.starts_with("#[") {
            is_test |= line.starts_with("#[test]") || line.starts_with("#[tokio::test");
        } else if let Some((name, _)) = function.and_then(|rest| rest.split_once('(')) {
            let family = name
                .strip_prefix("cocoon_")
                .and_then(|rest| rest.split('_').next());
            if is_test && family.is_some_and(|family| FAMILIES.contains(&family)) {
                names.push(name.to_owned());
            }
            is_test = false;
        } else if !line.starts_with("//") && !line.is_empty() {
            is_test = false;
        }
    }
    names
}

/// Returns the folder's entries without build output, hidden entries and symbolic links.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let hidden = |name: &str| name.starts_with('.') || name == "target";
    fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| {
            !hidden(&entry.file_name().to_string_lossy())
                && !entry.file_type().unwrap().is_symlink()
        })
        .map(|entry| entry.path())
        .collect()
}
