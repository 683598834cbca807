//! Tests of what a lock file may contain.

use super::*;

const REQUEST: &str = "[[request]]\ngroup = 'kernel'\nkind = 'debian'\nname = 'linux'\nsuites = ['trixie']\nreason = 'boots'\n";
const RELEASE: &str = "[[release]]\nsuite = 'trixie'\ndate = 'Sat, 12 Sep 2026 07:55:41 UTC'\n\
    inrelease_sha256 = 'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855'\n\
    packages_sha256 = 'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855'\n";
const INPUT: &str = "[[input]]\nname = 'linux'\nversion = '1:6.12-1'\narchitecture = 'amd64'\nkind = 'debian'\nsuite = 'trixie'\n\
    path = 'pool/main/l/linux_6.12-1_amd64.deb'\nsize = 7\ngroups = ['kernel']\n\
    sha256 = 'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855'\n";

fn text(input: &str) -> String {
    format!("format = 1\n{REQUEST}{RELEASE}{input}")
}

fn refusal(text: &str) -> String {
    let error = Lock::parse(text).expect_err("must be refused");
    let source = std::error::Error::source(&error)
        .map(|s| s.to_string())
        .unwrap_or_default();
    format!("{error} {source}").trim().to_owned()
}

#[test]
fn a_lock_reads_back_as_written_and_its_digest_ignores_layout() {
    let lock = Lock::parse(&text(INPUT)).expect("valid");
    let again = Lock::parse(&lock.render()).expect("own output");
    assert_eq!(lock, again);
    assert_eq!(lock.digest(), again.digest());
    assert_eq!(lock.group("kernel").count(), 1);
    assert_eq!(lock.group("other").count(), 0);
}

#[test]
fn every_field_moves_the_digest() {
    let before = Lock::parse(&text(INPUT)).expect("valid").digest();
    for (from, to) in [
        ("6.12-1'", "6.12-2'"),
        ("size = 7", "size = 8"),
        ("amd64'", "all'"),
        ("'e3b0", "'e3b1"),
        ("pool/", "pol/"),
    ] {
        let edited = INPUT.replacen(from, to, 1);
        assert_ne!(edited, INPUT);
        assert_ne!(
            Lock::parse(&text(&edited)).expect("valid").digest(),
            before,
            "{from} -> {to}"
        );
    }
}

#[test]
fn unknown_fields_and_formats_are_refused() {
    assert!(refusal(&text(&format!("{INPUT}host = 'x'\n"))).contains("unknown field `host`"));
    assert_eq!(
        refusal("format = 2\n"),
        "the lock file has format 2, this program reads 1"
    );
}

#[test]
fn duplicates_are_refused() {
    assert_eq!(
        refusal(&text(&INPUT.repeat(2))),
        "linux stands twice in group kernel of the lock file"
    );
    let twice = format!("format = 1\n{REQUEST}{RELEASE}{RELEASE}{INPUT}");
    assert_eq!(
        refusal(&twice),
        "suite trixie has two [[release]] tables in the lock file"
    );
}

#[test]
fn fields_that_cannot_be_right_are_refused() {
    let cases = [
        (
            "pool/main",
            "/pool",
            "path must be plain and relative, without host, `..` or `%`",
        ),
        (
            "pool/main",
            "pool/../..",
            "path must be plain and relative, without host, `..` or `%`",
        ),
        (
            "pool/main",
            "http://h/pool",
            "path must be plain and relative, without host, `..` or `%`",
        ),
        (".deb", ".iso", "path must end in .deb"),
        ("size = 7", "size = 0", "size is out of bounds"),
        ("['kernel']", "[]", "groups must not be empty"),
        ("['kernel']", "['gpu']", "no [[request]] fills group gpu"),
        (
            "suite = 'trixie'",
            "suite = 'sid'",
            "there is no [[release]] of suite sid",
        ),
        ("suite = 'trixie'\n", "", "suite is missing"),
        (
            "version = '1:6.12-1'",
            "version = '1 2'",
            "version has characters that no version has",
        ),
    ];
    for (from, to, problem) in cases {
        assert_eq!(
            refusal(&text(&INPUT.replacen(from, to, 1))),
            format!("input linux of the lock file: {problem}")
        );
    }
}

#[test]
fn components_are_named_once_and_move_the_digest() {
    let digest = |text: &str| Lock::parse(text).expect("valid").digest();
    let edited = |from: &str, to: &str| {
        let edited = text(INPUT).replacen(from, to, 1);
        assert_ne!(edited, text(INPUT));
        edited
    };
    let asked = edited(
        "suites = ['trixie']\n",
        "suites = ['trixie']\ncomponents = ['non-free']\n",
    );
    let index = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    let listed = edited(
        "[[input]]",
        &format!("[release.components]\nnon-free = '{index}'\n[[input]]"),
    );
    assert_ne!(digest(&asked), digest(&text(INPUT)));
    assert_ne!(digest(&listed), digest(&text(INPUT)));
    assert_eq!(
        refusal(&asked.replacen("non-free", "../main", 1)),
        "request linux of the lock file: component has characters that no component name has"
    );
    assert_eq!(
        refusal(&listed.replacen("non-free =", "main =", 1)),
        "release trixie of the lock file: \"main\" is not the name of a component beside main"
    );
    let python = "[[request]]\ngroup = 'kernel'\nkind = 'python'\nname = 'x'\nversion = '1'\ncomponents = ['main']\nreason = 'r'\n";
    assert_eq!(
        refusal(&format!("format = 1\n{python}")),
        "request x of the lock file: a Python package has no components"
    );
}
