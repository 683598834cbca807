//! A simulated NVIDIA and its GPUs: evidence, manifests and OCSP responses in the real formats, under development roots.
//!
//! Compiled for tests, and for whoever turns the feature `simulated` on (fuzz targets, the simulator); nothing that is
//! shipped does. Keys follow from a seed, so that everything here is the same in every run and worth nothing to anybody.
//!
//! | module | makes |
//! |---|---|
//! | [`pki`] | keys and certificates |
//! | [`report`] | SPDM reports with opaque data |
//! | [`manifest`] | signed reference manifests |
//! | [`status`] | OCSP responses |
//! | [`Scene`] | all of it for one good GPU |

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

/// SHA-384, as algorithm of a firmware's digest.
const SHA384: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.2");
/// The firmware's digest in an attestation key's certificate.
const FIRMWARE_ID: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.23.133.5.4.1");

/// NVIDIA's authorities: for devices, and for reference manifests.
#[derive(Debug)]
pub struct Nvidia {
    /// Root, product line, provisioner.
    pub devices: [Identity; 3],
    /// Root, reference values, the authority above signers, a signer.
    pub manifests: [Identity; 4],
}

/// One GPU.
#[derive(Debug)]
pub struct Gpu {
    /// The key that it keeps for its life.
    pub identity: Identity,
    /// The key of its present firmware.
    pub attestation: Identity,
    /// That firmware's digest.
    pub firmware_id: [u8; 48],
}

impl Nvidia {
    /// The authorities that follow from `seed`.
    ///
    /// # Errors
    /// [`Error`] when something cannot be encoded.
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

    /// A GPU with the serial number `serial`.
    ///
    /// # Errors
    /// [`Error`] when something cannot be encoded.
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

    /// The certificates of `gpu` in PEM, the leaf first.
    ///
    /// # Errors
    /// [`Error`] when something cannot be encoded.
    pub fn chain(&self, gpu: &Gpu) -> Result<String, Error> {
        let [root, line, provisioner] = &self.devices;
        pki::pem(&[&gpu.attestation, &gpu.identity, provisioner, line, root])
    }

    /// The two development roots, for a policy.
    #[must_use]
    pub fn roots(&self) -> Vec<Vec<u8>> {
        let ([devices, ..], [manifests, ..]) = (&self.devices, &self.manifests);
        vec![devices.certificate.clone(), manifests.certificate.clone()]
    }

    /// A signed reference manifest.
    ///
    /// # Errors
    /// [`Error`] when something cannot be encoded.
    pub fn manifest(&self, parts: &ManifestParts) -> Result<String, Error> {
        let [root, values, above, signer] = &self.manifests;
        parts.signed(&signer.key, &[signer, above, values, root])
    }

    /// What can be revoked of `gpu`'s chain and of the manifests', each beneath its issuer.
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

    /// OCSP responses that call all of it good.
    ///
    /// # Errors
    /// [`Error`] when something cannot be encoded.
    pub fn good(&self, gpu: &Gpu, times: Times) -> Result<Vec<Vec<u8>>, Error> {
        self.revocable(gpu)
            .into_iter()
            .map(|(subject, issuer)| status::response(subject, issuer, Status::Good, times))
            .collect()
    }
}

impl Gpu {
    /// The device's identity, as verdicts show it.
    ///
    /// # Errors
    /// [`Error`] when the key cannot be encoded.
    pub fn device(&self) -> Result<Hex32, Error> {
        Ok(Hex32::sha256(&self.identity.key.public()?.to_der()?))
    }
}

/// What the boot ROM says of the firmware in the certificate of its key.
fn composite_device_id(identity: &Key, firmware: &[u8; 48]) -> Result<Vec<u8>, Error> {
    let firmware = [SHA384.to_der()?, OctetString::new(&firmware[..])?.to_der()?];
    sequence(&[
        1_u8.to_der()?,
        identity.public()?.to_der()?,
        sequence(&firmware)?,
    ])
}

/// A DER sequence of parts that are DER already.
fn sequence(parts: &[Vec<u8>]) -> Result<Vec<u8>, Error> {
    Ok(Any::new(Tag::Sequence, parts.concat())?.to_der()?)
}
