//! What the vendors have said so far about this machine, as far as it is kept here: without it clients accept no real
//! machine, and for a GPU whose versions NVIDIA has published no reference manifest of, they never will.
//!
//! Only the store is read: nobody is asked.

use super::facts::Facts;
use super::finding::{Finding, Mode};
use crate::collateral::store::Failure;
use crate::collateral::{Entry, Store, Want, want};

const TDX: &[Mode] = &[Mode::Tdx];
const SNP: &[Mode] = &[Mode::SevSnp];
const CURRENT: &str =
    "current endorsements beside the evidence, without which clients accept nothing";
const FETCH: &str = "cocoon-host collateral fetch";

/// What is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Kept {
    /// What was answered.
    pub entries: Vec<Entry>,
    /// What was asked for in vain.
    pub failures: Vec<Failure>,
    /// The names of NVIDIA's manifests, a line each.
    pub names: Option<String>,
}

impl Kept {
    /// What a store keeps, whole.
    #[must_use]
    pub fn of(store: &Store) -> Self {
        let mut entries = store.entries();
        entries.retain(|entry| store.get(&entry.want).is_some());
        let names = store.get(&Want::RimNames);
        Self {
            entries,
            failures: store.failures(),
            names: names.and_then(|(_, bytes)| String::from_utf8(bytes).ok()),
        }
    }
}

/// The rows, at `now` in Unix time.
#[must_use]
pub fn findings(kept: &Kept, facts: &Facts, now: u64) -> Vec<Finding> {
    let mut rows = vec![
        vendor(kept, "client.collateral", TDX, "Intel", now),
        vendor(kept, "client.collateral", SNP, "AMD", now),
    ];
    if !facts.gpus.all.is_empty() {
        rows.push(vendor(
            kept,
            "client.gpu.collateral",
            Mode::REAL,
            "NVIDIA",
            now,
        ));
    }
    for gpu in &facts.gpus.all {
        rows.push(manifest(kept, gpu.shown().as_str(), gpu.vbios.as_deref()));
    }
    rows
}

/// The worst of what is kept from one vendor.
fn vendor(
    kept: &Kept,
    id: &'static str,
    modes: &'static [Mode],
    vendor: &str,
    now: u64,
) -> Finding {
    let ours = |want: &Want| want.vendor() == vendor && *want != Want::RimNames;
    let entries: Vec<&Entry> = (kept.entries.iter())
        .filter(|entry| ours(&entry.want))
        .collect();
    let failures: Vec<&Failure> = (kept.failures.iter())
        .filter(|failure| ours(&failure.want))
        .collect();
    let title = |want: &Want| want.title();
    let good = |want: &Want| {
        entries
            .iter()
            .any(|entry| entry.want == *want && now <= entry.dates.due)
    };
    if let Some(failure) = failures.iter().find(|failure| !good(&failure.want)) {
        let (what, why) = (title(&failure.want), &failure.why);
        return Finding::failure(id, modes, format!("{what}: asked for in vain: {why}"))
            .needed(CURRENT)
            .fix("remove the reason, then `cocoon-host collateral fetch`; without a network, `export`, `fetch --bundle` elsewhere, `import`");
    }
    if let Some(entry) = entries.iter().find(|entry| entry.dates.due < now) {
        let (what, due) = (title(&entry.want), entry.dates.due);
        return Finding::failure(id, modes, format!("{what}: ended at {due} (Unix time)"))
            .needed(CURRENT)
            .fix(FETCH);
    }
    if let Some(failure) = failures.first() {
        let (what, why) = (title(&failure.want), &failure.why);
        return Finding::warning(id, modes, format!("{what}: cannot be renewed: {why}"))
            .needed(CURRENT)
            .fix(FETCH);
    }
    match entries.iter().map(|entry| entry.dates.due).min() {
        Some(due) => {
            let hours = (due - now) / 3600;
            let count = entries.len();
            let found = format!("{count} endorsements from {vendor}, all good for {hours} hours");
            Finding::ok(id, modes, found)
        }
        None => Finding::note(
            id,
            modes,
            format!("nothing from {vendor} yet: the first boot asks, for its own evidence"),
        )
        .needed(CURRENT),
    }
}

/// Whether NVIDIA has published what a GPU's VBIOS measures. The driver is the image's.
fn manifest(kept: &Kept, gpu: &str, vbios: Option<&str>) -> Finding {
    const ID: &str = "client.gpu.manifest";
    let needed = "a VBIOS of which NVIDIA has published a reference manifest";
    let Some(vbios) = vbios else {
        return Finding::note(
            ID,
            Mode::REAL,
            format!("{gpu}: its VBIOS version is not known here"),
        )
        .needed(needed)
        .fix("load NVIDIA's driver once, or see the label in the VM's evidence");
    };
    let Some(list) = &kept.names else {
        let found =
            format!("{gpu}: VBIOS {vbios}; the names of NVIDIA's manifests are not kept here");
        return Finding::warning(ID, Mode::REAL, found)
            .needed(needed)
            .fix(FETCH);
    };
    let names = want::names_of(list, None, Some(vbios));
    let names = names.first().map_or(&[][..], |(_, names)| names);
    if names.is_empty() {
        return Finding::failure(
            ID,
            Mode::REAL,
            format!("{gpu}: NVIDIA has no reference manifest of VBIOS {vbios}"),
        )
        .needed(needed)
        .fix("update the VBIOS with the vendor of the machine; `cocoon-host collateral show --vbios VERSION` looks again");
    }
    // Which of them is this board's, only a report tells.
    let found = format!(
        "{gpu}: VBIOS {vbios} has a reference manifest: {}",
        names.join(", ")
    );
    Finding::ok(ID, Mode::REAL, found)
}
