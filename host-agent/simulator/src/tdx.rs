//! The TDX module and quoting enclave in software: a platform with its keys, its quotes, and the collateral that
//! Intel would publish about it.

pub mod collateral;
pub mod identity;
pub mod quote;

use cocoon_protocol::bytes::Hex64;
use p256::ecdsa::SigningKey;
use rand_core::OsRng;

use crate::x509::X509Error;

pub use collateral::{CollateralDates, TcbStatus};
pub use identity::IntelIdentity;
pub use quote::TdReport;

/// A simulated TDX platform. The attestation key lives as long as this value, as a quoting enclave's would.
#[derive(Debug)]
pub struct TdxSimulator<'a> {
    identity: &'a IntelIdentity,
    attestation_key: SigningKey,
}

impl<'a> TdxSimulator<'a> {
    /// A platform whose provisioning key is certified by `identity`.
    #[must_use]
    pub fn new(identity: &'a IntelIdentity) -> Self {
        Self {
            identity,
            attestation_key: SigningKey::random(&mut OsRng),
        }
    }

    /// Signs `report` as a version 4 quote, whatever the report says.
    ///
    /// # Errors
    /// [`X509Error`] when the certificate chain cannot be written.
    pub fn quote(&self, report: &TdReport) -> Result<Vec<u8>, X509Error> {
        quote::sign(report, &self.attestation_key, self.identity)
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
        collateral::json(self.identity, dates, status)
    }
}
