//! Tests of taking the newest version when a locked file is no longer available.

use super::*;

#[test]
fn the_newest_is_taken_only_when_allowed_and_is_marked() {
    let world = World::new("");
    world.server.remove(POOL);
    publish(
        &world.server,
        &world.key,
        "trixie",
        "",
        &[("app", "2", "", b"newer")],
    );
    let fetched = world.fetch(Policy::AllowNewest).expect("newest");
    assert_eq!(
        (
            fetched.read().expect("whole"),
            fetched.entry.version.as_str()
        ),
        (b"newer".to_vec(), "2")
    );
    assert_eq!(fetched.substituted.expect("marked").version, "1");
}

#[test]
fn a_group_that_only_lost_a_file_is_marked_too() {
    let world = World::new("");
    let old = world.fetcher(Policy::AllowNewest).lock().inputs()[0].clone();
    let lost = Entry {
        name: "lib".to_owned(),
        sha256: Digest::of(b"lib"),
        ..old.clone()
    };
    let marked = |locked: &[Entry], newest: &[Entry]| {
        pair(locked, newest)
            .into_iter()
            .map(|(_, mark)| mark)
            .collect::<Vec<_>>()
    };
    assert_eq!(
        marked(&[old.clone(), lost.clone()], std::slice::from_ref(&old)),
        [Some(lost.clone())]
    );
    assert_eq!(
        marked(&[old.clone(), lost.clone()], &[old.clone(), lost.clone()]),
        [None, None]
    );
    assert_eq!(
        marked(std::slice::from_ref(&old), &[old.clone(), lost]),
        [None, Some(old)]
    );
}

/// Nobody signs wheels, so a wheel stays the locked one even if the index serves another file.
#[test]
fn wheels_stay_locked_where_the_newest_is_taken() {
    let world = World::new("");
    world.server.remove(POOL);
    let newer = [("app", "2", "", &b"newer"[..])];
    publish(&world.server, &world.key, "trixie", "", &newer);
    let lock = World::lock("Sat, 12 Sep 2026 07:55:41 UTC", Some(b"wheel"));
    let fetcher = world.fetcher_of(Policy::AllowNewest, lock);
    // The wheel is in the cache, so that no index is asked.
    fetcher
        .cache()
        .insert_bytes(b"wheel", "headers")
        .expect("kept");
    let fetched = fetcher.fetch_group("g").expect("newest");
    let what = |fetched: &Fetched| {
        let marked = fetched.substituted.as_ref().map(|old| old.version.clone());
        (
            fetched.entry.name.clone(),
            fetched.entry.version.clone(),
            marked,
        )
    };
    let (app, headers) = ("app".to_owned(), "headers".to_owned());
    assert_eq!(
        fetched.iter().map(what).collect::<Vec<_>>(),
        [
            (app, "2".to_owned(), Some("1".to_owned())),
            (headers, "1".to_owned(), None)
        ]
    );
    assert_eq!(fetched[1].read().expect("locked bytes"), b"wheel");
}

#[test]
fn the_newest_is_not_older_than_the_lock() {
    let world = World::new("");
    world.server.remove(POOL);
    let newer = [("app", "2", "", &b"newer"[..])];
    publish(&world.server, &world.key, "trixie", "", &newer);
    let later = date(now() + 3600);
    let fetcher = world.fetcher_of(Policy::AllowNewest, World::lock(&later, None));
    let error = fetcher.fetch_group("g").expect_err("replayed");
    let mut cause = std::error::Error::source(&error).expect("cause");
    while let Some(next) = cause.source() {
        cause = next;
    }
    let told = format!(", the lock's of {later}: ");
    assert!(cause.to_string().contains(&told), "{cause}");
}
