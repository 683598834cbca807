//! `cocoon chat --json`: reads questions from a flag or standard input, and prints one line of JSON
//! for each.

use cocoon_client::terminal::{Tally, TerminalError, line, print};
use cocoon_client::transcript::{Line, ask, unasked};
use cocoon_client::{ChatError, Conversation, chain};

use crate::output::outcome;
use crate::{Outcome, unless_interrupted};

/// Asks the one prompt, or every line of standard input, and prints one line of JSON for each.
pub async fn run(
    mut conversation: Conversation,
    prompt: Option<&str>,
    first: &Line<'_>,
) -> anyhow::Result<Outcome> {
    if let Some(prompt) = prompt {
        let (text, asked) = unless_interrupted(ask(&mut conversation, prompt, first)).await?;
        show(&text)?;
        return outcome(asked, ChatError::is_rejection, |_| {});
    }
    // A failed question is reported in its line and the next one is asked. The exit status is that
    // of the worst result.
    let mut tally = Tally::default();
    loop {
        let question = match unless_interrupted(line(false)).await? {
            Ok(None) => break,
            Ok(Some(question)) => question,
            Err(error) if error.is_of_one_question() => {
                show(&unasked(first, &chain(&error)))?;
                tally.count(Err(error.is_rejection()));
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        match question.trim() {
            "" => {}
            "/quit" => break,
            "/new" => conversation.clear(),
            prompt => {
                let asking = ask(&mut conversation, prompt, first);
                let (text, asked) = unless_interrupted(asking).await?;
                show(&text)?;
                tally.count(asked.map_err(|error| error.is_rejection()));
            }
        }
    }
    outcome(tally.end(), TerminalError::is_rejection, |_| {})
}

/// Prints a line.
pub fn show(text: &str) -> anyhow::Result<()> {
    print(format_args!("{text}\n"))?;
    Ok(())
}
