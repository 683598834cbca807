//! Trust in the root of a chain: NVIDIA's root, pinned by its key's digest, or a development root that the policy names.
//!
//! NVIDIA has one root for devices and one for reference manifests. Each chain is judged by its own root, so that a
//! development root for one kind never makes a chain of the other kind count.

use super::{
    certificate::{CertificateError, Parsed},
    chain::DeviceChain,
    rim::Rim,
};
use crate::{
    policy::Policy,
    roots::{self, DevelopmentRoot, RootClass},
    verdict::{Check, chain},
};

/// Purpose of a chain, which determines its root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Authority {
    /// NVIDIA Device Identity CA.
    Devices,
    /// NVIDIA CoRIM signing Root CA.
    Manifests,
}

/// SHA-384 of the SubjectPublicKeyInfo of "NVIDIA Device Identity CA".
pub(super) const DEVICE_ROOT: &str = "e108f61de3fce5261151f8a0eb562a920639ef1b0fcebba785ee52f54420e4248be3400366d45c2880bdf13044325393";
/// SHA-384 of the SubjectPublicKeyInfo of "NVIDIA CoRIM signing Root CA".
pub(super) const MANIFEST_ROOT: &str = "62d5dc52611222694c689eba235331cf73cd69308ea763720a4987eede99657c176e94274169a8063af5b11f8eba7990";

impl Authority {
    const fn pin(self) -> &'static str {
        match self {
            Self::Devices => DEVICE_ROOT,
            Self::Manifests => MANIFEST_ROOT,
        }
    }

    const fn title(self) -> &'static str {
        match self {
            Self::Devices => "root of the GPU's certificates",
            Self::Manifests => "root of the reference manifest's certificates",
        }
    }

    const fn vendor(self) -> &'static str {
        match self {
            Self::Devices => "NVIDIA's root for devices",
            Self::Manifests => "NVIDIA's root for reference manifests",
        }
    }
}

/// Judges `root`, the last certificate of a chain. Returns its class and a row, or the row that refuses it.
///
/// NVIDIA's roots are known by their keys only, so their dates are ignored. A development root must be within its dates.
pub(super) fn judge(
    authority: Authority,
    root: &Parsed,
    policy: &Policy,
    now: u64,
) -> Result<(RootClass, Check), Box<Check>> {
    let title = authority.title();
    let refused = |error: CertificateError| {
        Box::new(Check::fail(
            "gpu.root",
            title,
            chain(&error),
            OTHER_ROOT_ADVICE,
        ))
    };
    let digest = hex::encode(root.key_sha384().map_err(refused)?);
    if DevelopmentRoot::parse(&root.der).is_ok() {
        if !policy.development_roots.contains(&root.der) {
            return Err(Check::fail("gpu.root", title, NOT_NAMED, NAME_ROOT)
                .expected(authority.vendor())
                .found(fingerprint(&digest))
                .into());
        }
        roots::check_dates(
            roots::DEVELOPMENT_ROOT,
            roots::validity(&root.certificate),
            now,
        )
        .map_err(|error| refused(error.into()))?;
        let row = Check::note("gpu.root", title, SIMULATED)
            .found("a development root, named by the policy");
        return Ok((RootClass::Development, row));
    }
    if digest != authority.pin() {
        return Err(
            Check::fail("gpu.root", title, OTHER_ROOT, OTHER_ROOT_ADVICE)
                .expected(format!(
                    "{}: key with SHA-384 {}",
                    authority.vendor(),
                    authority.pin()
                ))
                .found(format!("key with SHA-384 {digest}"))
                .into(),
        );
    }
    let row = Check::pass("gpu.root", title, authority.vendor());
    Ok((RootClass::Vendor, row))
}

/// Returns the development roots, each in DER, that the given chains and manifests end in.
///
/// A simulated guest trusts these, because it protects nothing and so accepts any simulated GPU. A verifier must take its
/// development roots from its own policy instead.
#[must_use]
pub fn presented_roots(chains: &[&[u8]], rims: &[&[u8]]) -> Vec<Vec<u8>> {
    let of_device = |pem: &&[u8]| Some(DeviceChain::parse(pem).ok()?.certificates.pop()?.der);
    let of_manifest = |xml: &&[u8]| Some(Rim::parse(xml).ok()?.chain().last()?.der.clone());
    let presented = chains.iter().filter_map(of_device);
    let mut roots: Vec<Vec<u8>> = presented
        .chain(rims.iter().filter_map(of_manifest))
        .collect();
    roots.retain(|der| DevelopmentRoot::parse(der).is_ok());
    roots.sort_unstable();
    roots.dedup();
    roots
}

fn fingerprint(digest: &str) -> String {
    format!("development root, key with SHA-384 {digest}")
}

const OTHER_ROOT: &str =
    "the chain ends in a root that is not NVIDIA's: anybody can make such a chain";
const OTHER_ROOT_ADVICE: &str =
    "do not use this machine: no genuine GPU and no manifest of NVIDIA's has such a root";
const NOT_NAMED: &str = "development root not named: this comes from a simulated GPU, and no development root for it was named";
const NAME_ROOT: &str = "use a machine with a real GPU; to try a simulated one, name its root with --trust-root, knowing that nothing keeps its host from reading what you send";
const SIMULATED: &str = "this is a simulated GPU under a development root that you named: everything is checked as on a real one, but nothing keeps the host from reading what you send";
