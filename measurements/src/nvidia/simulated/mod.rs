//! A simulated NVIDIA and its GPUs: evidence, manifests and OCSP responses in the real formats, under development roots.
//!
//! Compiled only for tests and with the feature `simulated` (fuzz targets, the simulator), which nothing shipped enables.
//! All keys are derived from a seed, so that every run has the same and they protect nothing.
//!
//! | module | makes |
//! |---|---|
//! | [`pki`] | keys and certificates |
//! | [`report`] | SPDM reports with opaque data |
//! | [`manifest`] | signed reference manifests |
//! | [`status`] | OCSP responses |
//! | [`Scene`] | all of these for one good GPU |

pub mod manifest;
pub mod pki;
pub mod report;
mod scene;
pub mod status;

use cocoon_protocol::bytes::Hex32;
use x509_cert::der::{Any, Encode as _, Tag, asn1::OctetString, oid::ObjectIdentifier};

pub use manifest::ManifestParts;
pub use pki::{Error, Identity, Key, Role, Template};
pub use report::ReportParts;
pub use scene::Scene;
pub use status::{Status, Times};

/// SHA-384, the algorithm of a firmware digest.
const SHA384: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.2");
/// Extension with the firmware digest in an attestation key's certificate.
const FIRMWARE_ID: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.23.133.5.4.1");

/// NVIDIA's certificate authorities for devices and for reference manifests.
#[derive(Debug)]
pub struct Nvidia {
    /// Device authorities: root, product line, provisioner.
    pub devices: [Identity; 3],
    /// Manifest authorities: root, reference values, issuer of signers; and last, a signer.
    pub manifests: [Identity; 4],
}

/// A simulated GPU.
#[derive(Debug)]
pub struct Gpu {
    /// Device identity, which never changes.
    pub identity: Identity,
    /// Attestation key of the current firmware.
    pub attestation: Identity,
    /// SHA-384 digest of that firmware.
    pub firmware_id: [u8; 48],
}

impl Nvidia {
    /// Derives the authorities from `seed`.
    ///
    /// # Errors
    /// [`Error`] if a structure cannot be encoded.
    pub fn new(seed: &str) -> Result<Self, Error> {
        let key = |what: &str| Key::from_seed(&format!("{seed} {what}"));
        let root = |name: &str, what: &str| {
            let name = format!("O=NVIDIA,CN={name}");
            Template::new(&name, Role::Root).self_signed(key(what)?)
        };
        let below = |name: &str, role, above: &Identity, what: &str| {
            let name = format!("O=NVIDIA Corporation,CN={name}");
            Template::new(&name, role).issued(key(what)?, above)
        };
        let authority = Role::Authority(None);
        let top = root("Simulated Device Identity CA", "device root")?;
        let line = below("Simulated GH100 Identity", authority, &top, "line")?;
        let provisioner = below(
            "Simulated GH100 Provisioner ICA 1",
            authority,
            &line,
            "provisioner",
        )?;
        let manifests = root("Simulated CoRIM signing Root CA", "manifest root")?;
        let values = below(
            "Simulated Reference Value GH100 CA",
            authority,
            &manifests,
            "values",
        )?;
        let name = "Simulated Reference Value L3 GH100 001";
        let above = below(name, Role::Authority(Some(0)), &values, "above signers")?;
        let signer = below(
            "Simulated HCC RIM L4 Signer",
            Role::Signer,
            &above,
            "signer",
        )?;
        Ok(Self {
            devices: [top, line, provisioner],
            manifests: [manifests, values, above, signer],
        })
    }

    /// Makes a GPU with the serial number `serial`.
    ///
    /// # Errors
    /// [`Error`] if a structure cannot be encoded.
    pub fn gpu(&self, serial: &str) -> Result<Gpu, Error> {
        let [_, _, provisioner] = &self.devices;
        let name = format!("CN=GH100 A01 GSP BROM,O=NVIDIA Corporation,C=US,SERIALNUMBER={serial}");
        let identity = Template::new(&name, Role::Authority(None))
            .issued(Key::from_seed(&format!("identity {serial}"))?, provisioner)?;
        let key = Key::from_seed(&format!("attestation {serial}"))?;
        let name =
            format!("CN=GH100 A01 GSP FMC LF,O=NVIDIA Corporation,C=US,SERIALNUMBER={serial}");
        let firmware_id = [0xf1; 48];
        let attestation = Template::new(&name, Role::Signer)
            .with(
                FIRMWARE_ID,
                false,
                composite_device_id(&identity.key, &firmware_id)?,
            )
            .issued(key, &identity)?;
        Ok(Gpu {
            identity,
            attestation,
            firmware_id,
        })
    }

    /// Returns the certificate chain of `gpu` in PEM, the leaf first.
    ///
    /// # Errors
    /// [`Error`] if a certificate cannot be encoded.
    pub fn chain(&self, gpu: &Gpu) -> Result<String, Error> {
        let [root, line, provisioner] = &self.devices;
        pki::pem(&[&gpu.attestation, &gpu.identity, provisioner, line, root])
    }

    /// Returns the two development roots, in DER, for a policy.
    #[must_use]
    pub fn roots(&self) -> Vec<Vec<u8>> {
        let ([devices, ..], [manifests, ..]) = (&self.devices, &self.manifests);
        vec![devices.certificate.clone(), manifests.certificate.clone()]
    }

    /// Returns a signed reference manifest in XML.
    ///
    /// # Errors
    /// [`Error`] if the manifest cannot be encoded.
    pub fn manifest(&self, parts: &ManifestParts) -> Result<String, Error> {
        let [root, values, above, signer] = &self.manifests;
        parts.signed(&signer.key, &[signer, above, values, root])
    }

    /// Returns the certificates of `gpu`'s chain and of the manifests' that can be revoked, each with its issuer.
    #[must_use]
    pub fn revocable<'a>(&'a self, gpu: &'a Gpu) -> Vec<(&'a Identity, &'a Identity)> {
        let ([root, line, provisioner], [top, values, above, signer]) =
            (&self.devices, &self.manifests);
        vec![
            (&gpu.identity, provisioner),
            (provisioner, line),
            (line, root),
            (signer, above),
            (above, values),
            (values, top),
        ]
    }

    /// Returns OCSP responses that call all these certificates good.
    ///
    /// # Errors
    /// [`Error`] if a response cannot be encoded.
    pub fn good(&self, gpu: &Gpu, times: Times) -> Result<Vec<Vec<u8>>, Error> {
        self.revocable(gpu)
            .into_iter()
            .map(|(subject, issuer)| status::response(subject, issuer, Status::Good, times))
            .collect()
    }
}

impl Gpu {
    /// Returns the device identity's digest, as verdicts show it.
    ///
    /// # Errors
    /// [`Error`] if the key cannot be encoded.
    pub fn device(&self) -> Result<Hex32, Error> {
        Ok(Hex32::sha256(&self.identity.key.public()?.to_der()?))
    }
}

/// Encodes the extension in which the boot ROM names the firmware, in the certificate of the attestation key.
fn composite_device_id(identity: &Key, firmware: &[u8; 48]) -> Result<Vec<u8>, Error> {
    let firmware = [SHA384.to_der()?, OctetString::new(&firmware[..])?.to_der()?];
    sequence(&[
        1_u8.to_der()?,
        identity.public()?.to_der()?,
        sequence(&firmware)?,
    ])
}

/// Encodes a DER sequence of parts that are DER.
fn sequence(parts: &[Vec<u8>]) -> Result<Vec<u8>, Error> {
    Ok(Any::new(Tag::Sequence, parts.concat())?.to_der()?)
}
