//! Checks of SEV-SNP claims by the manifest and the policy: launch digest, guest policy, privilege level, launch identity.

use cocoon_protocol::{
    bytes::{Hex, Hex32, Hex48, Hex64},
    config,
    manifest::Manifest,
};

use super::{Presented, platform, snp_tcb};
use crate::{
    Truncated,
    bytes::Reader,
    policy::{MachineId, Policy},
    roots::RootClass,
    snp::report::{REPORT_LENGTH, ReportError, Revocation, SigningKey, SnpClaims},
    verdict::{Check, chain},
};

/// Claims about the guest itself.
#[derive(Clone, Debug)]
pub(super) struct Measured {
    pub(super) measurement: Hex48,
    pub(super) host_data: Hex32,
    pub(super) report_data: Hex64,
    /// Guest policy (`POLICY`).
    pub(super) policy: u64,
}

impl From<&SnpClaims> for Measured {
    fn from(claims: &SnpClaims) -> Self {
        Self {
            measurement: Hex(claims.measurement),
            host_data: Hex(claims.host_data),
            report_data: Hex(claims.report_data),
            policy: claims.policy,
        }
    }
}

impl Measured {
    /// Reads the fields at their offsets (SEV-SNP firmware ABI 56860, "ATTESTATION_REPORT"). Verifies nothing.
    pub(super) fn parse_unverified(report: &[u8]) -> Result<Self, Box<Check>> {
        let unreadable = |cause: String| {
            let title = "SEV-SNP report";
            Box::new(Check::fail(
                "evidence.signature",
                title,
                cause,
                LAUNCH_ADVICE,
            ))
        };
        if report.len() != REPORT_LENGTH {
            return Err(unreadable(chain(&ReportError::Length {
                length: report.len(),
            })));
        }
        let at = |offset| Reader::at("SNP report", report, offset);
        let truncated = |error: Truncated| unreadable(error.to_string());
        Ok(Self {
            policy: at(0x08).u64().map_err(truncated)?,
            report_data: at(0x50).array().map(Hex).map_err(truncated)?,
            measurement: at(0x90).array().map(Hex).map_err(truncated)?,
            host_data: at(0xc0).array().map(Hex).map_err(truncated)?,
        })
    }
}

/// Returns the rows on guest policy, launch digest and HOST_DATA.
pub(super) fn measurements(
    claims: &Measured,
    presented: &Presented<'_>,
    manifest: &Manifest,
) -> Vec<Check> {
    let digest = config::digest(presented.document.claims.tee, &presented.document.config.0);
    let mut expected = Hex32::ZERO;
    expected.0.copy_from_slice(&digest.0[..32]);
    let title = "HOST_DATA (operator's configuration)";
    vec![
        guest_policy(claims.policy),
        launch(&claims.measurement, manifest),
        Check::equal("snp.config", title, &expected, &claims.host_data, || {
            (OTHER_CONFIG, CONFIG_ADVICE)
        }),
    ]
}

/// Returns the rows that need a verified report: on the platform, and on the image's protection from host ACPI code.
pub(super) fn verified(
    claims: &SnpClaims,
    session: bool,
    manifest: &Manifest,
    policy: &Policy,
    now: u64,
) -> Vec<Check> {
    let mut checks = platform(claims, session, policy, now);
    checks.push(aml_guard(manifest, policy, claims.root));
    if claims.root == RootClass::Development {
        checks.push(Check::note("snp.firmware", "measured firmware", NOT_BOOTED));
    }
    checks
}

/// Returns the rows on the platform, which need no manifest.
pub(super) fn platform(claims: &SnpClaims, session: bool, policy: &Policy, now: u64) -> Vec<Check> {
    let keys = &claims.launched_by;
    let zero = |id, title: &str, found: &[u8; 48], cause| {
        Check::equal(id, title, &Hex48::ZERO, &Hex(*found), || {
            (cause, LAUNCH_ADVICE)
        })
    };
    let mut checks = vec![
        // Verification has already refused every other level. The row shows that the level was checked.
        Check::pass("snp.vmpl", "privilege level (VMPL)", 0).expected(0),
        zero("snp.id_key", "ID key (unused)", &keys.id_key_digest, ID_KEY),
        zero(
            "snp.author_key",
            "author key (unused)",
            &keys.author_key_digest,
            AUTHOR_KEY,
        ),
        snp_tcb::row(claims, policy),
        aliases(claims, policy),
        platform::machine(chip(claims), policy),
        revocation(claims.revocation, session),
    ];
    if let Revocation::Checked { issued, .. } = claims.revocation {
        checks.push(platform::age(
            "age of AMD's revocation list",
            ("the ARK's revocation list", issued),
            policy.max_amd_crl_age,
            now,
        ));
    }
    checks
}

