//! `cocoon verify`: verifies one connection and prints the verdict.

use cocoon_client::terminal::{Waiting, print, say, style};
use cocoon_client::{Address, AttestedConnection, CollateralUse, ConnectError, chain, table};
use cocoon_measurements::verdict::Verdict;
use cocoon_protocol::binding::Claims;
use serde::Serialize;

use crate::Outcome;
use crate::flags::TrustFlags;
use crate::output::remember;

/// Verify an appliance and print the verdict
///
/// Connects to the appliance and attests it with a fresh nonce.
#[derive(clap::Args)]
pub struct Args {
    /// Appliance to verify, https://HOST:PORT
    url: Address,
    #[command(flatten)]
    trust: TrustFlags,
    /// Print the verdict as JSON
    #[arg(long)]
    json: bool,
    /// Show the digests of passed checks in full
    #[arg(long, short)]
    verbose: bool,
}

/// Output of `--json`.
#[derive(Serialize)]
struct Report<'a> {
    url: String,
    accepted: bool,
    verdict: Option<&'a Verdict>,
    claims: Option<&'a Claims>,
    /// Origin of the collateral behind the verdict.
    collateral: Option<CollateralUse>,
    error: Option<String>,
}

/// Result of a connection.
type Shown<'a> = Result<&'a AttestedConnection, Refused<'a>>;

/// Why there is no attested connection.
struct Refused<'a> {
    verdict: Option<&'a Verdict>,
    collateral: Option<CollateralUse>,
    error: String,
}

pub async fn run(args: Args) -> anyhow::Result<Outcome> {
    let settings = match args.trust.load().await {
        Ok(settings) => settings,
        Err(error) => {
            let Some(verdict) = error.verdict() else {
                return Err(error.into());
            };
            let refused = Refused {
                verdict: Some(&verdict),
                collateral: None,
                error: chain(&error),
            };
            show(&args, Err(refused))?;
            return Ok(Outcome::Rejected);
        }
    };
    let mut waiting = Waiting::new(format!("attesting {}", args.url));
    let result = settings.verifier().connect(&args.url).await;
    waiting.done();
    match result {
        Ok(connection) => {
            show(&args, Ok(&connection))?;
            remember(&settings, &connection);
            Ok(Outcome::Done)
        }
        Err(error) if error.is_rejection() => {
            let verdict = error.verdict().map(|verdict| settings.explained(verdict));
            let refused = Refused {
                verdict: verdict.as_ref(),
                collateral: error.collateral(),
                error: chain(&error),
            };
            show(&args, Err(refused))?;
            Ok(Outcome::Rejected)
        }
        Err(error) => Err(unreached(&args, error)?),
    }
}

/// Handles an appliance that could not be reached. There is no verdict, but `--json` still prints a
/// report.
fn unreached(args: &Args, error: ConnectError) -> anyhow::Result<anyhow::Error> {
    if args.json {
        let refused = Refused {
            verdict: None,
            collateral: None,
            error: chain(&error),
        };
        show(args, Err(refused))?;
    }
    Ok(error.into())
}

fn show(args: &Args, result: Shown<'_>) -> anyhow::Result<()> {
    let (verdict, collateral) = match &result {
        Ok(connection) => (Some(connection.verdict()), Some(connection.collateral())),
        Err(refused) => (refused.verdict, refused.collateral),
    };
    if args.json {
        let report = Report {
            url: args.url.to_string(),
            accepted: result.is_ok(),
            verdict,
            claims: result.as_ref().ok().map(|connection| connection.claims()),
            collateral,
            error: result.err().map(|refused| refused.error),
        };
        print(format_args!("{}\n", serde_json::to_string_pretty(&report)?))?;
        return Ok(());
    }
    if let Some(verdict) = verdict {
        print(format_args!("{}\n", table(verdict, style(args.verbose))))?;
    }
    if let Some(used) = collateral {
        print(format_args!("\ncollateral: {used}\n"))?;
    }
    match result {
        Err(Refused {
            verdict: None,
            error,
            ..
        }) => print(format_args!("REJECTED: {error}\n"))?,
        Err(_) => say(format_args!(
            "{} is not to be trusted with a prompt",
            args.url
        )),
        Ok(_) => {}
    }
    Ok(())
}
