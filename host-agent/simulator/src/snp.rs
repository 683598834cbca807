//! The SEV-SNP firmware in software: a chip with its key, its reports, and AMD's chain above it. Of every generation, in every
//! version of reports that verifiers know, signed with the chip's key or with a provider's.

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
    /// A platform whose chip key is certified by `identity`.
    #[must_use]
    pub fn new(identity: &'a AmdIdentity) -> Self {
        Self {
            identity,
            provider: None,
        }
    }

    /// A platform into which `provider` has loaded its key, below the root of `identity`.
    #[must_use]
    pub fn of_provider(identity: &'a AmdIdentity, provider: &'a Provider) -> Self {
        Self {
            identity,
            provider: Some(provider),
        }
    }

    /// Signs `report`, whatever it says: 1184 bytes.
    ///
    /// # Errors
    /// [`X509Error`] when the chip key is of the wrong kind.
    pub fn report(&self, report: &SnpReport) -> Result<Vec<u8>, X509Error> {
        self.signed(report.to_bytes())
    }

    /// Signs these bytes in the place of a report, whatever they are; a signature that stands there is overwritten.
    ///
    /// # Errors
    /// As [`Self::report`].
    pub fn signed(&self, bytes: [u8; report::REPORT_LEN]) -> Result<Vec<u8>, X509Error> {
        let own = &self.identity.vcek;
        let identity = self.provider.map_or(own, |provider| &provider.vlek);
        report::sign(bytes, &identity.key)
    }

    /// Signs `report` over `report_data`.
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

    /// VCEK, ASK and ARK, or VLEK, ASVK and ARK, each DER.
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

    /// The ARK's revocation list, empty, for these times in seconds since 1970.
    ///
    /// # Errors
    /// [`X509Error`] when a time cannot be written.
    pub fn crl(&self, this_update: u64, next_update: u64) -> Result<Vec<u8>, X509Error> {
        x509::crl(&self.identity.ark, this_update, next_update, &[])
    }

    /// The same with this certificate of the ARK's revoked (ASK or ASVK, DER).
    ///
    /// # Errors
    /// As [`Self::crl`], and when it is no certificate.
    pub fn crl_revoking(
        &self,
        certificate: &[u8],
        this_update: u64,
        next_update: u64,
    ) -> Result<Vec<u8>, X509Error> {
        x509::crl(&self.identity.ark, this_update, next_update, &[certificate])
    }
}