/// Checks that the platform has looked for aliased memory addresses (SEV-SNP firmware ABI 56860, "PLATFORM_INFO").
fn aliases(claims: &SnpClaims, policy: &Policy) -> Check {
    const ALIAS_CHECK_COMPLETE: u64 = 1 << 5;
    let title = "memory checked for aliases (PLATFORM_INFO)";
    let found = format!("{:#x}", claims.platform_info);
    let row = if claims.platform_info & ALIAS_CHECK_COMPLETE != 0 {
        Check::pass("snp.platform", title, found)
    } else if policy.accept_missing_alias_check {
        Check::note("snp.platform", title, NO_ALIAS_CHECK_ACCEPTED).found(found)
    } else {
        Check::fail("snp.platform", title, NO_ALIAS_CHECK, ALIAS_ADVICE).found(found)
    };
    row.expected("bit 5 set")
}

/// Returns the last second until which no date or age limit changes a row of good evidence.
pub(super) fn holds_until(claims: &SnpClaims, policy: &Policy) -> u64 {
    match claims.revocation {
        Revocation::Checked { issued, .. } => {
            let oldest = issued.saturating_add(policy.max_amd_crl_age);
            claims.valid_until.min(oldest)
        }
        Revocation::NotChecked => claims.valid_until,
    }
}

/// Returns the chip's identity if the evidence proves it. A VCEK is the chip's own key, and its certificate names the chip.
/// A VLEK is a provider's key for any of its chips, so that nothing proves the `CHIP_ID` in the report.
fn chip(claims: &SnpClaims) -> Option<MachineId> {
    match claims.signing_key {
        SigningKey::Vcek => Some(MachineId::AmdChip(Hex(claims.chip_id))),
        SigningKey::Vlek => None,
    }
}

fn launch(found: &Hex48, manifest: &Manifest) -> Check {
    let title = "launch digest (firmware, kernel, command line, initrd, vCPUs)";
    let table = &manifest.snp.launch;
    if let Some(entry) = table.iter().find(|entry| entry.digest == *found) {
        let shape = format!("{} with {} vCPUs", entry.cpu_model, entry.vcpus);
        return Check::pass("snp.launch", title, shape).expected(found);
    }
    if table.is_empty() {
        return Check::fail("snp.launch", title, NOT_RELEASED, NOT_RELEASED_ADVICE).found(found);
    }
    let shapes: Vec<String> = table
        .iter()
        .map(|entry| format!("{} x {}", entry.cpu_model, entry.vcpus))
        .collect();
    let cause = format!("{OTHER_LAUNCH} {:#x})", manifest.snp.guest_features);
    let expected = format!("one of {} digests: {}", table.len(), shapes.join(", "));
    Check::fail("snp.launch", title, cause, IMAGE_ADVICE)
        .expected(expected)
        .found(found)
}

/// Checks the guest policy's bits (SEV-SNP firmware ABI, "Guest Policy").
pub(super) fn guest_policy(found: u64) -> Check {
    const RESERVED_ONE: u64 = 1 << 17;
    const MIGRATION_AGENT: u64 = 1 << 18;
    const DEBUG_ALLOWED: u64 = 1 << 19;
    /// Bits above the highest one that the ABI defines (page swap disabled, bit 25).
    const UNDEFINED: u64 = !((1 << 26) - 1);
    let title = "guest policy";
    let cause = if found & DEBUG_ALLOWED != 0 {
        Some(DEBUG)
    } else if found & MIGRATION_AGENT != 0 {
        Some(MIGRATION)
    } else if found & RESERVED_ONE == 0 || found & UNDEFINED != 0 {
        Some(ODD_POLICY)
    } else {
        None
    };
    let row = match cause {
        None => Check::pass("snp.policy", title, format!("{found:#x}")),
        Some(cause) => {
            Check::fail("snp.policy", title, cause, LAUNCH_ADVICE).found(format!("{found:#x}"))
        }
    };
    row.expected("no debugging, no migration agent")
}

