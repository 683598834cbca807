//! Single values of a snapshot with their labels.

use Number::{Count, Real};
use cocoon_protocol::control::Metrics;
use cocoon_protocol::engine::GpuCounts;

use super::super::{Evidence, GpuUse, Watch, Watched};

/// A value: an integer for counts, a float for everything else.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Number {
    Count(u64),
    Real(f64),
}

/// One value with its labels.
pub(super) type Sample = (Vec<(&'static str, String)>, Number);

pub(super) fn one(number: Number) -> Vec<Sample> {
    vec![(vec![], number)]
}

pub(super) fn known(number: Option<Number>) -> Vec<Sample> {
    number.map(one).unwrap_or_default()
}

pub(super) fn each(watch: &Watch, sample: impl Fn(&Watched) -> Option<Sample>) -> Vec<Sample> {
    watch.appliances.iter().filter_map(sample).collect()
}

pub(super) fn number(watch: &Watch, of: impl Fn(&Watched) -> Option<Number>) -> Vec<Sample> {
    each(watch, |one| Some((labels(one, &[]), of(one)?)))
}

/// Returns one value for each GPU that has it, labelled with the GPU's index in its appliance.
pub(super) fn gpus(watch: &Watch, of: fn(&GpuUse) -> Option<Number>) -> Vec<Sample> {
    let of_one = |one: &Watched| {
        let numbered = one.gpus.iter().enumerate();
        let samples = numbered.filter_map(|(place, gpu)| {
            let place = place.to_string();
            Some((labels(one, &[("gpu", &place)]), of(gpu)?))
        });
        samples.collect::<Vec<_>>()
    };
    watch.appliances.iter().flat_map(of_one).collect()
}

/// Returns when the guest took the evidence of its boot.
pub(super) fn taken(one: &Watched) -> Option<Number> {
    match one.evidence {
        Evidence::Taken { at } => at.map(|at| Real(seconds(at))),
        Evidence::None | Evidence::Coming => None,
    }
}

pub(super) fn told(watch: &Watch, of: fn(&Metrics) -> u64) -> Vec<Sample> {
    number(watch, |one| {
        Some(Count(of(one.view.report.as_ref()?.metrics.as_ref()?)))
    })
}

/// Returns a counter of the engine's GPUs; nothing for an engine without GPUs.
pub(super) fn told_of_gpus(watch: &Watch, of: fn(&GpuCounts) -> u64) -> Vec<Sample> {
    number(watch, |one| {
        let metrics = one.view.report.as_ref()?.metrics.as_ref()?;
        Some(Count(of(metrics.gpu.as_ref()?)))
    })
}

pub(super) fn labels(one: &Watched, more: &[(&'static str, &str)]) -> Vec<(&'static str, String)> {
    let appliance = ("appliance", one.view.name.clone());
    let more = more
        .iter()
        .map(|(label, value)| (*label, (*value).to_owned()));
    std::iter::once(appliance).chain(more).collect()
}

pub(super) fn seconds(millis: u64) -> f64 {
    millis as f64 / 1000.0
}
