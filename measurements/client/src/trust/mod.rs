//! Trust settings: flags, the trust file and a policy file yield a trusted manifest and a policy.

mod error;
mod fetch;
mod file;
mod floors;
mod releases;
mod renewal;
mod roots;
mod signers;
mod store;

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use cocoon_measurements::appraise::explain::{Artefacts, explain};
use cocoon_measurements::manifest::{
    Basis, MAX_ENVELOPE_LEN, ManifestTrust, TrustedManifest, trust,
};
use cocoon_measurements::policy::Policy;
use cocoon_measurements::verdict::{Class, Verdict};
use cocoon_protocol::bytes::Hex32;
use cocoon_protocol::manifest::{MAX_MANIFEST_LEN, manifest_id};

pub use error::TrustError;
pub use file::{KnownHost, TrustFile, default_path};
pub use roots::{RootError, development_roots};
pub use store::TrustFileError;

use crate::attested::AttestedConnection;
use crate::collateral::CollateralCache;
use crate::verifier::Verifier;
use fetch::Url;
use floors::Floors;
use releases::Releases;
pub(crate) use renewal::Renewal;
use signers::believed;

/// Largest file for a signer's key, trust settings or a root certificate, in bytes.
const MAX_SMALL_FILE: usize = 256 * 1024;

/// Largest firmware file, in bytes; ours has 4 MiB.
const MAX_FIRMWARE: usize = 32 << 20;

/// Options from a command's flags.
#[derive(Clone, Debug, Default)]
pub struct TrustOptions {
    /// Path of the manifest, or an `https://` or `http://` URL of it or of a host that publishes it. Its
    /// signature file, with `.dsse` appended to the name, is read if it exists.
    pub manifest: PathBuf,
    /// Trusted signers: Ed25519 public keys in 64 hexadecimal digits, or paths of files with one.
    pub signers: Vec<String>,
    /// How many signers must have signed. If absent, the policy file's threshold counts, else the trust
    /// file's, else 1, also if `signers` replaces the signers of these files.
    pub threshold: Option<usize>,
    /// SHA-256 hashes of manifests that are trusted without signatures.
    pub pinned: Vec<Hex32>,
    /// Whether to accept manifests that were built with other inputs than the locked ones.
    pub allow_unlocked: bool,
    /// PEM files with development roots.
    pub trust_roots: Vec<PathBuf>,
    /// Path of the trust file; [`default_path`] if absent. The memory of releases is kept next to it.
    pub trust_file: Option<PathBuf>,
    /// Path of a policy file. Its signers replace those of the trust file, as do its threshold and policy if
    /// it has them; the greater of the two release floors counts.
    pub policy: Option<PathBuf>,
    /// Whether to forget the newest release seen from these signers and accept an older one.
    pub reset_release_floor: bool,
}

/// Whether the memory of releases is used and updated.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Memory {
    Counts,
    Rests,
}

/// Settings made from flags and files.
#[derive(Debug)]
pub struct Settings {
    manifest: TrustedManifest,
    policy: Policy,
    file: TrustFile,
    path: Option<PathBuf>,
    /// The options, from which the settings are read again.
    options: TrustOptions,
    seen: Seen,
    /// Known appliances, including those that could not be written to the trust file.
    remembered: Arc<Mutex<BTreeMap<String, KnownHost>>>,
    /// Folder of the manifest, which may also contain its image.
    folder: PathBuf,
    unkept: Option<TrustFileError>,
    cache: Option<Arc<CollateralCache>>,
}

/// What was seen in an earlier reading and must not be undone by a later one.
#[derive(Debug)]
struct Seen {
    /// Whether there was a trust file.
    trust_file: bool,
    /// Signature file for which the manifest is trusted.
    envelope: Option<Vec<u8>>,
    /// Newest release in the memory when it was reset; 0 otherwise.
    forgotten: u64,
}

impl Settings {
    /// Reads the files that the options name. Signers or pinned hashes among the options replace those of the
    /// files. Refuses a release older than the newest one seen from one of the signers, as a rollback;
    /// remembers a newer one.
    pub fn load(options: &TrustOptions, now: u64) -> Result<Self, TrustError> {
        Self::gather(options, now, Memory::Counts, None)
    }

