//! Flags that several commands share.

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
    /// Manifest of the image that the appliance must run; its signature file MANIFEST.dsse is read when present. Also the
    /// URL of one, or https://HOST:PORT of a host that publishes it: it counts by its signatures or its hash all the same
    #[arg(long, value_name = "FILE|URL")]
    manifest: PathBuf,
    #[command(flatten)]
    belief: BeliefFlags,
    /// Forget the newest release seen of these signers, and of sets that share one with them, and accept an older
    /// one: only if its withdrawal was announced. A release_floor in a file stays. The newest releases seen are
    /// remembered beside the trust file, in a file of the same name that ends in .releases.toml
    #[arg(long)]
    reset_release_floor: bool,
    /// Keep what vendors say of accepted appliances (collateral) in this folder, so that only what changed is fetched the
    /// next time [default: ~/.cache/cocoon-client/collateral]
    #[arg(long, value_name = "DIR", env = "COCOON_COLLATERAL_CACHE")]
    collateral_cache: Option<PathBuf>,
    /// Keep none of it, and fetch it each time: from what is not fetched an appliance could tell that this client was
    /// there before
    #[arg(long)]
    no_collateral_cache: bool,
}

/// Whom to believe about a manifest.
#[derive(Args, Clone, Debug)]
pub struct BeliefFlags {
    /// Ed25519 key of a trusted signer, instead of those in the policy file and the trust file; a threshold stated
    /// there stays (repeatable)
    #[arg(long = "signer", value_name = "HEX|FILE")]
    signers: Vec<String>,
    /// How many of the signers must have signed, 1 to their number [default: what the policy file states, else the
    /// trust file, else 1]
    #[arg(long, value_name = "K")]
    threshold: Option<usize>,
    /// Trust the manifest with this SHA-256, signed or not (repeatable)
    #[arg(long = "manifest-sha256", value_name = "HEX")]
    pinned: Vec<Hex32>,
    /// Accept a manifest whose inputs were not the locked ones: for trials
    #[arg(long)]
    allow_unlocked: bool,
    /// Accept SIMULATED evidence under this development root: for trials, protects nothing (repeatable)
    #[arg(long = "trust-root", value_name = "PEM")]
    trust_roots: Vec<PathBuf>,
    /// What to demand, TOML, in the trust file's words: its signers stand in place of that file's, its
    /// threshold and [policy] too if it states one, and the greater release_floor of both counts. --signer and --threshold go
    /// before it. Roots of trust cannot stand in it
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// Signers, floors and known appliances [default: ~/.config/cocoon/trust.toml]
    #[arg(long, value_name = "FILE", env = "COCOON_TRUST_FILE")]
    trust_file: Option<PathBuf>,
}

impl TrustFlags {
    /// Reads what the flags name, on a thread of its own: a manifest may have to be fetched, and Ctrl-C is heard meanwhile.
    pub async fn load(&self) -> Result<Settings, TrustError> {
        let flags = self.clone();
        let read = tokio::task::spawn_blocking(move || flags.read()).await;
        // Nobody cancels it, so that it has panicked.
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
            // Nobody asked for it, and a home may be read-only.
            Some(Err(_)) | None => {}
        }
        Ok(settings)
    }
}

impl BeliefFlags {
    /// Reads the manifest of something that is over, and what the flags name; `time` is when the manifest must have counted.
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

    /// A trust file that somebody named, and that is not there: a slip of the pen believes other people than a file would.
    fn missing(&self) -> Option<&Path> {
        let path = self.trust_file.as_deref()?;
        // What cannot be looked at fails by its own name when it is read.
        (path.try_exists().ok() == Some(false)).then_some(path)
    }
}

/// How answers are made.
#[derive(Args, Clone, Debug)]
pub struct SamplingFlags {
    /// Most tokens of an answer
    #[arg(long, value_name = "N")]
    max_tokens: Option<u32>,
    /// 0 (always the likeliest word) to 2
    #[arg(long)]
    temperature: Option<f32>,
    /// Repeats an answer
    #[arg(long)]
    seed: Option<i64>,
}

impl SamplingFlags {
    /// What to ask `model` for.
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
    /// Keep the receipt of every answer in this folder, a file each, for `cocoon receipt verify`; none holds a word of
    /// the conversation
    #[arg(long, value_name = "DIR")]
    receipts: Option<PathBuf>,
    /// Keep every request and response beside its receipt, IN CLEAR: what a receipt commits to is only shown by these
    #[arg(long, requires = "receipts")]
    receipts_with_text: bool,
}

impl ReceiptFlags {
    /// The appliances, whose receipts are kept if the flags say so.
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
