//! Tests of valid packages and of malicious ones.

use super::*;
use crate::testing::xz;

fn tar_of(members: &[(&str, tar::EntryType, &str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, kind, link, data) in members {
        let mut header = tar::Header::new_gnu();
        // The fields are written directly, because the builder refuses the paths that these tests need.
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(*kind);
        header.set_mode(0o4755);
        header.set_size(data.len() as u64);
        header.set_cksum();
        builder.append(&header, *data).expect("in memory");
    }
    builder.into_inner().expect("in memory")
}

fn deb_of(name: &str, data: &[u8]) -> Vec<u8> {
    let mut builder = ar::Builder::new(Vec::new());
    for (name, data) in [
        ("debian-binary", b"2.0\n".as_slice()),
        ("control.tar.xz", b"never read"),
        (name, data),
    ] {
        builder
            .append(
                &ar::Header::new(name.as_bytes().to_vec(), data.len() as u64),
                data,
            )
            .expect("in memory");
    }
    builder.into_inner().expect("in memory")
}

fn unpack(members: &[(&str, tar::EntryType, &str, &[u8])]) -> Result<Tree, UnpackError> {
    unpack_deb(
        &deb_of("data.tar.xz", &xz(&tar_of(members))),
        Limits::default(),
        |_| true,
    )
}

fn refusal(error: &UnpackError) -> String {
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}"));
    format!("{error}{}", cause.unwrap_or_default())
}

use tar::EntryType as Type;

#[test]
fn files_and_links_without_set_user_id() {
    let members: &[_] = &[
        ("./", Type::Directory, "", b"".as_slice()),
        ("./usr/bin/", Type::Directory, "", b""),
        ("./usr/bin/x", Type::Regular, "", b"program"),
        ("./usr/bin/y", Type::Link, "./usr/bin/x", b""),
        ("./usr/lib/z", Type::Symlink, "../bin/x", b""),
    ];
    let tree = unpack(members).expect("valid");
    let file = Node::File {
        mode: 0o755,
        data: b"program".to_vec(),
    };
    let expected = [
        ("usr/bin/x", file.clone()),
        ("usr/bin/y", file),
        (
            "usr/lib/z",
            Node::Symlink {
                target: "../bin/x".to_owned(),
            },
        ),
    ];
    assert_eq!(
        tree,
        expected.map(|(path, node)| (path.to_owned(), node)).into()
    );

    let dir = tempfile::tempdir().expect("temporary folder");
    let deb = deb_of("data.tar", &tar_of(members));
    let paths = unpack_deb_into(
        &deb,
        Limits::default(),
        |path| path.contains("/bin/x"),
        dir.path(),
    )
    .expect("writes");
    assert_eq!(paths, ["usr/bin/x"]);
    assert_eq!(
        std::fs::read(dir.path().join("usr/bin/x")).expect("written"),
        b"program"
    );
}

#[test]
fn members_that_leave_the_folder_or_are_no_files_are_refused() {
    for (member, expected) in [
        (
            ("../evil", Type::Regular, "", b"".as_slice()),
            "cannot unpack the package: member \"../evil\" would lie outside the folder",
        ),
        (
            ("./a/../../evil", Type::Regular, "", b""),
            "cannot unpack the package: member \"./a/../../evil\" would lie outside the folder",
        ),
        (
            ("/etc/evil", Type::Regular, "", b""),
            "cannot unpack the package: member \"/etc/evil\" would lie outside the folder",
        ),
        (
            ("a", Type::Symlink, "/etc/passwd", b""),
            "cannot unpack the package: link a points to \"/etc/passwd\", outside the folder",
        ),
        (
            ("a/b", Type::Symlink, "../../c", b""),
            "cannot unpack the package: link a/b points to \"../../c\", outside the folder",
        ),
        (
            ("a", Type::Link, "../c", b""),
            "member a is a hard link to \"../c\", which is not an earlier, kept file of the package",
        ),
        (
            ("a", Type::Block, "", b""),
            "member a is a Block, which is refused",
        ),
        (
            ("a", Type::Char, "", b""),
            "member a is a Char, which is refused",
        ),
        (
            ("a", Type::Fifo, "", b""),
            "member a is a Fifo, which is refused",
        ),
    ] {
        assert_eq!(refusal(&unpack(&[member]).expect_err("refused")), expected);
    }
}

