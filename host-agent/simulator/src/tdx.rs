//! The TDX module and quoting enclave in software: a platform with its keys, its quotes, and the collateral that
//! Intel would publish about it.

pub mod collateral;
pub mod enclave;
pub mod identity;
pub mod quote;

use std::sync::OnceLock;

use cocoon_protocol::bytes::Hex64;
use p256::ecdsa::SigningKey;
use rand_core::OsRng;

use crate::x509::X509Error;

pub use collateral::{CollateralDates, Revoked, TcbStatus};
pub use enclave::QuotingEnclave;
pub use identity::{IntelIdentity, PckSays};
pub use quote::{Later, QuoteVersion, TdReport};

/// A simulated TDX platform. The attestation key lives as long as this value, as a quoting enclave's would.
#[derive(Debug)]
pub struct TdxSimulator<'a> {
    identity: &'a IntelIdentity,
    attestation_key: SigningKey,
    enclave: Box<QuotingEnclave>,
    /// Alike in every quote, and made for the first.
    certification: OnceLock<Vec<u8>>,
}

impl<'a> TdxSimulator<'a> {
    /// A platform whose provisioning key is certified by `identity`.
    #[must_use]
    pub fn new(identity: &'a IntelIdentity) -> Self {
        Self::with_enclave(identity, QuotingEnclave::good())
    }

    /// The same with a quoting enclave that reports something else about itself; the PCK signs whatever it is.
    #[must_use]
    pub fn with_enclave(identity: &'a IntelIdentity, enclave: QuotingEnclave) -> Self {
        Self {
            identity,
            attestation_key: SigningKey::random(&mut OsRng),
            enclave: Box::new(enclave),
            certification: OnceLock::new(),
        }
    }

    /// Signs `report` as a version 4 quote, whatever the report says.
    ///
    /// # Errors
    /// [`X509Error`] when the certificate chain cannot be written.
    pub fn quote(&self, report: &TdReport) -> Result<Vec<u8>, X509Error> {
        self.signed(QuoteVersion::V4, &report.to_bytes())
    }

    /// The same as a version 5 quote, of TDX 1.5 where there is something `later`.
    ///
    /// # Errors
    /// As [`Self::quote`].
    pub fn quote_5(&self, report: &TdReport, later: Option<&Later>) -> Result<Vec<u8>, X509Error> {
        let body = later.map_or_else(|| report.to_bytes(), |later| report.to_bytes_15(later));
        self.signed(QuoteVersion::V5, &body)
    }

    /// Signs these bytes in the place of a TD report, whatever they are; version 5 takes their kind from their length.
    ///
    /// # Errors
    /// As [`Self::quote`].
    pub fn signed(&self, version: QuoteVersion, body: &[u8]) -> Result<Vec<u8>, X509Error> {
        self.sign(version, quote::kind(body.len()), body)
    }

    /// The same in version 5, called of this kind.
    ///
    /// # Errors
    /// As [`Self::quote`].
    pub fn signed_as(&self, kind: u16, body: &[u8]) -> Result<Vec<u8>, X509Error> {
        self.sign(QuoteVersion::V5, kind, body)
    }

    fn sign(&self, version: QuoteVersion, kind: u16, body: &[u8]) -> Result<Vec<u8>, X509Error> {
        let key = &self.attestation_key;
        let certification = match self.certification.get() {
            Some(made) => made,
            None => {
                let made = self.enclave.certify(key, self.identity)?;
                self.certification.get_or_init(|| made)
            }
        };
        Ok(quote::sign(version, kind, body, key, certification))
    }

    /// Signs `report` over `report_data`.
    ///
    /// # Errors
    /// As [`Self::quote`].
    pub fn quote_over(&self, report: &TdReport, report_data: &Hex64) -> Result<Vec<u8>, X509Error> {
        self.quote(&TdReport {
            report_data: report_data.0,
            ..report.clone()
        })
    }

    /// The endorsements of this platform, as JSON of `dcap_qvl::QuoteCollateralV3`.
    ///
    /// # Errors
    /// [`X509Error`] when a certificate, list or date cannot be written.
    pub fn collateral(
        &self,
        dates: CollateralDates,
        status: TcbStatus,
    ) -> Result<Vec<u8>, X509Error> {
        self.collateral_revoking(dates, status, Revoked::default())
    }

    /// The same with revocation lists that name these certificates.
    ///
    /// # Errors
    /// As [`Self::collateral`], and when one is no certificate.
    pub fn collateral_revoking(
        &self,
        dates: CollateralDates,
        status: TcbStatus,
        revoked: Revoked<'_>,
    ) -> Result<Vec<u8>, X509Error> {
        collateral::json(self.identity, dates, status, revoked)
    }
}
