//! Detects the TEE of this machine from signs of the processor and the kernel and from the provider of configfs-tsm.
//!
//! A missing provider alone proves nothing: a TEE whose guest driver did not bind has none either. The signs do not depend
//! on the provider's driver, and inside a TEE the host cannot remove them:
//!
//! | sign | comes from |
//! |---|---|
//! | CPUID leaf 0x21, `IntelTDX    ` | the TDX module, which answers it in every TD |
//! | `tdx_guest` in `/proc/cpuinfo` | the kernel, from that leaf, before any driver |
//! | CPUID 0x8000001F, EAX bits 1 and 4 | under SNP, the CPUID page that AMD's firmware checked; otherwise the hypervisor |
//! | `/sys/devices/platform/sev-guest` | the kernel, from the SEV_STATUS MSR, which a hypervisor cannot forge |
//! | `/dev/tdx_guest`, `/dev/sev-guest` | the drivers, which bind to nothing else |
//!
//! A host can fake signs where there is no TEE. The only effect is a machine that does not boot.

use std::fs;
use std::path::Path;

use cocoon_protocol::binding::Tee as Kind;

use super::tsm::Tsm;
use super::{Tee, TeeError};
use crate::sys::cpuid::{self, Cpuid};

const CPUINFO: &str = "/proc/cpuinfo";
/// Files that the kernel and its drivers create in a TEE.
const FILES: [(Kind, &str); 3] = [
    (Kind::Tdx, "/dev/tdx_guest"),
    (Kind::SevSnp, "/sys/devices/platform/sev-guest"),
    (Kind::SevSnp, "/dev/sev-guest"),
];
/// EBX, EDX and ECX of CPUID leaf 0x21 in a TD.
const TDX: &[u8; 12] = b"IntelTDX    ";
/// Bits of EAX in CPUID leaf 0x8000001F (AMD 24594, section E.4.17).
const SEV: u32 = 1 << 1;
const SEV_SNP: u32 = 1 << 4;

/// Proof that this machine is no TEE.
#[derive(Debug)]
pub struct NoTee(());

/// Kind of this machine.
pub enum Platform {
    /// A confidential VM.
    Hardware(Tsm),
    /// An ordinary VM.
    Plain(NoTee),
}

/// Detects the platform. Fails if the signs contradict each other, or if the machine is a TEE that cannot give evidence.
pub fn detect() -> Result<Platform, TeeError> {
    let tsm = Tsm::open()?;
    judge(&Signs::probe()?, tsm.as_ref().map(Tee::kind))?;
    Ok(match tsm {
        Some(tsm) => Platform::Hardware(tsm),
        None => Platform::Plain(NoTee(())),
    })
}

/// Signs of each TEE, each with the name that errors show. `None` if the sign is absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Signs {
    tdx: Option<&'static str>,
    snp: Option<&'static str>,
    /// Sign of SEV or SEV-ES, which have no attestation report.
    sev: Option<&'static str>,
}

impl Signs {
    fn probe() -> Result<Self, TeeError> {
        let cpuinfo = fs::read_to_string(CPUINFO).map_err(|source| TeeError::File {
            operation: "read",
            path: CPUINFO.into(),
            source,
        })?;
        let mut files = Vec::new();
        for (kind, path) in FILES {
            // Not `exists`: a file that cannot be checked must not count as absent.
            let there = Path::new(path)
                .try_exists()
                .map_err(|source| TeeError::File {
                    operation: "look for",
                    path: path.into(),
                    source,
                })?;
            if there {
                files.push((kind, path));
            }
        }
        Ok(Self::read(&cpuid::read(), &cpuinfo, &files))
    }

