//! The Prometheus metrics: a closed list of families with help, unit and source, in the text format of OpenMetrics 1.0.
//!
//! Labels hold an appliance's name, a state, a boot phase, a TEE, a GPU's index, address and model, and the release. These
//! come from closed sets or from the operator, never from a request or a guest. `host-agent/docs/metrics.md` documents the
//! list for operators; a test keeps both in agreement.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

use super::{Watch, Watched};

mod samples;

use samples::Number::{Count, Real};
use samples::{Sample, each, gpus, known, labels, number, one, seconds, taken, told, told_of_gpus};

/// Media type of `/metrics`.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The states of an appliance.
const STATES: [&str; 8] = [
    "created",
    "preparing",
    "booting",
    "attesting",
    "serving",
    "draining",
    "stopped",
    "failed",
];

/// A family of metrics.
struct Family {
    /// Name without the unit and without the suffix `_total` of counters.
    name: &'static str,
    unit: Option<Unit>,
    counts: bool,
    help: &'static str,
    samples: fn(&Watch) -> Vec<Sample>,
}

/// Returns all metrics of a snapshot as text.
#[must_use]
pub fn text(watch: &Watch) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Families(watch.clone())));
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = encode(&mut text, &registry);
    text
}

#[derive(Debug)]
struct Families(Watch);

impl Collector for Families {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for family in FAMILIES {
            let kind = if family.counts {
                MetricType::Counter
            } else {
                MetricType::Gauge
            };
            let unit = family.unit.as_ref();
            let mut metric = encoder.encode_descriptor(family.name, family.help, unit, kind)?;
            for (labels, number) in (family.samples)(&self.0) {
                let labels = labels.as_slice();
                let encoder = match labels {
                    [] => metric.encode_family(&NO_LABELS)?,
                    _ => metric.encode_family(&labels)?,
                };
                match number {
                    Count(count) if family.counts => ConstCounter::new(count).encode(encoder)?,
                    Real(real) if family.counts => ConstCounter::new(real).encode(encoder)?,
                    Count(count) => ConstGauge::new(count).encode(encoder)?,
                    Real(real) => ConstGauge::new(real).encode(encoder)?,
                }
            }
        }
        Ok(())
    }
}

const NO_LABELS: [(&str, &str); 0] = [];

const fn gauge(
    name: &'static str,
    unit: Option<Unit>,
    help: &'static str,
    samples: fn(&Watch) -> Vec<Sample>,
) -> Family {
    Family {
        name,
        unit,
        counts: false,
        help,
        samples,
    }
}

const fn counter(
    name: &'static str,
    unit: Option<Unit>,
    help: &'static str,
    samples: fn(&Watch) -> Vec<Sample>,
) -> Family {
    Family {
        name,
        unit,
        counts: true,
        help,
        samples,
    }
}

