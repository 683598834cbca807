//! Evidence from the kernel's configfs-tsm (`Documentation/ABI/testing/configfs-tsm-report`).

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use cocoon_protocol::binding::Tee as Kind;
use cocoon_protocol::bytes::{Blob, Hex, Hex48, Hex64};
use cocoon_protocol::document::Evidence;
use nix::libc;

use super::{Tee, TeeError, certificate_table, check_asked};
use crate::sys::tdx_report;

const REPORTS: &str = "/sys/kernel/config/tsm/report";
const EVENT_LOG: &str = "/sys/firmware/acpi/tables/data/CCEL";
/// The kernel's own limit for `outblob` and `auxblob`, in bytes.
const MAX_BLOB: u64 = 32 * 1024;
/// Limit for the event log in bytes, more than any firmware reserves for it.
const MAX_EVENT_LOG: u64 = 256 * 1024;

/// The TEE of this machine.
pub struct Tsm {
    entry: PathBuf,
    kind: Kind,
    event_log: Blob,
    /// Held while a report is made, because each outblob belongs to the inblob written before it.
    using: Mutex<()>,
}

impl Tsm {
    /// Opens a report entry. Returns `None` if the kernel has no provider.
    pub fn open() -> Result<Option<Self>, TeeError> {
        Self::open_at(Path::new(REPORTS), Path::new(EVENT_LOG))
    }

    fn open_at(reports: &Path, event_log: &Path) -> Result<Option<Self>, TeeError> {
        let entry = reports.join("cocoon");
        match fs::create_dir(&entry) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(libc::ENXIO) => return Ok(None),
            Err(source) => {
                return Err(TeeError::File {
                    operation: "create",
                    path: entry,
                    source,
                });
            }
        }
        let provider = read(&entry.join("provider"), MAX_BLOB)?;
        let (kind, event_log) = match provider.trim_ascii_end() {
            b"tdx_guest" => (Kind::Tdx, Blob(read(event_log, MAX_EVENT_LOG)?)),
            b"sev_guest" => (Kind::SevSnp, Blob::default()),
            other => {
                return Err(TeeError::Provider(
                    String::from_utf8_lossy(&other[..other.len().min(32)]).into_owned(),
                ));
            }
        };
        Ok(Some(Self {
            entry,
            kind,
            event_log,
            using: Mutex::new(()),
        }))
    }

    /// Returns the digest of the operator's configuration that the launch measured, from a report that the host cannot
    /// forge: on TDX the TD's own report, because a quote passes through the host; on SNP the firmware's report.
    pub fn own_config_digest(&self) -> Result<Hex48, TeeError> {
        match self.kind {
            Kind::Tdx => tdx_report::config_id()
                .map(Hex)
                .map_err(TeeError::OwnReport),
            Kind::SevSnp => check_asked(&self.report(&Hex64::ZERO)?, self.kind, &Hex64::ZERO),
        }
    }

    fn generation(&self) -> Result<u64, TeeError> {
        let path = self.entry.join("generation");
        let text = String::from_utf8(read(&path, 64)?).unwrap_or_default();
        let bad = |_| TeeError::File {
            operation: "read",
            path,
            source: io::ErrorKind::InvalidData.into(),
        };
        text.trim_end().parse().map_err(bad)
    }

    fn outblob(&self, data: &Hex64) -> Result<(Blob, Blob), TeeError> {
        let before = self.generation()?;
        let inblob = self.entry.join("inblob");
        // One write of 64 bytes, because the attribute takes its whole value at once.
        let written = File::options()
            .write(true)
            .open(&inblob)
            .and_then(|mut file| file.write_all(&data.0));
        written.map_err(|source| TeeError::File {
            operation: "write",
            path: inblob,
            source,
        })?;
        let outblob = read(&self.entry.join("outblob"), MAX_BLOB)?;
        let auxblob = match self.kind {
            Kind::SevSnp => read(&self.entry.join("auxblob"), MAX_BLOB)?,
            Kind::Tdx => Vec::new(),
        };
        // Each write to an attribute increments the generation. Any other difference shows a second writer.
        match self.generation()?.wrapping_sub(before) {
            1 => Ok((outblob.into(), auxblob.into())),
            away => Err(TeeError::Race(away)),
        }
    }
}

impl Tee for Tsm {
    fn kind(&self) -> Kind {
        self.kind
    }

    fn report(&self, data: &Hex64) -> Result<Evidence, TeeError> {
        let _using = self.using.lock().unwrap_or_else(PoisonError::into_inner);
        let (outblob, auxblob) = self.outblob(data)?;
        let evidence = match self.kind {
            Kind::Tdx => Evidence::Tdx {
                quote: outblob,
                event_log: self.event_log.clone(),
            },
            Kind::SevSnp => Evidence::SevSnp {
                report: outblob,
                certificates: certificate_table::certificates(&auxblob.0),
            },
        };
        check_asked(&evidence, self.kind, data)?;
        Ok(evidence)
    }
}

/// Reads a file of at most `limit` bytes. A longer file is an error and is not truncated.
fn read(path: &Path, limit: u64) -> Result<Vec<u8>, TeeError> {
    let mut bytes = Vec::new();
    let outcome = File::open(path).and_then(|file| file.take(limit + 1).read_to_end(&mut bytes));
    let outcome = outcome.and_then(|count| match u64::try_from(count) {
        Ok(count) if count <= limit => Ok(()),
        _ => Err(io::ErrorKind::FileTooLarge.into()),
    });
    outcome.map_err(|source| TeeError::File {
        operation: "read",
        path: path.into(),
        source,
    })?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_of_another_generation_is_refused() {
        // A plain folder replaces configfs here. Its generation never changes.
        let folder = tempfile::tempdir().unwrap();
        let entry = folder.path().join("cocoon");
        fs::create_dir(&entry).unwrap();
        for (name, content) in [("generation", "7\n"), ("inblob", ""), ("outblob", "")] {
            fs::write(entry.join(name), content).unwrap();
        }
        let tsm = Tsm {
            entry,
            kind: Kind::Tdx,
            event_log: Blob::default(),
            using: Mutex::new(()),
        };
        let error = tsm.report(&Hex64::ZERO).unwrap_err();
        assert_eq!(
            error.to_string(),
            "report was made 0 generations away from ours: somebody else uses configfs-tsm"
        );
    }

    #[test]
    fn a_missing_configfs_is_an_error_and_not_an_absent_tee() {
        let error = Tsm::open_at(Path::new("/nonexistent"), Path::new("/nonexistent"))
            .err()
            .unwrap();
        assert_eq!(error.to_string(), "cannot create /nonexistent/cocoon");
    }
}
