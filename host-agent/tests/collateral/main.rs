//! Collateral from doubles of the vendors' services on this machine's loopback: what is asked for, what is kept, what a guest
//! is handed, and what every kind of bad answer comes to.
//!
//! The documents are NVIDIA-shaped ones under throw-away roots, and real ones of Intel's and AMD's from the folder that
//! `COCOON_VECTORS` names, or from `../shared/vectors` beside the checkout; without it those tests say that they were
//! skipped.

#[path = "../../../tests/src/absent.rs"]
mod absent;
mod amd;
mod bundles;
mod commands;
mod double;
mod guests;
mod hostile;
mod intel;
mod nvidia;

use std::path::{Path, PathBuf};
use std::time::Duration;

use absent::absent;
use cocoon_host_agent::collateral::http::Client;
use cocoon_host_agent::collateral::{Keeper, Services, Store};
use cocoon_measurements::policy::Policy;
use double::Double;
use tempfile::TempDir;

/// A keeper over a fresh folder that asks a double for everything.
fn keeper(double: &Double, policy: Policy) -> (TempDir, Keeper) {
    let folder = tempfile::tempdir().expect("a folder");
    let keeper = keeper_in(folder.path(), double, policy);
    (folder, keeper)
}

fn keeper_in(folder: &Path, double: &Double, policy: Policy) -> Keeper {
    let store = Store::open(folder).expect("a store");
    let client = Client::with_patience(Duration::from_secs(5));
    Keeper::new(store, services(double), client, policy)
}

fn services(double: &Double) -> Services {
    let base = double.url();
    Services {
        intel: base.clone(),
        intel_root_crl: format!("{base}/root.der"),
        amd: base.clone(),
        nvidia_rim: format!("{base}/v1/rim"),
        nvidia_ocsp: format!("{base}/ocsp"),
        nvidia_key_file: None,
    }
}

/// A file among the vectors; nothing where they are not, which is said.
fn vector(name: &str) -> Option<Vec<u8>> {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/vectors");
    let folder = std::env::var_os("COCOON_VECTORS").map_or_else(beside, PathBuf::from);
    let bytes = std::fs::read(folder.join(name)).ok();
    if bytes.is_none() {
        let named = std::env::var_os("COCOON_VECTORS").is_some();
        assert!(!named, "COCOON_VECTORS has no {name}");
        absent(format_args!("{name} is not in {}", folder.display()));
    }
    bytes
}
