//! Refreshes a lock file, fetches its groups and unpacks a group, to test this crate without `cocoon-image`.
//!
//! `relock LOCK` refreshes the lock file, as `cocoon-image lock --update` does. `relock LOCK --newest` fetches each
//! group and takes the newest version where a locked file is no longer available. `relock LOCK --unpack GROUP DIR`
//! unpacks one group.

use std::path::Path;

use cocoon_inputs::unpack::{Limits, unpack_deb_into};
use cocoon_inputs::{
    Archive, Cache, Fetcher, Http, Lock, Mirrors, Options, Policy, report, resolve,
};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let path = arguments
        .first()
        .ok_or("usage: relock LOCK [--newest | --unpack GROUP DIR]")?;
    let lock = Lock::parse(&std::fs::read_to_string(path)?)?;
    let cache = Cache::open(Cache::default_root()?)?;
    let (options, reporter) = (Options::default(), report::stderr());
    if arguments.len() == 1 {
        let archive = Archive {
            http: Http::new(),
            mirrors: Mirrors::discover()?,
            cache,
            keyring: options.keyring,
            now: options.now,
            expired_tolerance: options.expired_tolerance,
            reporter,
        };
        let lock = resolve(&archive, lock.requests(), &lock)?;
        std::fs::write(path, lock.render())?;
        println!("{} files, digest {}", lock.inputs().len(), lock.digest());
        return Ok(());
    }
    let newest = arguments[1] == "--newest";
    let policy = if newest {
        Policy::AllowNewest
    } else {
        Policy::Release
    };
    let options = Options { policy, ..options };
    let mut groups: Vec<String> = lock
        .requests()
        .iter()
        .map(|request| request.group.clone())
        .collect();
    groups.dedup();
    let fetcher = Fetcher::new(lock, cache, Mirrors::discover(), options, reporter);
    for group in groups
        .iter()
        .filter(|group| newest || arguments.get(2) == Some(group))
    {
        for fetched in fetcher.fetch_group(group)? {
            let mark = if fetched.substituted.is_some() {
                " UNLOCKED"
            } else {
                ""
            };
            println!(
                "{group}: {} {}{mark}",
                fetched.entry.name, fetched.entry.version
            );
            if let (false, Some(dir)) = (newest, arguments.get(3)) {
                unpack_deb_into(
                    &fetched.read()?,
                    Limits::default(),
                    |_| true,
                    Path::new(dir),
                )?;
            }
        }
    }
    Ok(())
}
