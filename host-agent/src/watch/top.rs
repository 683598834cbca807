//! The table of `cocoon-host top` as text.

use super::{Evidence, Watch, Watched};
use crate::expiry;
use crate::lifecycle::Millis;
use crate::text::plain;

/// Placeholder for unknown values.
pub const UNKNOWN: &str = "–";
/// Width of the column of names, to which longer names are cut.
const NAME: usize = 24;

/// Returns the table of a snapshot, in lines of at most `width` characters.
#[must_use]
pub fn table(watch: &Watch, width: usize) -> String {
    let host = &watch.host;
    let serving = watch.appliances.iter();
    let serving = serving.filter(|one| one.view.life.state.name() == "serving");
    let tokens: f64 = rates(watch).map(|rates| rates.completion_tokens).sum();
    let memory = match (host.memory_available_bytes, host.memory_bytes) {
        (Some(free), Some(all)) => format!("{} of {} free", bytes(free), bytes(all)),
        _ => UNKNOWN.to_owned(),
    };
    let load = host
        .load1
        .map_or(UNKNOWN.to_owned(), |load| format!("{load:.2}"));
    let processors = (host.processors).map_or(UNKNOWN.to_owned(), |count| count.to_string());
    let mut lines = vec![
        format!(
            "cocoon-host {} · {} of {} serving · {} tokens/s",
            watch.version,
            serving.count(),
            watch.appliances.len(),
            rate(rates(watch).next().map(|_| tokens)),
        ),
        format!("load {load} on {processors} processors · memory {memory}"),
        String::new(),
        format!(
            "{:<NAME$} {:<10} {:>6} {:<17} {:>8} {:>8} {:>9} {:>7} {:>9} {:>9} {:>6}",
            "NAME",
            "STATE",
            "FOR",
            "EVIDENCE",
            "TOK/S",
            "REQ/S",
            "ANSWERED",
            "ERRORS",
            "MEMORY",
            "GPU USED",
            "GPU °C"
        ),
    ];
    lines.extend(watch.appliances.iter().map(|one| row(one, watch.time)));
    let mut table = String::new();
    for line in lines {
        table.extend(line.chars().take(width));
        table.push('\n');
    }
    table
}

fn rates(watch: &Watch) -> impl Iterator<Item = super::Rates> {
    watch.appliances.iter().filter_map(|one| one.rates)
}

fn row(one: &Watched, now: Millis) -> String {
    let view = &one.view;
    let metrics = view.report.as_ref().and_then(|report| report.metrics);
    let count = |count: Option<u64>| count.map_or(UNKNOWN.to_owned(), |count| count.to_string());
    let resident = one.qemu.map(|qemu| bytes(qemu.resident_bytes));
    format!(
        "{:<NAME$} {:<10} {:>6} {:<17} {:>8} {:>8} {:>9} {:>7} {:>9} {:>9} {:>6}",
        plain(&view.name, NAME),
        view.life.state.name(),
        age(now.saturating_sub(view.life.since)),
        doubt(one, now).unwrap_or_else(|| evidence(one, now)),
        rate(one.rates.map(|rates| rates.completion_tokens)),
        rate(one.rates.map(|rates| rates.requests)),
        count(metrics.map(|metrics| metrics.requests)),
        count(metrics.map(|metrics| metrics.errors)),
        resident.unwrap_or_else(|| UNKNOWN.to_owned()),
        gpu_memory(one).map_or(UNKNOWN.to_owned(), bytes),
        warmest(one).map_or(UNKNOWN.to_owned(), |degrees| format!("{degrees:.0}")),
    )
}

/// Returns the GPU memory in use in bytes, if it is known for all of the appliance's GPUs.
fn gpu_memory(one: &Watched) -> Option<u64> {
    let used = one.gpus.iter().map(|gpu| gpu.memory_used_bytes);
    let all: Vec<u64> = used.collect::<Option<_>>()?;
    let sum = |sum: u64, used: u64| sum.saturating_add(used);
    (!all.is_empty()).then(|| all.into_iter().fold(0, sum))
}

/// Returns the highest temperature of the appliance's GPUs, in degrees Celsius.
fn warmest(one: &Watched) -> Option<f64> {
    let known = one.gpus.iter().filter_map(|gpu| gpu.temperature_celsius);
    let sane = known.filter(|degrees| degrees.abs() < 1000.0);
    sane.max_by(f64::total_cmp)
}

/// Returns what replaces the evidence if the manifest has expired or soon will: clients then refuse the appliance.
fn doubt(one: &Watched, now: Millis) -> Option<String> {
    expiry::sign(one.view.deployment.not_after?, now / 1000)
}

/// Describes the evidence briefly.
#[must_use]
pub fn evidence(one: &Watched, now: Millis) -> String {
    let kind = if one.is_simulated() {
        "simulated"
    } else {
        "real"
    };
    match one.evidence {
        Evidence::None => UNKNOWN.to_owned(),
        Evidence::Coming => "on its way".to_owned(),
        Evidence::Taken { at: None } => kind.to_owned(),
        Evidence::Taken { at: Some(at) } => format!("{kind}, {}", age(now.saturating_sub(at))),
    }
}

/// Formats a rate per second.
#[must_use]
pub fn rate(rate: Option<f64>) -> String {
    match rate {
        None => UNKNOWN.to_owned(),
        Some(0.0) => "0".to_owned(),
        Some(rate) if rate < 100.0 => format!("{rate:.1}"),
        Some(rate) => format!("{rate:.0}"),
    }
}

/// A duration in its largest unit.
#[must_use]
pub fn age(millis: Millis) -> String {
    let seconds = millis / 1000;
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m", seconds / 60),
        3_600..172_800 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// Formats an amount of memory in its largest binary unit.
#[must_use]
pub fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    let mut amount = bytes as f64 / 1024.0;
    let mut unit = 0;
    while amount >= 1024.0 && unit + 1 < UNITS.len() {
        amount /= 1024.0;
        unit += 1;
    }
    let digits = usize::from(unit >= 2 && amount < 100.0);
    format!("{amount:.digits$} {}", UNITS[unit])
}
