//! `lock` and `cache gc`.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use cocoon_image::build;
use cocoon_image::files;
use cocoon_inputs::{Archive, Cache, Entry, Http, Lock, Options, report};
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
        let folder = path.parent().unwrap_or(Path::new("."));
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        files::write(folder, name, new.render().as_bytes())?;
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

pub(super) fn collect(origin: &Origin, guest: bool, output: Output) -> anyhow::Result<Outcome> {
    let (lock, _) = build::lock(&origin.source()?)?;
    let root = origin.cache()?;
    let cache = Cache::open(&root)?;
    let collected = cache.gc(&[&lock], &*report::stderr())?;
    let abandoned = build::remove_abandoned(&root, Duration::from_secs(24 * 60 * 60))?;
    for folder in ["guest", "guest-cuda", "driver"].map(|name| root.join(name)) {
        if !guest {
            break;
        }
        let removed = std::fs::remove_dir_all(&folder);
        let gone = removed.or_else(|error| {
            if error.kind() == std::io::ErrorKind::NotFound {
                Ok(())
            } else {
                Err(error)
            }
        });
        gone.with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    let value = json!({ "removed": collected.removed, "bytes": collected.bytes, "kept": collected.kept, "abandoned": abandoned, "guest": guest });
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

/// One line per input that came, went or changed.
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
        .map(|entry| line('+', entry));
    gone.chain(come).collect()
}
