//! The SEV-SNP firmware in software: a chip with its key, its reports, and AMD's certificate chain. Supports every
//! generation and every report version that verifiers know, signed with a VCEK or a VLEK.

pub mod generation;
pub mod identity;
pub mod report;

use cocoon_protocol::bytes::Hex64;

use crate::x509::{self, X509Error};

pub use generation::Generation;
pub use identity::{AmdIdentity, Provider};
pub use report::{SigningKey, SnpReport, Tcb};

/// A simulated SEV-SNP platform.
#[derive(Debug)]
pub struct SnpSimulator<'a> {
    identity: &'a AmdIdentity,
    provider: Option<&'a Provider>,
}

impl<'a> SnpSimulator<'a> {
    /// Returns a platform whose chip key `identity` certifies.
    #[must_use]
    pub fn new(identity: &'a AmdIdentity) -> Self {
        Self {
            identity,
            provider: None,
        }
    }

    /// Returns a platform with the VLEK of `provider`, below the root of `identity`.
    #[must_use]
    pub fn of_provider(identity: &'a AmdIdentity, provider: &'a Provider) -> Self {
        Self {
            identity,
            provider: Some(provider),
        }
    }

    /// Signs any report and returns its 1184 bytes.
    ///
    /// # Errors
    /// [`X509Error`] if the signing key is of the wrong kind.
    pub fn report(&self, report: &SnpReport) -> Result<Vec<u8>, X509Error> {
        self.signed(report.to_bytes())
    }

    /// Signs any bytes in place of a report. Overwrites a signature in them.
    ///
    /// # Errors
    /// As [`Self::report`].
    pub fn signed(&self, bytes: [u8; report::REPORT_LEN]) -> Result<Vec<u8>, X509Error> {
        let own = &self.identity.vcek;
        let identity = self.provider.map_or(own, |provider| &provider.vlek);
        report::sign(bytes, &identity.key)
    }

    /// Signs `report` with other report data.
    ///
    /// # Errors
    /// As [`Self::report`].
    pub fn report_over(
        &self,
        report: &SnpReport,
        report_data: &Hex64,
    ) -> Result<Vec<u8>, X509Error> {
        self.report(&SnpReport {
            report_data: report_data.0,
            ..report.clone()
        })
    }

    /// Returns VCEK, ASK and ARK, or VLEK, ASVK and ARK, each in DER.
    #[must_use]
    pub fn certificates(&self) -> Vec<Vec<u8>> {
        let AmdIdentity { ark, ask, vcek, .. } = self.identity;
        let (vek, intermediate) = match self.provider {
            None => (vcek, ask),
            Some(Provider { asvk, vlek }) => (vlek, asvk),
        };
        [vek, intermediate, ark]
            .map(|identity| identity.certificate.clone())
            .into()
    }

    /// Returns an empty revocation list of the ARK for these times, in Unix seconds.
    ///
    /// # Errors
    /// [`X509Error`] if a time cannot be encoded.
    pub fn crl(&self, this_update: u64, next_update: u64) -> Result<Vec<u8>, X509Error> {
        x509::crl(&self.identity.ark, this_update, next_update, &[])
    }

    /// Returns a revocation list of the ARK that revokes `certificate` (ASK or ASVK, in DER).
    ///
    /// # Errors
    /// As [`Self::crl`], and if `certificate` is not a certificate.
    pub fn crl_revoking(
        &self,
        certificate: &[u8],
        this_update: u64,
        next_update: u64,
    ) -> Result<Vec<u8>, X509Error> {
        x509::crl(&self.identity.ark, this_update, next_update, &[certificate])
    }
}
