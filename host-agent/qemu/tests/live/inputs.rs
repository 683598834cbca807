//! Files of the image's lock file, among them a QEMU for hosts that have none.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cocoon_inputs::unpack::{Limits, Node, unpack_deb};
use cocoon_inputs::{Cache, Fetcher, Lock, Mirrors, Options, Policy, report};

use crate::skip::skipped;

/// Returns a fetcher for the image's lock file.
pub fn fetcher() -> Result<Arc<Fetcher>, Box<dyn Error>> {
    fetcher_of(include_str!("../../../../image/inputs.lock"))
}

/// Returns a fetcher for another lock file. It takes the newest signed version where the locked one is gone.
pub fn fetcher_of(text: &str) -> Result<Arc<Fetcher>, Box<dyn Error>> {
    let options = Options {
        policy: Policy::AllowNewest,
        ..Options::default()
    };
    let cache = Cache::open(Cache::default_root()?)?;
    let lock = Lock::parse(text)?;
    let fetcher = Fetcher::new(lock, cache, Mirrors::discover(), options, report::stderr());
    Ok(Arc::new(fetcher))
}

/// Writes Debian's kernel into `folder`; returns `None` after reporting that it cannot be obtained.
pub fn kernel(folder: &Path) -> Option<PathBuf> {
    laid_down(folder.join("kernel"), unpacked("kernel", "boot/vmlinuz-"))
}

/// Writes an image's firmware into `folder`, which also boots plain machines: Debian's TDX firmware with a variable store
/// that contains no key to forbid the kernel. Returns `None` after reporting that it cannot be obtained.
pub fn firmware(folder: &Path) -> Option<PathBuf> {
    let made = || {
        let mut bytes = unpacked("firmware-tdx", "usr/share/ovmf/OVMF.inteltdx.ms.fd")?;
        let store = unpacked("firmware-vars", "usr/share/OVMF/OVMF_VARS_4M.fd")?;
        let place = bytes
            .get_mut(..store.len())
            .ok_or("the firmware is too short")?;
        place.copy_from_slice(&store);
        Ok(bytes)
    };
    laid_down(folder.join("firmware"), made())
}

fn laid_down(path: PathBuf, bytes: Result<Vec<u8>, Box<dyn Error>>) -> Option<PathBuf> {
    match bytes {
        Ok(bytes) => {
            fs::write(&path, bytes).expect("a file");
            Some(path)
        }
        Err(error) => {
            skipped(format_args!("{} cannot be had: {error}", path.display()));
            None
        }
    }
}

fn unpacked(group: &str, path: &str) -> Result<Vec<u8>, Box<dyn Error>> {
    for package in fetcher()?.fetch_group(group)? {
        let files = unpack_deb(&package.read()?, Limits::default(), |found| {
            found.starts_with(path)
        })?;
        for node in files.into_values() {
            if let Node::File { data, .. } = node {
                return Ok(data);
            }
        }
    }
    Err(format!("no package of {group} holds it").into())
}
