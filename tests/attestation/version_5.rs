//! Quotes of version 5 with a TD report of TDX 1.0, of 1.5, and of 1.5 extended. The fields that 1.5 adds are changed
//! one at a time and signed again; `tampered_tdx` changes the others in every layout.

use cocoon_protocol::binding::Tee;
use cocoon_protocol::document::Evidence;
use cocoon_simulator::tdx::QuoteVersion::{V4, V5};
use cocoon_simulator::tdx::quote::{EXTENDED_LEN, Extended, TD_REPORT_LEN, TEE_TCB_SVN};
use cocoon_simulator::tdx::{Later, TdxSimulator};
use serde_json::json;

use crate::machine::{Machine, ROOTS, accepted, judge, outcomes, refused};
use crate::platform::{Layout, Platform, restate, unverified};

/// Offset of the TD report: header, and in version 5 its type and length.
const BODY: usize = 48 + 6;

/// Returns every layout that a genuine quote can have.
pub fn layouts() -> [Layout; 4] {
    [
        (V4, None),
        (V5, None),
        (V5, Some(Later::good())),
        (V5, Some(Later::extended())),
    ]
}

fn later(edit: fn(&mut Later)) -> Platform {
    with(Later::good(), edit)
}

fn extended(edit: fn(&mut Extended)) -> Platform {
    with(Later::extended(), |later| {
        later.extended.iter_mut().for_each(edit);
    })
}

fn with(mut later: Later, edit: impl FnOnce(&mut Later)) -> Platform {
    edit(&mut later);
    Platform {
        layout: (V5, Some(later)),
        ..Platform::good()
    }
}

#[test]
fn every_layout_of_a_good_quote_is_accepted_alike() {
    let expected = outcomes(&Machine::good(Tee::Tdx).verdict());
    for layout in layouts() {
        println!("{layout:?}");
        let platform = Platform {
            layout,
            ..Platform::good()
        };
        let verdict = platform.verdict();
        accepted(&verdict);
        assert_eq!(outcomes(&verdict), expected);
    }
}

#[test]
fn a_service_td_is_none_of_ours() {
    for (field, platform) in [
        ("at the launch", later(|l| l.mr_service_td[0] = 1)),
        ("last byte", later(|l| l.mr_service_td[47] = 0x80)),
        ("at the creation", extended(|e| e.init_service_td.0[0] = 1)),
        ("now", extended(|e| e.service_td.0[47] = 0x80)),
    ] {
        println!("{field}");
        refused(
            &platform.verdict(),
            &[(
                "tdx.attributes",
                "TDX quote is of a trust domain that must not be trusted: a service domain is bound to the trust domain: nothing here judges its code",
            )],
        );
    }
}

/// Features of TDX 1.5 that no image here uses are refused. Of the extended fields, only TD_ID has a value in every report.
#[test]
fn what_nobody_judges_is_refused() {
    type Edit = fn(&mut Extended);
    let attributes = "a service domain with attributes (SERVTD_ATTR)";
    let created = "a platform of its creation beside the present one (INIT_TEE_TCB_SVN)";
    let edits: [(Edit, &str); 7] = [
        (|e| e.vm = 3, "VMs of its own (VMID)"),
        (|e| e.dev_info[47] = 1, "devices in its trust (DEV_INFO)"),
        (|e| e.init_service_td.1[0] = 1, attributes),
        (|e| e.service_td.1[7] = 1, attributes),
        (|e| e.init_platform.0[0] = 1, created),
        (|e| e.init_platform.1[15] = 1, created),
        (|e| e.init_platform.2[11] = 1, created),
    ];
    for (edit, feature) in edits {
        let cause = format!(
            "TDX quote is of a trust domain that must not be trusted: the trust domain has {feature}: nothing here judges that"
        );
        refused(&extended(edit).verdict(), &[("tdx.attributes", &cause)]);
    }
    accepted(&extended(|e| e.td_id = [0; 32]).verdict());
}

