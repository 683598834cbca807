//! A made-up TDX boot with its log, its claims, and a manifest that matches it.

use cocoon_protocol::{
    bytes::Hex48,
    manifest::{PlatformSource, ReferenceEvent, TdxPlatform},
};

use super::{
    super::tdx::{Measured, measurements, platform},
    *,
};
use crate::{
    ccel::{LoggedEvent, encode},
    policy::MIN_TCB_EVALUATION,
    roots::RootClass,
    tdx::{
        event::{Rtmr, replay},
        quote::{CollateralDates, TdxClaims},
        rtmr::{Edk2, rtmr2},
        tcb::TcbStatus,
    },
};

pub(super) const DAY: u64 = 24 * 60 * 60;
const STEPS: [&[u8]; 4] = [
    b"Calling EFI Application from Boot Option",
    &[0; 4],
    b"Exit Boot Services Invocation",
    b"Exit Boot Services Returned with Success",
];

/// A made-up boot: the inputs of each register's events.
#[derive(Clone)]
pub(super) struct Boot {
    pub(super) rtmr0: Vec<Hex48>,
    pub(super) kernel: Hex48,
    pub(super) cmdline: String,
    pub(super) edk2: Edk2,
    pub(super) initrd: Vec<u8>,
}

pub(super) fn boot() -> Boot {
    Boot {
        rtmr0: NAMES
            .iter()
            .map(|name| Hex48::sha384(name.as_bytes()))
            .collect(),
        kernel: Hex48::sha384(b"kernel"),
        cmdline: sample().cmdline,
        edk2: Edk2::Stable202508,
        initrd: b"initrd".to_vec(),
    }
}

/// Names of RTMR0's events, as `tdx::rtmr0` gives them.
pub(super) const NAMES: [&str; 7] = [
    "memory map (TD hand-off block, 1024 MiB)",
    "variable store (CFV)",
    "QEMU setting bootorder",
    "variable db",
    "ACPI tables",
    "SMBIOS tables",
    "variable Boot0000",
];

impl Boot {
    fn events(&self) -> Vec<(Rtmr, Hex48)> {
        let mut events: Vec<_> = self
            .rtmr0
            .iter()
            .map(|digest| (Rtmr::Rtmr0, *digest))
            .collect();
        events.push((Rtmr::Rtmr1, self.kernel));
        events.extend(STEPS.map(|step| (Rtmr::Rtmr1, Hex48::sha384(step))));
        let loaded = rtmr2(&self.cmdline, Some(&self.initrd), self.edk2);
        events.extend(loaded.iter().map(|event| (Rtmr::Rtmr2, Hex(event.digest))));
        events
    }

    fn registers(&self) -> [[u8; 48]; 4] {
        let events = self.events();
        replay(events.iter().map(|(rtmr, digest)| (*rtmr, &digest.0)))
    }

    pub(super) fn log(&self) -> Blob {
        let events = self.events();
        let logged = events.iter().map(|(rtmr, digest)| LoggedEvent {
            rtmr: *rtmr,
            event_type: 0xa,
            digest: digest.0,
            data: b"ACPI DATA",
        });
        Blob(encode(logged).unwrap())
    }
}

fn shape(name: &str, source: PlatformSource, boot: &Boot) -> TdxPlatform {
    let events = NAMES.iter().zip(&boot.rtmr0);
    let rtmr0_events = events
        .map(|(name, digest)| ReferenceEvent {
            name: (*name).into(),
            digest: *digest,
        })
        .collect();
    TdxPlatform {
        name: name.into(),
        memory_mib: 1024,
        vcpus: None,
        mmio64_mib: None,
        source,
        rtmr0_events,
    }
}

pub(super) fn reference(source: PlatformSource) -> TrustedManifest {
    let mut manifest = sample();
    let registers = boot().registers();
    manifest.tdx.rtmr1 = Hex(registers[1]);
    manifest.tdx.rtmr2 = Hex(registers[2]);
    manifest.tdx.platforms = vec![shape("1 GiB", source, &boot())];
    trusted(&manifest)
}

pub(super) fn claims(boot: &Boot, root: RootClass) -> TdxClaims {
    let issued = NOW - DAY;
    TdxClaims {
        root,
        version: 4,
        mrtd: [0x10; 48],
        rtmr: boot.registers(),
        mrconfigid: config::digest(Tee::Tdx, &OperatorConfig::default().canonical()).0,
        mrowner: [0; 48],
        mrownerconfig: [0; 48],
        mrseam: [1; 48],
        mrsignerseam: [0; 48],
        td_attributes: (1_u64 << 28).to_le_bytes(),
        xfam: 0xe7_u64.to_le_bytes(),
        report_data: [0; 64],
        tcb_status: TcbStatus::UpToDate,
        current_tcb_status: None,
        advisories: Vec::new(),
        evaluation_number: MIN_TCB_EVALUATION,
        tcb_date: issued,
        fmspc: [0; 6],
        ppid: vec![0xc0; 16],
        smt_enabled: None,
        dynamic_platform: None,
        cached_keys: None,
        earliest_issue: issued,
        earliest_expiration: NOW + DAY,
        issued: CollateralDates {
            tcb_info: issued,
            qe_identity: issued,
            pck_crl: issued,
            root_crl: issued,
        },
    }
}

pub(super) fn rows(claims: &TdxClaims, log: &Blob, manifest: &TrustedManifest) -> Vec<Check> {
    let document = document(Tee::Tdx, manifest);
    let mut checks = platform(claims, &Policy::default(), NOW);
    checks.extend(measurements(
        &Measured::from(claims),
        log,
        &session(&document),
        manifest,
        Some(claims.root),
    ));
    checks
}

/// Returns the rows after a boot that differs from the reference, with its true log.
pub(super) fn after(boot: &Boot) -> Vec<Check> {
    rows(
        &claims(boot, RootClass::Vendor),
        &boot.log(),
        &reference(PlatformSource::Computed),
    )
}

#[track_caller]
pub(super) fn one(checks: &[Check]) -> (&'static str, String) {
    let (id, cause) = only_failure(checks);
    (id, cause.to_owned())
}
