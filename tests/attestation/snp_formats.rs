//! SEV-SNP reports of every version and generation, signed with a chip's key and with a provider's: decoded and
//! accepted correctly, and refused for a field that was changed and signed again.

use cocoon_measurements::policy::MachineId;
use cocoon_measurements::roots::{RootClass, TrustRoot};
use cocoon_measurements::snp::report::{self, ReportError, SigningKey as Named, SnpChain};
use cocoon_protocol::bytes::Hex;
use cocoon_simulator::snp::identity::vlek_extensions;
use cocoon_simulator::snp::report::REPORT_LEN;
use cocoon_simulator::snp::{Generation, SigningKey, SnpReport};

use crate::collateral::DAY;
use crate::machine::{NOW, accepted, policy, refused};
use crate::snp_chips::{Chip, Shown};

const VERSIONS: [u32; 3] = [2, 3, 5];
const NOT_NAMED: &str = "development root not named: this SEV-SNP report comes from simulated hardware, and no development root for it was named";
const APART: &str = "the SNP report and its certificate do not belong together";

fn each(check: impl Fn(Generation, u32, SigningKey)) {
    for generation in Generation::ALL {
        for version in VERSIONS {
            for key in [SigningKey::Vcek, SigningKey::Vlek] {
                println!("{generation:?}, version {version}, {key:?}");
                check(generation, version, key);
            }
        }
    }
}

#[test]
fn each_format_is_accepted_and_says_what_it_is() {
    each(|generation, version, key| {
        let shown = Shown::good(generation, version, key);
        let verdict = shown.verdict();
        accepted(&verdict);
        let row = |id| verdict.checks.iter().find(|check| check.id == id).unwrap();
        let expected = row("evidence.tcb").expected.clone().unwrap();
        // Version 2 does not name its processor.
        let part = match version {
            2 => "Milan",
            _ => generation.name(),
        };
        assert!(expected.ends_with(&format!("({part})")), "{expected}");

        let platform = shown.chip.platform(key);
        let [vek, intermediate, root] = &platform.certificates()[..] else {
            panic!("three certificates")
        };
        let crl = platform.crl(NOW - DAY, NOW + DAY).unwrap();
        let chain = SnpChain {
            vek,
            intermediate,
            crl: Some(&crl),
        };
        let root = TrustRoot::development(root).unwrap();
        let claims = report::verify(&shown.signed(), &chain, &root, NOW).unwrap();
        let named = match key {
            SigningKey::Vcek => Named::Vcek,
            SigningKey::Vlek => Named::Vlek,
        };
        assert_eq!(
            (claims.version, claims.signing_key, claims.root),
            (version, named, RootClass::Development)
        );
        let cpuid = (version > 2).then(|| generation.cpuid());
        assert_eq!(claims.cpuid, cpuid);
        let tcb = generation.tcb();
        for level in [
            claims.reported_tcb,
            claims.current_tcb,
            claims.committed_tcb,
            claims.launch_tcb,
        ] {
            assert_eq!(
                (level.fmc, level.bootloader, level.tee),
                (tcb.fmc, tcb.bootloader, tcb.tee)
            );
            assert_eq!((level.snp, level.microcode), (tcb.snp, tcb.microcode));
        }
        assert_eq!(claims.measurement, shown.report.measurement);
        assert_eq!(claims.report_data, shown.report.report_data);
        assert_eq!(claims.chip_id, generation.chip_id());
    });
}

#[test]
fn a_changed_byte_of_any_format_breaks_its_signature() {
    each(|generation, version, key| {
        let shown = Shown::good(generation, version, key);
        let platform = shown.chip.platform(key);
        let [vek, intermediate, root] = &platform.certificates()[..] else {
            panic!("three certificates")
        };
        let chain = SnpChain {
            vek,
            intermediate,
            crl: None,
        };
        let root = TrustRoot::development(root).unwrap();
        let mut signed = shown.signed();
        signed[0x90] ^= 1;
        let refused = report::verify(&signed, &chain, &root, NOW);
        assert_eq!(refused, Err(ReportError::Signature));
    });
}

