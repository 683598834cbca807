//! An image built from the sources of this workspace and signed with a temporary key.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use anyhow::Context as _;
use cocoon_client::Verifier;
use cocoon_client::trust::development_roots;
use cocoon_image::add_model::add_model;
use cocoon_image::build::{self, Build, Life};
use cocoon_image::model::Source;
use cocoon_image::variant::Variant;
use cocoon_inputs::report::{self, Reporter, Silent};
use cocoon_inputs::{Cache, Keyring, Policy as Missing};
use cocoon_measurements::manifest::{self, ManifestTrust, TrustedManifest};
use cocoon_measurements::policy::Policy;
use cocoon_protocol::manifest::Manifest;

/// Environment variable that names the folder of an image already built, so that the tests need not build one.
pub const VARIABLE: &str = "COCOON_TEST_IMAGE";
/// Minimum remaining validity of a manifest, in seconds, for tests to reuse its image.
const SPARE: u64 = 2 * 3600;
/// Validity of a test image's manifest, in days.
const DAYS: u64 = 1;

/// An image whose manifest is signed.
#[derive(Clone, Debug)]
pub struct SignedImage {
    /// Folder of the image.
    pub folder: PathBuf,
    /// The parsed manifest.
    pub manifest: Manifest,
    /// The manifest's bytes, as signed.
    pub bytes: Vec<u8>,
    /// The DSSE envelope over the manifest.
    pub envelope: Vec<u8>,
    /// Public Ed25519 key of the signer.
    pub signer: [u8; 32],
}

impl SignedImage {
    /// Builds the workspace's image into `folder`, with the default model or the one at `model`.
    ///
    /// Locked inputs that the mirrors have dropped are replaced by the newest signed ones, and the manifest lists
    /// them: a first run must not fail because of a point release.
    pub fn build(
        folder: &Path,
        model: Option<PathBuf>,
        reporter: &Arc<dyn Reporter>,
    ) -> anyhow::Result<Self> {
        let what = Build {
            variant: Variant::Cpu,
            source: workspace(),
            cache: cache()?,
            mirrors: vec![],
            keyring: Keyring::debian(),
            policy: Missing::AllowNewest,
            model,
            model_id: None,
            binaries: None,
            jobs: std::thread::available_parallelism().map_or(1, usize::from),
        };
        build::build(&what, &life(), folder, reporter)?;
        let image = Self::open(folder)?;
        let path = folder.join("manifest.json.dsse");
        std::fs::write(&path, &image.envelope)
            .with_context(|| format!("cannot write {}", path.display()))?;
        Ok(image)
    }

    /// Signs the image in `folder` with a new key, which is then discarded. Writes nothing to the folder.
    pub fn open(folder: &Path) -> anyhow::Result<Self> {
        let path = folder.join("manifest.json");
        let bytes =
            std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let manifest = Manifest::parse(&bytes)?;
        let mut secret = zeroize::Zeroizing::new([0; 32]);
        getrandom::fill(secret.as_mut())
            .map_err(|error| anyhow::anyhow!("no randomness: {error}"))?;
        let envelope = manifest::sign(&bytes, &secret)?;
        let signer = manifest::public_key(&secret);
        Ok(Self {
            folder: folder.to_owned(),
            manifest,
            bytes,
            envelope,
            signer,
        })
    }

