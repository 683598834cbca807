//! Flags shared by several commands.

use std::path::{Path, PathBuf};

use clap::Args;
use cocoon_client::receipts::{Bodies, KeepError, Keeper};
use cocoon_client::terminal::say;
use cocoon_client::trust::{Settings, TrustError, TrustOptions};
use cocoon_client::{ChatOptions, CollateralCache, Upstreams, chain};
use cocoon_protocol::bytes::Hex32;

/// What to expect of an appliance.
#[derive(Args, Clone, Debug)]
pub struct TrustFlags {
    /// Manifest of the image that the appliance must run: a file, a URL, or https://HOST:PORT of a host that publishes it
    ///
    /// Signatures are read from MANIFEST.dsse beside it, if present. Wherever it comes from, the manifest counts only by its
    /// signatures or its hash.
    #[arg(long, value_name = "FILE|URL")]
    manifest: PathBuf,
    #[command(flatten)]
    belief: BeliefFlags,
    /// Forget the newest release seen of these signers, and accept an older one
    ///
    /// Use it only if the withdrawal of the newer release was announced. It also affects sets of signers that share one with
    /// these. A release_floor in a file stays in force. The newest releases seen are stored beside the trust file, in a file
    /// of the same name that ends in .releases.toml.
    #[arg(long)]
    reset_release_floor: bool,
    /// Folder to keep collateral of accepted appliances in [default: ~/.cache/cocoon-client/collateral]
    ///
    /// Collateral is what the vendors say of a machine. With the cache, only what changed is fetched the next time.
    #[arg(long, value_name = "DIR", env = "COCOON_COLLATERAL_CACHE")]
    collateral_cache: Option<PathBuf>,
    /// Keep no collateral, and fetch it each time
    ///
    /// Otherwise, an appliance could tell from what is not fetched that this client was there before.
    #[arg(long)]
    no_collateral_cache: bool,
}

/// Whom to believe about a manifest.
#[derive(Args, Clone, Debug)]
pub struct BeliefFlags {
    /// Ed25519 public key of a trusted signer (repeatable) [default: the signers in the policy file, else the trust file]
    ///
    /// Replaces the signers in both files. A threshold in them stays in force.
    #[arg(long = "signer", value_name = "HEX|FILE")]
    signers: Vec<String>,
    /// Number of signers that must have signed [default: as in the policy file, else the trust file, else 1]
    ///
    /// At least 1, and at most the number of trusted signers.
    #[arg(long, value_name = "K")]
    threshold: Option<usize>,
    /// SHA-256 of a manifest to trust, signed or not (repeatable)
    ///
    /// Like --signer, it replaces the signers in both files.
    #[arg(long = "manifest-sha256", value_name = "HEX")]
    pinned: Vec<Hex32>,
    /// Accept a manifest whose inputs were not the locked ones, for trials
    #[arg(long)]
    allow_unlocked: bool,
    /// Development root to accept SIMULATED evidence under, for trials; protects nothing (repeatable)
    #[arg(long = "trust-root", value_name = "PEM")]
    trust_roots: Vec<PathBuf>,
    /// Policy file, TOML: what to demand of an appliance
    ///
    /// It has the same keys as the trust file. Its signers replace those of the trust file, and so do its threshold and its
    /// `[policy]` if it states them. The greater release_floor of both files counts. --signer and --threshold take precedence.
    /// It cannot name roots of trust.
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// File of signers, release floors and known appliances [default: ~/.config/cocoon/trust.toml]
    #[arg(long, value_name = "FILE", env = "COCOON_TRUST_FILE")]
    trust_file: Option<PathBuf>,
}

impl TrustFlags {
    /// Reads the settings on a blocking thread: the manifest may have to be fetched, and Ctrl-C
    /// must work meanwhile.
    pub async fn load(&self) -> Result<Settings, TrustError> {
        let flags = self.clone();
        let read = tokio::task::spawn_blocking(move || flags.read()).await;
        // The task is never cancelled, so an error means that it panicked.
        read.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
    }

