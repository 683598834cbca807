//! Tests of reading apt's configuration in its several formats.

use super::*;

fn discover(files: &[(&str, &str)]) -> (tempfile::TempDir, Result<Mirrors, MirrorError>) {
    let root = tempfile::tempdir().expect("temporary folder");
    fs::create_dir_all(root.path().join("etc/apt/sources.list.d")).expect("creates");
    for (name, text) in files {
        let path = root.path().join(name);
        fs::create_dir_all(path.parent().expect("inside")).expect("creates");
        fs::write(path, text).expect("writes");
    }
    let mirrors = Mirrors::discover_in(root.path());
    (root, mirrors)
}

#[test]
fn deb822_sources() {
    let text = "Types: deb deb-src\n# remark\nURIs: http://m.test/debian\nSuites: bookworm bookworm-updates\nComponents: main\n\n\
        Types: deb\nURIs: http://m.test/debian-security/\nSuites: bookworm-security\nComponents: main\n\n\
        Types: deb\nURIs: http://off.test/debian\nSuites: sid\nComponents: main\nEnabled: no\n\n\
        Types: deb-src\nURIs: http://src.test/debian\nSuites: sid\nComponents: main\n";
    let (_root, mirrors) = discover(&[("etc/apt/sources.list.d/debian.sources", text)]);
    let mirrors = mirrors.expect("found");
    assert_eq!(mirrors.bases("sid"), ["http://m.test/debian"]);
    assert_eq!(
        mirrors.bases("trixie-security"),
        ["http://m.test/debian-security"]
    );
}

#[test]
fn one_line_sources_without_those_of_third_parties() {
    let text = "# deb http://no.test/debian sid main\ndeb [arch=amd64 signed-by=/k.gpg] https://m.test/debian trixie main contrib\n\
        deb https://apt.vendor.test bookworm main\ndeb https://vendor.test/debian bookworm stable\ndeb https://pg.test/debian bookworm-pgdg main\n\
        deb cdrom:[x]/ trixie main\n";
    let (_root, mirrors) = discover(&[("etc/apt/sources.list", text)]);
    let mirrors = mirrors.expect("found");
    assert_eq!(mirrors.bases("trixie"), ["https://m.test/debian"]);
    assert_eq!(
        mirrors.bases("trixie-security"),
        ["https://m.test/debian-security"]
    );
}

#[test]
fn mirror_lists_of_cloud_images() {
    let sources = "Types: deb\nURIs: mirror+file:///etc/apt/mirrors/debian.list\nSuites: trixie\nComponents: main\n";
    let list = "http://a.test/debian\tpriority:1\n# no\nhttp://b.test/debian\n";
    let (_root, mirrors) = discover(&[
        ("etc/apt/sources.list.d/d.sources", sources),
        ("etc/apt/mirrors/debian.list", list),
    ]);
    assert_eq!(
        mirrors.expect("found").bases("sid"),
        ["http://a.test/debian", "http://b.test/debian"]
    );
}

#[test]
fn without_an_archive_the_error_names_the_files_and_the_flag() {
    let (root, mirrors) = discover(&[(
        "etc/apt/sources.list.d/v.list",
        "deb https://v.test stable main2\n",
    )]);
    let apt = root.path().join("etc/apt");
    let expected = format!(
        "no Debian archive in apt's configuration (looked at {0}/sources.list, {0}/sources.list.d, {0}/sources.list.d/v.list): name one with --mirror URL",
        apt.display()
    );
    assert_eq!(mirrors.expect_err("none").to_string(), expected);
}

#[test]
fn the_flag() {
    let mirrors = Mirrors::from_urls(&["http://m.test/debian/"]).expect("valid");
    assert_eq!(mirrors.bases("sid"), ["http://m.test/debian"]);
    for url in [
        "ftp://m.test/debian",
        "m.test",
        "http://",
        "http://m.test/d?x",
    ] {
        assert_eq!(
            Mirrors::from_urls(&[url]),
            Err(MirrorError::BadUrl {
                url: url.to_owned()
            })
        );
    }
}
