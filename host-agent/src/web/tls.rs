//! The certificate of the listener: read when it starts, and again when its files have changed, so that a renewed one is
//! used without a restart. TLS 1.3 alone, on the provider that the rest of the system uses.

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use super::TlsFiles;

/// Largest PEM file, in bytes.
const MAX_PEM: u64 = 1 << 20;
/// How often the files are looked at, at most.
const LOOK: Duration = Duration::from_secs(60);

/// Why the files are of no use.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// Not there, or not ours to read.
    #[error("cannot read {path:?}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Not what it should be.
    #[error("{path:?} holds no {what} in PEM")]
    Pem {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        what: &'static str,
    },
    /// They do not belong together, or the key is of an algorithm that is not known.
    #[error("certificate {certificate:?} and key {key:?} cannot be used together")]
    Unusable {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// Why not.
        #[source]
        source: rustls::Error,
    },
}

/// A certificate in use.
pub(super) struct Tls {
    files: TlsFiles,
    acceptor: TlsAcceptor,
    /// What the files were when they were read.
    seen: [Option<SystemTime>; 2],
    looked: Instant,
}

impl Tls {
    pub(super) fn load(files: &TlsFiles) -> Result<Self, TlsError> {
        let seen = changed(files);
        Ok(Self {
            acceptor: acceptor(files)?,
            files: files.clone(),
            seen,
            looked: Instant::now(),
        })
    }

    /// For the next connection. New files that cannot be used, halfway through a renewal as a rule, leave the old ones in
    /// use until they can.
    pub(super) fn acceptor(&mut self) -> TlsAcceptor {
        if self.looked.elapsed() >= LOOK {
            self.looked = Instant::now();
            let seen = changed(&self.files);
            if seen != self.seen
                && let Ok(acceptor) = acceptor(&self.files)
            {
                self.acceptor = acceptor;
                self.seen = seen;
            }
        }
        self.acceptor.clone()
    }
}

fn changed(files: &TlsFiles) -> [Option<SystemTime>; 2] {
    let time = |path: &Path| std::fs::metadata(path).ok()?.modified().ok();
    [time(&files.certificate), time(&files.key)]
}

fn acceptor(files: &TlsFiles) -> Result<TlsAcceptor, TlsError> {
    let pem = |path: &PathBuf, what| TlsError::Pem {
        path: path.clone(),
        what,
    };
    let certificates = read(&files.certificate)?;
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&certificates)
        .collect::<Result<_, _>>()
        .map_err(|_| pem(&files.certificate, "certificates"))?;
    if chain.is_empty() {
        return Err(pem(&files.certificate, "certificates"));
    }
    let key = zeroize::Zeroizing::new(read(&files.key)?);
    let key = PrivateKeyDer::from_pem_slice(&key).map_err(|_| pem(&files.key, "private key"))?;
    let unusable = |source| TlsError::Unusable {
        certificate: files.certificate.clone(),
        key: files.key.clone(),
        source,
    };
    let provider = Arc::new(rustls_graviola::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(unusable)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(unusable)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(MAX_PEM).read_to_end(&mut bytes))
        .map_err(|source| TlsError::Read {
            path: path.to_owned(),
            source,
        })?;
    Ok(bytes)
}
