//! Tests of the private QEMU with simulated packages: a copy is made once, never incomplete, and made again if a disk has
//! lost some of it; a full disk is reported as such.

use std::io::Write as _;

use cocoon_inputs::report::Silent;
use cocoon_inputs::unpack::TreeError;

use super::*;

/// Packages 1 and 2 make a complete copy, 3 is damaged, 4 does not fit on the disk; 5 and 2 make a copy that reports its
/// version.
struct Pretend(u8, PathBuf);

fn package(byte: u8) -> Pretend {
    Pretend(byte, format!("{byte}.deb").into())
}

impl Package for Pretend {
    fn file(&self) -> &Path {
        &self.1
    }

    fn sha256(&self) -> [u8; 32] {
        [self.0; 32]
    }

    fn unpack(&self, root: &Path) -> Result<(), Box<dyn Error + Send + Sync>> {
        let files: &[&str] = match self.0 {
            1 => &[
                "usr/lib64/ld-linux-x86-64.so.2",
                "usr/share/qemu/a",
                "usr/share/seabios/b",
            ],
            2 => &["usr/bin/qemu-system-x86_64"],
            5 => {
                let loader = root.join("usr/lib64/ld-linux-x86-64.so.2");
                fs::create_dir_all(loader.parent().unwrap_or(root))?;
                // Another process writes the file: a fork in a neighbouring test must not inherit it while open (ETXTBSY).
                let script = r##"printf '#!/bin/sh\necho QEMU emulator version 10.0.2\n' >"$0"; chmod +x "$0""##;
                let mut shell = std::process::Command::new("sh");
                let written = shell.args(["-c", script]).arg(&loader).status()?;
                assert!(written.success(), "a shell");
                &["usr/share/qemu/a", "usr/share/seabios/b"]
            }
            3 => return Err("not a package".into()),
            _ => return Err(onto_a_full_disk().into()),
        };
        for file in files.iter().map(|file| root.join(file)) {
            fs::create_dir_all(file.parent().unwrap_or(root))?;
            // Fails if the copy exists already, so nothing is unpacked twice.
            File::create_new(file)?;
        }
        Ok(())
    }
}

/// Returns the error of unpacking onto a full disk, from a device that never has space.
fn onto_a_full_disk() -> TreeError {
    let path = PathBuf::from("/dev/full");
    let source = File::options()
        .write(true)
        .open(&path)
        .and_then(|mut file| file.write_all(b"x"))
        .expect_err("a full device");
    TreeError::Write { path, source }
}

fn make(cache: &Path, packages: &[u8]) -> Result<PathBuf, PrivateError> {
    let packages: Vec<_> = packages.iter().copied().map(package).collect();
    unpacked(cache, &packages, None, &Silent)
}

#[test]
fn a_copy_is_made_once_and_keyed_by_content() {
    let cache = tempfile::tempdir().expect("a temporary folder");
    let first = make(cache.path(), &[1, 2]).expect("unpacked");
    let marker = first.join("marker");
    fs::write(&marker, "").expect("marked");
    assert_eq!(make(cache.path(), &[2, 1]).expect("found"), first);
    assert!(marker.exists(), "unpacked again");
    assert_eq!(
        make(cache.path(), &[]).expect_err("empty").to_string(),
        "the list of packages for a private QEMU is empty; check the lock file"
    );
}

#[test]
fn a_failed_unpacking_leaves_no_copy() {
    let cache = tempfile::tempdir().expect("a temporary folder");
    for _ in 0..2 {
        let error = make(cache.path(), &[1, 2, 3]).expect_err("damaged");
        assert_eq!(
            error.to_string(),
            "cannot unpack \"3.deb\" for a private QEMU"
        );
    }
    let error = make(cache.path(), &[1]).expect_err("no program");
    assert_eq!(
        error.to_string(),
        "the private QEMU's packages contain no usr/bin/qemu-system-x86_64; check the lock file"
    );
}

#[test]
fn a_full_disk_is_named_with_the_way_out() {
    let cache = tempfile::tempdir().expect("a temporary folder");
    let error = make(cache.path(), &[1, 2, 4]).expect_err("no space");
    assert_eq!(
        error.to_string(),
        format!(
            "no space left for a private QEMU in {:?}: free 300 MB, or set COCOON_CACHE to a folder on a larger disk",
            cache.path()
        )
    );
}

#[test]
fn a_machine_that_is_short_of_something_breaks_no_copy() {
    let broken = |source: io::Error| {
        let program = PathBuf::from("ld-linux-x86-64.so.2");
        is_broken(&FindError::Run { program, source }.into())
    };
    let errno = |errno: Errno| io::Error::from_raw_os_error(errno as i32);
    for own in [Errno::ENOENT, Errno::EACCES, Errno::ENOEXEC, Errno::ELIBBAD] {
        assert!(broken(errno(own)), "{own}");
    }
    for others in [
        Errno::EAGAIN,
        Errno::ENOMEM,
        Errno::EMFILE,
        Errno::ENFILE,
        Errno::ETXTBSY,
    ] {
        assert!(!broken(errno(others)), "{others}");
    }
    assert!(!broken(io::ErrorKind::TimedOut.into()), "asked in vain");
    assert!(is_broken(&PrivateError::Missing("usr/share/qemu")));
}

/// After a power failure, the names may exist without their contents. A copy that does not run is made again, and one that
/// runs is not.
#[tokio::test]
async fn a_copy_that_does_not_run_is_made_once_more() {
    let cache = tempfile::tempdir().expect("a temporary folder");
    let packages: Arc<[Pretend]> = [package(5), package(2)].into();
    let open = || opened(cache.path(), Arc::clone(&packages), Arc::new(Silent));
    let first = open().await.expect("a copy");
    let Origin::Private(root) = &first.origin else {
        panic!("{first:?}")
    };
    let digests = || packages.iter().map(Package::sha256);
    assert_eq!(held(cache.path(), digests()).as_ref(), Some(root));
    assert_eq!(held(&cache.path().join("other"), digests()), None);
    let marker = root.join("marker");
    fs::write(&marker, "").expect("marked");
    assert_eq!(open().await.expect("the same"), first);
    assert!(marker.exists(), "made again");
    let loader = root.join("usr/lib64/ld-linux-x86-64.so.2");
    // The program is killed, as on a host without memory: the copy is not at fault, and other processes may be starting
    // from it.
    let mut shell = std::process::Command::new("sh");
    let written = shell.args(["-c", r##"printf '#!/bin/sh\nkill -9 $$\n' >"$0""##]);
    assert!(written.arg(&loader).status().expect("a shell").success());
    let error = open().await.expect_err("a program that is killed");
    assert_eq!(error.to_string(), "the private QEMU does not run");
    assert!(marker.exists(), "made again");
    fs::remove_file(&loader).expect("removed");
    File::create(&loader).expect("what a power cut leaves");
    // Left behind by a process that is killed between its two renames.
    let old = PathBuf::from(format!("{}.old", root.display()));
    fs::create_dir_all(old.join("usr")).expect("an old one");
    assert_eq!(open().await.expect("a new one"), first);
    assert!(!marker.exists(), "the old one");
    assert!(!old.exists(), "what was left");
    // A copy that never runs is made again only once.
    let never: Arc<[Pretend]> = [package(1), package(2)].into();
    let error = opened(cache.path(), never, Arc::new(Silent)).await;
    let error = error.expect_err("an empty program").to_string();
    assert_eq!(error, "the private QEMU does not run");
}
