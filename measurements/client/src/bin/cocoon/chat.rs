//! `cocoon chat`: questions and answers on a terminal.

use std::io::IsTerminal as _;

use cocoon_client::terminal::{Waiting, answer, say, style, talk};
use cocoon_client::{Address, ChatOptions, Conversation, Upstreams, chain, summary, table};
use zeroize::Zeroizing;

use crate::flags::TrustFlags;
use crate::output::{remember, settings};
use crate::{Outcome, unless_interrupted};

/// Talk to a verified appliance
#[derive(clap::Args)]
pub struct Args {
    /// Appliances in order of preference, https://HOST:PORT
    #[arg(required = true)]
    urls: Vec<Address>,
    #[command(flatten)]
    trust: TrustFlags,
    /// Ask this, print the answer and end
    #[arg(long)]
    prompt: Option<String>,
    /// Instructions that the conversation begins with
    #[arg(long)]
    system: Option<String>,
    /// Most tokens of an answer
    #[arg(long, value_name = "N")]
    max_tokens: Option<u32>,
    /// 0 (always the likeliest word) to 2
    #[arg(long)]
    temperature: Option<f32>,
    /// Repeats an answer
    #[arg(long)]
    seed: Option<i64>,
    /// Show the whole verdict
    #[arg(long, short)]
    verbose: bool,
}

pub async fn run(mut args: Args) -> anyhow::Result<Outcome> {
    let prompt = args.prompt.take().map(Zeroizing::new);
    let system = args.system.take().map(Zeroizing::new);
    let Some(settings) = settings(&args.trust)? else {
        return Ok(Outcome::Rejected);
    };
    let upstreams = Upstreams::new(settings.verifier(), args.urls.clone());
    let color = style(false).color && std::io::stderr().is_terminal();
    let waiting = Waiting::new(format!("attesting {}", args.urls[0]));
    let warming = upstreams.warm(|connection| {
        remember(&settings, connection);
        if args.verbose {
            table(
                connection.verdict(),
                cocoon_client::TableStyle {
                    color,
                    ..style(true)
                },
            )
        } else {
            format!(
                "{}: {}",
                connection.address(),
                summary(connection.verdict(), color)
            )
        }
    });
    let verdict = unless_interrupted(warming).await?;
    waiting.done();
    match verdict {
        Ok(text) => say(text),
        Err(error) if error.is_rejection() => {
            say(format_args!("cocoon: {}", chain(&error)));
            return Ok(Outcome::Rejected);
        }
        Err(error) => return Err(error.into()),
    }
    let options = ChatOptions {
        model: settings.manifest().model.id.clone(),
        max_tokens: args.max_tokens,
        temperature: args.temperature,
        seed: args.seed,
    };
    let mut conversation =
        Conversation::new(upstreams, options, system.as_deref().map(String::as_str));
    match prompt {
        Some(prompt) => {
            unless_interrupted(answer(&mut conversation, &prompt)).await??;
        }
        None => talk(&mut conversation).await?,
    }
    Ok(Outcome::Done)
}
