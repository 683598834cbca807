//! Implements `lock` and `cache gc`.

use anyhow::Context as _;
use cocoon_image::{build, files, guest, scratch};
use cocoon_inputs::{Archive, Cache, Entry, Http, Kind, Lock, Options, compare_versions, report};
use serde_json::json;

use super::args::{LockArguments, Origin};
use super::{Outcome, Output};

pub(super) fn lock(arguments: &LockArguments, output: Output) -> anyhow::Result<Outcome> {
    let origin = &arguments.origin;
    let source = origin.source()?;
    let (old, _) = build::lock(&source)?;
    let new = if arguments.update {
        update(origin, &old)?
    } else {
        old.clone()
    };
    let changes = changes(&old, &new);
    if arguments.update {
        let path = source.join(build::LOCK_FILE);
        files::write_to(&path, new.render().as_bytes())?;
    }
    let text = format!(
        "{} inputs, lock {}\n{}",
        new.inputs().len(),
        new.digest(),
        changes.join("\n")
    );
    let value = json!({ "inputs": new.inputs().len(), "digest": new.digest().to_string(), "changes": changes });
    output.print(&value, text)?;
    Ok(Outcome::Done)
}

pub(super) fn collect(origin: &Origin, compiled: bool, output: Output) -> anyhow::Result<Outcome> {
    let (lock, _) = build::lock(&origin.source()?)?;
    let root = origin.cache()?;
    let cache = Cache::open(&root)?;
    let collected = cache.gc(&[&lock], &*report::stderr())?;
    let abandoned = scratch::remove_abandoned(&root)?;
    if compiled {
        guest::clear(&root, &*report::stderr())?;
    }
    let value = json!({ "removed": collected.removed, "bytes": collected.bytes, "kept": collected.kept, "abandoned": abandoned, "guest": compiled });
    let text = format!(
        "removed {} files of {} bytes, kept {}",
        collected.removed, collected.bytes, collected.kept
    );
    output.print(&value, text)?;
    Ok(Outcome::Done)
}

fn update(origin: &Origin, old: &Lock) -> anyhow::Result<Lock> {
    let options = Options::default();
    let archive = Archive {
        http: Http::new(),
        mirrors: build::mirrors(&origin.mirrors)??,
        cache: Cache::open(origin.cache()?)?,
        keyring: origin.keyring(),
        now: options.now,
        expired_tolerance: options.expired_tolerance,
        reporter: report::stderr(),
    };
    cocoon_inputs::resolve(&archive, old.requests(), old).context("cannot refresh the lock file")
}

/// Returns one line for each input that was added or removed. A line says so if a package went back to an older version.
fn changes(old: &Lock, new: &Lock) -> Vec<String> {
    let lacks = |lock: &Lock, entry: &Entry| {
        !lock
            .inputs()
            .iter()
            .any(|other| other.sha256 == entry.sha256)
    };
    let line =
        |sign, entry: &Entry| format!("{sign} {} {} {}", entry.name, entry.version, entry.sha256);
    let gone = old
        .inputs()
        .iter()
        .filter(|entry| lacks(new, entry))
        .map(|entry| line('-', entry));
    let come = new
        .inputs()
        .iter()
        .filter(|entry| lacks(old, entry))
        .map(|entry| {
            let mut line = line('+', entry);
            if let Some(newer) = newer(old, entry) {
                line.push_str(&format!(", a DOWNGRADE from {}", newer.version));
            }
            line
        });
    gone.chain(come).collect()
}

/// Returns the entry of `old` for the same Debian package in one of the same groups, if its version is newer. Python packages
/// are left out: their versions are chosen by hand and are not ordered like Debian's.
fn newer<'a>(old: &'a Lock, entry: &Entry) -> Option<&'a Entry> {
    old.inputs().iter().find(|before| {
        before.kind == Kind::Debian
            && before.name == entry.name
            && before
                .groups
                .iter()
                .any(|group| entry.groups.contains(group))
            && compare_versions(&entry.version, &before.version).is_lt()
    })
}

#[cfg(test)]
mod tests {
    use cocoon_inputs::{Digest, Release, Request, Take};

    use super::*;

    fn lock(version: &str) -> Lock {
        let request = Request {
            group: "kernel".to_owned(),
            kind: Kind::Debian,
            name: "linux".to_owned(),
            version: None,
            suites: vec!["trixie".to_owned()],
            components: vec![],
            take: Take::Package,
            without: vec![],
            reason: "test".to_owned(),
        };
        let release = Release {
            suite: "trixie".to_owned(),
            date: "Thu, 01 Jan 1970 00:00:00 UTC".to_owned(),
            inrelease_sha256: Digest::of(b""),
            packages_sha256: Digest::of(b""),
            components: std::collections::BTreeMap::new(),
        };
        let entry = Entry {
            name: "linux".to_owned(),
            version: version.to_owned(),
            architecture: "amd64".to_owned(),
            kind: Kind::Debian,
            suite: Some("trixie".to_owned()),
            path: "pool/linux.deb".to_owned(),
            sha256: Digest::of(version.as_bytes()),
            size: 1,
            groups: vec!["kernel".to_owned()],
        };
        Lock::new(vec![request], vec![release], vec![entry]).unwrap()
    }

    #[test]
    fn what_goes_back_says_so() {
        let (one, two) = (lock("6.12.9-1"), lock("6.12.10-1"));
        let [old, new] = ["6.12.9-1", "6.12.10-1"].map(|version| {
            let sha256 = Digest::of(version.as_bytes());
            format!("linux {version} {sha256}")
        });
        assert_eq!(
            changes(&one, &two),
            [format!("- {old}"), format!("+ {new}")]
        );
        assert_eq!(
            changes(&two, &one),
            [
                format!("- {new}"),
                format!("+ {old}, a DOWNGRADE from 6.12.10-1")
            ]
        );
        assert!(changes(&one, &one).is_empty());
    }
}
