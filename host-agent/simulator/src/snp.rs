//! The SEV-SNP firmware in software: a chip with its key, its reports, and AMD's chain above it.

pub mod identity;
pub mod report;

use cocoon_protocol::bytes::Hex64;

use crate::x509::{self, X509Error};

pub use identity::AmdIdentity;
pub use report::{SnpReport, Tcb};

/// A simulated SEV-SNP platform.
#[derive(Debug)]
pub struct SnpSimulator<'a> {
    identity: &'a AmdIdentity,
}

impl<'a> SnpSimulator<'a> {
    /// A platform whose chip key is certified by `identity`.
    #[must_use]
    pub fn new(identity: &'a AmdIdentity) -> Self {
        Self { identity }
    }

    /// Signs `report`, whatever it says: 1184 bytes.
    ///
    /// # Errors
    /// [`X509Error`] when the chip key is of the wrong kind.
    pub fn report(&self, report: &SnpReport) -> Result<Vec<u8>, X509Error> {
        report::sign(report, &self.identity.vcek.key)
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

    /// VCEK, ASK and ARK, each DER.
    #[must_use]
    pub fn certificates(&self) -> Vec<Vec<u8>> {
        let AmdIdentity { ark, ask, vcek } = self.identity;
        [vcek, ask, ark]
            .map(|identity| identity.certificate.clone())
            .into()
    }

    /// The ARK's revocation list, empty, for these times in seconds since 1970.
    ///
    /// # Errors
    /// [`X509Error`] when a time cannot be written.
    pub fn crl(&self, this_update: u64, next_update: u64) -> Result<Vec<u8>, X509Error> {
        x509::crl(&self.identity.ark, this_update, next_update)
    }
}
