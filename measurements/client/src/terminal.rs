//! What people see on a terminal: waiting, words, conversations. Answers and verdicts go to standard
//! output, everything beside them to standard error.

mod answering;
mod lines;
mod waiting;

use std::io::{self, IsTerminal as _, Write as _};

use cocoon_measurements::verdict::steers;
use cocoon_protocol::openai::FinishReason;
use zeroize::Zeroizing;

pub use answering::Answering;
pub use lines::Tally;
pub use waiting::Waiting;

use crate::chat::{ChatError, Conversation, Ending};
use crate::error::chain;
use crate::table::TableStyle;

/// Why a conversation on a terminal breaks off.
#[derive(Debug, thiserror::Error)]
pub enum TerminalError {
    /// No answer.
    #[error(transparent)]
    Chat(#[from] ChatError),
    /// Standard input or output.
    #[error("cannot read from or write to the terminal")]
    Io(#[from] io::Error),
    /// A line that no request would hold.
    #[error(
        "a question has more than {} bytes, and none of it was asked: shorten it",
        lines::MAX_LINE
    )]
    LineTooLong,
    /// A line of something else than text.
    #[error("a question is not UTF-8, and none of it was asked: convert it")]
    NotText,
    /// Questions that failed, each of which was told when it did.
    #[error("{failed} of {asked} questions got no whole answer")]
    Unanswered {
        /// How many there were.
        asked: usize,
        /// How many of them failed.
        failed: usize,
        /// Whether appliances were refused for what they showed.
        rejected: bool,
    },
}

impl TerminalError {
    /// Whether appliances were refused for what they showed, rather than not reached.
    pub fn is_rejection(&self) -> bool {
        match self {
            Self::Chat(error) => error.is_rejection(),
            Self::Unanswered { rejected, .. } => *rejected,
            Self::Io(_) | Self::LineTooLong | Self::NotText => false,
        }
    }

    /// Whether it is about the question that was read, and the next may be better.
    pub fn is_of_one_question(&self) -> bool {
        matches!(self, Self::LineTooLong | Self::NotText)
    }
}

/// A conversation on the terminal: lines in, answers out, until `/quit` or the end of input; `/new` begins a new one. Ctrl-C
/// stops an answer; between answers it ends.
///
/// # Errors
/// [`TerminalError::Io`], and where nobody sits at a terminal [`TerminalError::Unanswered`].
pub async fn talk(conversation: &mut Conversation) -> Result<(), TerminalError> {
    say("/quit or Ctrl-D ends; /new begins a new conversation; Ctrl-C stops an answer");
    let mut tally = Tally::default();
    loop {
        let line = tokio::select! {
            line = line(true) => line,
            _ = tokio::signal::ctrl_c() => Ok(None),
        };
        let answered = match line {
            Ok(None) => break,
            Ok(Some(line)) => match line.trim() {
                "" => continue,
                "/quit" => break,
                "/new" => {
                    conversation.clear();
                    say("(a new conversation, and the one before forgotten)");
                    continue;
                }
                prompt => tokio::select! {
                    answered = answer(conversation, prompt) => answered,
                    _ = tokio::signal::ctrl_c() => {
                        say("\n(stopped, and the question forgotten)");
                        continue;
                    }
                },
            },
            Err(error) if error.is_of_one_question() => Err(error),
            Err(error) => return Err(error),
        };
        if let Err(error) = &answered {
            say(format_args!("cocoon: {}", chain(error)));
        }
        tally.count(answered.map_err(|error| error.is_rejection()));
    }
    match io::stdin().is_terminal() {
        true => Ok(()),
        false => tally.end(),
    }
}

/// Asks one question and prints its answer as it arrives, without anything that could steer the terminal.
pub async fn answer(conversation: &mut Conversation, prompt: &str) -> Result<(), TerminalError> {
    answer_told(conversation, prompt, || ()).await
}

/// The same; `begins` is called once, when the first words are there.
///
/// # Errors
/// As [`answer`].
pub async fn answer_told(
    conversation: &mut Conversation,
    prompt: &str,
    begins: impl FnOnce(),
) -> Result<(), TerminalError> {
    let mut begins = Some(begins);
    let mut answering = Answering::new();
    let mut written = Ok(());
    let ending = conversation
        .ask(prompt, |piece| {
            if let Some(begins) = begins.take() {
                begins();
            }
            if written.is_ok() {
                written = answering.words(piece);
            }
        })
        .await;
    drop(answering);
    if !matches!(
        ending,
        Err(ChatError::Request(_)
            | ChatError::Upstream(_)
            | ChatError::Refused { .. }
            | ChatError::Full(_))
    ) {
        print("\n")?;
    }
    written?;
    let Ending {
        finish,
        usage,
        appliance,
    } = ending?;
    if let Some(other) = appliance.filter(|appliance| conversation.changes_to(appliance)) {
        say(format_args!(
            "(this was {}: {})",
            other.address, other.summary
        ));
    }
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
    let reading = tokio::task::spawn_blocking(|| lines::next(&mut io::stdin().lock()));
    reading.await.map_err(io::Error::other)?
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
fn harmless(text: &str) -> Zeroizing<String> {
    // Never longer than it was: it does not move, which would leave copies behind.
    let mut harmless = Zeroizing::new(String::with_capacity(text.len()));
    harmless.extend(
        text.chars()
            .filter(|c| matches!(c, '\n' | '\t') || !steers(*c)),
    );
    harmless
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_steers_is_left_out_and_nothing_copied() {
        let text = format!("{}\u{1b}[2J\n\té\u{202e}", "a".repeat(100));
        let shown = harmless(&text);
        assert_eq!(*shown, format!("{}[2J\n\té", "a".repeat(100)));
        assert_eq!(shown.capacity(), text.len());
    }
}
