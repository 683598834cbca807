//! Stand-ins for Intel's certificates: root, PCK platform CA, PCK certificate with the platform's identity and TCB, and the
//! certificate that signs TCB info.
//!
//! Layout of the SGX extensions: Intel SGX PCK Certificate and CRL Profile Specification, revision 1.5, section 1.3.5.

use std::str::FromStr;

use x509_cert::der::asn1::OctetString;
use x509_cert::der::oid::ObjectIdentifier;
use x509_cert::ext::Extension;

use crate::x509::{self, Identity, KeyKind, PrivateKey, Role, X509Error};

/// FMSPC (family, model, stepping, platform and custom SKU) of a processor that does not exist.
pub const FMSPC: [u8; 6] = [0x00, 0xc0, 0xc0, 0x0a, 0x00, 0x00];
/// Id of the provisioning certification enclave (PCE). Intel has only this one.
pub const PCE_ID: [u8; 2] = [0, 0];
/// Security version of the provisioning certification enclave.
pub const PCE_SVN: u16 = 13;
/// Security versions of the 16 components of the platform's TCB.
pub const CPU_SVN: [u8; 16] = [3, 3, 2, 2, 4, 1, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0];

const SGX: &str = "1.2.840.113741.1.13.1";
const PCK: &str = "SGX PCK Certificate";

/// Contents of a PCK certificate's SGX extension. Tests can set each of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PckSays {
    /// Platform provisioning id (PPID).
    pub ppid: [u8; 16],
    /// Security versions of the components of the platform's TCB.
    pub cpu_svn: [u8; 16],
    /// Security version of the provisioning certification enclave.
    pub pce_svn: u16,
    /// Id of the provisioning certification enclave.
    pub pce_id: [u8; 2],
    /// FMSPC of the processor.
    pub fmspc: [u8; 6],
}

impl PckSays {
    /// Contents for the simulated platform.
    pub const GOOD: Self = Self {
        ppid: [0xc0; 16],
        cpu_svn: CPU_SVN,
        pce_svn: PCE_SVN,
        pce_id: PCE_ID,
        fmspc: FMSPC,
    };
}

/// All stand-ins for Intel's keys and certificates.
#[derive(Debug)]
pub struct IntelIdentity {
    /// Development root in place of Intel's SGX root CA.
    pub root: Identity,
    /// Intermediate CA that issues PCK certificates.
    pub pck_ca: Identity,
    /// The platform's provisioning certification key (PCK).
    pub pck: Identity,
    /// Key that signs TCB info and quoting enclave identities.
    pub tcb_signing: Identity,
}

impl IntelIdentity {
    /// Creates keys and certificates.
    ///
    /// # Errors
    /// [`X509Error`] if encoding fails.
    pub fn generate() -> Result<Self, X509Error> {
        let make = |what: &str, role, issuer: Option<&Identity>, further| {
            let key = PrivateKey::generate(KeyKind::P256)?;
            let certificate = x509::issue(&key, &name(what), role, issuer, further)?;
            Ok::<_, X509Error>(Identity { key, certificate })
        };
        let root = make("SGX Root CA", Role::Root, None, vec![])?;
        let pck_ca = make(
            "SGX PCK Platform CA",
            Role::Intermediate,
            Some(&root),
            vec![],
        )?;
        let sgx = sgx_extension(&PckSays::GOOD)?;
        let pck = make(PCK, Role::Leaf, Some(&pck_ca), vec![sgx])?;
        let tcb_signing = make("SGX TCB Signing", Role::Leaf, Some(&root), vec![])?;
        Ok(Self {
            root,
            pck_ca,
            pck,
            tcb_signing,
        })
    }

    /// Certifies the platform's key with any contents.
    ///
    /// # Errors
    /// [`X509Error`] if encoding fails.
    pub fn certify_pck(&self, says: &PckSays) -> Result<Vec<u8>, X509Error> {
        let sgx = vec![sgx_extension(says)?];
        let (key, issuer) = (&self.pck.key, Some(&self.pck_ca));
        x509::issue(key, &name(PCK), Role::Leaf, issuer, sgx)
    }
}

fn name(what: &str) -> String {
    format!("CN=Cocoon Development {what},O=Cocoon Simulator")
}

fn sgx_extension(says: &PckSays) -> Result<Extension, X509Error> {
    let mut tcb = Vec::new();
    for (number, svn) in (1_u16..).zip(says.cpu_svn) {
        tcb.push(entry(
            &format!("2.{number}"),
            x509::encoded("TCB component", &svn)?,
        )?);
    }
    tcb.push(entry("2.17", x509::encoded("PCE SVN", &says.pce_svn)?)?);
    tcb.push(entry("2.18", octets(&says.cpu_svn)?)?);
    // Real servers have these values. Strict verifiers must be configured to accept all three flags.
    let configuration =
        ["7.1", "7.2", "7.3"].map(|flag| entry(flag, x509::encoded("flag", &true)?));
    let configuration = configuration.into_iter().collect::<Result<Vec<_>, _>>()?;
    let content = x509::sequence(&[
        entry("1", octets(&says.ppid)?)?,
        entry("2", x509::sequence(&tcb)?)?,
        entry("3", octets(&says.pce_id)?)?,
        entry("4", octets(&says.fmspc)?)?,
        // ENUMERATED 1 is "Scalable": a server.
        entry("5", vec![0x0a, 1, 1])?,
        entry("6", octets(&[0xc1; 16])?)?,
        entry("7", x509::sequence(&configuration)?)?,
    ])?;
    x509::raw_extension(oid(SGX)?, false, content)
}

fn entry(arc: &str, value: Vec<u8>) -> Result<Vec<u8>, X509Error> {
    x509::sequence(&[
        x509::encoded("object identifier", &oid(&format!("{SGX}.{arc}"))?)?,
        value,
    ])
}

fn octets(bytes: &[u8]) -> Result<Vec<u8>, X509Error> {
    x509::encoded(
        "octet string",
        &OctetString::new(bytes).map_err(x509::der("octet string"))?,
    )
}

fn oid(text: &str) -> Result<ObjectIdentifier, X509Error> {
    ObjectIdentifier::from_str(text).map_err(|error| x509::der("object identifier")(error.into()))
}
