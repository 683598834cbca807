//! Checks of TDX claims by the manifest and the policy: registers, attributes, launch identity, TCB.

use cocoon_protocol::{
    bytes::{Blob, Hex, Hex48, Hex64},
    config,
    manifest::Manifest,
};

use super::{Presented, platform, rtmr};
use crate::{
    manifest::printable,
    policy::{MachineId, Policy},
    roots::RootClass,
    tdx::{quote::TdxClaims, tcb::TcbStatus},
    verdict::Check,
};

/// Claims about the trust domain itself.
#[derive(Clone, Debug)]
pub(super) struct Measured {
    pub(super) mrtd: Hex48,
    pub(super) rtmr: [Hex48; 4],
    pub(super) mr_config_id: Hex48,
    pub(super) mr_owner: Hex48,
    pub(super) mr_owner_config: Hex48,
    pub(super) mr_seam: Hex48,
    pub(super) mr_signer_seam: Hex48,
    pub(super) td_attributes: u64,
    pub(super) xfam: u64,
    pub(super) report_data: Hex64,
}

impl From<&TdxClaims> for Measured {
    fn from(claims: &TdxClaims) -> Self {
        Self {
            mrtd: Hex(claims.mrtd),
            rtmr: claims.rtmr.map(Hex),
            mr_config_id: Hex(claims.mrconfigid),
            mr_owner: Hex(claims.mrowner),
            mr_owner_config: Hex(claims.mrownerconfig),
            mr_seam: Hex(claims.mrseam),
            mr_signer_seam: Hex(claims.mrsignerseam),
            td_attributes: u64::from_le_bytes(claims.td_attributes),
            xfam: u64::from_le_bytes(claims.xfam),
            report_data: Hex(claims.report_data),
        }
    }
}

/// Returns the rows on registers, attributes and launch identity. `root` is `None` for an unverified boot quote.
pub(super) fn measurements(
    claims: &Measured,
    event_log: &Blob,
    presented: &Presented<'_>,
    manifest: &Manifest,
    root: Option<RootClass>,
) -> Vec<Check> {
    let mut checks = Vec::from(domain(claims));
    checks.push(Check::equal(
        "tdx.mrtd",
        "MRTD (firmware)",
        &manifest.tdx.mrtd,
        &claims.mrtd,
        || (other_firmware(&claims.mrtd), FIRMWARE_ADVICE),
    ));
    let (row, log) = rtmr::replay(&event_log.0, &claims.rtmr, presented.fresh.is_some());
    checks.push(row);
    checks.extend(rtmr::rtmr0(manifest, &claims.rtmr[0], log.as_ref(), root));
    checks.push(Check::equal(
        "tdx.rtmr1",
        "RTMR1 (kernel)",
        &manifest.tdx.rtmr1,
        &claims.rtmr[1],
        || (rtmr::why_rtmr1(log.as_ref()), IMAGE_ADVICE),
    ));
    let title = "RTMR2 (command line, initrd)";
    checks.push(Check::equal(
        "tdx.rtmr2",
        title,
        &manifest.tdx.rtmr2,
        &claims.rtmr[2],
        || (rtmr::why_rtmr2(manifest, log.as_ref()), IMAGE_ADVICE),
    ));
    let zero = |id, title: &str, found, cause| {
        Check::equal(id, title, &Hex48::ZERO, found, || (cause, ZERO_ADVICE))
    };
    checks.push(zero(
        "tdx.rtmr3",
        "RTMR3 (unused)",
        &claims.rtmr[3],
        RTMR3_USED,
    ));
    checks.push(zero(
        "tdx.owner",
        "MROWNER (unused)",
        &claims.mr_owner,
        OWNER_SET,
    ));
    checks.push(zero(
        "tdx.owner_config",
        "MROWNERCONFIG (unused)",
        &claims.mr_owner_config,
        OWNER_CONFIG_SET,
    ));
    let expected = config::digest(presented.document.claims.tee, &presented.document.config.0);
    checks.push(Check::equal(
        "tdx.config",
        "MRCONFIGID (operator's configuration)",
        &expected,
        &claims.mr_config_id,
        || (OTHER_CONFIG, CONFIG_ADVICE),
    ));
    checks
}