    /// Reads settings for evidence from the past, as of `time`. The memory of releases is neither used nor
    /// updated, because newer releases say nothing about the past. Release floors in files count.
    pub fn of_the_past(options: &TrustOptions, time: u64) -> Result<Self, TrustError> {
        Self::gather(options, time, Memory::Rests, None)
    }

    /// Reads the settings again. A reset of the memory is not repeated. Removing files cannot weaken the
    /// settings: a trust file that existed must still exist, and signatures that were seen still count.
    pub fn again(&self, now: u64) -> Result<Self, TrustError> {
        let again = Self::gather(&self.options, now, Memory::Counts, Some(self))?;
        Ok(Self {
            cache: self.cache.clone(),
            remembered: Arc::clone(&self.remembered),
            ..again
        })
    }

    fn gather(
        options: &TrustOptions,
        now: u64,
        counts: Memory,
        before: Option<&Self>,
    ) -> Result<Self, TrustError> {
        let path = options.trust_file.clone().or_else(default_path);
        let there = match &path {
            Some(path) => TrustFile::load_if_any(path)?,
            None => None,
        };
        let mut seen = Seen {
            trust_file: there.is_some(),
            envelope: None,
            forgotten: before.map_or(0, |before| before.seen.forgotten),
        };
        if let (Some(path), None, Some(true)) =
            (&path, &there, before.map(|before| before.seen.trust_file))
        {
            let gone = "it was there before, and is gone: put it back, or start again without it";
            return Err(file::at(path).unread(std::io::Error::other(gone)).into());
        }
        let mut file = there.unwrap_or_default();
        let mut floors = Floors::default();
        if let Some(path) = &path {
            floors.state(file::TRUST_FILE, path, file.release_floor);
        }
        if let Some(policy) = &options.policy {
            file = file.under_policy(policy)?;
            floors.state(file::POLICY_FILE, policy, file.release_floor);
        }
        let url = Url::of(&options.manifest)?;
        let (bytes, envelope) = match &url {
            Some(url) => url.fetch()?,
            None => {
                let bytes = read("manifest", &options.manifest, MAX_MANIFEST_LEN)?;
                (bytes, envelope(&options.manifest)?)
            }
        };
        let mut believed = believed(options, &file)?;
        let beside = path.as_deref().map(releases::path_beside);
        let memory = beside.filter(|_| counts == Memory::Counts);
        if let Some(memory) = &memory {
            let newest = Releases::load(memory)?.newest(&believed.signers);
            let newest = newest.unwrap_or(0);
            if options.reset_release_floor {
                seen.forgotten = newest;
            } else if newest > seen.forgotten {
                believed.release_floor = believed.release_floor.max(newest);
            }
            let reached = before.map_or(0, |before| reached(&before.manifest));
            believed.release_floor = believed.release_floor.max(reached);
        }
        let refused = |source| TrustError::Manifest {
            path: options.manifest.clone(),
            id: manifest_id(&bytes),
            advice: floors.advice(&source, memory.as_deref()),
            source: Box::new(source),
        };
        let counting = |envelope: Option<Vec<u8>>| {
            let manifest = trust(&bytes, envelope.as_deref(), &believed, now)?;
            Ok((manifest, envelope))
        };
        let counted = counting(envelope).or_else(|error| match before {
            Some(before) if before.manifest.id() == manifest_id(&bytes) => {
                counting(before.seen.envelope.clone())
            }
            _ => Err(error),
        });
        let (manifest, envelope) = counted.map_err(refused)?;
        seen.envelope = envelope;
        let mut policy = file.policy.clone();
        for root in &options.trust_roots {
            let pem = read("development root", root, MAX_SMALL_FILE)?;
            let found = development_roots(&pem).map_err(|source| TrustError::Root {
                path: root.clone(),
                source,
            })?;
            policy.development_roots.extend(found);
        }
        let reset = options.reset_release_floor;
        let unkept = match counts {
            Memory::Counts => remember(memory.as_deref(), &manifest, &believed, reset).err(),
            Memory::Rests => None,
        };
        // A published manifest has no image next to it.
        let folder = options.manifest.parent().filter(|_| url.is_none());
        let folder = folder.map(Path::to_owned);
        Ok(Self {
            manifest,
            policy,
            remembered: Arc::new(Mutex::new(file.known_hosts.clone())),
            file,
            path,
            options: TrustOptions {
                reset_release_floor: false,
                ..options.clone()
            },
            seen,
            folder: folder.unwrap_or_default(),
            unkept,
            cache: None,
        })
    }

