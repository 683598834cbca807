//! Whom a client believes: flags and the trust file become a manifest that counts and a policy.

mod file;
mod roots;

use std::io::Read;
use std::path::{Path, PathBuf};

use cocoon_measurements::manifest::{
    MAX_ENVELOPE_LEN, ManifestRefusal, ManifestTrust, TrustedManifest, trust,
};
use cocoon_measurements::policy::Policy;
use cocoon_measurements::verdict::Class;
use cocoon_protocol::bytes::Hex32;
use cocoon_protocol::manifest::MAX_MANIFEST_LEN;

pub use file::{KnownHost, TrustFile, TrustFileError, default_path};
pub use roots::{RootError, development_roots};

use crate::attested::AttestedConnection;
use crate::verifier::Verifier;

/// Largest file of a signer's key, trust settings or a root certificate, in bytes.
const MAX_SMALL_FILE: usize = 256 * 1024;

/// What a command's flags say.
#[derive(Clone, Debug, Default)]
pub struct TrustOptions {
    /// The manifest. Its signature file, `.dsse` behind the same name, is read when it is there.
    pub manifest: PathBuf,
    /// Ed25519 public keys, 64 hexadecimal digits each, or files that hold one.
    pub signers: Vec<String>,
    /// How many signers must have signed; 1 when absent.
    pub threshold: Option<usize>,
    /// Manifests that count by their hash alone.
    pub pinned: Vec<Hex32>,
    /// Accept manifests whose inputs were not the locked ones.
    pub allow_unlocked: bool,
    /// Development roots, PEM files.
    pub trust_roots: Vec<PathBuf>,
    /// The trust file; [`default_path`] when absent.
    pub trust_file: Option<PathBuf>,
}

/// What flags and files amount to.
#[derive(Debug)]
pub struct Settings {
    manifest: TrustedManifest,
    policy: Policy,
    file: TrustFile,
    path: Option<PathBuf>,
}

/// Why there are no settings.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// A file cannot be read.
    #[error("cannot read {what} {path}")]
    Read {
        /// What the file is for.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// From the operating system.
        #[source]
        source: std::io::Error,
    },
    /// A file is far too large for what it should be.
    #[error("{what} {path} is larger than {limit} bytes: it is some other file")]
    TooLarge {
        /// What the file is for.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Bytes allowed.
        limit: usize,
    },
    /// A signer is neither a key nor a file with one.
    #[error("`{0}` is no signer: give 64 hexadecimal digits, or a file that holds them")]
    Signer(String),
    /// The trust file.
    #[error(transparent)]
    File(#[from] TrustFileError),
    /// A development root.
    #[error("{path} is not usable as --trust-root")]
    Root {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: RootError,
    },
    /// The manifest does not count.
    #[error("manifest {path} does not count")]
    Manifest {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: ManifestRefusal,
    },
}

impl Settings {
    /// Reads what the options name. Signers or pins among the flags replace those of the trust
    /// file. A newer release, signed by the trust file's own signers, raises the file's floor.
    pub fn load(options: &TrustOptions, now: u64) -> Result<Self, TrustError> {
        let path = options.trust_file.clone().or_else(default_path);
        let file = match &path {
            Some(path) => TrustFile::load(path)?,
            None => TrustFile::default(),
        };
        let bytes = read("manifest", &options.manifest, MAX_MANIFEST_LEN)?;
        let envelope = envelope(&options.manifest)?;
        let refused = |source| TrustError::Manifest {
            path: options.manifest.clone(),
            source,
        };
        let manifest =
            trust(&bytes, envelope.as_deref(), &believed(options, &file)?, now).map_err(refused)?;
        let mut policy = file.policy.clone();
        for root in &options.trust_roots {
            let pem = read("development root", root, MAX_SMALL_FILE)?;
            let found = development_roots(&pem).map_err(|source| TrustError::Root {
                path: root.clone(),
                source,
            })?;
            policy.development_roots.extend(found);
        }
        let settings = Self {
            manifest,
            policy,
            file,
            path,
        };
        if trust(&bytes, envelope.as_deref(), &settings.file.believed(), now).is_ok() {
            settings.raise_floor();
        }
        Ok(settings)
    }

    /// The manifest.
    pub fn manifest(&self) -> &TrustedManifest {
        &self.manifest
    }

    /// The policy.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Makes connections under these settings.
    pub fn verifier(&self) -> Verifier {
        Verifier::new(self.manifest.clone(), self.policy.clone())
            .with_known_hosts(self.file.known_hosts.clone())
    }

    /// Remembers a confidential appliance, so that it cannot become less unnoticed. The error
    /// matters to a person, not to the connection.
    pub fn remember(&self, connection: &AttestedConnection) -> Result<(), TrustFileError> {
        let (Class::Confidential, Some(path)) = (connection.verdict().class, &self.path) else {
            return Ok(());
        };
        let host = connection.address().authority();
        if self
            .file
            .known_hosts
            .get(&host)
            .is_some_and(|known| known.release >= self.manifest.release)
        {
            return Ok(());
        }
        TrustFile::remember(
            path,
            &host,
            KnownHost {
                release: self.manifest.release,
            },
        )
    }

    /// A floor that cannot be kept (a read-only home, say) protects less the next time, and is no
    /// reason to refuse this time.
    fn raise_floor(&self) {
        if let Some(path) = &self.path
            && self.manifest.release > self.file.release_floor
        {
            let _ = TrustFile::raise_floor(path, self.manifest.release);
        }
    }
}

fn believed(options: &TrustOptions, file: &TrustFile) -> Result<ManifestTrust, TrustError> {
    let mut believed = file.believed();
    if !options.signers.is_empty() || !options.pinned.is_empty() {
        believed.signers = options
            .signers
            .iter()
            .map(|signer| self::signer(signer))
            .collect::<Result<_, _>>()?;
        believed.threshold = 1;
        believed.pinned.clone_from(&options.pinned);
    }
    if let Some(threshold) = options.threshold {
        believed.threshold = threshold;
    }
    believed.allow_unlocked = options.allow_unlocked;
    Ok(believed)
}

fn signer(text: &str) -> Result<[u8; 32], TrustError> {
    if let Ok(key) = text.parse::<Hex32>() {
        return Ok(key.0);
    }
    let path = Path::new(text);
    if !path.exists() {
        return Err(TrustError::Signer(text.to_owned()));
    }
    let bytes = read("signer's key", path, MAX_SMALL_FILE)?;
    let key = std::str::from_utf8(&bytes)
        .ok()
        .and_then(|text| text.trim().parse::<Hex32>().ok());
    key.map(|key| key.0)
        .ok_or_else(|| TrustError::Signer(text.to_owned()))
}

fn envelope(manifest: &Path) -> Result<Option<Vec<u8>>, TrustError> {
    let mut path = manifest.as_os_str().to_owned();
    path.push(".dsse");
    let path = PathBuf::from(path);
    match read("signature file", &path, MAX_ENVELOPE_LEN) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(TrustError::Read { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn read(what: &'static str, path: &Path, limit: usize) -> Result<Vec<u8>, TrustError> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(limit as u64 + 1).read_to_end(&mut bytes))
        .map_err(|source| TrustError::Read {
            what,
            path: path.to_owned(),
            source,
        })?;
    if bytes.len() > limit {
        return Err(TrustError::TooLarge {
            what,
            path: path.to_owned(),
            limit,
        });
    }
    Ok(bytes)
}
