//! What `doctor` reports about the kept collateral before any VM boots.

use cocoon_host_agent::collateral::store::Failure;
use cocoon_host_agent::collateral::want::PckCa;
use cocoon_host_agent::collateral::{Dates, Entry, Want};
use cocoon_host_agent::doctor::collateral::{Kept, Versions, findings};
use cocoon_host_agent::doctor::{Facts, Finding, Severity};
use cocoon_protocol::bytes::Hex;

use crate::captured::{Captured, H100_VFIO, TDX};

const NOW: u64 = 1_780_000_000;

fn intel() -> Want {
    Want::Intel {
        fmspc: Hex([0x50, 0x80, 0x6f, 0, 0, 0]),
        ca: PckCa::Platform,
    }
}

fn entry(want: Want, due: u64) -> Entry {
    Entry {
        want,
        fetched: NOW - 100,
        dates: Dates {
            made: NOW - 200,
            due,
        },
        digest: Hex([0; 32]),
    }
}

fn failure(want: Want) -> Failure {
    Failure {
        want,
        at: NOW - 10,
        times: 3,
        why: "no answer".into(),
    }
}

/// Returns a machine with one GPU of this VBIOS.
fn facts(vbios: Option<&str>) -> Facts {
    let mut facts = Captured::new(TDX).and(H100_VFIO).facts();
    let mut gpu = facts.gpus.all.first().cloned().expect("a GPU");
    gpu.vbios = vbios.map(str::to_owned);
    facts.gpus.all = vec![gpu];
    facts
}

fn row(kept: &Kept, facts: &Facts, id: &str) -> Finding {
    said(kept, facts, Versions::default(), id)
}

fn said(kept: &Kept, facts: &Facts, versions: Versions<'_>, id: &str) -> Finding {
    let rows = findings(kept, facts, versions, NOW);
    rows.into_iter().find(|row| row.id == id).expect("the row")
}

#[test]
fn endorsements_are_current_ended_or_asked_for_in_vain() {
    let judged = |entries: Vec<Entry>, failures: Vec<Failure>| {
        let kept = Kept {
            entries,
            failures,
            names: None,
        };
        let row = row(&kept, &facts(None), "client.collateral");
        (row.severity, row.found)
    };
    let text = |text: &str| text.to_owned();
    assert_eq!(
        judged(vec![], vec![]),
        (
            Severity::Note,
            text("nothing from Intel yet: the first boot asks, for its own evidence")
        )
    );
    assert_eq!(
        judged(vec![entry(intel(), NOW + 7200)], vec![]),
        (
            Severity::Ok,
            text("1 endorsements from Intel, all good for 2 hours")
        )
    );
    let title = "Intel, platforms 50806f000000 (platform)";
    assert_eq!(
        judged(vec![entry(intel(), NOW - 1)], vec![]),
        (
            Severity::Failure,
            format!("{title}: ended at {} (Unix time)", NOW - 1)
        )
    );
    assert_eq!(
        judged(vec![], vec![failure(intel())]),
        (
            Severity::Failure,
            format!("{title}: asked for in vain: no answer")
        )
    );
    assert_eq!(
        judged(vec![entry(intel(), NOW + 7200)], vec![failure(intel())]),
        (
            Severity::Warning,
            format!("{title}: cannot be renewed: no answer")
        )
    );
}