fn revocation(revocation: Revocation, session: bool) -> Check {
    let title = "revocation of AMD's keys";
    match revocation {
        Revocation::Checked {
            issued,
            next_update,
        } => Check::pass(
            "evidence.collateral",
            title,
            format!("list of {issued}, next one due {next_update}"),
        ),
        Revocation::NotChecked if session => {
            Check::fail("evidence.collateral", title, NO_CRL, CRL_ADVICE)
        }
        Revocation::NotChecked => Check::note("evidence.collateral", title, NO_CRL_IN_BOOT),
    }
}

fn aml_guard(manifest: &Manifest, policy: &Policy, root: RootClass) -> Check {
    let title = "ACPI code from the host is kept from guest memory";
    if manifest.aml_guard {
        return Check::pass(
            "snp.aml_guard",
            title,
            "the manifest's kernel has the guard",
        );
    }
    match root {
        RootClass::Development => Check::note("snp.aml_guard", title, NO_GUARD_SIMULATED),
        RootClass::Vendor if policy.accept_missing_aml_guard => {
            Check::note("snp.aml_guard", title, NO_GUARD_ACCEPTED)
        }
        RootClass::Vendor => Check::fail("snp.aml_guard", title, NO_GUARD, GUARD_ADVICE),
    }
}

const OTHER_LAUNCH: &str = "other image, edited command line, wrong initrd, or another CPU model, vCPU count or set of guest features than the manifest lists: one digest covers them all, so it cannot be told which (the manifest assumes guest features";
const NOT_RELEASED: &str =
    "the manifest lists no launch digest: this image is not released for SEV-SNP";
const NOT_RELEASED_ADVICE: &str = "use an image whose manifest lists some, or ask the operator to start this one in a TDX machine";
const IMAGE_ADVICE: &str = "the operator starts the VM with the files of the manifest's image, unchanged, and a CPU model and vCPU count that the manifest lists; `cocoon measure snp` computes the digest of any combination";
const LAUNCH_ADVICE: &str =
    "the operator starts the VM with this release's cocoon-host, without settings of their own";
const OTHER_CONFIG: &str = "the launch was given another configuration than the document shows";
const CONFIG_ADVICE: &str =
    "the operator starts the VM again with the configuration that it is to serve under";
const ID_KEY: &str = "the launch carries an ID block of a key that this image does not use";
const AUTHOR_KEY: &str = "the launch carries an author key that this image does not use";
const DEBUG: &str = "a debug guest: the host can read its memory";
const MIGRATION: &str = "a guest that a migration agent may move to another machine";
const ODD_POLICY: &str =
    "guest policy bits are set or missing whose meaning this verifier does not know";
const NO_ALIAS_CHECK: &str = "the platform has not made sure that no two addresses share their memory: a module that lies about its size could give the host a second way to the guest's (BadRAM, AMD-SB-3015)";
const NO_ALIAS_CHECK_ACCEPTED: &str = "the platform has not made sure that no two addresses share their memory (BadRAM, AMD-SB-3015); accepted because the policy says so";
const ALIAS_ADVICE: &str = "the operator updates the BIOS and SEV firmware as AMD-SB-3015 says and boots the machine again; `cocoon-host doctor` tells whether the check was made";
const NO_CRL_IN_BOOT: &str =
    "the certificate's boot document carries no revocation list; a session's document does";
const NO_CRL: &str = "no revocation list of AMD was presented: a revoked processor could not be told from a good one";
const CRL_ADVICE: &str = "the operator fetches AMD's current revocation list";
const NO_GUARD: &str = "SEV-SNP does not measure ACPI tables, and this image's kernel would run code from them that can read guest memory";
const GUARD_ADVICE: &str =
    "use an image whose manifest states aml_guard, or a TDX machine, where the tables are measured";
const NO_GUARD_SIMULATED: &str =
    "this image's kernel lacks the guard: on real SEV-SNP hardware this alone would reject it";
const NO_GUARD_ACCEPTED: &str = "this image's kernel lacks the guard: the host can read guest memory through ACPI code; accepted because the policy says so";
const NOT_BOOTED: &str = "the measured firmware is not the one that booted: SEV-SNP firmware cannot start without the hardware, so the simulator measured OVMF.snp.fd while the VM ran OVMF.tdx.fd";
