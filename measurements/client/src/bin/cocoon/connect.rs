//! `cocoon connect`: a local OpenAI-compatible endpoint in front of verified appliances.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use cocoon_client::terminal::{Waiting, print, say};
use cocoon_client::{Address, Endpoint, EndpointOptions, Token, Upstreams, chain, summary};
use serde_json::json;
use zeroize::Zeroizing;

use crate::flags::{ReceiptFlags, TrustFlags};
use crate::output::settings;
use crate::{Outcome, unless_interrupted};

/// Largest token file, in bytes.
const MAX_TOKEN_FILE: u64 = 4096;

/// Serve a local OpenAI-compatible endpoint that forwards requests over attested connections
///
/// Manifest, policy file and trust file are read again while the endpoint runs: before the first request once ten minutes have
/// passed since the last reading, and, at most once a minute, when an appliance is refused because of its manifest.
///
/// A renewed manifest in the same place (or at the same URL) and a raised release floor thus take effect without a restart. If
/// one of them cannot be read, what was known before stays in force.
#[derive(clap::Args)]
pub struct Args {
    /// Appliances in order of preference, https://HOST:PORT; the next takes over when one fails
    #[arg(required = true)]
    urls: Vec<Address>,
    #[command(flatten)]
    trust: TrustFlags,
    #[command(flatten)]
    receipts: ReceiptFlags,
    /// Loopback address and port to listen on
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// File with the bearer token [default: a new token, which is printed]
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Print the base URL and the token as one line of JSON
    #[arg(long)]
    json: bool,
}

pub async fn run(args: Args) -> anyhow::Result<Outcome> {
    let token = match &args.token_file {
        Some(path) => read_token(path)?,
        None => Token::generate()?,
    };
    let shown = args
        .token_file
        .is_none()
        .then(|| Zeroizing::new(token.expose().to_owned()));
    let Some(settings) = settings(&args.trust).await? else {
        return Ok(Outcome::Rejected);
    };
    let settings = Arc::new(settings);
    let upstreams = Upstreams::renewing(Arc::clone(&settings), args.urls.clone(), |line| say(line));
    let upstreams = args.receipts.apply(upstreams)?;
    // Binds the port first, so that a port in use is reported before the slow attestation.
    let endpoint = Endpoint::bind(
        upstreams.clone(),
        EndpointOptions {
            listen: args.listen,
            token,
        },
    )
    .await?;

    let mut waiting = Waiting::new(format!("attesting {}", args.urls[0]));
    let warming = upstreams.warm(|connection| {
        format!(
            "{}: {}",
            connection.address(),
            summary(connection.verdict(), false)
        )
    });
    let first = unless_interrupted(warming).await?;
    waiting.done();
    match first {
        Ok(line) => say(line),
        Err(error) if error.is_rejection() => {
            say(format_args!("cocoon: {}", chain(&error)));
            return Ok(Outcome::Rejected);
        }
        // The appliance may still start, or become free; until then requests get a 502 response with the reason.
        Err(error) => say(format_args!("not usable yet: {}", chain(&error))),
    }
    announce(
        &args,
        &endpoint.base_url(),
        shown.as_deref().map(String::as_str),
        &settings.manifest().model.id,
    )?;
    endpoint
        .serve(async {
            // If no handler can be installed, the signal itself ends the program.
            let _ = tokio::signal::ctrl_c().await;
            say("stopping");
        })
        .await;
    Ok(Outcome::Done)
}

fn announce(args: &Args, base_url: &str, token: Option<&str>, model: &str) -> anyhow::Result<()> {
    if args.json {
        let line = json!({ "base_url": base_url, "token": token, "model": model });
        print(format_args!("{line}\n"))?;
        return Ok(());
    }
    let key = match (token, &args.token_file) {
        (Some(token), _) => token.to_owned(),
        (None, Some(path)) => format!("\"$(cat {})\"", quoted(&path.display().to_string())),
        (None, None) => String::new(),
    };
    let hello = json!({
        "model": model,
        "messages": [{ "role": "user", "content": "Good morning!" }],
    });
    let body = quoted(&hello.to_string());
    print(format_args!(
        "\nexport OPENAI_BASE_URL={base_url}\nexport OPENAI_API_KEY={key}\n\n\
         curl $OPENAI_BASE_URL/chat/completions -H \"Authorization: Bearer $OPENAI_API_KEY\" \\\n  \
         -H 'Content-Type: application/json' \\\n  \
         -d {body}\n\n\
         Ctrl-C stops the endpoint.\n"
    ))?;
    Ok(())
}

/// Quotes a text as one word for a shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

fn read_token(path: &std::path::Path) -> anyhow::Result<Token> {
    use std::io::Read as _;
    let context = || format!("cannot read token file {}", path.display());
    let file = std::fs::File::open(path).with_context(context)?;
    let mut text = Zeroizing::new(String::with_capacity(4096));
    file.take(MAX_TOKEN_FILE)
        .read_to_string(&mut text)
        .with_context(context)?;
    Token::new(&text).with_context(|| format!("token file {} is of no use", path.display()))
}
