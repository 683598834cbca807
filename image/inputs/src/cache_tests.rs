//! Tests of inserting, looking up, locking and collecting.

use super::*;
use crate::report::Silent;

fn cache() -> (tempfile::TempDir, Cache) {
    let dir = tempfile::tempdir().expect("temporary folder");
    let cache = Cache::open(dir.path()).expect("opens");
    (dir, cache)
}

#[test]
fn a_file_enters_read_only_and_is_found_again() {
    let (_dir, cache) = cache();
    let (sha256, path) = cache.insert_bytes(b"kernel", "k").expect("enters");
    assert_eq!(
        fs::metadata(&path).expect("exists").permissions().mode() & 0o777,
        0o444
    );
    assert_eq!(cache.lookup(&sha256, 6).expect("reads"), Some(path));
    assert_eq!(cache.lookup(&Digest::of(b"x"), 1).expect("reads"), None);
}

#[test]
fn a_damaged_file_is_removed_and_counts_as_absent() {
    let (_dir, cache) = cache();
    let (sha256, path) = cache.insert_bytes(b"kernel", "k").expect("enters");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("own file");
    fs::write(&path, b"kernal").expect("own file");
    assert_eq!(cache.lookup(&sha256, 6).expect("reads"), None);
    assert!(!path.exists());
}

#[test]
fn wrong_bytes_do_not_enter() {
    let (_dir, cache) = cache();
    let part = cache.part(&Digest::of(b"good"));
    for (bytes, expected) in [
        (
            "evil",
            format!(
                "u has SHA-256 {}, the lock says {}",
                Digest::of(b"evil"),
                Digest::of(b"good")
            ),
        ),
        ("goo", "u has 3 bytes, the lock says 4".to_owned()),
        ("good and more", "u has 5 bytes, the lock says 4".to_owned()),
    ] {
        fs::write(&part, bytes).expect("writes");
        let error = cache
            .insert(&part, "u", &Digest::of(b"good"), 4)
            .expect_err("refused");
        assert_eq!(error.to_string(), expected);
        assert!(!part.exists());
    }
}

#[test]
fn only_one_writer_at_a_time() {
    let (_dir, cache) = cache();
    let guard = cache.exclusive(&Silent).expect("free");
    let other = File::open(cache.root.join("inputs/lock")).expect("exists");
    assert!(matches!(
        other.try_lock(),
        Err(fs::TryLockError::WouldBlock)
    ));
    drop(guard);
    other.try_lock().expect("free again");
}

#[test]
fn gc_keeps_what_a_lock_names() {
    let (_dir, cache) = cache();
    let (kept, path) = cache.insert_bytes(b"kept", "k").expect("enters");
    cache.insert_bytes(b"old", "o").expect("enters");
    fs::write(cache.part(&Digest::of(b"half")), b"ha").expect("writes");
    let text = format!(
        "format = 1\n[[request]]\ngroup = 'g'\nkind = 'python'\nname = 'p'\nversion = '1'\nreason = 'r'\n[[input]]\nname = 'p'\n\
         version = '1'\narchitecture = 'any'\nkind = 'python'\npath = 'p.whl'\nsha256 = '{kept}'\nsize = 4\ngroups = ['g']\n"
    );
    let lock = Lock::parse(&text).expect("valid");
    assert_eq!(
        cache.gc(&[&lock], &Silent).expect("collects"),
        Collected {
            removed: 2,
            bytes: 5,
            kept: 1
        }
    );
    assert!(path.exists());
}

#[test]
fn a_full_disk_has_its_own_error() {
    let error = failed("write", Path::new("f"), 7)(io::Error::from(io::ErrorKind::StorageFull));
    assert_eq!(
        error.to_string(),
        "no space left for f (7 bytes needed): free some, or set COCOON_CACHE to a larger disk"
    );
}
