//! Seeds of each target. They are generated, so that they follow each change of a format.

mod engine;
mod images;
mod json;

use cocoon_measurements::ccel;
use cocoon_simulator::snp::{Generation, SnpReport, SnpSimulator};
use cocoon_simulator::tdx::Later;
use cocoon_simulator::x509;

use crate::edits::flip;
use crate::endorsements::other_vcek;
use crate::platform::{
    AMD, EVENT_LOG, INTEL, SNP_CRL, SNP_REPORT, TDX_COLLATERAL, TDX_QUOTE, made, snp_report,
    td_report,
};
use crate::signer;

pub use engine::engine_frames;
pub use images::{firmware_snp, firmware_tdx, pe};
pub use json::{
    collateral_pieces, collector_frames, configuration, control_frames, control_messages, document,
    envelope, manifest, policy, statement,
};

pub fn event_log() -> Vec<Vec<u8>> {
    let empty = ccel::encode([]).unwrap_or_default();
    let padded = |byte| [&EVENT_LOG[..], &[byte; 40]].concat();
    vec![EVENT_LOG.clone(), empty, padded(0xff), padded(0)]
}

pub fn quote() -> Vec<Vec<u8>> {
    let report = td_report();
    vec![
        TDX_QUOTE.clone(),
        signer::quote_5(&report.to_bytes()),
        signer::quote_5(&report.to_bytes_15(&Later::good())),
        signer::quote_5(&report.to_bytes_15(&Later::extended())),
    ]
}

pub fn report() -> Vec<Vec<u8>> {
    let version = |version: u8| {
        let mut report = SNP_REPORT.clone();
        report[0] = version;
        report
    };
    let mut debug = snp_report();
    debug.policy |= 1 << 19;
    let debug = debug.to_bytes().to_vec();
    let mut seeds = vec![SNP_REPORT.clone(), version(2), version(5), debug];
    // Every generation in each version, signed with the chip's key. The signature holds, but the certificate has another TCB.
    for generation in [Generation::Genoa, Generation::Turin] {
        for version in [2, 3, 5] {
            let good = snp_report();
            let mut report = SnpReport::of(generation, version, good.measurement, good.host_data);
            (report.report_data, report.report_id) = (good.report_data, good.report_id);
            seeds.push(made(SnpSimulator::new(&AMD).report(&report)));
        }
    }
    seeds
}

pub fn certificates() -> Vec<Vec<u8>> {
    let place = |place: u8, bytes: &[u8]| [&[place], bytes].concat();
    let chain = SnpSimulator::new(&AMD).certificates();
    let mut seeds = vec![place(0, &other_vcek()), place(2, &SNP_CRL)];
    seeds.extend((0..3).zip(&chain).map(|(number, der)| place(number, der)));
    seeds
}

pub fn certificates_read() -> Vec<Vec<u8>> {
    let chain = SnpSimulator::new(&AMD).certificates();
    let all: Vec<&[u8]> = chain.iter().map(Vec::as_slice).collect();
    let pem = x509::pem(&all).unwrap_or_default().into_bytes();
    [vec![pem, INTEL.root.certificate.clone()], chain].concat()
}

pub fn collateral() -> Vec<Vec<u8>> {
    vec![TDX_COLLATERAL.clone(), b"{}".to_vec()]
}

/// Returns scripts for each of `kinds` first bytes: one without changes, and one with a change at each offset.
fn scripts(kinds: u8, offsets: &[u16]) -> Vec<Vec<u8>> {
    let mut scripts = Vec::new();
    for kind in 0..kinds {
        scripts.push(vec![kind]);
        scripts.extend(
            offsets
                .iter()
                .map(|at| [&[kind][..], &flip(*at, 1)].concat()),
        );
    }
    scripts
}

pub fn quote_script() -> Vec<Vec<u8>> {
    // One offset in each field of the extended TD report, then in the event log that follows.
    scripts(
        4,
        &[
            0, 16, 64, 112, 120, 128, 136, 184, 232, 280, 328, 376, 424, 472, 520, 584, 600, 648,
            649, 681, 729, 777, 785, 801, 817, 829, 877, 885, 1000,
        ],
    )
}

pub fn report_script() -> Vec<Vec<u8>> {
    let offsets: &[u16] = &[
        0, 4, 8, 10, 0x10, 0x20, 0x30, 0x34, 0x38, 0x40, 0x48, 0x50, 0x90, 0xc0, 0xe0, 0x110,
        0x140, 0x160, 0x180, 0x188, 0x1a0, 0x1e0, 0x1e8, 0x1ec, 0x1f0, 0x1f8,
    ];
    let mut scripts: Vec<Vec<u8>> = offsets.iter().map(|at| flip(*at, 1).to_vec()).collect();
    scripts.push(Vec::new());
    // Version 2 (no CPUID), version 5 (mitigations), a VLEK's report, and version 5 with the TCB and chip id of Turin.
    let cpuid = [flip(0x188, 0x19), flip(0x189, 1), flip(0x18a, 1)];
    let turin = [flip(0x188, 3), flip(0x189, 3)];
    let padding: Vec<[u8; 3]> = (0x1a8..0x1c0).map(|at| flip(at, 0xc0)).collect();
    scripts.push([&[flip(0, 1)][..], &cpuid].concat().concat());
    scripts.push([flip(0, 6), flip(0x1f8, 1), flip(0x200, 3)].concat());
    scripts.push(flip(0x48, 4).to_vec());
    scripts.push([&[flip(0, 6)][..], &turin, &padding].concat().concat());
    scripts
}

pub fn certificate_script() -> Vec<Vec<u8>> {
    scripts(
        3,
        &[20, 100, 200, 300, 400, 500, 600, 640, 680, 720, 760, 800],
    )
}

pub fn collateral_script() -> Vec<Vec<u8>> {
    scripts(
        2,
        &[5, 40, 80, 120, 160, 200, 300, 400, 500, 700, 900, 1100],
    )
}

pub fn binding_script() -> Vec<Vec<u8>> {
    let mut scripts: Vec<Vec<u8>> = (0..272)
        .step_by(16)
        .map(|at| flip(at, 1).to_vec())
        .collect();
    scripts.push(Vec::new());
    scripts
}

/// Returns scripts for several batch positions: unchanged, and with one change in each of its numbers and hashes.
pub fn place_script() -> Vec<Vec<u8>> {
    let places = [0, 3, 30, 61, 154, 247];
    let offsets = [1, 3, 4, 35, 36, 68, 100, 132];
    let scripts = places.into_iter().flat_map(|place| {
        let flips = offsets.map(|at| [&[place][..], &flip(at, 1)].concat());
        [vec![vec![place]], flips.to_vec()].concat()
    });
    scripts.collect()
}