/// The TDX module can be updated while a domain runs: the TCB at launch and the current one must both be good.
#[test]
fn the_tcb_of_now_is_judged_like_that_of_the_launch() {
    type Edit = fn(&mut Later);
    let edits: [(&str, Edit, &str); 4] = [
        (
            "older microcode",
            |l| l.tee_tcb_svn_2[2] -= 1,
            "No matching TCB level found",
        ),
        (
            "an older TDX module",
            |l| l.tee_tcb_svn_2[0] -= 1,
            "TDX module TCB level check: TDX module ISVSVN 5 is below minimum required from TDX module TCB levels",
        ),
        (
            "a TDX module of another generation",
            |l| l.tee_tcb_svn_2[1] = 7,
            "TDX module TCB level check: No TDX module identity with id TDX_07 found in TCB Info",
        ),
        (
            "nothing",
            |l| l.tee_tcb_svn_2 = [0; 16],
            "No matching TCB level found",
        ),
    ];
    for (field, edit, reason) in edits {
        println!("{field}");
        let reason = format!("Failed to evaluate the current TDX TCB (TEE_TCB_SVN2): {reason}");
        refused(
            &later(edit).verdict(),
            &[("evidence.signature", &unverified(&reason))],
        );
    }
    accepted(&later(|l| l.tee_tcb_svn_2[0] += 1).verdict());

    // The current module's ISVSVN differs from that at launch, and each has a TCB status of its own.
    let exchanged = |number: u8, launched: &'static str, now: &'static str| {
        let platform = with(Later::good(), |l| l.tee_tcb_svn_2[0] = number);
        platform.verdict_on(|collateral| {
            restate(
                collateral,
                "tcb_info",
                &ROOTS.intel.tcb_signing.key,
                |said| {
                    let levels = &mut said["tdxModuleIdentities"][0]["tcbLevels"];
                    let level = |number: u8, status: &str| {
                        let mut level = levels[0].clone();
                        level["tcb"]["isvsvn"] = number.into();
                        level["tcbStatus"] = status.into();
                        level
                    };
                    let mut two = [(TEE_TCB_SVN[0], launched), (number, now)];
                    two.sort_unstable_by_key(|(number, _)| std::cmp::Reverse(*number));
                    *levels = json!(two.map(|(number, status)| level(number, status)));
                },
            );
        })
    };
    // Launched on a module for which Intel has published a fix, and updated since: keys made before the fix may be known.
    let fixed = |status| exchanged(TEE_TCB_SVN[0] + 1, status, "UpToDate");
    let relaunch = fixed("OutOfDate");
    refused(
        &relaunch,
        &[(
            "evidence.tcb",
            "the platform's firmware or microcode lacks fixes that Intel has published",
        )],
    );
    let row = relaunch.failures().next().unwrap();
    assert_eq!(
        row.found.as_deref(),
        Some("TDRelaunchAdvised, now UpToDate")
    );
    refused(
        &fixed("Revoked"),
        &[(
            "evidence.signature",
            &unverified("TCB status is invalid: Revoked"),
        )],
    );
    accepted(&fixed("UpToDate"));

    // The reverse: an older module, for which Intel has published a fix, was loaded while the domain ran. No advisory
    // names it.
    let downgraded = exchanged(TEE_TCB_SVN[0] - 1, "UpToDate", "OutOfDate");
    refused(
        &downgraded,
        &[(
            "evidence.tcb",
            "the TDX module that runs now is older than the one that the VM was started on, and lacks fixes that Intel has published",
        )],
    );
    let row = downgraded.failures().next().unwrap();
    assert_eq!(row.found.as_deref(), Some("UpToDate, now OutOfDate"));
}