/// Each component of the reported TCB, in the layout of its generation, must equal that of the certificate, VCEK or VLEK.
#[test]
fn the_reported_tcb_is_the_certificates() {
    each(|generation, version, key| {
        type Level = fn(&mut SnpReport) -> &mut u8;
        let parts: [(&str, Level); 4] = [
            ("boot loader", |r| &mut r.reported_tcb.bootloader),
            ("TEE", |r| &mut r.reported_tcb.tee),
            ("SNP firmware", |r| &mut r.reported_tcb.snp),
            ("microcode", |r| &mut r.reported_tcb.microcode),
        ];
        let judge = |part: &str, edit: &dyn Fn(&mut SnpReport) -> (u8, u8)| {
            let mut shown = Shown::good(generation, version, key);
            let (reported, certified) = edit(&mut shown.report);
            let cause = format!(
                "{APART}: the {part} of the report is at {reported}, its certificate is for {certified}: fetch the \
                 certificate for the reported TCB"
            );
            refused(&shown.verdict(), &[("evidence.signature", &cause)]);
        };
        for (part, field) in parts {
            judge(part, &|report| {
                let level = field(report);
                *level += 1;
                (*level, *level - 1)
            });
        }
        if generation == Generation::Turin {
            judge("FMC", &|report| {
                let level = report.reported_tcb.fmc.as_mut().unwrap();
                *level += 1;
                (*level, *level - 1)
            });
        }
    });
}

#[test]
fn key_and_certificate_are_of_one_kind() {
    for version in VERSIONS {
        for (key, other, named) in [
            (SigningKey::Vcek, SigningKey::Vlek, "Vlek"),
            (SigningKey::Vlek, SigningKey::Vcek, "Vcek"),
        ] {
            let mut shown = Shown::good(Generation::Genoa, version, key);
            shown.report.signing_key = other;
            let cause = format!(
                "{APART}: the report was signed with a {named}, the certificate is of the other kind"
            );
            refused(&shown.verdict(), &[("evidence.signature", &cause)]);
        }
        // SIGNING_KEY 7: the report is not signed.
        let mut shown = Shown::good(Generation::Genoa, version, SigningKey::Vlek);
        shown.bytes = |bytes| bytes[0x48] = 7 << 2;
        refused(
            &shown.verdict(),
            &[(
                "evidence.signature",
                "SNP report: signing key is 7: neither a VCEK (0) nor a VLEK (1) signed it",
            )],
        );
    }
}

/// A VLEK names no chip, so it verifies a report of any chip, even one with a masked chip id, but satisfies no list of
/// machines.
#[test]
fn a_vlek_stands_for_no_chip() {
    for version in [3, 5] {
        let mut shown = Shown::good(Generation::Turin, version, SigningKey::Vlek);
        shown.report.chip_id = [0; 64];
        accepted(&shown.verdict());
    }
    let mut shown = Shown::good(Generation::Milan, 3, SigningKey::Vlek);
    let chip = Hex(shown.report.chip_id);
    shown.policy.machines = vec![MachineId::AmdChip(chip)];
    let failed: Vec<_> = shown.verdict().failures().map(|row| row.id).collect();
    assert_eq!(failed, ["evidence.machine"]);
    let mut own = Shown::good(Generation::Milan, 3, SigningKey::Vcek);
    own.policy.machines = vec![MachineId::AmdChip(chip)];
    accepted(&own.verdict());
}

/// A VCEK certifies one chip. Turin's chip id has 8 bytes; the rest of the field must be zero.
#[test]
fn a_chip_is_the_certificates() {
    for (generation, at) in [
        (Generation::Genoa, 63),
        (Generation::Turin, 7),
        (Generation::Turin, 8),
    ] {
        for version in [3, 5] {
            let mut shown = Shown::good(generation, version, SigningKey::Vcek);
            shown.report.chip_id[at] ^= 1;
            let cause =
                format!("{APART}: the VCEK is not the one of the processor that made the report");
            refused(&shown.verdict(), &[("evidence.signature", &cause)]);
        }
    }
}

