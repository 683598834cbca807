//! `cocoon chat --json`: questions from a flag or from standard input, lines of JSON out.

use cocoon_client::Conversation;
use cocoon_client::terminal::{line, print};
use cocoon_client::transcript::{Line, ask};

use crate::{Outcome, unless_interrupted};

/// Asks the one prompt, or every line of standard input, and prints a line for each.
pub async fn run(
    mut conversation: Conversation,
    prompt: Option<&str>,
    first: &Line<'_>,
) -> anyhow::Result<Outcome> {
    if let Some(prompt) = prompt {
        let (text, asked) = unless_interrupted(ask(&mut conversation, prompt, first)).await?;
        show(&text)?;
        asked?;
        return Ok(Outcome::Done);
    }
    while let Some(question) = unless_interrupted(line(false)).await?? {
        match question.trim() {
            "" => {}
            "/quit" => break,
            prompt => {
                let asking = ask(&mut conversation, prompt, first);
                // The line says what went wrong, and the next question may do better.
                let (text, _) = unless_interrupted(asking).await?;
                show(&text)?;
            }
        }
    }
    Ok(Outcome::Done)
}

/// Prints a line.
pub fn show(text: &str) -> anyhow::Result<()> {
    print(format_args!("{text}\n"))?;
    Ok(())
}
