//! The AMD-shaped public key infrastructure: ARK, ASK and the VCEK with its chip's identity and TCB.
//!
//! Layout of the extensions: AMD 57230, VCEK Certificate and KDS Interface Specification, table 8.

use std::str::FromStr;

use x509_cert::der::oid::ObjectIdentifier;
use x509_cert::ext::Extension;

use crate::snp::report::{CHIP_ID, Tcb};
use crate::x509::{self, Identity, KeyKind, PrivateKey, Role, X509Error};

/// The product that is imitated.
pub const PRODUCT: &str = "Milan-B0";

const AMD: &str = "1.3.6.1.4.1.3704.1";

/// All AMD-shaped keys and certificates.
#[derive(Debug)]
pub struct AmdIdentity {
    /// The development root, in the place of AMD's root key.
    pub ark: Identity,
    /// Issues chip certificates.
    pub ask: Identity,
    /// The chip's key, for the TCB of [`Tcb::CURRENT`].
    pub vcek: Identity,
}

impl AmdIdentity {
    /// Makes keys and certificates; the RSA keys take seconds, so `progress` is told before each.
    ///
    /// # Errors
    /// [`X509Error`] when something cannot be encoded.
    pub fn generate(progress: &mut dyn FnMut(&str)) -> Result<Self, X509Error> {
        let mut make = |name: &str, kind, role, issuer: Option<&Identity>, further| {
            if kind == KeyKind::Rsa {
                progress(&format!(
                    "making the development key {name} (RSA, some seconds)"
                ));
            }
            let key = PrivateKey::generate(kind)?;
            let subject = format!("CN={name},O=Cocoon Simulator");
            let certificate = x509::issue(&key, &subject, role, issuer, further)?;
            Ok::<_, X509Error>(Identity { key, certificate })
        };
        let ark = make("ARK-Milan", KeyKind::Rsa, Role::Root, None, vec![])?;
        let ask = make(
            "SEV-Milan",
            KeyKind::Rsa,
            Role::Intermediate,
            Some(&ark),
            vec![],
        )?;
        let vcek = make(
            "SEV-VCEK",
            KeyKind::P384,
            Role::Leaf,
            Some(&ask),
            vcek_extensions(&Tcb::CURRENT, &CHIP_ID)?,
        )?;
        Ok(Self { ark, ask, vcek })
    }

    /// Certifies the chip key for another TCB or chip: what a report is compared with.
    ///
    /// # Errors
    /// [`X509Error`] when something cannot be encoded.
    pub fn certify_vcek(&self, tcb: &Tcb, chip_id: &[u8; 64]) -> Result<Vec<u8>, X509Error> {
        self.certify_vcek_saying(vcek_extensions(tcb, chip_id)?)
    }

    /// Certifies the chip key with these extensions, whatever they say; [`vcek_extensions`] are the good ones.
    ///
    /// # Errors
    /// [`X509Error`] when something cannot be encoded.
    pub fn certify_vcek_saying(&self, extensions: Vec<Extension>) -> Result<Vec<u8>, X509Error> {
        x509::issue(
            &self.vcek.key,
            "CN=SEV-VCEK,O=Cocoon Simulator",
            Role::Leaf,
            Some(&self.ask),
            extensions,
        )
    }
}

/// What the certificate of a chip says of it.
///
/// # Errors
/// [`X509Error`] when something cannot be encoded.
pub fn vcek_extensions(tcb: &Tcb, chip_id: &[u8; 64]) -> Result<Vec<Extension>, X509Error> {
    let number = |arc, value: u8| extension(arc, x509::encoded("number", &value)?);
    Ok(vec![
        // structVersion
        number("1", 0)?,
        extension("2", x509::ia5(PRODUCT)?)?,
        number("3.1", tcb.bootloader)?,
        number("3.2", tcb.tee)?,
        // spl_4 to spl_7: reserved
        number("3.4", 0)?,
        number("3.5", 0)?,
        number("3.6", 0)?,
        number("3.7", 0)?,
        number("3.3", tcb.snp)?,
        number("3.8", tcb.microcode)?,
        // hwID: the bytes themselves, not an ASN.1 string.
        extension("4", chip_id.to_vec())?,
    ])
}

fn extension(arc: &str, content: Vec<u8>) -> Result<Extension, X509Error> {
    let oid = ObjectIdentifier::from_str(&format!("{AMD}.{arc}"))
        .map_err(|error| x509::der("object identifier")(error.into()))?;
    x509::raw_extension(oid, false, content)
}
