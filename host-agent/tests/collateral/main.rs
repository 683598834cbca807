//! Tests of collateral with doubles of the vendors' services on loopback: which requests are sent, what is kept, what a guest
//! receives, and how each kind of bad answer is handled.
//!
//! NVIDIA's documents are imitations under throw-away roots. Intel's and AMD's are real ones from the folder that
//! `COCOON_VECTORS` names, or from `../shared/vectors` beside the checkout. Without that folder, their tests report that they
//! were skipped.

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

/// Returns a keeper over a new folder. Its services are all the same double.
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

/// Returns a file of the vectors, or `None` after reporting that the vectors are absent.
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
