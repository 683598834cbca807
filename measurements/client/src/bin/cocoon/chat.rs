//! `cocoon chat`: questions and answers on a terminal.

use cocoon_client::terminal::{TerminalError, answer, say, talk};
use cocoon_client::transcript::{Line, Timing};
use cocoon_client::{Address, Conversation, chain};
use cocoon_measurements::verdict::Verdict;
use zeroize::Zeroizing;

use crate::chat_json::{self, show};
use crate::flags::{ReceiptFlags, SamplingFlags, TrustFlags};
use crate::opening::Opening;
use crate::output::outcome;
use crate::{Outcome, unless_interrupted};

/// Chat with a verified appliance
#[derive(clap::Args)]
pub struct Args {
    /// Appliances in order of preference, https://HOST:PORT
    #[arg(required = true)]
    urls: Vec<Address>,
    #[command(flatten)]
    trust: TrustFlags,
    #[command(flatten)]
    receipts: ReceiptFlags,
    /// Question to ask; the answer is printed and the command exits
    #[arg(long)]
    prompt: Option<String>,
    /// Instructions at the start of the conversation
    #[arg(long)]
    system: Option<String>,
    #[command(flatten)]
    sampling: SamplingFlags,
    /// Show the whole verdict
    #[arg(long, short)]
    verbose: bool,
    /// Print one line of JSON for every question
    ///
    /// Fields: url, accepted, class, summary, verdict, model, answer, finish_reason, usage, timing, error. Without --prompt,
    /// every line of standard input is a question, and /new begins a new conversation.
    #[arg(long, conflicts_with = "verbose")]
    json: bool,
}

pub async fn run(mut args: Args) -> anyhow::Result<Outcome> {
    let prompt = args.prompt.take().map(Zeroizing::new);
    let system = args.system.take().map(Zeroizing::new);
    let opening = Opening {
        urls: &args.urls,
        trust: &args.trust,
        verbose: args.verbose,
        json: args.json,
    };
    let told = |url, verdict: Option<&Verdict>, error: &str| {
        show(&Line::failed(url, verdict, error).text())
    };
    let opened = match opening.open(told).await? {
        Ok(opened) => opened,
        Err(outcome) => return Ok(outcome),
    };
    let model = opened.settings.manifest().model.id.clone();
    let options = args.sampling.options(&model);
    let upstreams = args.receipts.apply(opened.upstreams)?;
    let system = system.as_deref().map(String::as_str);
    let conversation = Conversation::new(upstreams, options, system);
    if args.json {
        let first = Line {
            accepted: true,
            class: Some(opened.appliance.class),
            summary: Some(&opened.appliance.summary),
            model: Some(&model),
            timing: Timing {
                attested_ms: opened.attested_ms,
                ..Timing::default()
            },
            error: None,
            ..Line::failed(opened.appliance.address.to_string(), None, "")
        };
        let prompt = prompt.as_deref().map(String::as_str);
        return chat_json::run(conversation, prompt, &first).await;
    }
    let mut conversation = conversation.with_shown(opened.appliance);
    let done = match prompt {
        Some(prompt) => unless_interrupted(answer(&mut conversation, &prompt)).await?,
        None => talk(&mut conversation).await,
    };
    outcome(done, TerminalError::is_rejection, |error| {
        say(format_args!("cocoon: {}", chain(error)));
    })
}