#[test]
fn a_providers_certificate_is_below_the_asvk_and_says_its_name() {
    let chip = Chip::of(Generation::Genoa);
    let with = |edit: fn(&mut Vec<x509_cert::ext::Extension>)| {
        let mut extensions = vlek_extensions(Generation::Genoa, &Generation::Genoa.tcb()).unwrap();
        edit(&mut extensions);
        let mut shown = Shown::good(Generation::Genoa, 5, SigningKey::Vlek);
        let mut chain = chip.platform(SigningKey::Vlek).certificates();
        chain[0] = chip.provider.certify_saying(extensions).unwrap();
        shown.certificates = Some(chain);
        shown.verdict()
    };
    const NAME: &str = "1.3.6.1.4.1.3704.1.5";
    accepted(&with(|_| ()));
    let nameless = with(|all| all.retain(|one| one.extn_id.to_string() != NAME));
    let cause =
        format!("{APART}: the report was signed with a Vlek, the certificate is of the other kind");
    refused(&nameless, &[("evidence.signature", &cause)]);
    let level = with(|all| {
        let at = all
            .iter()
            .position(|one| one.extn_id.to_string() == "1.3.6.1.4.1.3704.1.3.8");
        all.remove(at.unwrap());
    });
    let cause = format!("{APART}: the VCEK or VLEK has no readable extension for the microcode");
    refused(&level, &[("evidence.signature", &cause)]);

    let mut shown = Shown::good(Generation::Genoa, 5, SigningKey::Vlek);
    let mut chain = chip.platform(SigningKey::Vlek).certificates();
    chain[1] = chip.identity.ask.certificate.clone();
    shown.certificates = Some(chain);
    refused(
        &shown.verdict(),
        &[(
            "evidence.signature",
            "the SNP report's certificates do not hold: the VCEK or VLEK names another issuer (CN=SEV-VLEK-Genoa,O=Cocoon Simulator)",
        )],
    );
}

/// AMD revokes an ASK or ASVK in the revocation list of its root.
#[test]
fn a_revoked_authority_vouches_for_nothing() {
    for generation in Generation::ALL {
        for key in [SigningKey::Vcek, SigningKey::Vlek] {
            let mut shown = Shown::good(generation, 5, key);
            let platform = shown.chip.platform(key);
            let [_, intermediate, root] = &platform.certificates()[..] else {
                panic!("three certificates")
            };
            let list = |revoked: &[u8]| platform.crl_revoking(revoked, NOW - DAY, NOW + DAY);
            shown.crl = Some(list(root).unwrap());
            accepted(&shown.verdict());
            shown.crl = Some(list(intermediate).unwrap());
            refused(
                &shown.verdict(),
                &[(
                    "evidence.signature",
                    "the SNP report's certificates do not hold: the ASK is revoked by its root: every report under it is \
                     worthless",
                )],
            );
        }
    }
}

/// The fields that version 5 added do not affect the verdict; a change of that must also change this test. Bits that no
/// field of the report's version has are refused.
#[test]
fn cocoon_snp_14() {
    let mut shown = Shown::good(Generation::Turin, 5, SigningKey::Vcek);
    (
        shown.report.launch_mitigations,
        shown.report.current_mitigations,
    ) = (1, 3);
    accepted(&shown.verdict());
    let reserved = "SNP report cannot be decoded: Skipped bytes were expected to be zeroed.";
    type Edit = fn(&mut [u8; REPORT_LEN]);
    let edits: [(u32, Edit); 5] = [
        (2, |bytes| bytes[0x188] = 0x19),
        (3, |bytes| bytes[0x1f8] = 1),
        (3, |bytes| bytes[0x200] = 1),
        (5, |bytes| bytes[0x208] = 1),
        (5, |bytes| bytes[0x18b] = 1),
    ];
    for (version, edit) in edits {
        let mut shown = Shown::good(Generation::Genoa, version, SigningKey::Vcek);
        shown.bytes = edit;
        refused(&shown.verdict(), &[("evidence.signature", reserved)]);
    }
    let malformed = "SNP report cannot be decoded: it has bits at offset 0x3a that are of no field of its version";
    // A report from Turin that names Genoa as its processor is read in the wrong layout, which its bytes do not fit.
    let mut shown = Shown::good(Generation::Turin, 5, SigningKey::Vcek);
    shown.report.cpuid = Generation::Genoa.cpuid();
    refused(&shown.verdict(), &[("evidence.signature", malformed)]);
}

/// Without its root in the policy, no format is accepted. Under AMD's roots, the generation is that of the root.
#[test]
fn no_format_passes_without_its_root_named() {
    each(|generation, version, key| {
        let mut shown = Shown::good(generation, version, key);
        shown.policy = policy();
        // The root of Milan, too: it has the name and key of the root in the policy, but is another certificate.
        refused(&shown.verdict(), &[("evidence.root", NOT_NAMED)]);
    });
}
