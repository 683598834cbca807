//! Tests of the sources and their order, against a local server.

#[path = "fetch_newest_tests.rs"]
mod newest;

use std::time::Duration;

use super::*;
use crate::report::Silent;
use crate::testing::{Page, Server, date, key, now, public, publish};
use crate::{Digest, Keyring, Release, Request, Take};

const POOL: &str = "/debian/pool/main/app_1_amd64.deb";
const BODY: &[u8] = b"the locked package, long enough to be cut in two";

struct World {
    dir: tempfile::TempDir,
    server: Server,
    key: pgp::composed::SignedSecretKey,
}

impl World {
    fn new(fields: &str) -> Self {
        let (dir, server, key) = (
            tempfile::tempdir().expect("temporary folder"),
            Server::start([]),
            key(),
        );
        publish(&server, &key, "trixie", fields, &[("app", "1", "", BODY)]);
        std::fs::write(dir.path().join("keys"), public(&key)).expect("writes");
        Self { dir, server, key }
    }

    fn fetcher(&self, policy: Policy) -> Fetcher {
        self.fetcher_of(policy, Self::lock("Sat, 12 Sep 2026 07:55:41 UTC", None))
    }

    /// A lock of this date with one package in the group `g`, and a wheel if given.
    fn lock(date: &str, wheel: Option<&[u8]>) -> Lock {
        let zero = Digest::of(b"");
        let release = Release {
            suite: "trixie".to_owned(),
            date: date.to_owned(),
            inrelease_sha256: zero,
            packages_sha256: zero,
            components: std::collections::BTreeMap::new(),
        };
        let request = Request {
            group: "g".to_owned(),
            kind: Kind::Debian,
            name: "app".to_owned(),
            version: None,
            suites: vec!["trixie".to_owned()],
            components: Vec::new(),
            take: Take::Package,
            without: Vec::new(),
            reason: "test".to_owned(),
        };
        let entry = Entry {
            name: "app".to_owned(),
            version: "1".to_owned(),
            architecture: "amd64".to_owned(),
            kind: Kind::Debian,
            suite: Some("trixie".to_owned()),
            path: "pool/main/app_1_amd64.deb".to_owned(),
            sha256: Digest::of(BODY),
            size: BODY.len() as u64,
            groups: vec!["g".to_owned()],
        };
        let (mut requests, mut entries) = (vec![request], vec![entry]);
        if let Some(bytes) = wheel {
            requests.push(Request {
                kind: Kind::Python,
                name: "headers".to_owned(),
                version: Some("1".to_owned()),
                suites: Vec::new(),
                ..requests[0].clone()
            });
            entries.push(Entry {
                name: "headers".to_owned(),
                architecture: "any".to_owned(),
                kind: Kind::Python,
                suite: None,
                path: "headers-1.whl".to_owned(),
                sha256: Digest::of(bytes),
                size: bytes.len() as u64,
                ..entries[0].clone()
            });
        }
        Lock::new(requests, vec![release], entries).expect("valid")
    }

    fn fetcher_of(&self, policy: Policy, lock: Lock) -> Fetcher {
        let cache = Cache::open(self.dir.path().join("cache")).expect("opens");
        let keyring = Keyring::file(self.dir.path().join("keys"));
        let options = Options {
            policy,
            keyring,
            now: now(),
            expired_tolerance: Duration::ZERO,
        };
        Fetcher::new(
            lock,
            cache,
            Mirrors::from_urls(&[&self.server.url]),
            options,
            Arc::new(Silent),
        )
        .with_http(Http::impatient())
    }

    fn fetch(&self, policy: Policy) -> Result<Fetched, FetchError> {
        self.fetcher(policy)
            .fetch_group("g")
            .map(|mut all| all.remove(0))
    }
}

#[test]
fn the_mirror_first_then_the_cache() {
    let world = World::new("");
    let fetched = world.fetch(Policy::Release).expect("fetched");
    assert_eq!(
        (fetched.read().expect("unchanged"), fetched.substituted),
        (BODY.to_vec(), None)
    );
    world.fetch(Policy::Release).expect("cached");
    assert_eq!(world.server.hits(), [POOL]);
}

#[test]
fn a_broken_transfer_resumes_where_it_stopped() {
    let world = World::new("");
    world.server.put(
        POOL,
        Page {
            cut: Some(10),
            ..BODY.to_vec().into()
        },
    );
    world.fetch(Policy::Release).expect("fetched");
    assert_eq!(
        world.server.hits(),
        [POOL.to_owned(), format!("{POOL} from 10")]
    );
}

#[test]
fn a_server_without_ranges_starts_again() {
    let world = World::new("");
    world.server.put(
        POOL,
        Page {
            cut: Some(10),
            ignores_ranges: true,
            ..BODY.to_vec().into()
        },
    );
    assert_eq!(
        world
            .fetch(Policy::Release)
            .expect("fetched")
            .read()
            .expect("whole"),
        BODY
    );
}