    fn read(&self) -> Result<Settings, TrustError> {
        let options = TrustOptions {
            reset_release_floor: self.reset_release_floor,
            ..self.belief.options(&self.manifest)
        };
        if let Some(path) = self.belief.missing() {
            say(format_args!(
                "note: there is no trust file {} yet: the defaults count, and it is made when there is an appliance to remember",
                path.display()
            ));
        }
        let settings = Settings::load(&options, cocoon_client::now())?;
        if let Some(error) = settings.unkept() {
            say(format_args!("note: {}", chain(error)));
        }
        if self.no_collateral_cache {
            return Ok(settings);
        }
        let named = self.collateral_cache.as_deref();
        let folder = named
            .map(Path::to_owned)
            .or_else(CollateralCache::default_folder);
        match folder.map(|folder| CollateralCache::open(&folder)) {
            Some(Ok(cache)) => return Ok(settings.with_cache(cache)),
            Some(Err(error)) if named.is_some() => say(format_args!("note: {}", chain(&error))),
            // The default folder was not asked for, and a home may be read-only.
            Some(Err(_)) | None => {}
        }
        Ok(settings)
    }
}

impl BeliefFlags {
    /// Reads settings for evidence from the past; `time` is when the manifest must have been valid.
    pub fn of_the_past(&self, manifest: &Path, time: u64) -> Result<Settings, TrustError> {
        if let Some(path) = self.missing() {
            say(format_args!(
                "note: there is no trust file {}: the defaults count",
                path.display()
            ));
        }
        Settings::of_the_past(&self.options(manifest), time)
    }

    fn options(&self, manifest: &Path) -> TrustOptions {
        TrustOptions {
            manifest: manifest.to_owned(),
            signers: self.signers.clone(),
            threshold: self.threshold,
            pinned: self.pinned.clone(),
            allow_unlocked: self.allow_unlocked,
            trust_roots: self.trust_roots.clone(),
            trust_file: self.trust_file.clone(),
            policy: self.policy.clone(),
            reset_release_floor: false,
        }
    }

    /// Returns the path of a trust file that was named but does not exist. A typing error in its
    /// name would otherwise silently change whom to trust.
    fn missing(&self) -> Option<&Path> {
        let path = self.trust_file.as_deref()?;
        // If the path cannot be checked, reading it reports the error.
        (path.try_exists().ok() == Some(false)).then_some(path)
    }
}

/// How answers are made.
#[derive(Args, Clone, Debug)]
pub struct SamplingFlags {
    /// Maximum number of tokens in an answer
    #[arg(long, value_name = "N")]
    max_tokens: Option<u32>,
    /// Sampling temperature, 0 (always the most likely token) to 2
    #[arg(long)]
    temperature: Option<f32>,
    /// Seed of the sampling; the same seed repeats an answer
    #[arg(long)]
    seed: Option<i64>,
}

impl SamplingFlags {
    /// Returns the options for requests to `model`.
    pub fn options(&self, model: &str) -> ChatOptions {
        ChatOptions {
            model: model.to_owned(),
            max_tokens: self.max_tokens,
            temperature: self.temperature,
            seed: self.seed,
        }
    }
}

/// Whether receipts are kept.
#[derive(Args, Clone, Debug)]
pub struct ReceiptFlags {
    /// Folder to keep the receipt of every answer in, one file each
    ///
    /// `cocoon receipt verify` verifies them. No receipt contains a word of the conversation.
    #[arg(long, value_name = "DIR")]
    receipts: Option<PathBuf>,
    /// Keep every request and response beside its receipt, IN CLEAR
    ///
    /// Only these show what a receipt commits to.
    #[arg(long, requires = "receipts")]
    receipts_with_text: bool,
}

impl ReceiptFlags {
    /// Makes `upstreams` keep receipts if the flags say so.
    pub fn apply(&self, upstreams: Upstreams) -> Result<Upstreams, KeepError> {
        let Some(folder) = &self.receipts else {
            return Ok(upstreams);
        };
        let bodies = match self.receipts_with_text {
            true => Bodies::Kept,
            false => Bodies::Left,
        };
        Ok(upstreams.with_receipts(Keeper::open(folder, bodies)?))
    }
}