#[test]
fn a_vbios_without_a_manifest_is_told_before_anyone_boots() {
    let named = |names: &str| Kept {
        names: Some(names.into()),
        ..Kept::default()
    };
    let list = "NV_GPU_DRIVER_GH100_550.144.03\nNV_GPU_VBIOS_1010_0200_882_96005E0001";
    let good = facts(Some("96.00.5E.00.01"));
    let row = |kept: &Kept, facts: &Facts| row(kept, facts, "client.gpu.manifest");
    let there = row(&named(list), &good);
    assert_eq!(there.severity, Severity::Ok, "{there:?}");
    assert!(
        there
            .found
            .ends_with(" has a reference manifest: NV_GPU_VBIOS_1010_0200_882_96005E0001")
    );
    assert!(there.found.starts_with("VBIOS 96.00.5E.00.01 ("));
    let missing = row(&named(list), &facts(Some("96.00.5E.00.02")));
    assert_eq!(missing.severity, Severity::Failure);
    assert!(
        missing
            .found
            .starts_with("NVIDIA has no reference manifest of VBIOS 96.00.5E.00.02 (")
    );
    assert_eq!(
        missing.fix,
        "update the VBIOS with the vendor of the machine; `cocoon-host collateral fetch --all` asks NVIDIA for newer names, then run this again"
    );
    let unasked = row(&Kept::default(), &good);
    assert_eq!(
        (unasked.severity, unasked.fix.as_str()),
        (Severity::Warning, "cocoon-host collateral fetch")
    );
    let unknown = row(&named(list), &facts(None));
    assert_eq!(unknown.severity, Severity::Note);
    assert!(
        unknown
            .found
            .ends_with(": its VBIOS version is not known here")
    );
    // Without NVIDIA's driver, a guest may have requested the manifest, or the operator may name the version.
    let asked = Kept {
        entries: [
            "NV_GPU_VBIOS_1010_0200_882_96005E0001",
            "NV_GPU_DRIVER_GH100_550.144.03",
        ]
        .map(|name| entry(Want::Rim { name: name.into() }, NOW + 7200))
        .to_vec(),
        ..Kept::default()
    };
    let unknown = row(&asked, &facts(None));
    assert_eq!(unknown.severity, Severity::Note);
    assert!(unknown.found.ends_with(
        ": its VBIOS version is not known here; guests of this machine asked for NV_GPU_VBIOS_1010_0200_882_96005E0001, and it is \
         kept"
    ), "{unknown:?}");
    let told = |vbios| {
        let versions = Versions {
            vbios: Some(vbios),
            ..Versions::default()
        };
        said(&named(list), &facts(None), versions, "client.gpu.manifest").severity
    };
    assert_eq!(told("96.00.5e.00.01"), Severity::Ok);
    assert_eq!(told("96.00.5E.00.02"), Severity::Failure);
    // The driver's own answer takes precedence.
    let versions = Versions {
        vbios: Some("96.00.5E.00.02"),
        ..Versions::default()
    };
    let own = said(&named(list), &good, versions, "client.gpu.manifest");
    assert_eq!(own.severity, Severity::Ok);
}

/// The image contains the driver, so its manifest can be checked without a GPU.
#[test]
fn an_images_driver_without_a_manifest_is_told_before_anyone_boots() {
    let judged = |names: Option<&str>, driver| {
        let kept = Kept {
            names: names.map(str::to_owned),
            ..Kept::default()
        };
        let versions = Versions {
            driver: Some(driver),
            ..Versions::default()
        };
        let row = said(&kept, &facts(None), versions, "client.gpu.manifest.driver");
        (row.severity, row.found)
    };
    let list = Some("NV_GPU_DRIVER_GH100_550.144.03\nNV_GPU_VBIOS_1010_0200_882_96005E0001");
    let text = |text: &str| text.to_owned();
    assert_eq!(
        judged(list, "550.144.03"),
        (
            Severity::Ok,
            text(
                "the image's driver 550.144.03 has a reference manifest: NV_GPU_DRIVER_GH100_550.144.03"
            )
        )
    );
    assert_eq!(
        judged(list, "550.163.01"),
        (
            Severity::Failure,
            text("NVIDIA has no reference manifest of the image's driver 550.163.01")
        )
    );
    assert_eq!(
        judged(None, "550.163.01"),
        (
            Severity::Warning,
            text(
                "the image's driver 550.163.01: the names of NVIDIA's manifests are not kept here"
            )
        )
    );
    let rows = findings(&Kept::default(), &facts(None), Versions::default(), NOW);
    assert!(
        rows.iter()
            .all(|row| row.id != "client.gpu.manifest.driver")
    );
}
