//! Stand-ins for AMD's certificates: ARK, ASK and VCEK with the chip's identity and TCB, or ASVK and VLEK of a provider.
//!
//! Layout of the extensions: AMD 57230, VCEK Certificate and KDS Interface Specification, tables 8 to 10.

use std::str::FromStr;

use x509_cert::der::oid::ObjectIdentifier;
use x509_cert::ext::Extension;

use crate::snp::generation::Generation;
use crate::snp::report::{CHIP_ID, Tcb};
use crate::x509::{self, Identity, KeyKind, PrivateKey, RSA_BITS, Role, X509Error};

/// Name of the simulated cloud provider in a VLEK certificate (`CSP_ID`).
pub const PROVIDER: &str = "Cocoon Simulator";

const AMD: &str = "1.3.6.1.4.1.3704.1";

/// All stand-ins for AMD's keys and certificates.
#[derive(Debug)]
pub struct AmdIdentity {
    /// Generation of the simulated processor.
    pub generation: Generation,
    /// Development root in place of AMD's root key.
    pub ark: Identity,
    /// Intermediate authority that issues chip certificates.
    pub ask: Identity,
    /// Chip key, for the TCB of [`Generation::tcb`].
    pub vcek: Identity,
}

/// A cloud provider's key and the authority that certifies it.
#[derive(Debug)]
pub struct Provider {
    /// Intermediate authority that issues provider certificates.
    pub asvk: Identity,
    /// Provider's key, for the same TCB as that of the chip key.
    pub vlek: Identity,
}

impl AmdIdentity {
    /// Creates keys and certificates for Milan. Calls `progress` before each RSA key, which takes seconds.
    ///
    /// # Errors
    /// [`X509Error`] if encoding fails.
    pub fn generate(progress: &mut dyn FnMut(&str)) -> Result<Self, X509Error> {
        Self::generate_sized(RSA_BITS, progress)
    }

    /// Creates keys and certificates for Milan with RSA keys of `rsa_bits` bits. AMD's have 4096.
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

    /// Certifies the same keys for another generation, with its names, TCB and chip. Verifiers see another root.
    ///
    /// # Errors
    /// [`X509Error`] if encoding fails.
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

    /// Creates a provider with keys of its own below the same root.
    ///
    /// # Errors
    /// [`X509Error`] if encoding fails.
    pub fn provider(&self) -> Result<Provider, X509Error> {
        let key = PrivateKey::generate(KeyKind::Rsa)?;
        let name = format!("SEV-VLEK-{}", self.generation.name());
        let asvk = certified(key, &name, Role::Intermediate, Some(&self.ark))?;
        let extensions = vlek_extensions(self.generation, &self.generation.tcb())?;
        let key = PrivateKey::generate(KeyKind::P384)?;
        let vlek = leaf(key, "SEV-VLEK", &asvk, extensions)?;
        Ok(Provider { asvk, vlek })
    }

    /// Certifies the chip key for another TCB or chip, with which verifiers compare a report.
    ///
    /// # Errors
    /// [`X509Error`] if encoding fails.
    pub fn certify_vcek(&self, tcb: &Tcb, chip_id: &[u8; 64]) -> Result<Vec<u8>, X509Error> {
        self.certify_vcek_saying(vcek_extensions(self.generation, tcb, chip_id)?)
    }

    /// Certifies the chip key with any extensions. [`vcek_extensions`] returns the valid ones.
    ///
    /// # Errors
    /// [`X509Error`] if encoding fails.
    pub fn certify_vcek_saying(&self, extensions: Vec<Extension>) -> Result<Vec<u8>, X509Error> {
        certificate(&self.vcek.key, "SEV-VCEK", &self.ask, extensions)
    }
}

impl Provider {
    /// Certifies the provider's key with any extensions. [`vlek_extensions`] returns the valid ones.
    ///
    /// # Errors
    /// [`X509Error`] if encoding fails.
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

/// Returns the extensions of a chip's certificate.
///
/// # Errors
/// [`X509Error`] if encoding fails.
pub fn vcek_extensions(
    generation: Generation,
    tcb: &Tcb,
    chip_id: &[u8; 64],
) -> Result<Vec<Extension>, X509Error> {
    let mut extensions = levels(generation, tcb)?;
    // hwID contains the plain bytes, not an ASN.1 string.
    let length = if tcb.fmc.is_some() { 8 } else { 64 };
    extensions.push(extension("4", chip_id[..length].to_vec())?);
    Ok(extensions)
}

/// Returns the extensions of a provider's certificate: the TCB and the provider's name, but no chip.
///
/// # Errors
/// [`X509Error`] if encoding fails.
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
    // FMC replaces one more reserved level.
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
