//! The arguments of confidential machines only.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;

use super::Args;
use crate::accel::Accel;
use crate::spec::{Confidential, IdBlock, QuoteSocket, SpecError, VmSpec};
use crate::text::{plain, range, socket_path};

/// Returns the additional options of `-machine`, with a leading comma.
pub(super) fn machine_options(confidential: &Confidential) -> &'static str {
    match confidential {
        Confidential::None => "",
        // The TDX module owns the local APIC, so KVM must not emulate an I/O APIC.
        Confidential::Tdx(_) => ",kernel-irqchip=split,confidential-guest-support=tee0",
        Confidential::Snp(_) => ",confidential-guest-support=tee0",
    }
}

/// Returns the TEE's name for messages; `None` for a plain machine.
pub(super) fn tee(confidential: &Confidential) -> Option<&'static str> {
    match confidential {
        Confidential::None => None,
        Confidential::Tdx(_) => Some("TDX"),
        Confidential::Snp(_) => Some("SEV-SNP"),
    }
}

/// Adds the object that `-machine` names as its TEE.
pub(super) fn object(args: &mut Args, spec: &VmSpec) -> Result<(), SpecError> {
    let (object, reason) = match &spec.confidential {
        Confidential::None => return Ok(()),
        Confidential::Tdx(tdx) => {
            let object = TdxGuest {
                qom_type: "tdx-guest",
                id: "tee0",
                mrconfigid: STANDARD.encode(tdx.mrconfigid),
                sept_ve_disable: true,
                socket: QuoteAddress::new(&tdx.quotes)?,
            };
            let reason = "trust domain: configuration in MRCONFIGID, quotes through this service";
            (json(&object), reason)
        }
        Confidential::Snp(snp) => {
            range("cbitpos", snp.cbitpos.into(), 32, 63)?;
            range("reduced_phys_bits", snp.reduced_phys_bits.into(), 1, 31)?;
            let object = SnpGuest {
                qom_type: "sev-snp-guest",
                id: "tee0",
                cbitpos: snp.cbitpos,
                reduced_phys_bits: snp.reduced_phys_bits,
                policy: snp.policy,
                kernel_hashes: true,
                identity: snp.id.as_ref().map(Identity::of),
                host_data: STANDARD.encode(snp.host_data),
            };
            let reason = "SNP guest: configuration in HOST_DATA, hashes of kernel, initrd and command line in the digest";
            (json(&object), reason)
        }
    };
    let tee = tee(&spec.confidential).unwrap_or_default();
    if spec.accel != Accel::Kvm {
        return Err(SpecError::NeedsKvm { tee });
    }
    if spec.firmware.is_none() {
        return Err(SpecError::NeedsFirmware { tee });
    }
    args.add("-object", object, reason);
    Ok(())
}

/// Serialises a struct of numbers and strings, which cannot fail. QEMU would refuse an empty text at once.
pub(super) fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct TdxGuest {
    qom_type: &'static str,
    id: &'static str,
    mrconfigid: String,
    /// QEMU's default, stated explicitly. If it were off, the host could raise exceptions inside the domain by removing its
    /// pages, and every verifier refuses such a domain.
    sept_ve_disable: bool,
    #[serde(rename = "quote-generation-socket")]
    socket: QuoteAddress,
}

#[derive(Serialize)]
#[serde(rename_all = "lowercase", tag = "type")]
enum QuoteAddress {
    Vsock { cid: String, port: String },
    Unix { path: String },
}

impl QuoteAddress {
    fn new(socket: &QuoteSocket) -> Result<Self, SpecError> {
        let field = "quote socket";
        Ok(match socket {
            QuoteSocket::Vsock { cid, port } => Self::Vsock {
                cid: cid.to_string(),
                port: port.to_string(),
            },
            QuoteSocket::Unix(path) => Self::Unix {
                path: plain(field, socket_path(field, path)?)?.to_owned(),
            },
        })
    }
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct SnpGuest {
    qom_type: &'static str,
    id: &'static str,
    cbitpos: u32,
    reduced_phys_bits: u32,
    policy: u64,
    kernel_hashes: bool,
    host_data: String,
    #[serde(flatten)]
    identity: Option<Identity>,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Identity {
    id_block: String,
    id_auth: String,
    author_key_enabled: bool,
}

impl Identity {
    fn of(id: &IdBlock) -> Self {
        Self {
            id_block: STANDARD.encode(id.block),
            id_auth: STANDARD.encode(*id.auth),
            author_key_enabled: id.author_key,
        }
    }
}
