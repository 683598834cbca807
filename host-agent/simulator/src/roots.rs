//! The development roots on disk. They are created on first use, kept private, and shared by all simulators that use the
//! same folder, so that clients need to accept them only once.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use x509_cert::Certificate;
use x509_cert::der::{DecodePem, Encode};
use zeroize::Zeroizing;

use cocoon_measurements::nvidia;
use cocoon_protocol::binding::Tee;
use rand_core::{OsRng, RngCore as _};

use crate::nvidia::GpuSimulator;
use crate::snp::{AmdIdentity, Generation};
use crate::tdx::IntelIdentity;
use crate::x509::{self, Identity, KeyKind, PrivateKey, X509Error};

/// Contents of the version file. It is written last, so a folder without it is incomplete. With another number, all keys are
/// created anew.
const VERSION: &str = "cocoon development roots 2\n";
/// File with the seed of NVIDIA's keys.
const NVIDIA: &str = "nvidia.seed";
/// Limit on file size in bytes, above that of any key or certificate here.
const MAX_FILE: u64 = 64 * 1024;

/// Development identities of all vendors.
#[derive(Debug)]
pub struct Roots {
    /// Stand-ins for Intel's keys and certificates.
    pub intel: IntelIdentity,
    /// Stand-ins for AMD's keys and certificates.
    pub amd: AmdIdentity,
    /// Seed from which NVIDIA's keys are derived.
    pub nvidia: String,
}

/// Why the development roots cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum RootsError {
    /// The folder is accessible to other users.
    #[error(
        "{path:?} is open to other users (mode {mode:o}); run `chmod 700` on it, or name another folder"
    )]
    NotPrivate {
        /// Path of the folder.
        path: PathBuf,
        /// Permission bits of the folder.
        mode: u32,
    },
    /// A file operation failed.
    #[error("cannot {operation} {path:?}; check its permissions and free space")]
    File {
        /// Failed operation.
        operation: &'static str,
        /// Path of the file.
        path: PathBuf,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// A file does not contain a valid key or certificate.
    #[error("{path:?} is damaged; remove the folder to have new development roots made")]
    Damaged {
        /// Path of the file.
        path: PathBuf,
        /// Cause.
        #[source]
        source: X509Error,
    },
    /// The development roots cannot be created.
    #[error("cannot make development roots")]
    Make(#[from] X509Error),
}

impl Roots {
    /// Opens the roots in `folder`, and creates both on first use. Calls `progress` before steps that take seconds.
    /// Concurrent processes wait for each other.
    ///
    /// # Errors
    /// [`RootsError`] names the file and the remedy.
    pub fn open(folder: &Path, progress: &mut dyn FnMut(&str)) -> Result<Self, RootsError> {
        let fail = |operation, path: &Path| {
            let path = path.to_owned();
            move |source| RootsError::File {
                operation,
                path,
                source,
            }
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(fail("create", folder))?;
        let mode = fs::metadata(folder)
            .map_err(fail("inspect", folder))?
            .mode()
            & 0o777;
        if mode & 0o077 != 0 {
            return Err(RootsError::NotPrivate {
                path: folder.to_owned(),
                mode,
            });
        }
        let lock_path = folder.join("lock");
        let lock = private()
            .open(&lock_path)
            .map_err(fail("open", &lock_path))?;
        // The lock is held until the end of this function. The kernel releases it if the process dies.
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                progress("waiting for another process that makes the development roots");
                lock.lock().map_err(fail("lock", &lock_path))?;
            }
            Err(TryLockError::Error(error)) => return Err(fail("lock", &lock_path)(error)),
        }
        if read(&folder.join("version")).is_ok_and(|version| *version == VERSION) {
            return Self::load(folder);
        }
        let roots = Self::generate(progress)?;
        roots.store(folder)?;
        Ok(roots)
    }

    /// Creates new roots in memory only.
    ///
    /// # Errors
    /// [`X509Error`] if encoding fails.
    pub fn generate(progress: &mut dyn FnMut(&str)) -> Result<Self, X509Error> {
        Ok(Self {
            intel: IntelIdentity::generate()?,
            amd: AmdIdentity::generate(progress)?,
            nvidia: random(),
        })
    }

    /// Creates `count` GPUs of one machine, with unique serial numbers.
    ///
    /// # Errors
    /// [`nvidia::simulated::Error`] if encoding fails.
    pub fn gpus(&self, count: u16) -> Result<GpuSimulator, nvidia::simulated::Error> {
        let serials: Vec<String> = (0..count).map(|_| random()).collect();
        GpuSimulator::new(&self.nvidia, &serials)
    }

    /// Returns the root certificate of `tee` in DER.
    #[must_use]
    pub fn root(&self, tee: Tee) -> &[u8] {
        match tee {
            Tee::Tdx => &self.intel.root.certificate,
            Tee::SevSnp => &self.amd.ark.certificate,
        }
    }

    /// Returns the root certificate of `tee` in PEM, as a client takes it with `--trust-root`.
    ///
    /// # Errors
    /// [`X509Error`] when the certificate is not DER.
    pub fn root_pem(&self, tee: Tee) -> Result<String, X509Error> {
        x509::pem(&[self.root(tee)])
    }

    fn load(folder: &Path) -> Result<Self, RootsError> {
        let get = |name: &str, kind| load(folder, name, kind);
        Ok(Self {
            intel: IntelIdentity {
                root: get("intel-root", KeyKind::P256)?,
                pck_ca: get("intel-pck-ca", KeyKind::P256)?,
                pck: get("intel-pck", KeyKind::P256)?,
                tcb_signing: get("intel-tcb-signing", KeyKind::P256)?,
            },
            amd: AmdIdentity {
                generation: Generation::Milan,
                ark: get("amd-ark", KeyKind::Rsa)?,
                ask: get("amd-ask", KeyKind::Rsa)?,
                vcek: get("amd-vcek", KeyKind::P384)?,
            },
            nvidia: read(&folder.join(NVIDIA))?.to_string(),
        })
    }

    fn store(&self, folder: &Path) -> Result<(), RootsError> {
        let (intel, amd) = (&self.intel, &self.amd);
        for (name, identity) in [
            ("intel-root", &intel.root),
            ("intel-pck-ca", &intel.pck_ca),
            ("intel-pck", &intel.pck),
            ("intel-tcb-signing", &intel.tcb_signing),
            ("amd-ark", &amd.ark),
            ("amd-ask", &amd.ask),
            ("amd-vcek", &amd.vcek),
        ] {
            write(&folder.join(format!("{name}.key")), &identity.key.to_pem()?)?;
            write(
                &folder.join(format!("{name}.pem")),
                &x509::pem(&[&identity.certificate])?,
            )?;
        }
        write(&folder.join(NVIDIA), &self.nvidia)?;
        write(&folder.join("version"), VERSION)
    }
}

