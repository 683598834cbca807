//! The AMD-shaped public key infrastructure: ARK, ASK and the VCEK with its chip's identity and TCB, or ASVK and the VLEK of
//! a provider.
//!
//! Layout of the extensions: AMD 57230, VCEK Certificate and KDS Interface Specification, tables 8 to 10.

use std::str::FromStr;

use x509_cert::der::oid::ObjectIdentifier;
use x509_cert::ext::Extension;

use crate::snp::generation::Generation;
use crate::snp::report::{CHIP_ID, Tcb};
use crate::x509::{self, Identity, KeyKind, PrivateKey, RSA_BITS, Role, X509Error};

/// The provider that is imitated, as a VLEK names it (`CSP_ID`).
pub const PROVIDER: &str = "Cocoon Simulator";

const AMD: &str = "1.3.6.1.4.1.3704.1";

/// All AMD-shaped keys and certificates.
#[derive(Debug)]
pub struct AmdIdentity {
    /// The processor that is imitated.
    pub generation: Generation,
    /// The development root, in the place of AMD's root key.
    pub ark: Identity,
    /// Issues chip certificates.
    pub ask: Identity,
    /// The chip's key, for the TCB of [`Generation::tcb`].
    pub vcek: Identity,
}

/// A cloud provider's key and what AMD certifies it with.
#[derive(Debug)]
pub struct Provider {
    /// Issues providers' certificates.
    pub asvk: Identity,
    /// The provider's key, for the same TCB as the chip's.
    pub vlek: Identity,
}

impl AmdIdentity {
    /// Makes keys and certificates of Milan; the RSA keys take seconds, so `progress` is told before each.
    ///
    /// # Errors
    /// [`X509Error`] when something cannot be encoded.
    pub fn generate(progress: &mut dyn FnMut(&str)) -> Result<Self, X509Error> {
        Self::generate_sized(RSA_BITS, progress)
    }

    /// The same with RSA keys of so many bits: AMD's have 4096.
    ///
    /// # Errors
    /// As [`Self::generate`].
    pub fn generate_sized(
        rsa_bits: usize,
        progress: &mut dyn FnMut(&str),
    ) -> Result<Self, X509Error> {
        let mut authority = |name: &str, role, issuer: Option<&Identity>| {
            progress(&format!(
                "making the development key {name} (RSA, some seconds)"
            ));
            certified(PrivateKey::generate_rsa(rsa_bits)?, name, role, issuer)
        };
        let ark = authority("ARK-Milan", Role::Root, None)?;
        let ask = authority("SEV-Milan", Role::Intermediate, Some(&ark))?;
        let generation = Generation::Milan;
        let key = PrivateKey::generate(KeyKind::P384)?;
        let extensions = vcek_extensions(generation, &Tcb::CURRENT, &CHIP_ID)?;
        let vcek = leaf(key, "SEV-VCEK", &ask, extensions)?;
        Ok(Self {
            generation,
            ark,
            ask,
            vcek,
        })
    }

    /// The same keys under the names, TCB and chip of another generation: another root, for a verifier.
    ///
    /// # Errors
    /// [`X509Error`] when something cannot be encoded.
    pub fn of(&self, generation: Generation) -> Result<Self, X509Error> {
        let name = generation.name();
        let ark = certified(
            self.ark.key.copy()?,
            &format!("ARK-{name}"),
            Role::Root,
            None,
        )?;
        let ask = certified(
            self.ask.key.copy()?,
            &format!("SEV-{name}"),
            Role::Intermediate,
            Some(&ark),
        )?;
        let extensions = vcek_extensions(generation, &generation.tcb(), &generation.chip_id())?;
        let vcek = leaf(self.vcek.key.copy()?, "SEV-VCEK", &ask, extensions)?;
        Ok(Self {
            generation,
            ark,
            ask,
            vcek,
        })
    }

    /// A provider with keys of its own below the same root.
    ///
    /// # Errors
    /// [`X509Error`] when something cannot be encoded.
    pub fn provider(&self) -> Result<Provider, X509Error> {
        let key = PrivateKey::generate(KeyKind::Rsa)?;
        let name = format!("SEV-VLEK-{}", self.generation.name());
        let asvk = certified(key, &name, Role::Intermediate, Some(&self.ark))?;
        let extensions = vlek_extensions(self.generation, &self.generation.tcb())?;
        let key = PrivateKey::generate(KeyKind::P384)?;
        let vlek = leaf(key, "SEV-VLEK", &asvk, extensions)?;
        Ok(Provider { asvk, vlek })
    }