/// Returns the rows on the creation of the trust domain and its TDX module, whatever runs in the domain.
pub(super) fn domain(claims: &Measured) -> [Check; 3] {
    [
        attributes(claims.td_attributes),
        xfam(claims.xfam),
        module(claims),
    ]
}

/// Firmware that is recognised by its MRTD without a manifest: Debian's `OVMF.inteltdx.ms.fd` of ovmf 2026.08.
const KNOWN_FIRMWARE: [(&str, &str); 2] = [
    (
        "a7a1f751abc454f9cbab198ca8d2edb2821935df525c74182b5e776cb0929e8c59aefecce725b0d08a5e9d3d3183bd08",
        "Debian's OVMF.inteltdx of 2026.08, pages added as Linux from 6.16 on does",
    ),
    (
        "b90b236113eb4c0d4df4ef590568c14e6028a3a31d7e8ac63dee9845df5008d3ebf82d4f5974e933798f65d7a279b9a9",
        "Debian's OVMF.inteltdx of 2026.08, pages added in the order of hosts before Linux 6.16",
    ),
];

fn other_firmware(found: &Hex48) -> String {
    let digits = found.to_string();
    let known = KNOWN_FIRMWARE.iter().find(|(mrtd, _)| *mrtd == digits);
    known.map_or_else(
        || OTHER_FIRMWARE.to_owned(),
        |(_, name)| format!("{OTHER_FIRMWARE}; this MRTD is that of {name}"),
    )
}

/// Returns the rows on TCB level, advisories, machine, collateral and the module's build. The evaluation number is Intel's
/// own count, so it is compared only for Intel's collateral.
pub(super) fn platform(claims: &TdxClaims, policy: &Policy, now: u64) -> Vec<Check> {
    let accepted: Vec<String> = policy
        .accepted_tcb_statuses
        .iter()
        .map(TcbStatus::to_string)
        .collect();
    let title = "TCB level of the platform";
    let refused = |status: &TcbStatus| {
        *status == TcbStatus::Revoked || !policy.accepted_tcb_statuses.contains(status)
    };
    let now_runs = claims.current_tcb_status;
    let found = match now_runs.filter(|status| *status != claims.tcb_status) {
        Some(status) => format!("{}, now {status}", claims.tcb_status),
        None => claims.tcb_status.to_string(),
    };
    let tcb = if !claims.tcb_statuses().any(|status| refused(&status)) {
        Check::pass("evidence.tcb", title, found)
    } else {
        let cause = match claims.tcb_status {
            launched if refused(&launched) => OLD_TCB,
            // The module that runs now is newer than at the launch, but its status is not accepted.
            TcbStatus::TdRelaunchAdvised | TcbStatus::TdRelaunchAdvisedConfigurationNeeded => {
                OTHER_NOW
            }
            _ => OLD_NOW,
        };
        Check::fail("evidence.tcb", title, cause, TCB_ADVICE).found(found)
    };
    let open: Vec<String> = (claims.advisories.iter())
        .filter(|advisory| !policy.accepted_advisories.contains(advisory))
        .map(|advisory| printable(advisory))
        .collect();
    let title = "advisories that apply to the platform";
    let advisories = if open.is_empty() {
        Check::pass("evidence.advisories", title, "none that is not accepted")
    } else {
        Check::fail("evidence.advisories", title, OPEN_ADVISORIES, TCB_ADVICE)
            .found(open.join(", "))
    };
    let monthly = [
        ("the TCB information", claims.issued.tcb_info),
        ("the QE identity", claims.issued.qe_identity),
        ("the platforms' revocation list", claims.issued.pck_crl),
    ];
    // The list has three entries, so the default is never used. An unreadable date is zero and thus the oldest.
    let oldest = monthly
        .into_iter()
        .min_by_key(|(_, issued)| *issued)
        .unwrap_or(("nothing", 0));
    let ppid = <[u8; 16]>::try_from(claims.ppid.as_slice());
    let mut checks = vec![
        tcb.expected(accepted.join(", ")),
        advisories,
        platform::machine(ppid.ok().map(|id| MachineId::IntelPpid(Hex(id))), policy),
        platform::age(
            "age of the collateral",
            oldest,
            policy.max_collateral_age,
            now,
        ),
        platform::age(
            "age of the root's revocation list",
            ("the root's revocation list", claims.issued.root_crl),
            policy.max_intel_root_crl_age,
            now,
        ),
    ];
    if claims.root == RootClass::Vendor {
        let (least, found) = (policy.min_tcb_evaluation, claims.evaluation_number);
        let title = "TCB evaluation data number";
        let row = if found >= least {
            Check::pass("evidence.tcb_evaluation", title, found)
        } else {
            Check::fail(
                "evidence.tcb_evaluation",
                title,
                OLD_EVALUATION,
                COLLATERAL_ADVICE,
            )
            .found(found)
        };
        checks.push(row.expected(format!("at least {least}")));
    }
    checks.extend(build(&Hex(claims.mrseam), policy));
    checks
}

