//! `cocoon chat`: questions and answers on a terminal.

use std::io::IsTerminal as _;
use std::time::Instant;

use cocoon_client::terminal::{Waiting, answer, say, style, talk};
use cocoon_client::transcript::{Line, Timing, milliseconds};
use cocoon_client::{
    Address, ChatOptions, Conversation, UpstreamError, Upstreams, chain, summary, table,
};
use cocoon_measurements::verdict::Verdict;
use zeroize::Zeroizing;

use crate::chat_json::{self, show};
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
    /// Print one line of JSON for every question: url, class, summary, answer, finish_reason, usage, timing, error.
    /// Without --prompt every line of standard input is a question
    #[arg(long, conflicts_with = "verbose")]
    json: bool,
}

pub async fn run(mut args: Args) -> anyhow::Result<Outcome> {
    let prompt = args.prompt.take().map(Zeroizing::new);
    let system = args.system.take().map(Zeroizing::new);
    let url = args.urls[0].to_string();
    let settings = if args.json {
        match args.trust.load() {
            Ok(settings) => settings,
            Err(error) => {
                let verdict = error.verdict();
                let text = chain(&error);
                show(&Line::failed(url, verdict.as_ref(), &text).text())?;
                return match verdict {
                    Some(_) => Ok(Outcome::Rejected),
                    None => Err(error.into()),
                };
            }
        }
    } else {
        let Some(settings) = settings(&args.trust)? else {
            return Ok(Outcome::Rejected);
        };
        settings
    };
    let upstreams = Upstreams::new(settings.verifier(), args.urls.clone());
    let color = style(false).color && std::io::stderr().is_terminal();
    let mut waiting = Waiting::new(format!("attesting {}", args.urls[0]));
    let begun = Instant::now();
    let warming = upstreams.warm(|connection| {
        remember(&settings, connection);
        let verdict = connection.verdict();
        let style = cocoon_client::TableStyle {
            color,
            ..style(true)
        };
        let address = connection.address().to_string();
        let shown = if args.verbose {
            table(verdict, style)
        } else {
            format!("{address}: {}", summary(verdict, color))
        };
        (address, verdict.class, summary(verdict, false), shown)
    });
    let warmed = unless_interrupted(warming).await?;
    let attested_ms = milliseconds(begun.elapsed());
    waiting.done();
    let (url, class, worth) = match warmed {
        Ok((address, class, worth, shown)) => {
            if !args.json {
                say(shown);
            }
            (address, class, worth)
        }
        Err(error) => {
            if args.json {
                let text = chain(&error);
                show(&Line::failed(url, verdict_of(&error), &text).text())?;
            }
            if !error.is_rejection() {
                return Err(error.into());
            }
            if !args.json {
                say(format_args!("cocoon: {}", chain(&error)));
            }
            return Ok(Outcome::Rejected);
        }
    };
    let options = ChatOptions {
        model: settings.manifest().model.id.clone(),
        max_tokens: args.max_tokens,
        temperature: args.temperature,
        seed: args.seed,
    };
    let mut conversation =
        Conversation::new(upstreams, options, system.as_deref().map(String::as_str));
    if args.json {
        let first = Line {
            accepted: true,
            class: Some(class),
            summary: Some(&worth),
            model: Some(&settings.manifest().model.id),
            timing: Timing {
                attested_ms,
                ..Timing::default()
            },
            error: None,
            ..Line::failed(url, None, "")
        };
        let prompt = prompt.as_deref().map(String::as_str);
        return chat_json::run(conversation, prompt, &first).await;
    }
    match prompt {
        Some(prompt) => {
            unless_interrupted(answer(&mut conversation, &prompt)).await??;
        }
        None => talk(&mut conversation).await?,
    }
    Ok(Outcome::Done)
}

/// Of the first appliance that was judged and refused.
fn verdict_of(error: &UpstreamError) -> Option<&Verdict> {
    match error {
        UpstreamError::NoneUsable(errors) => errors.iter().find_map(|error| error.verdict()),
        UpstreamError::Broken(_) => None,
    }
}