#[test]
fn links_that_nobody_keeps_lead_nowhere() {
    let members: &[_] = &[
        ("bin/x", Type::Regular, "", b"program".as_slice()),
        ("bin/x.profile", Type::Symlink, "/etc/x.profile", b""),
    ];
    let deb = deb_of("data.tar", &tar_of(members));
    let tree = unpack_deb(&deb, Limits::default(), |path| path == "bin/x").expect("valid");
    assert_eq!(tree.keys().collect::<Vec<_>>(), ["bin/x"]);
    unpack_deb(&deb, Limits::default(), |_| true).expect_err("kept, it is refused");
}

#[test]
fn writing_through_a_link_of_an_earlier_package_is_refused() {
    let dir = tempfile::tempdir().expect("temporary folder");
    std::os::unix::fs::symlink("elsewhere", dir.path().join("lib")).expect("links");
    let deb = deb_of("data.tar", &tar_of(&[("lib/x", Type::Regular, "", b"x")]));
    let error =
        unpack_deb_into(&deb, Limits::default(), |_| true, dir.path()).expect_err("refused");
    let link = dir.path().join("lib");
    assert_eq!(
        refusal(&error),
        format!(
            "cannot unpack the package: member lib/x would be written through the symbolic link {}",
            link.display()
        )
    );
}

#[test]
fn bombs_are_refused() {
    let zeros = vec![0; 3 << 20];
    let deb = deb_of(
        "data.tar.xz",
        &xz(&tar_of(&[
            ("a", Type::Regular, "", &zeros),
            ("b", Type::Regular, "", b""),
        ])),
    );
    assert!(deb.len() < 10_000);
    let limits = |bytes, members| Limits { bytes, members };
    let error = |limits| refusal(&unpack_deb(&deb, limits, |_| false).expect_err("refused"));
    assert_eq!(
        error(limits(1 << 20, 10)),
        "the package unpacks to more than 1048576 bytes"
    );
    assert_eq!(
        error(limits(8 << 20, 1)),
        "the package has more than 1 members"
    );
}

#[test]
fn containers_that_are_not_packages_are_refused() {
    let error =
        |deb: &[u8]| refusal(&unpack_deb(deb, Limits::default(), |_| true).expect_err("refused"));
    assert_eq!(
        error(&deb_of("data.tar.gz", b"")),
        "member \"data.tar.gz\" is neither data.tar, data.tar.xz nor data.tar.zst"
    );
    assert_eq!(
        error(&deb_of("other", b"")),
        "not a Debian package: it has no data.tar"
    );
    assert!(error(b"not an archive").starts_with("cannot read the package"));
    let whole = deb_of(
        "data.tar.xz",
        &xz(&tar_of(&[("a", Type::Regular, "", b"data")])),
    );
    assert!(error(&whole[..whole.len() - 40]).starts_with("cannot read the package"));
}

#[test]
fn an_archive_within_a_package_is_held_to_the_same_rules() {
    let members: &[_] = &[
        ("modules/a.c", Type::Regular, "", b"source".as_slice()),
        ("modules/b.c", Type::Regular, "", b"left"),
    ];
    let tree = unpack_tar_xz(&xz(&tar_of(members)), Limits::default(), |path| {
        path.ends_with("a.c")
    });
    let tree = tree.expect("valid");
    let found: Vec<_> = tree
        .iter()
        .map(|(path, node)| (path, node.data()))
        .collect();
    assert_eq!(found, [(&"modules/a.c".to_owned(), Some(&b"source"[..]))]);
    let outside: &[_] = &[("../a.c", Type::Regular, "", b"x".as_slice())];
    let error = unpack_tar_xz(&xz(&tar_of(outside)), Limits::default(), |_| true);
    assert_eq!(
        refusal(&error.expect_err("refused")),
        "cannot unpack the package: member \"../a.c\" would lie outside the folder"
    );
}