/// Returns 32 random hexadecimal digits.
fn random() -> String {
    let mut bytes = [0; 16];
    OsRng.fill_bytes(&mut bytes);
    hex::encode(bytes)
}

fn load(folder: &Path, name: &str, kind: KeyKind) -> Result<Identity, RootsError> {
    let (key_path, pem_path) = (
        folder.join(format!("{name}.key")),
        folder.join(format!("{name}.pem")),
    );
    let key =
        PrivateKey::from_pem(kind, &read(&key_path)?).map_err(|source| RootsError::Damaged {
            path: key_path,
            source,
        })?;
    let damaged = |source| RootsError::Damaged {
        path: pem_path.clone(),
        source: x509::der("certificate")(source),
    };
    let certificate = Certificate::from_pem(read(&pem_path)?.as_bytes()).map_err(damaged)?;
    let certificate = certificate.to_der().map_err(damaged)?;
    Ok(Identity { key, certificate })
}

/// Returns options that create a file with access for its owner only.
fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600);
    options
}

fn read(path: &Path) -> Result<Zeroizing<String>, RootsError> {
    let fail = |source| RootsError::File {
        operation: "read",
        path: path.to_owned(),
        source,
    };
    let mut text = Zeroizing::new(String::new());
    File::open(path)
        .map_err(fail)?
        .take(MAX_FILE)
        .read_to_string(&mut text)
        .map_err(fail)?;
    Ok(text)
}

fn write(path: &Path, text: &str) -> Result<(), RootsError> {
    let fail = |source| RootsError::File {
        operation: "write",
        path: path.to_owned(),
        source,
    };
    let mut file = private().open(path).map_err(fail)?;
    file.set_len(0).map_err(fail)?;
    file.write_all(text.as_bytes()).map_err(fail)?;
    file.sync_all().map_err(fail)
}