    /// Certifies the chip key for another TCB or chip: what a report is compared with.
    ///
    /// # Errors
    /// [`X509Error`] when something cannot be encoded.
    pub fn certify_vcek(&self, tcb: &Tcb, chip_id: &[u8; 64]) -> Result<Vec<u8>, X509Error> {
        self.certify_vcek_saying(vcek_extensions(self.generation, tcb, chip_id)?)
    }

    /// Certifies the chip key with these extensions, whatever they say; [`vcek_extensions`] are the good ones.
    ///
    /// # Errors
    /// [`X509Error`] when something cannot be encoded.
    pub fn certify_vcek_saying(&self, extensions: Vec<Extension>) -> Result<Vec<u8>, X509Error> {
        certificate(&self.vcek.key, "SEV-VCEK", &self.ask, extensions)
    }
}

impl Provider {
    /// Certifies the provider's key with these extensions, whatever they say; [`vlek_extensions`] are the good ones.
    ///
    /// # Errors
    /// [`X509Error`] when something cannot be encoded.
    pub fn certify_saying(&self, extensions: Vec<Extension>) -> Result<Vec<u8>, X509Error> {
        certificate(&self.vlek.key, "SEV-VLEK", &self.asvk, extensions)
    }
}

fn certified(
    key: PrivateKey,
    name: &str,
    role: Role,
    issuer: Option<&Identity>,
) -> Result<Identity, X509Error> {
    let certificate = x509::issue(&key, &subject(name), role, issuer, vec![])?;
    Ok(Identity { key, certificate })
}

fn leaf(
    key: PrivateKey,
    name: &str,
    issuer: &Identity,
    extensions: Vec<Extension>,
) -> Result<Identity, X509Error> {
    let certificate = certificate(&key, name, issuer, extensions)?;
    Ok(Identity { key, certificate })
}

fn certificate(
    key: &PrivateKey,
    name: &str,
    issuer: &Identity,
    extensions: Vec<Extension>,
) -> Result<Vec<u8>, X509Error> {
    x509::issue(key, &subject(name), Role::Leaf, Some(issuer), extensions)
}

fn subject(name: &str) -> String {
    format!("CN={name},O=Cocoon Simulator")
}

/// What the certificate of a chip says of it.
///
/// # Errors
/// [`X509Error`] when something cannot be encoded.
pub fn vcek_extensions(
    generation: Generation,
    tcb: &Tcb,
    chip_id: &[u8; 64],
) -> Result<Vec<Extension>, X509Error> {
    let mut extensions = levels(generation, tcb)?;
    // hwID: the bytes themselves, not an ASN.1 string.
    let length = if tcb.fmc.is_some() { 8 } else { 64 };
    extensions.push(extension("4", chip_id[..length].to_vec())?);
    Ok(extensions)
}

/// What the certificate of a provider says: the TCB and its name, and of no chip.
///
/// # Errors
/// [`X509Error`] when something cannot be encoded.
pub fn vlek_extensions(generation: Generation, tcb: &Tcb) -> Result<Vec<Extension>, X509Error> {
    let mut extensions = levels(generation, tcb)?;
    extensions.push(extension("5", x509::ia5(PROVIDER)?)?);
    Ok(extensions)
}

fn levels(generation: Generation, tcb: &Tcb) -> Result<Vec<Extension>, X509Error> {
    let number = |arc, value: u8| extension(arc, x509::encoded("number", &value)?);
    let mut extensions = vec![
        // structVersion
        number("1", u8::from(tcb.fmc.is_some()))?,
        extension("2", x509::ia5(generation.product())?)?,
        number("3.1", tcb.bootloader)?,
        number("3.2", tcb.tee)?,
        // spl_5 to spl_7: reserved
        number("3.5", 0)?,
        number("3.6", 0)?,
        number("3.7", 0)?,
        number("3.3", tcb.snp)?,
        number("3.8", tcb.microcode)?,
    ];
    // In the place of another reserved level.
    extensions.push(match tcb.fmc {
        Some(fmc) => number("3.9", fmc)?,
        None => number("3.4", 0)?,
    });
    Ok(extensions)
}

fn extension(arc: &str, content: Vec<u8>) -> Result<Extension, X509Error> {
    let oid = ObjectIdentifier::from_str(&format!("{AMD}.{arc}"))
        .map_err(|error| x509::der("object identifier")(error.into()))?;
    x509::raw_extension(oid, false, content)
}
