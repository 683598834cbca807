//! Output on a terminal: conversations, words as they arrive, and progress while waiting. Answers
//! and verdicts go to standard output, everything else to standard error.

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

/// Why a conversation on a terminal failed.
#[derive(Debug, thiserror::Error)]
pub enum TerminalError {
    /// A question got no answer.
    #[error(transparent)]
    Chat(#[from] ChatError),
    /// Standard input or output failed.
    #[error("cannot read from or write to the terminal")]
    Io(#[from] io::Error),
    /// A line is too long for a request.
    #[error(
        "a question has more than {} bytes, and none of it was asked: shorten it",
        lines::MAX_LINE
    )]
    LineTooLong,
    /// A line is not UTF-8.
    #[error("a question is not UTF-8, and none of it was asked: convert it")]
    NotText,
    /// Some questions failed; each failure was reported when it happened.
    #[error("{failed} of {asked} questions got no whole answer")]
    Unanswered {
        /// Number of questions.
        asked: usize,
        /// Number of questions that failed.
        failed: usize,
        /// Whether appliances were refused for what they presented.
        rejected: bool,
    },
}

impl TerminalError {
    /// Returns whether appliances were refused for what they presented, rather than not reached.
    pub fn is_rejection(&self) -> bool {
        match self {
            Self::Chat(error) => error.is_rejection(),
            Self::Unanswered { rejected, .. } => *rejected,
            Self::Io(_) | Self::LineTooLong | Self::NotText => false,
        }
    }

    /// Returns whether the error concerns only the question that was read; the conversation can go
    /// on.
    pub fn is_of_one_question(&self) -> bool {
        matches!(self, Self::LineTooLong | Self::NotText)
    }
}

/// Runs a conversation on the terminal: reads lines and prints answers until `/quit` or the end of
/// input. `/new` begins a new conversation. Ctrl-C stops an answer; between answers it ends the
/// conversation.
///
/// # Errors
/// [`TerminalError::Io`], and [`TerminalError::Unanswered`] if standard input is not a terminal and
/// a question failed.
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

/// Asks one question and prints its answer as it arrives, without characters that control the
/// terminal.
pub async fn answer(conversation: &mut Conversation, prompt: &str) -> Result<(), TerminalError> {
    answer_told(conversation, prompt, || ()).await
}

/// Does the same as [`answer`], and calls `begins` once, when the first words arrive.
///
/// # Errors
/// The same as those of [`answer`].
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

/// Reads a line from standard input; `None` at its end. With `prompt`, shows a prompt first if
/// standard input is a terminal. Reads on a thread of its own, which goes on waiting after Ctrl-C.
pub async fn line(prompt: bool) -> Result<Option<Zeroizing<String>>, TerminalError> {
    if prompt && io::stdin().is_terminal() {
        print("\n> ")?;
    }
    let reading = tokio::task::spawn_blocking(|| lines::next(&mut io::stdin().lock()));
    reading.await.map_err(io::Error::other)?
}

/// Returns the style for standard output, with colours if it is a terminal and `NO_COLOR` is not
/// set.
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

/// Writes a line for people to standard error.
pub fn say(line: impl std::fmt::Display) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Writes to standard output and flushes it.
pub fn print(text: impl std::fmt::Display) -> io::Result<()> {
    let mut out = io::stdout().lock();
    write!(out, "{text}")?;
    out.flush()
}

/// Returns text of a model without characters that control a terminal.
fn harmless(text: &str) -> Zeroizing<String> {
    // The result is never longer than the text, so it is not reallocated, which would leave copies.
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
