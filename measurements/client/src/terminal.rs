//! What people see on a terminal: waiting, words, conversations. Answers and verdicts go to standard
//! output, everything beside them to standard error.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use cocoon_protocol::openai::FinishReason;
use indicatif::{ProgressBar, ProgressStyle};
use zeroize::Zeroizing;

use crate::chat::{ChatError, Conversation, Ending};
use crate::error::{chain, steers};
use crate::table::TableStyle;

/// Longest line that is read from the terminal, in bytes: most of what fits into a request.
const MAX_LINE: u64 = 512 * 1024;

/// Why a conversation on a terminal breaks off.
#[derive(Debug, thiserror::Error)]
pub enum TerminalError {
    /// No answer.
    #[error(transparent)]
    Chat(#[from] ChatError),
    /// Standard input or output.
    #[error("cannot read from or write to the terminal")]
    Io(#[from] io::Error),
}

/// A conversation on the terminal: lines in, answers out, until `/quit` or the end of input. Ctrl-C stops an answer; between answers it ends.
pub async fn talk(conversation: &mut Conversation) -> Result<(), TerminalError> {
    say("/quit or Ctrl-D ends; Ctrl-C stops an answer");
    loop {
        let line = tokio::select! {
            line = line(true) => line?,
            _ = tokio::signal::ctrl_c() => None,
        };
        let Some(line) = line else { break };
        match line.trim() {
            "" => continue,
            "/quit" => break,
            prompt => tokio::select! {
                answered = answer(conversation, prompt) => {
                    if let Err(error) = answered {
                        say(format_args!("cocoon: {}", chain(&error)));
                    }
                }
                _ = tokio::signal::ctrl_c() => say("\n(stopped, and the question forgotten)"),
            },
        }
    }
    Ok(())
}

/// Asks one question and prints its answer as it arrives, without anything that could steer the terminal.
pub async fn answer(conversation: &mut Conversation, prompt: &str) -> Result<(), TerminalError> {
    let mut waiting = Waiting::new("waiting for the first word".to_owned());
    let mut written = Ok(());
    let ending = conversation
        .ask(prompt, |piece| {
            waiting.done();
            if written.is_ok() {
                written = print(Zeroizing::new(harmless(piece)).as_str());
            }
        })
        .await;
    waiting.done();
    if !matches!(
        ending,
        Err(ChatError::Request(_) | ChatError::Upstream(_) | ChatError::Refused { .. })
    ) {
        print("\n")?;
    }
    written?;
    let Ending { finish, usage, .. } = ending?;
    if finish == Some(FinishReason::Length) {
        say("(cut at the token limit)");
    }
    if let Some(usage) = usage.filter(|_| io::stderr().is_terminal()) {
        say(format_args!(
            "({} tokens asked, {} answered)",
            usage.prompt_tokens, usage.completion_tokens
        ));
    }
    Ok(())
}

/// A line from standard input, after a prompt if people are to see one; `None` at its end. Read on a thread of its own,
/// which a Ctrl-C leaves waiting.
pub async fn line(prompt: bool) -> Result<Option<Zeroizing<String>>, TerminalError> {
    if prompt && io::stdin().is_terminal() {
        print("\n> ")?;
    }
    let line = tokio::task::spawn_blocking(|| {
        use io::Read as _;
        let mut line = Zeroizing::new(String::with_capacity(4096));
        let read = io::stdin().lock().take(MAX_LINE).read_line(&mut line)?;
        io::Result::Ok((read > 0).then_some(line))
    })
    .await
    .map_err(io::Error::other)??;
    Ok(line)
}

/// Colours when standard output is a terminal that may have them.
pub fn style(full: bool) -> TableStyle {
    let terminal = io::stdout().is_terminal();
    let color = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let width = terminal_size::terminal_size().filter(|_| terminal);
    TableStyle {
        color,
        width: width.map_or(TableStyle::default().width, |(width, _)| width.0),
        full,
    }
}

/// Something that takes time, shown on standard error: turning on a terminal, one line elsewhere.
pub struct Waiting {
    bar: ProgressBar,
    /// Dropping it ends the lines that are written where standard error is no terminal.
    _told: Option<mpsc::Sender<()>>,
}

/// After how many milliseconds a line says that it goes on, where there is no terminal.
const TOLD: [u64; 5] = [1900, 5000, 10_000, 20_000, 40_000];
/// After those, every so many milliseconds.
const LATER: u64 = 30_000;

impl Waiting {
    /// Shows `what` until it is done.
    pub fn new(what: String) -> Self {
        let bar = ProgressBar::new_spinner();
        if bar.is_hidden() {
            say(format_args!("{what} …"));
            let (told, ended) = mpsc::channel();
            std::thread::spawn(move || tell(&what, &ended));
            return Self {
                bar,
                _told: Some(told),
            };
        }
        // The template is a constant without errors; the default one serves as well.
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} … {elapsed}") {
            bar.set_style(style);
        }
        bar.set_message(what);
        bar.enable_steady_tick(Duration::from_millis(120));
        Self { bar, _told: None }
    }

    /// Takes it away.
    pub fn done(&mut self) {
        self.bar.finish_and_clear();
        self._told = None;
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.done();
    }
}

/// Until the other end of `ended` is dropped.
fn tell(what: &str, ended: &mpsc::Receiver<()>) {
    let began = Instant::now();
    let later = (1..).map(|count| TOLD[TOLD.len() - 1] + count * LATER);
    for due in TOLD.into_iter().chain(later) {
        let wait = Duration::from_millis(due).saturating_sub(began.elapsed());
        if ended.recv_timeout(wait) != Err(mpsc::RecvTimeoutError::Timeout) {
            return;
        }
        say(format_args!("{what}: {} s", began.elapsed().as_secs()));
    }
}

/// A line for people, beside the output proper.
pub fn say(line: impl std::fmt::Display) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Writes to standard output at once.
pub fn print(text: impl std::fmt::Display) -> io::Result<()> {
    let mut out = io::stdout().lock();
    write!(out, "{text}")?;
    out.flush()
}

/// A model's words, without what could steer a terminal.
fn harmless(text: &str) -> String {
    text.chars()
        .filter(|c| matches!(c, '\n' | '\t') || !steers(*c))
        .collect()
}
