//! Flags that several commands share.

use std::path::PathBuf;

use clap::Args;
use cocoon_client::chain;
use cocoon_client::terminal::say;
use cocoon_client::trust::{Settings, TrustError, TrustOptions};
use cocoon_protocol::bytes::Hex32;

/// Whom to believe.
#[derive(Args, Clone, Debug)]
pub struct TrustFlags {
    /// Manifest of the image that the appliance must run; its signature file MANIFEST.dsse is read when present
    #[arg(long, value_name = "FILE")]
    manifest: PathBuf,
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
    /// What to demand, TOML, in the trust file's words: its signers and [policy] stand in place of that file's, its
    /// threshold too if it states one, and the greater release_floor of both counts. --signer and --threshold go
    /// before it. Roots of trust cannot stand in it
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// Forget the newest release seen of these signers, and of sets that share one with them, and accept an older
    /// one: only if its withdrawal was announced. A release_floor in a file stays
    #[arg(long)]
    reset_release_floor: bool,
    /// Signers, floors and known appliances; the newest releases seen are remembered beside it, in a file of the
    /// same name that ends in .releases.toml [default: ~/.config/cocoon/trust.toml]
    #[arg(long, value_name = "FILE", env = "COCOON_TRUST_FILE")]
    trust_file: Option<PathBuf>,
}

impl TrustFlags {
    /// Reads what the flags name.
    pub fn load(&self) -> Result<Settings, TrustError> {
        let options = TrustOptions {
            manifest: self.manifest.clone(),
            signers: self.signers.clone(),
            threshold: self.threshold,
            pinned: self.pinned.clone(),
            allow_unlocked: self.allow_unlocked,
            trust_roots: self.trust_roots.clone(),
            trust_file: self.trust_file.clone(),
            policy: self.policy.clone(),
            reset_release_floor: self.reset_release_floor,
        };
        let settings = Settings::load(&options, cocoon_client::now())?;
        if let Some(error) = settings.unkept() {
            say(format_args!("note: {}", chain(error)));
        }
        Ok(settings)
    }
}