    /// Returns why this release could not be remembered, if so. It is no reason to refuse the manifest,
    /// because a home may be read-only; but a later rollback will not be noticed.
    pub fn unkept(&self) -> Option<&TrustFileError> {
        self.unkept.as_ref()
    }

    /// Returns the trusted manifest.
    pub fn manifest(&self) -> &TrustedManifest {
        &self.manifest
    }

    /// Adds likely causes to a rejection. If firmware of the image is next to the manifest, tries variants of
    /// it until one matches the measurement.
    pub fn explained(&self, verdict: &Verdict) -> Verdict {
        let file = |name| read("firmware", &self.folder.join(name), MAX_FIRMWARE).ok();
        let (tdx, snp) = (file("OVMF.tdx.fd"), file("OVMF.snp.fd"));
        let artefacts = Artefacts {
            tdx_firmware: tdx.as_deref(),
            snp_firmware: snp.as_deref(),
        };
        let mut verdict = verdict.clone();
        explain(&mut verdict, &self.manifest, &artefacts);
        verdict
    }

    /// Returns the policy.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Sets the cache that keeps collateral between connections.
    pub fn with_cache(self, cache: CollateralCache) -> Self {
        Self {
            cache: Some(Arc::new(cache)),
            ..self
        }
    }

    /// Makes a verifier with these settings.
    pub fn verifier(&self) -> Verifier {
        let verifier = Verifier::new(self.manifest.clone(), self.policy.clone())
            .with_known_hosts(self.file.known_hosts.clone());
        match &self.cache {
            Some(cache) => verifier.with_cache(Arc::clone(cache)),
            None => verifier,
        }
    }

    /// Remembers a confidential appliance, so that a later downgrade is noticed. An error does not affect the
    /// connection, and is returned only once per appliance and release.
    pub fn remember(&self, connection: &AttestedConnection) -> Result<(), TrustFileError> {
        self.remember_as(
            &connection.address().authority(),
            connection.verdict().class,
        )
    }

    pub(crate) fn remember_as(&self, host: &str, class: Class) -> Result<(), TrustFileError> {
        let (Class::Confidential, Some(path)) = (class, &self.path) else {
            return Ok(());
        };
        let release = self.manifest.release;
        let mut remembered = self
            .remembered
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if remembered
            .get(host)
            .is_some_and(|known| known.release >= release)
        {
            return Ok(());
        }
        remembered.insert(host.to_owned(), KnownHost { release });
        TrustFile::remember(path, host, KnownHost { release })
    }

    /// Returns whether both settings accept the same appliances for the same reasons.
    fn demands_the_same(&self, other: &Self) -> bool {
        self.manifest.id() == other.manifest.id()
            && self.manifest.basis() == other.manifest.basis()
            && self.policy == other.policy
    }
}

/// Returns the release for the memory, or 0: pinned and unlocked manifests do not raise what is remembered.
fn reached(manifest: &TrustedManifest) -> u64 {
    let is_release = *manifest.basis() != Basis::Pinned && manifest.unlocked.is_empty();
    if is_release { manifest.release } else { 0 }
}

fn remember(
    memory: Option<&Path>,
    manifest: &TrustedManifest,
    believed: &ManifestTrust,
    reset: bool,
) -> Result<(), TrustFileError> {
    if reached(manifest) == 0 {
        return Ok(());
    }
    let memory = memory.ok_or(TrustFileError::NoPlace {
        what: releases::WHAT,
    })?;
    Releases::remember(memory, &believed.signers, manifest.release, reset)
}

/// Returns the policy of a policy file alone.
pub fn policy_file(path: &Path) -> Result<Policy, TrustFileError> {
    Ok(TrustFile::default().under_policy(path)?.policy)
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