/// All families, in the order of `host-agent/docs/metrics.md`.
static FAMILIES: &[Family] = &[
    // The daemon's process, under the names that are customary for every program's process.
    counter(
        "process_cpu",
        Some(Unit::Seconds),
        "Processor time of the daemon",
        |watch| one(Real(watch.daemon.cpu_seconds)),
    ),
    gauge(
        "process_resident_memory",
        Some(Unit::Bytes),
        "Memory of the daemon",
        |watch| one(Count(watch.daemon.resident_bytes)),
    ),
    gauge("cocoon_host_info", None, "The release that runs", |watch| {
        vec![(vec![("version", watch.version.clone())], Count(1))]
    }),
    gauge(
        "cocoon_host_processors",
        None,
        "Processors that the daemon may use",
        |watch| known(watch.host.processors.map(Count)),
    ),
    gauge(
        "cocoon_host_load1",
        None,
        "Processes that ran or waited to, averaged over a minute",
        |watch| known(watch.host.load1.map(Real)),
    ),
    gauge(
        "cocoon_host_memory",
        Some(Unit::Bytes),
        "Memory of the machine",
        |watch| known(watch.host.memory_bytes.map(Count)),
    ),
    gauge(
        "cocoon_host_memory_available",
        Some(Unit::Bytes),
        "Memory that could be had without swapping",
        |watch| known(watch.host.memory_available_bytes.map(Count)),
    ),
    counter(
        "cocoon_host_events",
        None,
        "Events since the daemon's start",
        |watch| one(Count(watch.events)),
    ),
    // What the daemon knows of each appliance.
    gauge("cocoon_appliance_info", None, "What protects it", |watch| {
        let sample = |one: &Watched| {
            let tee = one.view.tee.clone();
            Some((labels(one, &[("tee", &tee)]), Count(1)))
        };
        each(watch, sample)
    }),
    gauge(
        "cocoon_appliance_state",
        None,
        "1 for the state that it is in, 0 for every other",
        |watch| {
            let of = |one: &Watched| {
                let now = one.view.life.state.name();
                STATES.map(|state| {
                    (
                        labels(one, &[("state", state)]),
                        Count((state == now).into()),
                    )
                })
            };
            watch.appliances.iter().flat_map(of).collect()
        },
    ),
    gauge(
        "cocoon_appliance_state_since_timestamp",
        Some(Unit::Seconds),
        "When it came to that state, since 1970",
        |watch| number(watch, |one| Some(Real(seconds(one.view.life.since)))),
    ),
    counter(
        "cocoon_appliance_runs",
        None,
        "Times that a VM of it was started, those of updates included",
        |watch| number(watch, |one| Some(Count(one.view.runs))),
    ),
    gauge(
        "cocoon_appliance_failures",
        None,
        "Failures in a row, those before QEMU ran included",
        |watch| number(watch, |one| Some(Count(one.view.life.in_a_row().into()))),
    ),
    gauge(
        "cocoon_appliance_outdated",
        None,
        "1 when a restart would change what runs",
        |watch| number(watch, |one| Some(Count(one.view.outdated.into()))),
    ),
    gauge(
        "cocoon_appliance_memory",
        Some(Unit::Bytes),
        "Memory of its guest",
        |watch| {
            number(watch, |one| {
                Some(Count(u64::from(one.view.memory_mib) << 20))
            })
        },
    ),
    gauge(
        "cocoon_appliance_vcpus",
        None,
        "Virtual processors of its guest",
        |watch| number(watch, |one| Some(Count(one.view.vcpus.into()))),
    ),
    gauge(
        "cocoon_appliance_evidence_timestamp",
        Some(Unit::Seconds),
        "When its guest took the evidence of its boot, since 1970",
        |watch| number(watch, taken),
    ),
    gauge(
        "cocoon_appliance_manifest_not_after_timestamp",
        Some(Unit::Seconds),
        "When the manifest ends that it runs with, since 1970: clients refuse it from then on",
        |watch| number(watch, |one| one.view.deployment.not_after.map(Count)),
    ),
    gauge(
        "cocoon_appliance_boot_phase_duration",
        Some(Unit::Seconds),
        "How long each phase of its boot took",
        |watch| {
            let of = |one: &Watched| {
                let phases = one.phases.iter().filter_map(|phase| {
                    let took = phase.to_ms?.checked_sub(phase.from_ms)?;
                    Some((labels(one, &[("phase", &phase.name)]), Real(seconds(took))))
                });
                phases.collect::<Vec<_>>()
            };
            watch.appliances.iter().flat_map(of).collect()
        },
    ),
    counter(
        "cocoon_appliance_qemu_cpu",
        Some(Unit::Seconds),
        "Processor time of its QEMU, the guest's included",
        |watch| number(watch, |one| Some(Real(one.qemu?.cpu_seconds))),
    ),
    gauge(
        "cocoon_appliance_qemu_resident_memory",
        Some(Unit::Bytes),
        "Memory of its QEMU, the guest's included, huge pages not",
        |watch| number(watch, |one| Some(Count(one.qemu?.resident_bytes))),
    ),
    // What the guest reports about itself, about every ten seconds.
    counter(
        "cocoon_guest_connections",
        None,
        "Connections that its guest accepted",
        |watch| told(watch, |metrics| metrics.connections),
    ),
    counter(
        "cocoon_guest_attestations",
        None,
        "Clients to whom its guest gave evidence",
        |watch| told(watch, |metrics| metrics.attestations),
    ),
    counter(
        "cocoon_guest_requests",
        None,
        "Requests that reached its engine",
        |watch| told(watch, |metrics| metrics.requests),
    ),
    counter(
        "cocoon_guest_request_errors",
        None,
        "Requests that ended with an error",
        |watch| told(watch, |metrics| metrics.errors),
    ),
    counter(
        "cocoon_guest_prompt_tokens",
        None,
        "Tokens of prompts",
        |watch| told(watch, |metrics| metrics.prompt_tokens),
    ),
    counter(
        "cocoon_guest_completion_tokens",
        None,
        "Tokens of answers",
        |watch| told(watch, |metrics| metrics.completion_tokens),
    ),
    counter(
        "cocoon_guest_engine_restarts",
        None,
        "Times that its engine died and came back",
        |watch| told(watch, |metrics| metrics.engine_restarts),
    ),
    counter(
        "cocoon_guest_gpu_to_device",
        Some(Unit::Bytes),
        "Bytes that its engine copied to its GPUs",
        |watch| told_of_gpus(watch, |gpu| gpu.to_device.bytes),
    ),
    counter(
        "cocoon_guest_gpu_to_device_copies",
        None,
        "Copies of its engine to its GPUs",
        |watch| told_of_gpus(watch, |gpu| gpu.to_device.calls),
    ),
    counter(
        "cocoon_guest_gpu_to_host",
        Some(Unit::Bytes),
        "Bytes that its engine copied from its GPUs",
        |watch| told_of_gpus(watch, |gpu| gpu.to_host.bytes),
    ),
    counter(
        "cocoon_guest_gpu_to_host_copies",
        None,
        "Copies of its engine from its GPUs",
        |watch| told_of_gpus(watch, |gpu| gpu.to_host.calls),
    ),
    counter(
        "cocoon_guest_gpu_scrubbed",
        Some(Unit::Bytes),
        "Bytes of its GPUs that were overwritten after requests, and read again",
        |watch| told_of_gpus(watch, |gpu| gpu.scrubbed_bytes),
    ),
    counter(
        "cocoon_guest_gpu_residue",
        Some(Unit::Bytes),
        "Bytes of these that were not zero when they were read",
        |watch| told_of_gpus(watch, |gpu| gpu.residue_bytes),
    ),
    // GPUs: what the host knows about them, and what the guest reports.
    gauge(
        "cocoon_gpu_info",
        None,
        "A GPU that is an appliance's",
        |watch| {
            let of = |one: &Watched| {
                let numbered = one.gpus.iter().enumerate();
                let samples = numbered.map(|(place, gpu)| {
                    let (place, model) = (place.to_string(), gpu.model.as_deref());
                    let model = model.unwrap_or("unknown");
                    let named = [
                        ("gpu", &*place),
                        ("address", &*gpu.address),
                        ("model", model),
                    ];
                    (labels(one, &named), Count(1))
                });
                samples.collect::<Vec<_>>()
            };
            watch.appliances.iter().flat_map(of).collect()
        },
    ),
    gauge(
        "cocoon_gpu_memory",
        Some(Unit::Bytes),
        "Its memory, as its guest tells",
        |watch| gpus(watch, |gpu| gpu.memory_bytes.map(Count)),
    ),
    gauge(
        "cocoon_gpu_memory_used",
        Some(Unit::Bytes),
        "What of it is in use, as its guest tells",
        |watch| gpus(watch, |gpu| gpu.memory_used_bytes.map(Count)),
    ),
    gauge(
        "cocoon_gpu_temperature",
        Some(Unit::Celsius),
        "Its temperature, as its guest tells, or else the host's driver",
        |watch| gpus(watch, |gpu| gpu.temperature_celsius.map(Real)),
    ),
];
