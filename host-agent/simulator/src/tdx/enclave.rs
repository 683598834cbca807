//! The TD quoting enclave: its report, and the certification data of its quotes, which contain that report, the PCK's
//! signature over it, and the PCK's certificate chain.

use p256::ecdsa::SigningKey;
use sha2::{Digest, Sha256};

use super::quote::{append, coordinates, raw_signature};
use crate::tdx::identity::{CPU_SVN, IntelIdentity};
use crate::x509::{self, PrivateKey, X509Error};

/// Product id (ISVPRODID) of the TD quoting enclave.
pub const QE_PROD_ID: u16 = 2;
/// Security version (ISVSVN) of the TD quoting enclave.
pub const QE_SVN: u16 = 6;
/// Attributes of the quoting enclave: initialised, 64-bit mode, provisioning key; not debuggable.
pub const QE_ATTRIBUTES: [u8; 16] = [0x15, 0, 0, 0, 0, 0, 0, 0, 0xe7, 0, 0, 0, 0, 0, 0, 0];

const PCK_CHAIN: u16 = 5;

/// The meaningful fields of a quoting enclave's SGX report. Tests can set each of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuotingEnclave {
    /// Security versions of the platform's TCB (CPUSVN).
    pub cpu_svn: [u8; 16],
    /// Extended features of its state save area (MISCSELECT).
    pub misc_select: u32,
    /// Enclave attributes.
    pub attributes: [u8; 16],
    /// Measurement of the enclave's code (MRENCLAVE).
    pub mr_enclave: [u8; 32],
    /// Signer of the enclave (MRSIGNER).
    pub mr_signer: [u8; 32],
    /// Product id (ISVPRODID).
    pub prod_id: u16,
    /// Security version (ISVSVN).
    pub svn: u16,
    /// Report data, or `None` for the hash that binds the attestation key.
    pub report_data: Option<[u8; 64]>,
}

impl QuotingEnclave {
    /// Returns a valid quoting enclave.
    #[must_use]
    pub fn good() -> Self {
        Self {
            cpu_svn: CPU_SVN,
            misc_select: 0,
            attributes: QE_ATTRIBUTES,
            mr_enclave: Sha256::digest(b"cocoon simulated quoting enclave code").into(),
            mr_signer: qe_mr_signer(),
            prod_id: QE_PROD_ID,
            svn: QE_SVN,
            report_data: None,
        }
    }

    /// Returns the 384 bytes of the SGX report of an enclave that holds the key with these coordinates.
    fn report(&self, public: &[u8; 64], authentication_data: &[u8]) -> Vec<u8> {
        let report_data = self.report_data.unwrap_or_else(|| {
            let named = Sha256::new()
                .chain_update(public)
                .chain_update(authentication_data)
                .finalize();
            let mut report_data = [0; 64];
            report_data[..32].copy_from_slice(&named);
            report_data
        });
        let mut report = self.cpu_svn.to_vec();
        report.extend(self.misc_select.to_le_bytes());
        report.extend([0; 28]);
        report.extend(self.attributes);
        report.extend(self.mr_enclave);
        report.extend([0; 32]);
        report.extend(self.mr_signer);
        report.extend([0; 96]);
        report.extend(self.prod_id.to_le_bytes());
        report.extend(self.svn.to_le_bytes());
        report.extend([0; 60]);
        report.extend(report_data);
        report
    }

    /// Returns the certification data for quotes that `attestation_key` signs. It depends only on keys and certificates.
    pub(super) fn certify(
        &self,
        attestation_key: &SigningKey,
        identity: &IntelIdentity,
    ) -> Result<Vec<u8>, X509Error> {
        let authentication_data = Sha256::digest(b"cocoon simulated quoting enclave");
        let mut data = self.report(&coordinates(attestation_key), &authentication_data);
        let PrivateKey::P256(pck) = &identity.pck.key else {
            return Err(X509Error::Key {
                operation: "use",
                reason: "the PCK is not on P-256".into(),
            });
        };
        data.extend(raw_signature(pck, &data));
        data.extend(32_u16.to_le_bytes());
        data.extend(authentication_data);
        let chain = x509::pem(&[
            &identity.pck.certificate,
            &identity.pck_ca.certificate,
            &identity.root.certificate,
        ])?;
        append(&mut data, PCK_CHAIN, chain.as_bytes());
        Ok(data)
    }
}

/// Signer of the simulated quoting enclave.
#[must_use]
pub fn qe_mr_signer() -> [u8; 32] {
    Sha256::digest(b"cocoon simulated quoting enclave signer").into()
}