    /// Returns the image that the tests of this process share: the one that [`VARIABLE`] names, or else one that is
    /// built at the first call. Blocks, so do not call it from asynchronous code.
    pub fn shared() -> anyhow::Result<&'static Self> {
        Ok(&images()?.real)
    }

    /// Returns the shared image with the model of [`alphabet`](crate::alphabet) in place of the default model.
    pub fn alphabet() -> anyhow::Result<&'static Self> {
        Ok(&images()?.alphabet)
    }

    /// Makes a folder with this image in which the file `name` has other contents or is missing. The other files are links.
    pub fn with(&self, name: &str, other: Option<&[u8]>) -> anyhow::Result<tempfile::TempDir> {
        let folder = tempfile::tempdir()?;
        for file in std::fs::read_dir(&self.folder)? {
            let file = file?;
            if file.file_name() != name {
                std::os::unix::fs::symlink(file.path(), folder.path().join(file.file_name()))?;
            }
        }
        if let Some(bytes) = other {
            std::fs::write(folder.path().join(name), bytes)?;
        }
        Ok(folder)
    }

    /// Returns the manifest as verified by a client that pins the signer's key.
    pub fn trusted(&self) -> anyhow::Result<TrustedManifest> {
        let trust = ManifestTrust {
            signers: vec![self.signer],
            threshold: 1,
            allow_unlocked: true,
            ..ManifestTrust::default()
        };
        Ok(manifest::trust(
            &self.bytes,
            Some(&self.envelope),
            &trust,
            crate::now(),
        )?)
    }

    /// Returns a verifier for this image that accepts the development roots in `roots` (PEM).
    pub fn verifier(&self, roots: &str) -> anyhow::Result<Verifier> {
        let policy = Policy {
            development_roots: development_roots(roots.as_bytes())?,
            ..Policy::default()
        };
        Ok(Verifier::new(self.trusted()?, policy))
    }
}

/// The images that the tests of a process share.
struct Images {
    real: SignedImage,
    alphabet: SignedImage,
    /// Held until this process ends: the folder in the cache is shared with other test processes, which must wait.
    _lock: File,
}

fn images() -> anyhow::Result<&'static Images> {
    static IMAGES: OnceLock<Result<Images, String>> = OnceLock::new();
    let images = IMAGES.get_or_init(|| make_images().map_err(|error| format!("{error:#}")));
    images.as_ref().map_err(|text| anyhow::anyhow!("{text}"))
}

/// Makes the shared images. They lie in the cache, because they are large.
fn make_images() -> anyhow::Result<Images> {
    let place = cache()?.join("tests");
    std::fs::create_dir_all(&place)
        .with_context(|| format!("cannot create {}", place.display()))?;
    let lock = File::create(place.join("lock"))?;
    let what = "waiting for another process with tests of the image";
    report::exclusive(&lock, &*report::stderr(), what)?;
    let real = match std::env::var_os(VARIABLE) {
        Some(folder) => SignedImage::open(Path::new(&folder))?,
        None => current(&place)?,
    };
    let model = place.join("alphabet-f32.gguf");
    std::fs::write(&model, crate::alphabet::gguf())?;
    let source = Source::open(&model, None)?;
    let folder = emptied(&place, "alphabet")?;
    add_model(&real.folder, &source, &life(), &folder, 1, &Silent)?;
    Ok(Images {
        real,
        alphabet: SignedImage::open(&folder)?,
        _lock: lock,
    })
}

/// Returns the image of the current sources: the one in `place` if it was built from them, or a new one.
fn current(place: &Path) -> anyhow::Result<SignedImage> {
    let (folder, made_of) = (place.join("image"), place.join("image.sources"));
    let sources = crate::sources::digest(&workspace())?.to_string();
    if std::fs::read_to_string(&made_of).is_ok_and(|found| found == sources)
        && let Ok(image) = SignedImage::open(&folder)
        && image.manifest.not_after > crate::now() + SPARE
    {
        return Ok(image);
    }
    // Removed before the build starts, so that an interrupted build leaves nothing that passes for an image.
    if made_of.exists() {
        std::fs::remove_file(&made_of)?;
    }
    let image = SignedImage::build(&emptied(place, "image")?, None, &report::stderr())?;
    // The digest from before the build: sources edited during the build must cause another one.
    std::fs::write(&made_of, sources)?;
    Ok(image)
}

fn emptied(place: &Path, name: &str) -> anyhow::Result<PathBuf> {
    let folder = place.join(name);
    if folder.exists() {
        std::fs::remove_dir_all(&folder)
            .with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    Ok(folder)
}

fn life() -> Life {
    let not_before = crate::now();
    Life {
        release: 1,
        not_before,
        not_after: not_before + DAYS * 86_400,
    }
}

/// Returns the root of the workspace that this executable was built in.
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap_or(Path::new("/"))
        .to_owned()
}

/// Returns the folder of the cache.
pub fn cache() -> anyhow::Result<PathBuf> {
    Ok(Cache::default_root()?)
}