    fn read(cpuid: &Cpuid, cpuinfo: &str, files: &[(Kind, &'static str)]) -> Self {
        let file = |wanted| {
            let mut named = files.iter().filter(|(kind, _)| *kind == wanted);
            named.next().map(|(_, path)| *path)
        };
        let flag = || {
            let mut words = cpuinfo.split_ascii_whitespace();
            words
                .any(|word| word == "tdx_guest")
                .then_some("/proc/cpuinfo")
        };
        let leaf = |yes: bool, name| yes.then_some(name);
        Self {
            tdx: leaf(&cpuid.tdx == TDX, "CPUID leaf 0x21")
                .or_else(flag)
                .or_else(|| file(Kind::Tdx)),
            snp: file(Kind::SevSnp)
                .or_else(|| leaf(cpuid.sev & SEV_SNP != 0, "CPUID leaf 0x8000001f")),
            sev: leaf(cpuid.sev & SEV != 0, "CPUID leaf 0x8000001f"),
        }
    }
}

/// Decides whether the provider, or its absence, is consistent with the signs.
fn judge(signs: &Signs, provider: Option<Kind>) -> Result<(), TeeError> {
    let missing = |tee, sign| Err(TeeError::NoProvider { tee, sign });
    match (signs.tdx, signs.snp, signs.sev, provider) {
        (Some(one), Some(other), _, _) | (Some(one), None, Some(other), _) => {
            Err(TeeError::Contradiction { one, other })
        }
        (Some(one), None, None, Some(Kind::SevSnp)) => Err(TeeError::Contradiction {
            one,
            other: "the provider sev_guest",
        }),
        (None, Some(one), _, Some(Kind::Tdx)) | (None, None, Some(one), Some(Kind::Tdx)) => {
            Err(TeeError::Contradiction {
                one,
                other: "the provider tdx_guest",
            })
        }
        (Some(sign), None, None, None) => missing("TDX", sign),
        (None, Some(sign), _, None) => missing("SEV-SNP", sign),
        (None, None, Some(sign), None) => Err(TeeError::OldSev(sign)),
        // A provider binds only to real hardware. Unknown signs are no reason to reject it, and verifiers check its
        // evidence.
        (_, _, _, Some(_)) | (None, None, None, None) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TD: Cpuid = Cpuid { tdx: *TDX, sev: 0 };
    const NOTHING: Cpuid = Cpuid {
        tdx: [0; 12],
        sev: 0,
    };

    fn signs(tdx: bool, snp: bool, sev: bool) -> Signs {
        Signs {
            tdx: tdx.then_some("T"),
            snp: snp.then_some("S"),
            sev: sev.then_some("V"),
        }
    }

    /// Covers every combination. Without a provider, only a machine without any sign is accepted, as a plain one.
    #[test]
    fn the_decision_table() {
        let no_driver = |tee, sign| {
            Err(format!(
                "this machine is a TEE ({tee}, by {sign}) but configfs-tsm has no provider: its guest driver is missing or did not bind"
            ))
        };
        let both = |one: &str, other: &str| {
            Err(format!(
                "{one} and {other} speak for different TEEs: the host lies about one of them"
            ))
        };
        let old = || {
            Err("this machine runs under SEV or SEV-ES (by V), which cannot attest: launch it with SEV-SNP".to_owned())
        };
        let (tdx, snp) = (Some(Kind::Tdx), Some(Kind::SevSnp));
        let table: [(Signs, [Result<(), String>; 3]); 8] = [
            // Signs of TDX, SNP and SEV, then the results without a provider, with TDX's and with SNP's.
            (signs(false, false, false), [Ok(()), Ok(()), Ok(())]),
            (
                signs(true, false, false),
                [
                    no_driver("TDX", "T"),
                    Ok(()),
                    both("T", "the provider sev_guest"),
                ],
            ),
            (
                signs(false, true, false),
                [
                    no_driver("SEV-SNP", "S"),
                    both("S", "the provider tdx_guest"),
                    Ok(()),
                ],
            ),
            (
                signs(false, true, true),
                [
                    no_driver("SEV-SNP", "S"),
                    both("S", "the provider tdx_guest"),
                    Ok(()),
                ],
            ),
            (
                signs(false, false, true),
                [old(), both("V", "the provider tdx_guest"), Ok(())],
            ),
            (
                signs(true, true, false),
                [both("T", "S"), both("T", "S"), both("T", "S")],
            ),
            (
                signs(true, false, true),
                [both("T", "V"), both("T", "V"), both("T", "V")],
            ),
            (
                signs(true, true, true),
                [both("T", "S"), both("T", "S"), both("T", "S")],
            ),
        ];
        for (signs, expected) in table {
            for (provider, expected) in [None, tdx, snp].into_iter().zip(expected) {
                let found = judge(&signs, provider).map_err(|error| error.to_string());
                assert_eq!(found, expected, "{signs:?} {provider:?}");
            }
        }
    }

    #[test]
    fn each_sign_counts_alone() {
        let none: &[(Kind, &'static str)] = &[];
        let plain = "flags\t\t: fpu tsc hypervisor\n";
        assert_eq!(Signs::read(&NOTHING, plain, none), Signs::default());
        let tdx = |cpuid, cpuinfo, files| Signs::read(&cpuid, cpuinfo, files).tdx;
        assert_eq!(tdx(TD, plain, none), Some("CPUID leaf 0x21"));
        assert_eq!(
            tdx(NOTHING, "flags\t\t: fpu tdx_guest tsc\n", none),
            Some("/proc/cpuinfo")
        );
        // Only whole words count: a host's processor has the flag `tdx_host_platform`.
        assert_eq!(tdx(NOTHING, "flags: tdx_guests xtdx_guest\n", none), None);
        assert_eq!(tdx(NOTHING, plain, &FILES[..1]), Some("/dev/tdx_guest"));
        for file in &FILES[1..] {
            let found = Signs::read(&NOTHING, plain, &[*file]);
            assert_eq!((found.snp, found.tdx), (Some(file.1), None));
        }
        // Bit 0 is SME, a feature of the processor that says nothing about a guest.
        let sev = |sev| Signs::read(&Cpuid { sev, ..NOTHING }, plain, none);
        assert_eq!(sev(1), Signs::default());
        let leaf = Some("CPUID leaf 0x8000001f");
        assert_eq!((sev(2).sev, sev(2).snp), (leaf, None));
        assert_eq!((sev(0x12).sev, sev(0x12).snp), (leaf, leaf));
    }

    /// Probing succeeds on whichever machine runs the tests.
    #[test]
    fn this_machine_can_be_probed() {
        Signs::probe().unwrap();
    }
}