/// Checks the TD attributes (TDX module ABI, `ATTRIBUTES`): which bits may be set, and which must be.
fn attributes(found: u64) -> Check {
    const DEBUG_AND_PROFILING: u64 = 0xff;
    const LASS: u64 = 1 << 27;
    const SEPT_VE_DISABLE: u64 = 1 << 28;
    const MIGRATABLE: u64 = 1 << 29;
    const PROTECTION_KEYS: u64 = 1 << 30;
    const KEY_LOCKER: u64 = 1 << 31;
    const PERFORMANCE_MONITOR: u64 = 1 << 63;
    const HARMLESS: u64 =
        LASS | SEPT_VE_DISABLE | PROTECTION_KEYS | KEY_LOCKER | PERFORMANCE_MONITOR;
    let title = "TD attributes";
    let cause = if found & DEBUG_AND_PROFILING != 0 {
        Some(DEBUG)
    } else if found & MIGRATABLE != 0 {
        Some(MIGRATION)
    } else if found & SEPT_VE_DISABLE == 0 {
        Some(VE_ENABLED)
    } else if found & !HARMLESS != 0 {
        Some(UNKNOWN_ATTRIBUTE)
    } else {
        None
    };
    let row = match cause {
        None => Check::pass("tdx.attributes", title, format!("{found:#018x}")),
        Some(cause) => Check::fail("tdx.attributes", title, cause, LAUNCH_ADVICE)
            .found(format!("{found:#018x}")),
    };
    row.expected("no debugging, profiling or migration; SEPT_VE_DISABLE set")
}

/// Checks the extended features (`XFAM`). x87 and SSE must be on; only state components that the TDX module defines may be.
fn xfam(found: u64) -> Check {
    const ALWAYS: u64 = 0b11;
    // AVX 2, AVX-512 5-7, PT 8, PKRU 9, CET 11-12, UINTR 14, LBR 15, AMX 17-18, APX 19.
    const KNOWN: u64 =
        ALWAYS | 1 << 2 | 0b111 << 5 | 1 << 8 | 1 << 9 | 0b11 << 11 | 0b11 << 14 | 0b111 << 17;
    let title = "extended features (XFAM)";
    let text = format!("{found:#018x}");
    let row = if found & ALWAYS == ALWAYS && found & !KNOWN == 0 {
        Check::pass("tdx.xfam", title, text)
    } else {
        Check::fail("tdx.xfam", title, ODD_XFAM, LAUNCH_ADVICE).found(text)
    };
    row.expected(format!("{ALWAYS:#x} and nothing beyond {KNOWN:#x}"))
}

