//! The TDX module and the quoting enclave in software: a platform with its keys, its quotes, and the collateral that Intel
//! would publish for it.

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

/// A simulated TDX platform. Its attestation key lives as long as this value.
#[derive(Debug)]
pub struct TdxSimulator<'a> {
    identity: &'a IntelIdentity,
    attestation_key: SigningKey,
    enclave: Box<QuotingEnclave>,
    /// Certification data, which is the same in every quote and created for the first one.
    certification: OnceLock<Vec<u8>>,
}

impl<'a> TdxSimulator<'a> {
    /// Returns a platform whose provisioning certification key (PCK) `identity` certifies.
    #[must_use]
    pub fn new(identity: &'a IntelIdentity) -> Self {
        Self::with_enclave(identity, QuotingEnclave::good())
    }

    /// Returns a platform with the given quoting enclave. The PCK signs any enclave report.
    #[must_use]
    pub fn with_enclave(identity: &'a IntelIdentity, enclave: QuotingEnclave) -> Self {
        Self {
            identity,
            attestation_key: SigningKey::random(&mut OsRng),
            enclave: Box::new(enclave),
            certification: OnceLock::new(),
        }
    }

    /// Signs any report as a version 4 quote.
    ///
    /// # Errors
    /// [`X509Error`] if the certificate chain cannot be encoded.
    pub fn quote(&self, report: &TdReport) -> Result<Vec<u8>, X509Error> {
        self.signed(QuoteVersion::V4, &report.to_bytes())
    }

    /// Signs any report as a version 5 quote. With `later`, the body is that of TDX 1.5.
    ///
    /// # Errors
    /// As [`Self::quote`].
    pub fn quote_5(&self, report: &TdReport, later: Option<&Later>) -> Result<Vec<u8>, X509Error> {
        let body = later.map_or_else(|| report.to_bytes(), |later| report.to_bytes_15(later));
        self.signed(QuoteVersion::V5, &body)
    }

    /// Signs any bytes in place of a TD report. Version 5 derives the body's type from its length.
    ///
    /// # Errors
    /// As [`Self::quote`].
    pub fn signed(&self, version: QuoteVersion, body: &[u8]) -> Result<Vec<u8>, X509Error> {
        self.sign(version, quote::kind(body.len()), body)
    }

    /// Signs any bytes as a version 5 quote with body type `kind`.
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

    /// Signs `report` with other report data.
    ///
    /// # Errors
    /// As [`Self::quote`].
    pub fn quote_over(&self, report: &TdReport, report_data: &Hex64) -> Result<Vec<u8>, X509Error> {
        self.quote(&TdReport {
            report_data: report_data.0,
            ..report.clone()
        })
    }

    /// Returns the collateral of this platform as JSON of `dcap_qvl::QuoteCollateralV3`.
    ///
    /// # Errors
    /// [`X509Error`] if a certificate, list or date cannot be encoded.
    pub fn collateral(
        &self,
        dates: CollateralDates,
        status: TcbStatus,
    ) -> Result<Vec<u8>, X509Error> {
        self.collateral_revoking(dates, status, Revoked::default())
    }

    /// Returns the collateral of this platform with revocation lists that contain `revoked`.
    ///
    /// # Errors
    /// As [`Self::collateral`], and if an entry is not a certificate.
    pub fn collateral_revoking(
        &self,
        dates: CollateralDates,
        status: TcbStatus,
        revoked: Revoked<'_>,
    ) -> Result<Vec<u8>, X509Error> {
        collateral::json(self.identity, dates, status, revoked)
    }
}
