//! An image of the sources that this executable was built from, signed by a key that is thrown away.

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

/// Names an image that is built already, to save the tests the time.
pub const VARIABLE: &str = "COCOON_TEST_IMAGE";
/// Seconds that a manifest must still count for, to be taken for tests.
const SPARE: u64 = 2 * 3600;
/// Days that such a manifest lives.
const DAYS: u64 = 1;

/// A built and signed image.
#[derive(Clone, Debug)]
pub struct SignedImage {
    /// Its folder.
    pub folder: PathBuf,
    /// Its manifest.
    pub manifest: Manifest,
    /// The manifest's bytes.
    pub bytes: Vec<u8>,
    /// The DSSE envelope.
    pub envelope: Vec<u8>,
    /// Ed25519 key that signed it.
    pub signer: [u8; 32],
}

impl SignedImage {
    /// Builds the workspace's image into `folder`, with the default model or the one at `model`.
    ///
    /// Inputs that mirrors have dropped are replaced by the newest signed ones, and the manifest
    /// says so: a first run must not die of a point release.
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

    /// Signs what lies in `folder` with a new key, which nothing keeps. Changes nothing there.
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

    /// The image that the tests of this process share: built when the first of them asks, or the one
    /// that [`VARIABLE`] names. Blocks; call it where that does no harm.
    pub fn shared() -> anyhow::Result<&'static Self> {
        Ok(&images()?.real)
    }

    /// The same with the model of [`alphabet`](crate::alphabet).
    pub fn alphabet() -> anyhow::Result<&'static Self> {
        Ok(&images()?.alphabet)
    }

    /// A folder with this image in which `name` is another file, or missing. The rest are links.
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

    /// The manifest as a client that pins our key believes it.
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

    /// A client of this image that names the development roots in `roots`, PEM.
    pub fn verifier(&self, roots: &str) -> anyhow::Result<Verifier> {
        let policy = Policy {
            development_roots: development_roots(roots.as_bytes())?,
            ..Policy::default()
        };
        Ok(Verifier::new(self.trusted()?, policy))
    }
}

/// What the tests of a process share.
struct Images {
    real: SignedImage,
    alphabet: SignedImage,
    /// Held for as long as this process lives: two processes with tests share the folder in the
    /// cache, and must not share the moment.
    _lock: File,
}

fn images() -> anyhow::Result<&'static Images> {
    static IMAGES: OnceLock<Result<Images, String>> = OnceLock::new();
    let images = IMAGES.get_or_init(|| make_images().map_err(|error| format!("{error:#}")));
    images.as_ref().map_err(|text| anyhow::anyhow!("{text}"))
}

/// In the cache, because images are large.
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

/// The image of these very sources: the one that another test built a moment ago, or a new one.
fn current(place: &Path) -> anyhow::Result<SignedImage> {
    let (folder, made_of) = (place.join("image"), place.join("image.sources"));
    let sources = crate::sources::digest(&workspace())?.to_string();
    if std::fs::read_to_string(&made_of).is_ok_and(|found| found == sources)
        && let Ok(image) = SignedImage::open(&folder)
        && image.manifest.not_after > crate::now() + SPARE
    {
        return Ok(image);
    }
    // First of all: a build that is broken off leaves nothing that could be taken for an image.
    if made_of.exists() {
        std::fs::remove_file(&made_of)?;
    }
    let image = SignedImage::build(&emptied(place, "image")?, None, &report::stderr())?;
    // Of the sources as they were before: what was edited meanwhile is built again next time.
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

/// The workspace that this executable was built in.
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap_or(Path::new("/"))
        .to_owned()
}

/// The cache's folder.
pub fn cache() -> anyhow::Result<PathBuf> {
    Ok(Cache::default_root()?)
}
