//! RTMR0: which of the manifest's shapes of real machines this one would be.

use cocoon_measurements::tdx::rtmr0::{Machine, rtmr0};
use cocoon_measurements::tdx::tdvf::Tdvf;
use cocoon_protocol::bytes::Hex48;
use cocoon_protocol::manifest::{PlatformSource, TdxPlatform};
use cocoon_qemu::tables::Tables;

use super::Artefacts;
use crate::doctor::facts::Wanted;
use crate::doctor::finding::{Finding, Mode};

const ID: &str = "client.tdx.rtmr0";
const TDX: &[Mode] = &[Mode::Tdx];
/// Names the processor in QEMU's words, which only a trust domain on this machine would hear.
const SMBIOS: &str = "SMBIOS tables";
const ADD: &str =
    "let the signers add this machine: cocoon-host tables, then cocoon-image manifest platform";

/// The shapes of real machines with this much memory and no GPU.
pub(super) fn fitting(platforms: &[TdxPlatform], memory_mib: u32) -> Vec<&TdxPlatform> {
    let fits = |platform: &&TdxPlatform| {
        platform.source == PlatformSource::Computed
            && platform.memory_mib == u64::from(memory_mib)
            && platform.mmio64_mib.is_none()
    };
    platforms.iter().filter(fits).collect()
}

/// With the `tables` of this machine's QEMU every event but one is predicted; without, sizes and names must do.
pub(super) fn row(image: &Artefacts, wanted: &Wanted, tables: Option<&Tables>) -> Finding {
    let (platforms, memory) = (&image.manifest.tdx.platforms, wanted.memory_mib);
    if wanted.gpu {
        return with_gpu(platforms, memory);
    }
    let fits = fitting(platforms, memory);
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
        let found = format!("no shape of a real machine with {memory} MiB; known are: {known}");
        return Finding::failure(ID, TDX, found)
            .needed("a shape that the manifest's signers computed for this QEMU, memory, vCPUs and processor")
            .fix(format!("ask for a shape that is listed (--memory), or {ADD}"));
    }
    let Some(events) = tables.and_then(|tables| predicted(image, memory, tables)) else {
        let names: Vec<&str> = fits.iter().map(|platform| platform.name.as_str()).collect();
        return Finding::note(
            ID,
            TDX,
            format!("shapes with {memory} MiB: {}", names.join("; ")),
        )
        .needed("the very QEMU, vCPUs and processor of one of them: its name says which");
    };
    judged(&fits, &events)
}

/// No emulated machine has the GPU's BARs, so only sizes can be compared.
fn with_gpu(platforms: &[TdxPlatform], memory_mib: u32) -> Finding {
    let names: Vec<&str> = (platforms.iter())
        .filter(|platform| platform.source == PlatformSource::Computed)
        .filter(|platform| platform.mmio64_mib.is_some())
        .filter(|platform| platform.memory_mib == u64::from(memory_mib))
        .map(|platform| platform.name.as_str())
        .collect();
    let needed = "a shape of the manifest's with this QEMU, memory, vCPUs, processor and GPU";
    if names.is_empty() {
        let found = format!("no shape of a real machine with a GPU and {memory_mib} MiB");
        let fix = format!("{ADD}, both with --mmio64-mib");
        return Finding::failure(ID, TDX, found).needed(needed).fix(fix);
    }
    let names = names.join("; ");
    let found = format!(
        "shapes with a GPU and {memory_mib} MiB: {names}; what the GPU adds to the tables is told by evidence alone"
    );
    Finding::note(ID, TDX, found).needed(needed)
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

/// The names of the events that are not the shape's.
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

/// The events, by name and digest; nothing when the firmware has none to predict.
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
