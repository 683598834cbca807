//! Tests of resolving requests against a small archive.

use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::report::Silent;
use crate::testing::{Deb, Server, date, key, now, public, publish_components};
use crate::{Cache, Digest, Http, Keyring, Mirrors, Release};

struct World {
    _dir: tempfile::TempDir,
    server: Server,
    archive: Archive,
}

fn world(fields: &str, debs: &[Deb<'_>]) -> World {
    components(fields, &[("main", debs)])
}

fn components(fields: &str, components: &[(&str, &[Deb<'_>])]) -> World {
    let (dir, server, key) = (
        tempfile::tempdir().expect("temporary folder"),
        Server::start([]),
        key(),
    );
    publish_components(&server, &key, "trixie", fields, components);
    let keyring = dir.path().join("keyring.gpg");
    std::fs::write(&keyring, public(&key)).expect("writes");
    let archive = Archive {
        http: Http::impatient(),
        mirrors: Mirrors::from_urls(&[&server.url]).expect("valid"),
        cache: Cache::open(dir.path().join("cache")).expect("opens"),
        keyring: Keyring::file(keyring),
        now: now(),
        expired_tolerance: Duration::from_secs(3 * 86_400),
        reporter: Arc::new(Silent),
    };
    World {
        _dir: dir,
        server,
        archive,
    }
}

/// An empty lock, which sets no lower bound for dates.
fn nothing() -> Lock {
    Lock::new(Vec::new(), Vec::new(), Vec::new()).expect("valid")
}

fn request(name: &str, take: Take) -> Request {
    let without = vec!["debconf".to_owned()];
    let (group, reason, suites) = ("g".to_owned(), "test".to_owned(), vec!["trixie".to_owned()]);
    Request {
        group,
        kind: Kind::Debian,
        name: name.to_owned(),
        version: None,
        suites,
        components: Vec::new(),
        take,
        without,
        reason,
    }
}

fn names(world: &World, request: Request) -> Result<Vec<String>, String> {
    names_after(world, request, &nothing())
}

fn names_after(world: &World, request: Request, old: &Lock) -> Result<Vec<String>, String> {
    let lock = resolve(&world.archive, &[request], old).map_err(|error| {
        let source = std::error::Error::source(&error)
            .map(|source| format!(": {source}"))
            .unwrap_or_default();
        format!("{error}{source}")
    })?;
    Ok(lock
        .inputs()
        .iter()
        .map(|entry| format!("{} {}", entry.name, entry.version))
        .collect())
}

#[test]
fn closures_take_the_first_satisfiable_alternative_and_leave_out_what_is_named() {
    let world = world(
        "",
        &[
            (
                "app",
                "1",
                "Depends: liba (>= 2), gone | libb, virtual, debconf (>= 0.5)\nPre-Depends: libc\n",
                b"app",
            ),
            ("liba", "1", "", b"old"),
            ("liba", "2.10", "Depends: app\n", b"new"),
            ("liba", "2.9", "", b"middle"),
            ("libb", "1", "", b"b"),
            ("libc", "1", "", b"c"),
            ("impl-b", "1", "Provides: virtual\n", b"ib"),
            ("impl-a", "1", "Provides: virtual (= 3)\n", b"ia"),
            ("unrelated", "1", "", b"u"),
        ],
    );
    assert_eq!(
        names(&world, request("app", Take::Closure)),
        Ok(["app 1", "impl-a 1", "liba 2.10", "libb 1", "libc 1"]
            .map(str::to_owned)
            .to_vec())
    );
    assert_eq!(
        names(&world, request("liba", Take::Package)),
        Ok(vec!["liba 2.10".to_owned()])
    );
}

#[test]
fn a_metapackage_leads_to_the_kernel() {
    let world = world(
        "",
        &[
            (
                "linux-image-cloud",
                "6.2",
                "Depends: linux-base, linux-image-6.2-cloud (= 6.2)\n",
                b"m",
            ),
            ("linux-image-6.2-cloud", "6.2", "", b"k"),
        ],
    );
    assert_eq!(
        names(&world, request("linux-image-cloud", Take::Dependency)),
        Ok(vec!["linux-image-6.2-cloud 6.2".to_owned()])
    );
}

#[test]
fn what_cannot_be_satisfied_is_named() {
    let world = world(
        "",
        &[
            ("app", "1", "Depends: liba (>= 3) | libx\n", b"app"),
            ("liba", "2", "", b"a"),
        ],
    );
    let refused = |name, take| names(&world, request(name, take)).expect_err("refused");
    assert_eq!(
        refused("app", Take::Closure),
        "app depends on liba (>= 3) | libx, which nothing in trixie satisfies"
    );
    assert_eq!(
        refused("nothing", Take::Package),
        "no package nothing in trixie"
    );
}

#[test]
fn an_expired_release_is_tolerated_only_so_long() {
    let until = |days: u64| format!("Valid-Until: {}\n", date(now() - days * 86_400 - 60));
    let debs: &[Deb<'_>] = &[("app", "1", "", b"app")];
    assert_eq!(
        names(&world(&until(2), debs), request("app", Take::Package)),
        Ok(vec!["app 1".to_owned()])
    );
    let error = names(&world(&until(4), debs), request("app", Take::Package)).expect_err("too old");
    assert_eq!(
        error,
        "cannot read suite trixie: the InRelease of suite trixie expired 4 days ago: the mirror is stale, or someone replays an old one; try another with --mirror URL"
    );
}

/// Release files of stable suites never expire, so the date of the lock is the lower bound.
#[test]
fn a_release_older_than_the_locks_is_refused() {
    let world = world("", &[("app", "1", "", b"app")]);
    let request = || request("app", Take::Package);
    let lock = resolve(&world.archive, &[request()], &nothing()).expect("resolves");
    let again = names_after(&world, request(), &lock);
    assert_eq!(again, Ok(vec!["app 1".to_owned()]), "the very same counts");
    let of = |lock: &Lock| lock.release("trixie").expect("listed").clone();
    let later = Release {
        date: date(now() + 3600),
        ..of(&lock)
    };
    let later = Lock::new(vec![request()], vec![later], lock.inputs().to_vec()).expect("valid");
    let error = names_after(&world, request(), &later).expect_err("older");
    assert_eq!(
        error,
        format!(
            "cannot read suite trixie: the InRelease of suite trixie is of {}, the lock's of {}: the mirror is stale, or someone replays an old one; try another with --mirror URL",
            of(&lock).date,
            of(&later).date
        )
    );
}

#[test]
fn a_release_by_another_key_is_refused() {
    let mut world = world("", &[("app", "1", "", b"app")]);
    let other = world._dir.path().join("other.gpg");
    std::fs::write(&other, public(&key())).expect("writes");
    world.archive.keyring = Keyring::file(other);
    let error = names(&world, request("app", Take::Package)).expect_err("untrusted");
    assert_eq!(
        error,
        "cannot read suite trixie: the InRelease of suite trixie is not signed by Debian's archive key"
    );
}

/// A suite in which `non-free` depends on `main` and has a newer version of one of its packages.
fn parts() -> World {
    components(
        "",
        &[
            ("main", &[("liba", "1", "", b"a"), ("libb", "1", "", b"b")]),
            (
                "non-free",
                &[
                    ("driver", "1", "Depends: liba\n", b"d"),
                    ("libb", "2", "", b"other"),
                ],
            ),
            ("contrib", &[]),
        ],
    )
}

fn of(components: &[&str], request: Request) -> Request {
    let components = components.iter().map(|name| (*name).to_owned()).collect();
    Request {
        components,
        ..request
    }
}

#[test]
fn only_the_named_components_are_searched() {
    let world = parts();
    let package = |name| request(name, Take::Package);
    assert_eq!(
        names(&world, package("driver")),
        Err("no package driver in trixie".to_owned())
    );
    assert_eq!(
        names(&world, package("libb")),
        Ok(vec!["libb 1".to_owned()])
    );
    // The index of a component is not fetched unless a request names it.
    let hits = world.server.hits();
    assert!(!hits.iter().any(|hit| hit.contains("non-free")), "{hits:?}");
    assert_eq!(
        names(&world, of(&["main", "non-free"], package("libb"))),
        Ok(vec!["libb 2".to_owned()])
    );
    let closure = || request("driver", Take::Closure);
    assert_eq!(
        names(&world, of(&["main", "non-free"], closure())),
        Ok(["driver 1", "liba 1"].map(str::to_owned).to_vec())
    );
    assert_eq!(
        names(&world, of(&["non-free"], closure())),
        Err("driver depends on liba, which nothing in trixie satisfies".to_owned())
    );
    assert_eq!(
        names(&world, of(&["contrib"], package("driver"))),
        Err("no package driver in trixie".to_owned())
    );
    assert_eq!(
        names(&world, of(&["restricted"], package("driver"))),
        Err(
            "cannot read suite trixie: suite trixie has no component restricted for amd64"
                .to_owned()
        )
    );
}

#[test]
fn the_lock_names_every_index_that_was_searched() {
    let world = parts();
    let requests = [
        of(&["non-free"], request("driver", Take::Package)),
        request("liba", Take::Package),
    ];
    let lock = resolve(&world.archive, &requests, &nothing()).expect("resolves");
    let release = lock.release("trixie").expect("listed");
    let index = |component: &str| {
        let path = format!("/debian/dists/trixie/{component}/binary-amd64/Packages.xz");
        Digest::of(&world.server.page(&path))
    };
    assert_eq!(release.packages_sha256, index("main"));
    let others: Vec<_> = release.components.iter().collect();
    assert_eq!(others, [(&"non-free".to_owned(), &index("non-free"))]);
    assert_eq!(Lock::parse(&lock.render()).expect("own output"), lock);
}

#[test]
fn an_index_that_is_not_the_signed_one_is_refused() {
    let world = parts();
    let index = "/debian/dists/trixie/non-free/binary-amd64/Packages.xz";
    let mut other = world.server.page(index);
    let signed = Digest::of(&other);
    if let Some(last) = other.last_mut() {
        *last ^= 1;
    }
    let found = Digest::of(&other);
    world.server.put(index, other);
    let wanted = of(&["non-free"], request("driver", Take::Package));
    let error = names(&world, wanted).expect_err("damaged");
    let damaged =
        "cannot read suite trixie: the package index of suite trixie is damaged: ".to_owned();
    assert!(error.starts_with(&damaged), "{error}");
    let hashes = error.contains(&signed.to_string()) && error.contains(&found.to_string());
    assert!(hashes, "{error}");
}

#[test]
fn a_star_leaves_out_what_carries_a_version_in_its_name() {
    let world = world(
        "",
        &[
            (
                "headers",
                "1",
                "Depends: linux-image-1 | linux-image-1-unsigned, kbuild-1\n",
                b"h",
            ),
            ("kbuild-1", "1", "", b"k"),
            ("linux-image-1", "1", "", b"i"),
        ],
    );
    let headers = |without: &[&str]| Request {
        without: without.iter().map(|name| (*name).to_owned()).collect(),
        ..request("headers", Take::Closure)
    };
    let without = ["headers 1", "kbuild-1 1"].map(str::to_owned).to_vec();
    assert_eq!(names(&world, headers(&["linux-image-*"])), Ok(without));
    assert_eq!(
        names(&world, headers(&["linux-image"])).map(|found| found.len()),
        Ok(3)
    );
}
