//! RTMR0: which of the manifest's shapes of real machines this machine matches.

use std::collections::BTreeSet;
use std::fmt;

use cocoon_measurements::tdx::rtmr0::{Machine, rtmr0};
use cocoon_measurements::tdx::tdvf::Tdvf;
use cocoon_protocol::bytes::Hex48;
use cocoon_protocol::manifest::{PlatformSource, TdxPlatform};
use cocoon_qemu::spec::mmio64_mib;
use cocoon_qemu::tables::Tables;

use super::Artefacts;
use crate::doctor::facts::{Gpu, Wanted};
use crate::doctor::finding::{Finding, Mode};

const ID: &str = "client.tdx.rtmr0";
const TDX: &[Mode] = &[Mode::Tdx];
/// Event that names the processor as QEMU shows it; only a trust domain on this machine would see it.
const SMBIOS: &str = "SMBIOS tables";
const ADD: &str =
    "let the signers add this machine: cocoon-host tables, then cocoon-image manifest platform";
const NEEDED: &str = "a shape that the manifest's signers computed for this QEMU, memory, vCPUs, processor and GPU, if any";

/// The properties of a machine that can be compared with shapes before a launch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sought {
    vcpus: u16,
    memory_mib: u32,
    /// With a GPU: possible sizes of the window for its BARs, in MiB; empty if the BARs are unknown. `None` without a GPU.
    windows: Option<BTreeSet<u32>>,
}

impl Sought {
    pub(super) fn new(wanted: &Wanted, vcpus: u16, gpus: &[Gpu]) -> Self {
        let known = gpus.iter().filter(|gpu| !gpu.bars.is_empty());
        let windows = known.map(|gpu| mmio64_mib(&gpu.bars)).collect();
        Self {
            vcpus,
            memory_mib: wanted.memory_mib,
            windows: wanted.gpu.then_some(windows),
        }
    }

    /// Returns the shapes that the machine may match. `up` compares the same properties.
    pub(super) fn fitting<'a>(&self, platforms: &'a [TdxPlatform]) -> Vec<&'a TdxPlatform> {
        let fits = |platform: &&TdxPlatform| {
            platform.source == PlatformSource::Computed
                && platform.memory_mib == u64::from(self.memory_mib)
                && platform.vcpus.is_none_or(|n| n == u32::from(self.vcpus))
                && self.has_window(platform.mmio64_mib)
        };
        platforms.iter().filter(fits).collect()
    }

    fn has_window(&self, listed: Option<u32>) -> bool {
        match (&self.windows, listed) {
            (None, listed) => listed.is_none(),
            (Some(own), Some(listed)) => own.is_empty() || own.contains(&listed),
            (Some(_), None) => false,
        }
    }

    /// How the signers add the machine to the manifest.
    fn add(&self) -> String {
        match &self.windows {
            None => ADD.to_owned(),
            Some(none) if none.is_empty() => format!("{ADD}, both with --mmio64-mib MIB"),
            Some(windows) => format!("{ADD}, both with --mmio64-mib {}", one_of(windows)),
        }
    }
}

impl fmt::Display for Sought {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (vcpus, memory) = (self.vcpus, self.memory_mib);
        match &self.windows {
            Some(none) if none.is_empty() => write!(f, "{vcpus} vCPUs, {memory} MiB and a GPU"),
            Some(windows) => {
                let windows = one_of(windows);
                write!(
                    f,
                    "{vcpus} vCPUs, {memory} MiB and a GPU with a window of {windows} MiB"
                )
            }
            None => write!(f, "{vcpus} vCPUs and {memory} MiB"),
        }
    }
}

fn one_of(windows: &BTreeSet<u32>) -> String {
    let windows: Vec<String> = windows.iter().map(u32::to_string).collect();
    windows.join(" or ")
}

