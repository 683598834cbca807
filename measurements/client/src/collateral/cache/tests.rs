//! Tests of the collateral cache: what is found again, what is rejected and what is removed.

use std::os::unix::fs::PermissionsExt as _;

use super::*;

fn cache() -> (tempfile::TempDir, CollateralCache) {
    let folder = tempfile::tempdir().unwrap();
    let cache = CollateralCache::open(&folder.path().join("a/b")).unwrap();
    (folder, cache)
}

fn kept(cache: &CollateralCache, contents: &[&[u8]]) -> Vec<Hex32> {
    let mut pieces = Pieces::default();
    let names = contents.iter().map(|piece| pieces.insert(piece.to_vec()));
    let names = names.collect();
    cache.keep(&pieces).unwrap();
    names
}

fn files(cache: &CollateralCache) -> usize {
    fs::read_dir(&cache.folder).unwrap().count()
}

fn used(cache: &CollateralCache, name: &Hex32, ago: Duration) {
    let file = File::open(cache.path(name)).unwrap();
    file.set_modified(SystemTime::now() - ago).unwrap();
}

#[test]
fn pieces_are_found_again_by_their_owner_alone() {
    let (_folder, cache) = cache();
    let names = kept(&cache, &[b"one", b"two"]);
    let found = cache.find(&[names[0], Hex32::ZERO, names[1]]);
    assert_eq!(
        (found.count(), found.get(&names[0])),
        (2, Some(&b"one"[..]))
    );
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&cache.folder), 0o700);
    assert_eq!(mode(&cache.path(&names[0])), 0o600);
    let again = CollateralCache::open(&cache.folder).unwrap();
    // Two processes that keep the same pieces do not disturb each other, and leave no unfinished
    // files.
    again.keep(&found).unwrap();
    assert_eq!(files(&cache), 2);
}

#[test]
fn what_is_not_what_its_name_says_is_removed() {
    let (_folder, cache) = cache();
    let names = kept(&cache, &[b"one", b"two", b"three", b"four"]);
    fs::write(cache.path(&names[0]), b"One").unwrap();
    fs::rename(cache.path(&names[2]), cache.path(&names[1])).unwrap();
    fs::remove_file(cache.path(&names[3])).unwrap();
    std::os::unix::fs::symlink("/proc/self/environ", cache.path(&names[3])).unwrap();
    assert_eq!(cache.find(&names), Pieces::default());
    assert_eq!(files(&cache), 0);
    assert_eq!(kept(&cache, &[b"one"]), names[..1]);
    assert_eq!(cache.find(&names).count(), 1);
}

#[test]
fn a_file_longer_than_any_piece_is_not_read() {
    let (_folder, cache) = cache();
    let name = Hex32::sha256(b"long");
    let file = File::create(cache.path(&name)).unwrap();
    file.set_len(1 << 40).unwrap();
    assert_eq!(cache.find(&[name]), Pieces::default());
    assert_eq!(files(&cache), 0);
}

#[test]
fn what_nobody_needs_goes() {
    let (_folder, cache) = cache();
    let names = kept(&cache, &[b"old", b"needed", b"new"]);
    used(&cache, &names[0], MAX_UNUSED + DAY);
    used(&cache, &names[1], MAX_UNUSED + DAY);
    fs::write(cache.folder.join(".piece-unfinished"), b"x").unwrap();
    let foreign = cache.folder.join("letters.txt");
    fs::write(&foreign, b"x").unwrap();
    // Finding a piece counts as using it.
    assert_eq!(cache.find(&names[1..2]).count(), 1);
    let name = kept(&cache, &[b"another"])[0];
    let all = [&names[..], &[name]].concat();
    let found = cache.find(&all);
    assert_eq!(found.count(), 3);
    assert_eq!(found.get(&names[0]), None);
    assert_eq!(files(&cache), 5, "unfinished files get a day");
    cache.prune(SystemTime::now() + DAY + DAY).unwrap();
    assert_eq!(files(&cache), 4);
    cache.prune(SystemTime::now() + MAX_UNUSED + DAY).unwrap();
    assert_eq!(files(&cache), 1);
    assert!(foreign.exists(), "somebody else's file went");
}

#[test]
fn the_folder_is_bounded() {
    let (_folder, cache) = cache();
    let contents: Vec<_> = (0..MAX_CACHED_PIECES + 10)
        .map(usize::to_be_bytes)
        .collect();
    let contents: Vec<&[u8]> = contents.iter().map(|piece| &piece[..]).collect();
    kept(&cache, &contents);
    assert_eq!(files(&cache), MAX_CACHED_PIECES);
}

#[test]
fn what_was_needed_least_recently_makes_room() {
    let (_folder, cache) = cache();
    let mut names = Vec::new();
    for byte in 0..10 {
        let name = kept(&cache, &[&vec![byte; MAX_PIECES_LEN]])[0];
        used(&cache, &name, Duration::from_secs(60 - u64::from(byte)));
        names.push(name);
    }
    let entries = fs::read_dir(&cache.folder).unwrap();
    let sizes = entries.map(|entry| entry.unwrap().metadata().unwrap().len());
    assert_eq!(sizes.sum::<u64>(), MAX_CACHED_BYTES);
    assert_eq!(cache.find(&names[..2]), Pieces::default());
    assert_eq!(cache.find(&names[2..]).count(), 8);
}