#[test]
fn a_wrong_partial_file_does_not_spoil_the_whole() {
    let world = World::new("");
    let fetcher = world.fetcher(Policy::Release);
    std::fs::write(fetcher.cache().part(&Digest::of(BODY)), b"WRONG").expect("writes");
    assert_eq!(
        fetcher.fetch_group("g").expect("fetched")[0]
            .read()
            .expect("whole"),
        BODY
    );
    assert_eq!(
        world.server.hits(),
        [format!("{POOL} from 5"), POOL.to_owned()]
    );
}

#[test]
fn a_damaged_cached_file_is_fetched_again() {
    let world = World::new("");
    let path = world.fetch(Policy::Release).expect("fetched").path;
    std::fs::remove_file(&path).expect("own file");
    std::fs::write(&path, b"damaged").expect("own file");
    assert_eq!(
        world
            .fetch(Policy::Release)
            .expect("fetched")
            .read()
            .expect("whole"),
        BODY
    );
    assert_eq!(world.server.hits().len(), 2);
}

#[test]
fn the_snapshot_archive_that_the_release_file_names() {
    let world = World::new("");
    let template = format!("{}-snapshots/@SNAPSHOTID@/", world.server.url);
    publish(
        &world.server,
        &world.key,
        "trixie",
        &format!("Snapshots: {template}\n"),
        &[],
    );
    world.server.remove(POOL);
    let old = "/debian-snapshots/20260912T195541Z/pool/main/app_1_amd64.deb";
    world.server.put(old, BODY.to_vec());
    assert_eq!(
        world
            .fetch(Policy::Release)
            .expect("fetched")
            .read()
            .expect("whole"),
        BODY
    );
    assert_eq!(
        world.server.hits(),
        [POOL, "/debian/dists/trixie/InRelease", old]
    );
}

#[test]
fn a_release_stops_and_says_how_to_refresh() {
    let world = World::new("");
    world.server.remove(POOL);
    let url = &world.server.url;
    let expected = format!(
        "app 1 is nowhere to be had: {url}/pool/main/app_1_amd64.deb: HTTP status 404; the Release file of trixie names no snapshot archive. \
         If the archive has moved on, refresh the lock with `cocoon-image lock --update`"
    );
    assert_eq!(
        world.fetch(Policy::Release).expect_err("gone").to_string(),
        expected
    );
}

#[test]
fn other_bytes_or_sizes_are_refused() {
    for (bytes, reason) in [
        (
            vec![b'x'; BODY.len()],
            format!(
                "has SHA-256 {}, the lock says {}",
                Digest::of(&vec![b'x'; BODY.len()]),
                Digest::of(BODY)
            ),
        ),
        (
            vec![b'x'; 5],
            format!("the server offers 5 bytes, expected {}", BODY.len()),
        ),
        (
            vec![b'x'; 500],
            format!("the server offers 500 bytes, expected {}", BODY.len()),
        ),
    ] {
        let world = World::new("");
        world.server.put(POOL, bytes);
        let Err(FetchError::Gone { tried, .. }) = world.fetch(Policy::Release) else {
            panic!("must be refused")
        };
        assert!(tried[0].ends_with(&reason), "{tried:?}");
    }
}

#[test]
fn attempts_are_bounded() {
    let world = World::new("");
    world.server.put(
        POOL,
        Page {
            status: Some(503),
            ..Page::default()
        },
    );
    let Err(FetchError::Gone { tried, .. }) = world.fetch(Policy::Release) else {
        panic!("must fail")
    };
    assert!(tried[0].ends_with("HTTP status 503"), "{tried:?}");
    assert_eq!(
        world
            .server
            .hits()
            .iter()
            .filter(|hit| *hit == POOL)
            .count(),
        4
    );
}

#[test]
fn a_full_disk_stops_at_once() {
    let world = World::new("");
    let fetcher = world.fetcher(Policy::AllowNewest);
    let part = fetcher.cache().part(&Digest::of(BODY));
    std::os::unix::fs::symlink("/dev/full", &part).expect("links");
    let error = fetcher.fetch_group("g").expect_err("no space");
    let source = std::error::Error::source(&error)
        .expect("cause")
        .to_string();
    assert_eq!(error.to_string(), "the cache failed for app");
    assert_eq!(
        source,
        format!(
            "no space left for {} ({} bytes needed): free some, or set COCOON_CACHE to a larger disk",
            part.display(),
            BODY.len()
        )
    );
}

#[test]
fn without_mirrors_the_cache_still_serves() {
    let world = World::new("");
    world.fetch(Policy::Release).expect("fetched");
    let mut fetcher = world.fetcher(Policy::Release);
    fetcher.mirrors = Err(MirrorError::None {
        looked_at: Vec::new(),
    });
    fetcher.fetch_group("g").expect("cached");
    assert_eq!(
        fetcher.fetch_group("h").expect_err("no group").to_string(),
        "the lock file names nothing in group \"h\""
    );
}
