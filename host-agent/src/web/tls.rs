//! The server's certificate: read at start, and again when its files have changed, so that a renewed one is used without a
//! restart. Only TLS 1.3 is offered, with the cryptographic provider that the rest of the project uses.

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use super::TlsFiles;

/// Most bytes of a PEM file.
const MAX_PEM: u64 = 1 << 20;
/// Shortest interval between checks of the files.
const LOOK: Duration = Duration::from_secs(60);

/// Why the files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {path:?}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// A file does not hold what it should.
    #[error("{path:?} holds no {what} in PEM")]
    Pem {
        /// The file.
        path: PathBuf,
        /// What the file should hold.
        what: &'static str,
    },
    /// Certificate and key do not match, or the key's algorithm is not supported.
    #[error("certificate {certificate:?} and key {key:?} cannot be used together")]
    Unusable {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// The TLS library's error.
        #[source]
        source: rustls::Error,
    },
}

/// Modification times of the certificate and its key.
type Seen = [Option<SystemTime>; 2];

/// The certificate in use.
pub(super) struct Tls {
    files: TlsFiles,
    acceptor: TlsAcceptor,
    /// Modification times of the files in use.
    seen: Seen,
    /// Modification times of newer files that could not be used.
    refused: Option<Seen>,
    looked: Instant,
}

impl Tls {
    pub(super) fn load(files: &TlsFiles) -> Result<Self, TlsError> {
        let seen = changed(files);
        Ok(Self {
            acceptor: acceptor(files)?,
            files: files.clone(),
            seen,
            refused: None,
            looked: Instant::now(),
        })
    }

    /// Returns the acceptor for the next connection. `note` is told of new files that cannot be used.
    pub(super) fn acceptor(&mut self, note: &dyn Fn(&str)) -> TlsAcceptor {
        if self.looked.elapsed() >= LOOK {
            self.looked = Instant::now();
            self.look(note);
        }
        self.acceptor.clone()
    }

    /// Loads changed files. Files that cannot be used, usually because a renewal is incomplete, leave the old certificate
    /// in use. This is reported once, and again when it is resolved, because the old certificate will expire.
    fn look(&mut self, note: &dyn Fn(&str)) {
        let (seen, path) = (changed(&self.files), self.files.certificate.display());
        if seen != self.seen {
            match acceptor(&self.files) {
                Ok(acceptor) => (self.acceptor, self.seen) = (acceptor, seen),
                Err(_) if self.refused == Some(seen) => return,
                Err(error) => {
                    self.refused = Some(seen);
                    return note(&format!(
                        "the renewed certificate in {path} cannot be used, and the one before it goes on until it ends: {}",
                        crate::text::chain(&error)
                    ));
                }
            }
        }
        if self.refused.take().is_some() {
            note(&format!("the certificate in {path} is in use"));
        }
    }
}

fn changed(files: &TlsFiles) -> Seen {
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
        .and_then(|file| file.take(MAX_PEM + 1).read_to_end(&mut bytes))
        .and_then(|length| match length as u64 > MAX_PEM {
            true => Err(io::Error::other(format!(
                "it has more than {MAX_PEM} bytes: name a file with nothing but certificates or a key in PEM"
            ))),
            false => Ok(()),
        })
        .map_err(|source| TlsError::Read {
            path: path.to_owned(),
            source,
        })?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::fs;

    use super::*;

    /// A failed renewal is reported once, and so is its resolution.
    #[test]
    fn a_renewed_certificate_that_cannot_be_used_is_told_once() {
        let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/web");
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let files = TlsFiles {
            certificate: at("certificate.pem"),
            key: at("key.pem"),
        };
        let begin = SystemTime::now();
        let write = |name: &str, bytes: &[u8], minutes: u64| {
            fs::write(at(name), bytes).unwrap();
            let file = fs::File::options().write(true).open(at(name)).unwrap();
            let written = begin + Duration::from_secs(60 * minutes);
            file.set_modified(written).unwrap();
        };
        let good = |name: &str| fs::read(tests.join(name)).unwrap();
        write("certificate.pem", &good("certificate.pem"), 0);
        write("key.pem", &good("key.pem"), 0);
        let mut tls = Tls::load(&files).unwrap();
        let told = RefCell::new(Vec::new());
        let mut look = || {
            tls.look(&|text| told.borrow_mut().push(text.to_owned()));
            told.take()
        };
        assert_eq!(look(), [""; 0]);
        let shown = at("certificate.pem");
        let refused = format!(
            "the renewed certificate in {} cannot be used, and the one before it goes on until it ends: {shown:?} holds no \
             certificates in PEM",
            shown.display()
        );
        write("certificate.pem", b"", 1);
        assert_eq!((look(), look()), (vec![refused.clone()], vec![]));
        write("certificate.pem", b"-----", 2);
        assert_eq!(look(), [refused]);
        write("certificate.pem", &good("certificate.pem"), 3);
        let over = format!("the certificate in {} is in use", shown.display());
        assert_eq!((look(), look()), (vec![over], vec![]));
    }
    #[test]
    fn a_file_that_is_too_long_is_refused_and_not_cut() {
        let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/web");
        let folder = tempfile::tempdir().unwrap();
        let certificate = folder.path().join("certificate.pem");
        let mut bytes = fs::read(tests.join("certificate.pem")).unwrap();
        bytes.resize(1 << 20, b'\n');
        let files = TlsFiles {
            certificate: certificate.clone(),
            key: tests.join("key.pem"),
        };
        fs::write(&certificate, &bytes).unwrap();
        assert!(acceptor(&files).is_ok());
        bytes.push(b'\n');
        fs::write(&certificate, &bytes).unwrap();
        let refused = acceptor(&files).err().unwrap();
        assert_eq!(
            crate::text::chain(&refused),
            format!(
                "cannot read {certificate:?}: it has more than 1048576 bytes: name a file with nothing but certificates or a \
                 key in PEM"
            )
        );
    }
}
