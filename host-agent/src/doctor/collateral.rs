//! The vendors' endorsements of this machine that are kept here. Without them clients accept no real machine; nor do they
//! accept a GPU if NVIDIA has no reference manifest of its VBIOS or driver.
//!
//! Reads only the store, and sends no request.

use super::facts::Facts;
use super::finding::{Finding, Mode};
use crate::collateral::store::Failure;
use crate::collateral::{Entry, Store, Want, want};

const TDX: &[Mode] = &[Mode::Tdx];
const SNP: &[Mode] = &[Mode::SevSnp];
const CURRENT: &str =
    "current endorsements beside the evidence, without which clients accept nothing";
const FETCH: &str = "cocoon-host collateral fetch";

/// The contents of a store.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Kept {
    /// Items that are kept.
    pub entries: Vec<Entry>,
    /// Items that could not be fetched.
    pub failures: Vec<Failure>,
    /// Names of NVIDIA's reference manifests, one per line.
    pub names: Option<String>,
}

impl Kept {
    /// Reads a store; damaged items are left out.
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

/// Versions that the machine itself does not reveal.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Versions<'a> {
    /// Version of NVIDIA's driver in the image, from its manifest; `None` without a driver.
    pub driver: Option<&'a str>,
    /// Version of the VBIOS that the operator states, for GPUs that no NVIDIA driver holds.
    pub vbios: Option<&'a str>,
}

/// Returns the findings about collateral at `now`, Unix time.
#[must_use]
pub fn findings(kept: &Kept, facts: &Facts, versions: Versions<'_>, now: u64) -> Vec<Finding> {
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
    if let Some(driver) = versions.driver {
        rows.push(of_driver(kept, driver));
    }
    for gpu in &facts.gpus.all {
        let vbios = gpu.vbios.as_deref().or(versions.vbios);
        rows.push(of_vbios(kept, gpu.shown().as_str(), vbios));
    }
    rows
}

/// Returns the most serious finding about one vendor's collateral.
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

/// Checks whether NVIDIA has a reference manifest of the image's driver.
fn of_driver(kept: &Kept, driver: &str) -> Finding {
    let sought = Sought {
        id: "client.gpu.manifest.driver",
        of: format!("the image's driver {driver}"),
        needed: "a driver of which NVIDIA has published a reference manifest",
        fix: "build the image with a driver that NVIDIA released for confidential computing; `cocoon-host collateral fetch \
              --all` asks NVIDIA for newer names, then run this again",
    };
    sought.among(kept, |list| want::names_of(list, Some(driver), None))
}

/// Checks for a reference manifest of a GPU's VBIOS. Which of several is the board's, only a GPU's report shows.
fn of_vbios(kept: &Kept, gpu: &str, vbios: Option<&str>) -> Finding {
    let id = "client.gpu.manifest";
    let needed = "a VBIOS of which NVIDIA has published a reference manifest";
    let Some(vbios) = vbios else {
        let asked = asked_for(kept);
        let found = match &asked[..] {
            [] => format!("{gpu}: its VBIOS version is not known here"),
            some => format!(
                "{gpu}: its VBIOS version is not known here; guests of this machine asked for {}, and it is kept",
                some.join(", ")
            ),
        };
        return Finding::note(id, Mode::REAL, found)
            .needed(needed)
            .fix("add --vbios VERSION: the machine's vendor, NVIDIA's driver once loaded, or the evidence of a VM tells it");
    };
    let sought = Sought {
        id,
        of: format!("VBIOS {vbios} ({gpu})"),
        needed,
        fix: "update the VBIOS with the vendor of the machine; `cocoon-host collateral fetch --all` asks NVIDIA for newer \
              names, then run this again",
    };
    sought.among(kept, |list| want::names_of(list, None, Some(vbios)))
}

/// Names of the kept manifests of VBIOS versions, which guests asked for.
fn asked_for(kept: &Kept) -> Vec<&str> {
    let names = kept.entries.iter().filter_map(|entry| match &entry.want {
        Want::Rim { name } if name.starts_with("NV_GPU_VBIOS_") => Some(name.as_str()),
        _ => None,
    });
    names.collect()
}

/// A reference manifest to look for among NVIDIA's names.
struct Sought {
    id: &'static str,
    /// What the manifest describes.
    of: String,
    needed: &'static str,
    /// Remedy if there is no such manifest.
    fix: &'static str,
}

impl Sought {
    fn among(self, kept: &Kept, names: impl Fn(&str) -> Vec<(String, Vec<String>)>) -> Finding {
        let Self {
            id,
            of,
            needed,
            fix,
        } = self;
        let Some(list) = &kept.names else {
            let found = format!("{of}: the names of NVIDIA's manifests are not kept here");
            return Finding::warning(id, Mode::REAL, found)
                .needed(needed)
                .fix(FETCH);
        };
        let names: Vec<String> = names(list)
            .into_iter()
            .flat_map(|(_, names)| names)
            .collect();
        if names.is_empty() {
            let found = format!("NVIDIA has no reference manifest of {of}");
            return Finding::failure(id, Mode::REAL, found)
                .needed(needed)
                .fix(fix);
        }
        let found = format!("{of} has a reference manifest: {}", names.join(", "));
        Finding::ok(id, Mode::REAL, found)
    }
}
