//! Kept items are found, damaged ones count as missing, and a process killed midway leaves no partial items.

use super::*;

const NOW: u64 = 1_750_000_000;
const DATES: Dates = Dates {
    made: NOW - 1,
    due: NOW + 1000,
};

fn store() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("collateral")).unwrap();
    (folder, store)
}

fn rim(name: &str) -> Want {
    Want::Rim { name: name.into() }
}

#[test]
fn what_is_kept_is_found_and_replaced() {
    let (_folder, store) = store();
    let want = rim("NV_A");
    assert_eq!(store.get(&want), None);
    let entry = store.put(&want, b"one", DATES, NOW).unwrap();
    assert_eq!(store.get(&want), Some((entry, b"one".to_vec())));
    let newer = store.put(&want, b"two", DATES, NOW + 5).unwrap();
    assert_eq!(store.get(&want), Some((newer.clone(), b"two".to_vec())));
    store.put(&Want::RimNames, b"two", DATES, NOW).unwrap();
    let wants: Vec<Want> = store
        .entries()
        .into_iter()
        .map(|entry| entry.want)
        .collect();
    assert_eq!(wants, [want.clone(), Want::RimNames]);
    assert_eq!(store.known(&want).fetched, Some((NOW + 5, DATES)));
}

#[test]
fn failures_are_counted_until_it_succeeds() {
    let (_folder, store) = store();
    let want = rim("NV_A");
    for times in 1..=3 {
        store
            .failed(&want, "no\u{1b}[2J answer", NOW + u64::from(times))
            .unwrap();
        let failure = store.failure(&want).unwrap();
        assert_eq!((failure.times, failure.at), (times, NOW + u64::from(times)));
        assert!(!failure.why.contains('\u{1b}'), "{}", failure.why);
    }
    store.put(&want, b"one", DATES, NOW).unwrap();
    assert_eq!((store.failure(&want), store.failures()), (None, vec![]));
}

/// A process may be killed between any two writes, and a disk may lose data.
#[test]
fn what_is_not_whole_is_none() {
    let (_folder, store) = store();
    let want = rim("NV_A");
    let entry = store.put(&want, b"one", DATES, NOW).unwrap();
    let (object, file) = (store.object(&entry.digest), store.path(ENTRIES, &want));
    fs::write(&object, b"two").unwrap();
    assert_eq!(store.get(&want), None);
    fs::remove_file(&object).unwrap();
    assert_eq!(store.get(&want), None);
    store.put(&want, b"one", DATES, NOW).unwrap();
    let whole = fs::read(&file).unwrap();
    fs::write(&file, &whole[..whole.len() / 2]).unwrap();
    assert_eq!((store.get(&want), store.entries()), (None, vec![]));
    // Leftovers of a killed process are ignored.
    fs::write(file.with_extension("json.partial"), &whole).unwrap();
    assert_eq!(store.entries(), vec![]);
    // An entry of another item, stored under this one's name.
    let other = store.put(&rim("NV_B"), b"one", DATES, NOW).unwrap();
    fs::write(&file, json(&other)).unwrap();
    assert_eq!(store.get(&want), None);
}

#[test]
fn pruning_takes_what_nobody_renews_and_nobody_names() {
    let (_folder, store) = store();
    let season = FORGOTTEN + 1;
    store.put(&rim("NV_OLD"), b"old", DATES, NOW).unwrap();
    store.failed(&rim("NV_LOST"), "no", NOW).unwrap();
    let kept = store
        .put(&rim("NV_NEW"), b"new", DATES, NOW + season)
        .unwrap();
    let stray = store.root().join(OBJECTS).join("stray");
    fs::write(&stray, b"young").unwrap();
    store.prune(NOW + season).unwrap();
    assert_eq!((store.entries(), store.failures()), (vec![kept], vec![]));
    assert!(stray.exists(), "another process may be about to name it");
    let day = std::time::SystemTime::now() - std::time::Duration::from_secs(86_400);
    fs::File::options()
        .write(true)
        .open(&stray)
        .unwrap()
        .set_modified(day)
        .unwrap();
    store.prune(NOW + season).unwrap();
    assert!(!stray.exists());
}

/// Half-written files of killed processes must not stay for ever, nor failures of items that guests made up.
#[test]
fn pruning_takes_what_was_never_whole_and_failures_that_are_too_many() {
    let (_folder, store) = store();
    let leftover = |folder: &str| store.root().join(folder).join("ab.7-0.partial");
    let leftovers = [OBJECTS, ENTRIES, FAILURES].map(leftover);
    let day = std::time::SystemTime::now() - std::time::Duration::from_secs(86_400);
    for path in &leftovers {
        fs::write(path, b"{").unwrap();
    }
    store.prune(NOW).unwrap();
    for path in &leftovers {
        assert!(path.exists(), "somebody may be about to rename {path:?}");
        let file = fs::File::options().write(true).open(path).unwrap();
        file.set_modified(day).unwrap();
    }
    for number in 0..MOST_FAILURES as u64 + 2 {
        let want = rim(&format!("NV_{number}"));
        store.failed(&want, "no", NOW + number).unwrap();
    }
    store.prune(NOW).unwrap();
    assert!(leftovers.iter().all(|path| !path.exists()));
    let ages = store.failures().into_iter().map(|failure| failure.at);
    assert_eq!(ages.clone().count(), MOST_FAILURES);
    assert_eq!(ages.min(), Some(NOW + 2), "the oldest are gone");
}

/// The guest's log reports an error whenever its text changes: a changing path would repeat this one for ever.
#[test]
fn a_file_that_cannot_be_written_has_the_same_words_every_time() {
    let (_folder, store) = store();
    let want = rim("NV_A");
    fs::remove_dir(store.root().join(FAILURES)).unwrap();
    let said = || crate::text::chain(&store.failed(&want, "no", NOW).unwrap_err());
    let path = store.path(FAILURES, &want);
    let expected = format!("cannot write {path:?}: No such file or directory (os error 2)");
    assert_eq!([said(), said()], [expected.clone(), expected]);
}

/// The daemon must be able to read and renew what root fetches by hand.
#[test]
fn what_root_makes_is_whose_the_folder_above_is() {
    let folder = tempfile::tempdir().unwrap();
    let own = fs::metadata(folder.path()).unwrap().uid();
    // Only root can change the owner.
    let owner = if own == 0 { 65_534 } else { own };
    lchown(folder.path(), Some(owner), None).unwrap();
    let store = Store::open(&folder.path().join("collateral")).unwrap();
    store.put(&rim("NV_A"), b"one", DATES, NOW).unwrap();
    store.failed(&rim("NV_B"), "no", NOW).unwrap();
    let mut places = vec![store.root().to_owned()];
    while let Some(place) = places.pop() {
        assert_eq!(fs::metadata(&place).unwrap().uid(), owner, "{place:?}");
        let inside = fs::read_dir(&place).into_iter().flatten().flatten();
        places.extend(inside.map(|entry| entry.path()));
    }
}
