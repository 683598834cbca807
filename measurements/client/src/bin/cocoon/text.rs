//! `cocoon translate`, `cocoon summarize` and `cocoon reply`: tasks on a text.

mod input;
mod shown;

use std::time::Instant;

use cocoon_client::chain;
use cocoon_client::messenger::{
    Heard, Language, Line, MAX_DRAFTS, Messenger, MessengerError, Report, Style, Task, Tone,
};
use cocoon_client::terminal::say;
use cocoon_client::transcript::{Timing, milliseconds};
use cocoon_measurements::verdict::Verdict;

use crate::chat_json::show;
use crate::flags::{ReceiptFlags, SamplingFlags, TrustFlags};
use crate::opening::{Opened, Opening};
use crate::output::outcome;
use crate::{Outcome, unless_interrupted};
use input::{Operand, operands, read};
use shown::Shown;

/// Translate a text with a verified appliance
///
/// The temperature is 0 unless --temperature is given.
#[derive(clap::Args)]
#[command(
    override_usage = "cocoon translate [OPTIONS] --manifest <FILE> --to <LANG> <URL>... [FILE|-]"
)]
pub struct Translate {
    /// Language to translate into: an ISO 639 code such as fr or pt-BR, or an English name
    #[arg(long, value_name = "LANG")]
    to: Language,
    /// Language of the text [default: detected by the model]
    #[arg(long, value_name = "LANG")]
    from: Option<Language>,
    #[command(flatten)]
    common: Common,
}

/// Summarize a text with a verified appliance
///
/// The temperature is 0 unless --temperature is given.
#[derive(clap::Args)]
#[command(override_usage = "cocoon summarize [OPTIONS] --manifest <FILE> <URL>... [FILE|-]")]
pub struct Summarize {
    /// Form of the summary
    #[arg(long, value_enum, default_value_t)]
    style: Style,
    /// Maximum number of words to ask the model for, 1 to 10000
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    words: Option<u32>,
    #[command(flatten)]
    common: Common,
}

/// Draft replies to a message or a thread with a verified appliance
///
/// The temperature is 0.8 unless --temperature is given.
#[derive(clap::Args)]
#[command(override_usage = "cocoon reply [OPTIONS] --manifest <FILE> <URL>... [FILE|-]")]
pub struct Reply {
    /// Number of drafts, 1 to 8
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=MAX_DRAFTS as i64))]
    drafts: u8,
    /// Tone of the drafts
    #[arg(long, value_enum, default_value_t)]
    tone: Tone,
    #[command(flatten)]
    common: Common,
}

#[derive(clap::Args)]
struct Common {
    /// Appliances in order of preference, https://HOST:PORT, then the file with the text
    ///
    /// The text is UTF-8 and at most 1 MiB. Without a file, or with -, it is read from standard input.
    #[arg(required = true, value_name = "URL|FILE")]
    operands: Vec<Operand>,
    #[command(flatten)]
    trust: TrustFlags,
    #[command(flatten)]
    receipts: ReceiptFlags,
    #[command(flatten)]
    sampling: SamplingFlags,
    /// Show the whole verdict
    #[arg(long, short)]
    verbose: bool,
    /// Print one line of JSON at the end
    ///
    /// Fields: url, accepted, class, summary, verdict, model, task, result, drafts, complete, usage, parts, timing, error.
    #[arg(long, conflicts_with = "verbose")]
    json: bool,
}

impl Translate {
    pub async fn run(self) -> anyhow::Result<Outcome> {
        let (to, from) = (self.to, self.from);
        run(self.common, Task::Translate { to, from }, 1).await
    }
}

impl Summarize {
    pub async fn run(self) -> anyhow::Result<Outcome> {
        let (style, words) = (self.style, self.words);
        run(self.common, Task::Summarize { style, words }, 1).await
    }
}

impl Reply {
    pub async fn run(self) -> anyhow::Result<Outcome> {
        let task = Task::Reply { tone: self.tone };
        run(self.common, task, self.drafts.into()).await
    }
}

async fn run(common: Common, task: Task, drafts: usize) -> anyhow::Result<Outcome> {
    let (urls, file) = operands(&common.operands)?;
    let text = unless_interrupted(read(file)).await??;
    let name = task.name();
    let opening = Opening {
        urls: &urls,
        trust: &common.trust,
        verbose: common.verbose,
        json: common.json,
    };
    let told = |url, verdict: Option<&Verdict>, error: &str| {
        show(&Line::failed(name, url, verdict, error).text())
    };
    let opened = match opening.open(told).await? {
        Ok(opened) => opened,
        Err(outcome) => return Ok(outcome),
    };
    let options = common
        .sampling
        .options(&opened.settings.manifest().model.id);
    let upstreams = common.receipts.apply(opened.upstreams.clone())?;
    let mut report = Report::default();
    if common.json {
        let (begun, mut first_piece) = (Instant::now(), None);
        let heard = |heard: Heard<'_>| {
            if let Heard::Words(_) = heard {
                first_piece.get_or_insert_with(|| begun.elapsed());
            }
        };
        let doing = async {
            let messenger = Messenger::new(upstreams, options).await?;
            messenger.run(task, drafts, &text, &mut report, heard).await
        };
        let done = unless_interrupted(doing).await?;
        let timing = Timing {
            attested_ms: opened.attested_ms,
            first_piece_ms: first_piece.and_then(milliseconds),
            answer_ms: milliseconds(begun.elapsed()),
        };
        show(&line(name, &opened, &report, timing, done.as_ref().err()))?;
        return outcome(done, MessengerError::is_rejection, |_| {});
    }
    let mut shown = Shown::new();
    let doing = async {
        let messenger = Messenger::new(upstreams, options).await?;
        let heard = |heard: Heard<'_>| shown.hear(heard);
        messenger.run(task, drafts, &text, &mut report, heard).await
    };
    let done = unless_interrupted(doing).await?;
    shown.end(&report)?;
    outcome(done, MessengerError::is_rejection, |error| {
        say(format_args!("cocoon: {}", chain(error)));
    })
}

/// Returns the line of JSON about the job.
fn line(
    task: &'static str,
    opened: &Opened,
    report: &Report,
    timing: Timing,
    error: Option<&MessengerError>,
) -> zeroize::Zeroizing<String> {
    // The first connection was accepted, but a later one may have been refused.
    let rejection = error.filter(|error| error.is_rejection());
    let judged = rejection.and_then(MessengerError::verdict);
    let url = judged
        .map_or(&opened.appliance.address, |(address, _)| address)
        .to_string();
    let error = error.map(|error| chain(error));
    let begun = Line {
        accepted: rejection.is_none(),
        class: match rejection {
            Some(_) => judged.map(|(_, verdict)| verdict.class),
            None => Some(opened.appliance.class),
        },
        summary: rejection.is_none().then_some(&*opened.appliance.summary),
        verdict: judged.map(|(_, verdict)| verdict),
        model: Some(&opened.settings.manifest().model.id),
        timing,
        error: None,
        ..Line::failed(task, url, None, "")
    };
    begun.with(report, error.as_deref()).text()
}
