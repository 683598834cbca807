//! `cocoon`: verifies confidential-computing appliances and uses verified ones.

mod appraise;
mod chat;
mod chat_json;
mod connect;
mod flags;
mod measure;
mod opening;
mod output;
mod receipt;
mod text;
mod verify;

use std::io::Write as _;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};
use cocoon_client::chain;

/// Longest reason of a rejection that is printed in one line, in characters. The table of checks
/// contains all of them.
const MAX_REASON: usize = 2000;

/// Verify confidential-computing appliances, and use verified ones
#[derive(Parser)]
#[command(
    name = "cocoon",
    version,
    after_long_help = "Exit status:
  0    Done, or accepted; also when Ctrl-C ends `connect`, or `chat` at its prompt
  1    Rejected; the reasons are printed
  2    Wrong usage, an input/output error, or an appliance that is too busy
  130  Interrupted by Ctrl-C during work"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Verify(verify::Args),
    Connect(connect::Args),
    Chat(chat::Args),
    Translate(text::Translate),
    Summarize(text::Summarize),
    Reply(text::Reply),
    #[command(subcommand)]
    Measure(measure::Measure),
    #[command(subcommand)]
    Appraise(appraise::Appraise),
    #[command(subcommand)]
    Receipt(receipt::Receipt),
    /// Print a completion script for a shell
    Completions {
        /// Shell to print the script for
        shell: clap_complete::Shell,
    },
}

/// Result of a command that did not fail with an error.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Done,
    Rejected,
}

/// The command was interrupted by Ctrl-C.
#[derive(Debug, thiserror::Error)]
#[error("stopped by Ctrl-C")]
struct Interrupted;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli.command) {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Rejected) => ExitCode::from(1),
        Err(error) if error.is::<Interrupted>() => {
            // On its own line, below the terminal's `^C` and the unfinished answer.
            let _ = writeln!(std::io::stderr(), "\ncocoon: {error}");
            ExitCode::from(130)
        }
        Err(error) => {
            // Ignored: a reader such as `head` may have closed the other end.
            let _ = writeln!(std::io::stderr(), "cocoon: {}", chain(error.as_ref()));
            ExitCode::from(2)
        }
    }
}

fn run(command: Command) -> anyhow::Result<Outcome> {
    match command {
        Command::Measure(measure) => measure::run(&measure),
        Command::Appraise(appraise) => appraise::run(&appraise),
        Command::Receipt(receipt) => receipt::run(&receipt),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "cocoon", &mut script);
            std::io::stdout().write_all(&script)?;
            Ok(Outcome::Done)
        }
        Command::Verify(args) => block_on(async { unless_interrupted(verify::run(args)).await? }),
        Command::Connect(args) => block_on(connect::run(args)),
        Command::Chat(args) => block_on(chat::run(args)),
        Command::Translate(args) => block_on(args.run()),
        Command::Summarize(args) => block_on(args.run()),
        Command::Reply(args) => block_on(args.run()),
    }
}

/// Runs `future` unless Ctrl-C comes first. Then `future` is dropped, which closes its connections
/// and stops the generation of its answer.
async fn unless_interrupted<T>(future: impl Future<Output = T>) -> Result<T, Interrupted> {
    tokio::select! {
        // Polled first, so that the handler is installed before the first step of `future`.
        biased;
        Ok(()) = tokio::signal::ctrl_c() => Err(Interrupted),
        output = future => Ok(output),
    }
}

fn block_on(future: impl Future<Output = anyhow::Result<Outcome>>) -> anyhow::Result<Outcome> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let outcome = runtime.block_on(future);
    // A thread may still wait for a line from the terminal, which is not needed any more.
    runtime.shutdown_background();
    outcome
}
