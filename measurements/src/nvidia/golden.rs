//! Comparison of a report's measurements with the reference manifests of its driver and VBIOS.
//!
//! Each active entry of both manifests must have one of its values in the report.

use std::collections::BTreeMap;

use super::{
    manifests::Part,
    rim::{Golden, Reference},
    spdm::Report,
};
use crate::verdict::Check;

/// Index of the measurement of the video decoder NVDEC0, which is compared only if the decoder is in use.
const NVDEC0: u8 = 35;

/// Whether the report has one of the expected values for every active measurement of this manifest.
pub(super) fn agrees(report: &Report<'_>, reference: &Reference) -> bool {
    let mut active = reference.measurements.iter();
    active.all(|(index, golden)| {
        left_out(*index, report) || is_golden(found(*index, &report.measurements), golden)
    })
}

/// Whether a measurement is of a component that this GPU does not use.
fn left_out(index: u8, report: &Report<'_>) -> bool {
    index == NVDEC0 && report.opaque.nvdec0 == Some(false)
}

/// Compares the report with both manifests and returns a row for each difference, with a summary.
pub(super) fn compare(report: &Report<'_>, driver: &Reference, vbios: &Reference) -> Vec<Check> {
    let title = "measurements of driver and VBIOS";
    let both: Vec<String> = driver
        .measurements
        .keys()
        .filter(|index| vbios.measurements.contains_key(index))
        .map(u8::to_string)
        .collect();
    if !both.is_empty() {
        let found = format!("measurement {} in both", both.join(", "));
        return vec![
            Check::fail(
                "gpu.overlap",
                "manifests' responsibilities",
                OVERLAP,
                OVERLAP_ADVICE,
            )
            .expected("each measurement in one manifest")
            .found(found),
        ];
    }
    let mut checks = Vec::new();
    let mut compared = 0_usize;
    for (part, reference) in [(Part::Driver, driver), (Part::Vbios, vbios)] {
        for (index, golden) in &reference.measurements {
            if left_out(*index, report) {
                checks.push(Check::note(
                    "gpu.nvdec",
                    "measurement of NVDEC0",
                    NOT_IN_USE,
                ));
                continue;
            }
            compared += 1;
            checks.extend(mismatch(part, *index, golden, &report.measurements));
        }
    }
    let differing = checks
        .iter()
        .filter(|check| check.id == "gpu.measurement")
        .count();
    let row = if differing == 0 {
        Check::pass(
            "gpu.measurements",
            title,
            format!("all {compared} as expected"),
        )
    } else {
        Check::fail("gpu.measurements", title, DIFFERS, DIFFERS_ADVICE)
            .found(format!("{differing} of {compared} differ"))
    };
    checks.push(row.expected(format!("{compared} active measurements of both manifests")));
    checks
}

/// Returns the report's measurement for a manifest's index. Manifests count from 0, reports from 1.
fn found<'a>(index: u8, measurements: &BTreeMap<u8, &'a [u8]>) -> Option<&'a [u8]> {
    measurements.get(&index.checked_add(1)?).copied()
}

fn is_golden(found: Option<&[u8]>, golden: &Golden) -> bool {
    found.is_some_and(|found| golden.alternatives.iter().any(|good| good[..] == *found))
}

/// Returns a failed row if the measurement has none of the expected values.
fn mismatch(
    part: Part,
    index: u8,
    golden: &Golden,
    measurements: &BTreeMap<u8, &[u8]>,
) -> Option<Check> {
    let found = found(index, measurements);
    if is_golden(found, golden) {
        return None;
    }
    let title = format!("measurement {index} ({}, {})", part.name(), golden.name);
    let expected: Vec<String> = golden.alternatives.iter().map(hex::encode).collect();
    let found = found.map_or_else(|| "no such measurement".to_owned(), hex::encode);
    let row = Check::fail("gpu.measurement", title, DIFFERS, DIFFERS_ADVICE);
    Some(row.expected(expected.join(" or ")).found(found))
}

const OVERLAP: &str =
    "both manifests claim one measurement: whichever counted, the other would be overruled";
const OVERLAP_ADVICE: &str =
    "take both manifests from NVIDIA again, for exactly this driver and this VBIOS";
const NOT_IN_USE: &str =
    "not compared: the signed report says that this decoder is not in use, so nothing was measured";
const DIFFERS: &str = "the GPU runs other firmware, or firmware with other settings, than NVIDIA published for this version";
const DIFFERS_ADVICE: &str = "the operator installs driver and VBIOS of NVIDIA's unchanged, turns every debugging option off, resets the GPU and boots again";