/// Checks that Intel signed the TDX module, which is so if MRSIGNERSEAM is zero. MRSEAM names the build, and the TCB level
/// covers its age.
fn module(claims: &Measured) -> Check {
    let (build, signer) = (&claims.mr_seam, &claims.mr_signer_seam);
    let row = if *signer == Hex48::ZERO {
        Check::pass("tdx.module", MODULE, format!("MRSEAM {build}, of Intel's"))
    } else {
        Check::fail("tdx.module", MODULE, FOREIGN_MODULE, LAUNCH_ADVICE)
            .found(format!("MRSEAM {build}, MRSIGNERSEAM {signer}"))
    };
    row.expected("signed by Intel (MRSIGNERSEAM zero)")
}

/// Checks the build of the TDX module by the policy's list. Returns no row if the list is empty.
fn build(found: &Hex48, policy: &Policy) -> Option<Check> {
    let listed = &policy.tdx_modules;
    let row = match listed.len() {
        0 => return None,
        _ if listed.contains(found) => Check::pass("tdx.module", MODULE, found),
        _ => Check::fail("tdx.module", MODULE, OTHER_BUILD, MODULE_ADVICE).found(found),
    };
    Some(row.expected(format!("one of {} that the policy lists", listed.len())))
}

const MODULE: &str = "TDX module";
const OTHER_BUILD: &str =
    "the platform runs a build of the TDX module (MRSEAM) that your policy does not list";
const MODULE_ADVICE: &str = "the operator loads a TDX module that is listed; or list this one (tdx_modules), once you know which release of Intel's it is";

const OTHER_FIRMWARE: &str = "other image: the VM was started with another firmware than the manifest's OVMF.tdx.fd, or on a host whose KVM adds pages in the older order (before 6.16)";
const FIRMWARE_ADVICE: &str = "the operator starts the VM with the release's own OVMF.tdx.fd, on Linux 6.16 and QEMU 10.1 or later";
const IMAGE_ADVICE: &str = "the operator starts the VM with the files of the manifest's image, unchanged; `cocoon-image verify` names the file that differs";
const RTMR3_USED: &str = "something measured itself into RTMR3, which this image never uses: other code ran in the guest";
const OWNER_SET: &str = "the launch names an owner (MROWNER), which this image does not use";
const OWNER_CONFIG_SET: &str =
    "the launch has an owner's configuration (MROWNERCONFIG), which this image does not use";
const ZERO_ADVICE: &str =
    "the operator starts the VM with this release's cocoon-host, without settings of their own";
const OTHER_CONFIG: &str = "the launch was given another configuration than the document shows";
const CONFIG_ADVICE: &str =
    "the operator starts the VM again with the configuration that it is to serve under";
const OLD_TCB: &str = "the platform's firmware or microcode lacks fixes that Intel has published";
const OLD_NOW: &str = "the TDX module that runs now is older than the one that the VM was started on, and lacks fixes that Intel has published";
const OTHER_NOW: &str = "the TDX module was updated since the VM was started, and the platform as it is now has a status that the policy does not accept";
const OPEN_ADVISORIES: &str = "Intel's advisories apply to this platform";
const TCB_ADVICE: &str = "the operator updates BIOS, microcode and TDX module; or accept the weakness in the policy, knowing what it is";
const OLD_EVALUATION: &str = "the host presents TCB information from before Intel's newer findings";
const COLLATERAL_ADVICE: &str = "the operator fetches Intel's current collateral";
const DEBUG: &str = "a debug or profiled guest: the host can read its memory";
const MIGRATION: &str = "a guest that the host may move to another machine";
const VE_ENABLED: &str =
    "SEPT_VE_DISABLE is off: the host can raise exceptions inside the guest by taking its pages";
const UNKNOWN_ATTRIBUTE: &str = "an attribute is set whose meaning this verifier does not know";
const ODD_XFAM: &str =
    "processor features are enabled that this verifier does not know, or basic ones are missing";
const FOREIGN_MODULE: &str = "the TDX module is not signed by Intel";
const LAUNCH_ADVICE: &str = "the operator starts the VM with this release's cocoon-host on hardware with Intel's current TDX module";