/// Compares the machine with the manifest's shapes. With `tables` of this machine's QEMU, every event but SMBIOS is compared;
/// without them, only sizes. Machines with a GPU are compared by size only, since an emulated machine lacks the GPU's BARs.
pub(super) fn row(image: &Artefacts, sought: &Sought, tables: Option<&Tables>) -> Finding {
    let platforms = &image.manifest.tdx.platforms;
    let fits = sought.fitting(platforms);
    if fits.is_empty() {
        let real = platforms
            .iter()
            .filter(|platform| platform.source == PlatformSource::Computed);
        let names: Vec<&str> = real.map(|platform| platform.name.as_str()).collect();
        let known = if names.is_empty() {
            "none".to_owned()
        } else {
            names.join("; ")
        };
        let found = format!("no shape of a real machine with {sought}; known are: {known}");
        let add = sought.add();
        return Finding::failure(ID, TDX, found).needed(NEEDED).fix(format!(
            "ask for a shape that is listed (--memory, --vcpus), or {add}"
        ));
    }
    let names: Vec<&str> = fits.iter().map(|platform| platform.name.as_str()).collect();
    let names = names.join("; ");
    if sought.windows.is_some() {
        let found = format!(
            "shapes with {sought}: {names}; what the GPU adds to the tables is told by evidence alone"
        );
        return Finding::note(ID, TDX, found).needed(NEEDED);
    }
    let memory = sought.memory_mib;
    let Some(events) = tables.and_then(|tables| predicted(image, memory, tables)) else {
        return Finding::note(ID, TDX, format!("shapes with {sought}: {names}"))
            .needed("the very QEMU and processor of one of them: its name says which");
    };
    judged(&fits, &events)
}

fn judged(fits: &[&TdxPlatform], events: &[(String, Hex48)]) -> Finding {
    let mut nearest: Option<(&str, Vec<&str>)> = None;
    for platform in fits {
        let differing = differing(platform, events);
        if differing.is_empty() {
            let found = format!(
                "{}: every event agrees, but for SMBIOS's, which names the processor and is told by evidence alone",
                platform.name
            );
            return Finding::ok(ID, TDX, found);
        }
        if nearest
            .as_ref()
            .is_none_or(|(_, least)| differing.len() < least.len())
        {
            nearest = Some((&platform.name, differing));
        }
    }
    let (name, differing) = nearest.unwrap_or_default();
    Finding::failure(
        ID,
        TDX,
        format!(
            "the nearest shape, {name}, differs in {}",
            differing.join(", ")
        ),
    )
    .needed("the very QEMU and vCPUs of a shape that the manifest lists")
    .fix(format!(
        "use the QEMU and --vcpus that its name says, or {ADD}"
    ))
}

/// Returns the names of the events that differ from the shape's.
fn differing<'a>(platform: &TdxPlatform, events: &'a [(String, Hex48)]) -> Vec<&'a str> {
    let expected = &platform.rtmr0_events;
    if expected.len() != events.len() {
        return vec!["the number of events"];
    }
    let pairs = expected.iter().zip(events);
    pairs
        .filter(|(expected, (name, digest))| name != SMBIOS && expected.digest != *digest)
        .map(|(_, (name, _))| name.as_str())
        .collect()
}

/// Predicts the events of RTMR0 as names and digests. Returns `None` if the firmware cannot be parsed.
pub fn predicted(
    image: &Artefacts,
    memory_mib: u32,
    tables: &Tables,
) -> Option<Vec<(String, Hex48)>> {
    let mut machine = Machine::simulated(u64::from(memory_mib) << 20);
    let platform = &mut machine.platform;
    platform.acpi_loader.digest = Hex48::sha384(&tables.acpi_loader).0;
    platform.acpi_rsdp.digest = Hex48::sha384(&tables.acpi_rsdp).0;
    platform.acpi_tables.digest = Hex48::sha384(&tables.acpi_tables).0;
    let firmware = Tdvf::parse(&image.tdx_firmware).ok()?;
    let events = rtmr0(&firmware, &machine).ok()?.into_iter();
    let named = |event: cocoon_measurements::tdx::event::PredictedEvent| {
        (
            event.name.into_owned(),
            cocoon_protocol::bytes::Hex(event.digest),
        )
    };
    Some(events.map(named).collect())
}