/// Advisories about the launch, the current module and the quoting enclave appear in one list.
#[test]
fn advisories_of_the_launch_and_of_now_are_one_list() {
    let platform = later(|l| l.tee_tcb_svn_2[0] += 1);
    let found = |launched: &[&str], now: &[&str], enclave: &[&str]| {
        let verdict = platform.verdict_on(|collateral| {
            let key = &ROOTS.intel.tcb_signing.key;
            restate(collateral, "tcb_info", key, |said| {
                let levels = &mut said["tdxModuleIdentities"][0]["tcbLevels"];
                let level = |number: u8, advisories: &[&str]| {
                    let mut level = levels[0].clone();
                    level["tcb"]["isvsvn"] = number.into();
                    level["advisoryIDs"] = json!(advisories);
                    level
                };
                let own = TEE_TCB_SVN[0];
                *levels = json!([level(own + 1, now), level(own, launched)]);
            });
            restate(collateral, "qe_identity", key, |said| {
                said["tcbLevels"][0]["advisoryIDs"] = json!(enclave);
            });
        });
        let cause = "Intel's advisories apply to this platform";
        refused(&verdict, &[("evidence.advisories", cause)]);
        verdict.failures().next().unwrap().found.clone().unwrap()
    };
    let (first, second, third) = ("INTEL-SA-00001", "INTEL-SA-00002", "INTEL-SA-00003");
    assert_eq!(found(&[first], &[], &[]), first);
    assert_eq!(found(&[], &[first], &[]), first);
    let all = format!("{first}, {second}, {third}");
    assert_eq!(found(&[third, first], &[second], &[first]), all);
    assert_eq!(found(&[first], &[first, second], &[third]), all);
}

/// Signed bytes of version 5 changed without signing again: type and length of the report, and the fields of TDX 1.5.
#[test]
fn its_own_bytes_are_signed() {
    let signature = unverified("ISV enclave report signature is invalid");
    let size = "TDX quote cannot be decoded: Invalid body size".to_owned();
    // Changes the types 3 and 4 to 2 and 3.
    for (platform, kind, own) in [
        (later(|_| ()), 3 ^ 2, [TD_REPORT_LEN, TD_REPORT_LEN + 15]),
        (
            extended(|_| ()),
            4 ^ 3,
            [TD_REPORT_LEN + 65, TD_REPORT_LEN + 96],
        ),
    ] {
        let good = platform.document(|_| ());
        let flipped = |at: usize, bits: u8| {
            let mut document = good.clone();
            let Evidence::Tdx { quote, .. } = &mut document.evidence else {
                panic!("TDX evidence was made")
            };
            quote.0[at] ^= bits;
            judge(&document, &platform.named())
        };
        for (field, at, bits, text) in [
            ("kind", 48, kind, &size),
            ("length", 50, 1, &size),
            ("REPORTDATA", BODY + TD_REPORT_LEN - 1, 1, &signature),
            ("first of its own", BODY + own[0], 1, &signature),
            ("last of its own", BODY + own[1], 1, &signature),
        ] {
            println!("{field}");
            refused(&flipped(at, bits), &[("evidence.signature", text)]);
        }
    }
}

/// A report of TDX 1.5 in a quote of version 4, which has no room for it; and each report type with the length of
/// another, or with one byte more or less.
#[test]
fn a_report_of_another_length_is_none() {
    let good = Platform::good();
    let judged = |quote: Vec<u8>| {
        let mut document = good.document(|_| ());
        let Evidence::Tdx { quote: place, .. } = &mut document.evidence else {
            panic!("TDX evidence was made")
        };
        *place = quote.into();
        judge(&document, &good.named())
    };
    let refused = |quote: Vec<u8>, reason: &str| {
        let text = format!("TDX quote cannot be decoded: {reason}");
        refused(&judged(quote), &[("evidence.signature", &text)]);
    };
    let platform = TdxSimulator::new(&good.identity);
    let mut vm = Machine::good(Tee::Tdx);
    let report = vm.td().to_bytes_15(&Later::extended());
    let later = platform.signed(V4, &report[..TD_REPORT_LEN + 64]);
    refused(later.unwrap(), "Not enough data to fill buffer");
    let padded = [&report[..], &[0]].concat();
    for (kind, own) in [
        (2, TD_REPORT_LEN),
        (3, TD_REPORT_LEN + 64),
        (4, EXTENDED_LEN),
    ] {
        for length in [own - 1, own + 1, 584, 648, 885] {
            println!("kind {kind}, {length}");
            let quote = platform.signed_as(kind, &padded[..length]).unwrap();
            if length != own {
                refused(quote, "Invalid body size");
            }
        }
    }
    for kind in [0, 1, 5] {
        let reason = match kind {
            1 => "Invalid body size",
            _ => "Unsupported body type",
        };
        refused(platform.signed_as(kind, &report).unwrap(), reason);
    }
}
