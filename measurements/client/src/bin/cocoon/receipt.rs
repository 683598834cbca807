//! `cocoon receipt`: verifies the signed receipt of an answer, offline.

mod shown;

use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use cocoon_client::receipts::{Bundle, BundleError, MAX_BUNDLE_LEN, MAX_KEPT_BODY};
use cocoon_client::{MAX_BODY_LEN, now};
use cocoon_measurements::appraise::{Presented, appraise};
use cocoon_measurements::receipt::{Expected, judge, meter_key};
use cocoon_measurements::verdict::{Check, Verdict};
use cocoon_protocol::binding::Freshness;
use cocoon_protocol::bytes::Hex32;
use cocoon_protocol::document::Document;

use crate::Outcome;
use crate::flags::BeliefFlags;
use shown::Shown;

/// Verify receipts of answers, offline
#[derive(clap::Subcommand)]
pub enum Receipt {
    Verify(Verify),
}

/// Verify one receipt that --receipts has kept
///
/// Checks the signature, the meter key against the session document, and what the receipt commits to.
#[derive(clap::Args)]
#[command(group(clap::ArgGroup::new("anchor").required(true).args(["manifest", "meter_key"])))]
pub struct Verify {
    /// File with the receipt
    file: PathBuf,
    /// Manifest to appraise the session document under; the meter key in the document is then trusted
    ///
    /// Signatures are read from MANIFEST.dsse beside it, if present.
    #[arg(long, value_name = "FILE")]
    manifest: Option<PathBuf>,
    /// Meter key to trust, without appraising the session document
    #[arg(long, value_name = "HEX")]
    meter_key: Option<Hex32>,
    #[command(flatten)]
    belief: BeliefFlags,
    /// Time to verify at, in seconds since 1970 [default: now]
    ///
    /// Manifests and collateral of old receipts expire.
    #[arg(long, value_name = "SECONDS")]
    time: Option<u64>,
    /// Body of the request as it was sent, including padding
    #[arg(long, value_name = "FILE")]
    request: Option<PathBuf>,
    /// Body of the response as it came before the receipt
    #[arg(long, value_name = "FILE")]
    response: Option<PathBuf>,
    /// Show digests in full
    #[arg(long, short)]
    verbose: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run(receipt: &Receipt) -> anyhow::Result<Outcome> {
    let Receipt::Verify(args) = receipt;
    let bundle = read(&args.file, MAX_BUNDLE_LEN)?;
    let bundle = Bundle::parse(&bundle)
        .with_context(|| format!("{} is no use as a receipt", args.file.display()))?;
    let digest = |path: &Option<PathBuf>, limit| {
        let body = path.as_deref().map(|path| read(path, limit)).transpose()?;
        anyhow::Ok(body.map(|body| Hex32::sha256(&body)))
    };
    let bodies = (
        digest(&args.request, MAX_BODY_LEN)?,
        digest(&args.response, MAX_KEPT_BODY)?,
    );
    let shown = match (bundle.delivery(), bundle.document()) {
        (Ok(delivery), Ok((document, expected))) => {
            let (verdict, mut checks) = session(args, &bundle, &document)?;
            let expected = Expected {
                meter_key: args.meter_key.unwrap_or(expected.meter_key),
                request: bodies.0,
                response: bodies.1,
                ..expected
            };
            checks.extend(judge(&delivery, &expected));
            Shown {
                receipt: Some(delivery.signed.receipt),
                verdict,
                checks,
            }
        }
        (Err(error), _) | (_, Err(error)) => Shown::unreadable(&error),
    };
    shown.show(args.verbose, args.json)?;
    Ok(match shown.is_rejected() {
        true => Outcome::Rejected,
        false => Outcome::Done,
    })
}

/// Establishes why the session document's meter key is trusted: returns the verdict on the
/// document, or the check that the key is the given one.
fn session(
    args: &Verify,
    bundle: &Bundle,
    document: &Document,
) -> anyhow::Result<(Option<Verdict>, Vec<Check>)> {
    if let Some(given) = &args.meter_key {
        return Ok((None, meter_key(document, given)));
    }
    let Some(manifest) = &args.manifest else {
        // Impossible: clap requires one of them.
        bail!("--manifest or --meter-key is needed");
    };
    let now = args.time.unwrap_or_else(now);
    let settings = match args.belief.of_the_past(manifest, now) {
        Ok(settings) => settings,
        Err(error) => match error.verdict() {
            Some(verdict) => return Ok((Some(verdict), Vec::new())),
            None => return Err(error.into()),
        },
    };
    let presented = Presented {
        document,
        leaf_spki_sha256: bundle.leaf_spki_sha256,
        fresh: Some(Freshness {
            nonce: document.nonce,
            exporter: bundle.exporter,
        }),
        // The certificate was not kept. The document's evidence commits to the digest of the GPU
        // section all the same.
        handshake_gpus: None,
    };
    let verdict = appraise(&presented, settings.manifest(), settings.policy(), now);
    Ok((Some(settings.explained(&verdict)), Vec::new()))
}

impl Shown {
    /// Makes the result for a bundle whose receipt or document is malformed.
    fn unreadable(error: &BundleError) -> Self {
        Self {
            receipt: None,
            verdict: None,
            checks: vec![shown::unreadable(error)],
        }
    }
}

fn read(path: &Path, limit: usize) -> anyhow::Result<Vec<u8>> {
    let context = || format!("cannot read {}", path.display());
    let file = std::fs::File::open(path).with_context(context)?;
    let mut bytes = Vec::new();
    file.take(limit as u64 + 1)
        .read_to_end(&mut bytes)
        .with_context(context)?;
    if bytes.len() > limit {
        bail!("{} has more than {limit} bytes", path.display());
    }
    Ok(bytes)
}
