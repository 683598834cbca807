//! Checks whether an image may replace the running one. Enough of the operator's pinned signers must have signed its
//! manifest, it must be valid now and of no older release, and every file must be the one that the manifest names.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use cocoon_measurements::manifest::{
    MAX_ENVELOPE_LEN, ManifestRefusal, ManifestTrust, RELEASE_FLOOR, trust,
};
use cocoon_protocol::bytes::{Hex, Hex32};
use cocoon_protocol::manifest::{Artefact, MAX_MANIFEST_LEN};
use sha2::{Digest, Sha256};

/// The `[updates]` section: whose images the operator accepts, and how long an update may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Updates {
    /// Ed25519 public keys of the signers.
    pub signers: Vec<[u8; 32]>,
    /// Number of signers that must have signed.
    pub threshold: usize,
    /// Lowest release that is accepted.
    pub release_floor: u64,
    /// Whether to accept manifests marked `unlocked`.
    pub allow_unlocked: bool,
    /// Client policy by which a new VM's evidence is appraised; `None` for the default policy.
    pub policy: Option<PathBuf>,
    /// Time limits of the phases.
    pub limits: super::Limits,
}

impl Default for Updates {
    /// Accepts no signer.
    fn default() -> Self {
        Self {
            signers: vec![],
            threshold: 1,
            release_floor: RELEASE_FLOOR,
            allow_unlocked: false,
            policy: None,
            limits: super::Limits::default(),
        }
    }
}

/// An image that passed the checks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// Folder of the image.
    pub image: PathBuf,
    /// Bytes of the manifest.
    pub manifest: Vec<u8>,
    /// Bytes of the signature file.
    pub envelope: Vec<u8>,
    /// Identity of the manifest.
    pub id: Hex32,
    /// Release that the manifest names.
    pub release: u64,
    /// Expiry of the manifest, in seconds since 1970.
    pub not_after: u64,
    /// Why the manifest is trusted, for display.
    pub basis: String,
}

/// Why an image is refused.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The configuration names no signers.
    #[error(
        "no signer of updates is pinned: name the keys that you trust as `signers` of [updates] in the configuration"
    )]
    NoSigners,
    /// A file cannot be read.
    #[error("cannot read {path:?}{}", unseen(path, source))]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// A manifest or signature file is too large.
    #[error("{path:?} is larger than {limit} bytes")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Largest size, in bytes.
        limit: usize,
    },
    /// The manifest is not trusted.
    #[error(transparent)]
    Refused(#[from] ManifestRefusal),
    /// A file of the image is not the one that the manifest names.
    #[error(
        "{path:?} is not the file that the manifest names: {what}; take image and manifest from the same release"
    )]
    OtherFile {
        /// The file.
        path: PathBuf,
        /// The difference.
        what: String,
    },
    /// The manifest names a file that would lie outside the image's folder.
    #[error("the manifest names a file {0:?}, which is no name in the image's folder")]
    Name(String),
}

/// Checks the manifest at `manifest`, whose signatures are beside it in `….dsse`, and the image in `image` or, by default,
/// in the manifest's folder. `release` is the running release. Reads every byte of the image.
///
/// # Errors
/// [`CheckError`] with the reason and what to do about it.
pub fn check(
    manifest: &Path,
    image: Option<&Path>,
    updates: &Updates,
    release: Option<u64>,
    now: u64,
) -> Result<Checked, CheckError> {
    if updates.signers.is_empty() {
        return Err(CheckError::NoSigners);
    }
    let bytes = read(manifest, MAX_MANIFEST_LEN)?;
    let mut beside = manifest.as_os_str().to_owned();
    beside.push(".dsse");
    let envelope = match read(Path::new(&beside), MAX_ENVELOPE_LEN) {
        Ok(envelope) => Some(envelope),
        // Left to `trust`, whose error says which signatures are missing.
        Err(CheckError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    let believed = ManifestTrust {
        signers: updates.signers.clone(),
        threshold: updates.threshold,
        pinned: vec![],
        allow_unlocked: updates.allow_unlocked,
        release_floor: updates.release_floor.max(release.unwrap_or(0)),
    };
    let trusted = trust(&bytes, envelope.as_deref(), &believed, now)?;
    let folder = manifest.parent().unwrap_or(Path::new("/"));
    let image = image.unwrap_or(folder).to_owned();
    for (name, artefact) in &trusted.artefacts {
        if name.contains('/') || name.starts_with('.') {
            return Err(CheckError::Name(name.chars().take(80).collect()));
        }
        artefact_is(&image.join(name), artefact)?;
    }
    Ok(Checked {
        image,
        id: trusted.id(),
        release: trusted.release,
        not_after: trusted.not_after,
        basis: trusted.basis().to_string(),
        manifest: bytes,
        envelope: envelope.unwrap_or_default(),
    })
}

/// Returns a hint if the packaged service cannot see the path, or has a directory of its own there.
fn unseen(path: &Path, error: &io::Error) -> &'static str {
    const OTHERS: [&str; 5] = ["/home", "/root", "/run/user", "/tmp", "/var/tmp"];
    let missing = matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied
    );
    match missing && OTHERS.iter().any(|folder| path.starts_with(folder)) {
        true => {
            " (the packaged service sees nobody's home folder, and a /tmp of its own: copy the image to /srv, for example)"
        }
        false => "",
    }
}

fn artefact_is(path: &Path, artefact: &Artefact) -> Result<(), CheckError> {
    let fail = |source| CheckError::Read {
        path: path.to_owned(),
        source,
    };
    let other = |what: String| CheckError::OtherFile {
        path: path.to_owned(),
        what,
    };
    let mut file = File::open(path).map_err(fail)?;
    let size = file.metadata().map_err(fail)?.len();
    if size != artefact.size {
        return Err(other(format!(
            "it has {size} bytes, expected are {}",
            artefact.size
        )));
    }
    let mut hash = Sha256::new();
    io::copy(&mut file, &mut hash).map_err(fail)?;
    let found: Hex32 = Hex(hash.finalize().into());
    if found != artefact.sha256 {
        let expected = artefact.sha256;
        return Err(other(format!(
            "its SHA-256 is {found}, expected is {expected}"
        )));
    }
    Ok(())
}

fn read(path: &Path, limit: usize) -> Result<Vec<u8>, CheckError> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(limit as u64 + 1).read_to_end(&mut bytes))
        .map_err(|source| CheckError::Read {
            path: path.to_owned(),
            source,
        })?;
    if bytes.len() > limit {
        let path = path.to_owned();
        return Err(CheckError::TooLarge { path, limit });
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_where_the_service_cannot_see_it_is_said_to_be_there() {
        let said = |path: &str, kind: io::ErrorKind| {
            let (path, source) = (path.into(), kind.into());
            CheckError::Read { path, source }.to_string()
        };
        for path in ["/home/me/renewed/manifest.json", "/tmp/x", "/root/y"] {
            for kind in [io::ErrorKind::NotFound, io::ErrorKind::PermissionDenied] {
                assert!(
                    said(path, kind).contains("copy the image to /srv"),
                    "{path}"
                );
            }
            let other = io::ErrorKind::IsADirectory;
            assert_eq!(said(path, other), format!("cannot read {path:?}"));
        }
        for path in ["/srv/cocoon/x", "/tmpfs/x"] {
            let found = said(path, io::ErrorKind::NotFound);
            assert_eq!(found, format!("cannot read {path:?}"));
        }
    }
}
