//! Compares the engine alone with others: the same model file, question and number of tokens, with greedy sampling.
//!
//! The others are installed into the cache by their usual package managers, from lock files. Each measurement runs in a
//! process of its own, which loads the model, answers a short prompt, and then the question.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use cocoon_tests::image::workspace;
use cocoon_tests::installed;
use serde::Deserialize;
use tokio::process::Command;
use tokio::time::timeout;

use crate::direct::Direct;
use crate::subject::{self, Subject};
use crate::table::{Table, median};

/// Time limit for one process of a peer.
const DEADLINE: Duration = Duration::from_secs(900);

#[derive(Args)]
pub struct Options {
    #[command(flatten)]
    subject: subject::Options,
    /// Number of tokens in each answer
    #[arg(long, default_value_t = 64)]
    tokens: u32,
    /// Number of rounds
    #[arg(long, default_value_t = 5)]
    rounds: usize,
}

/// Output of a script; times are in seconds from the question.
#[derive(Deserialize)]
struct Said {
    prompt_tokens: u32,
    completion_tokens: u32,
    first: f64,
    last: f64,
}

impl Said {
    /// Returns the prompt's tokens per second until the first token of the answer.
    fn prefill(&self) -> f64 {
        f64::from(self.prompt_tokens) / self.first
    }

    /// Returns the answer's tokens per second after the first token.
    fn decode(&self) -> f64 {
        f64::from(self.completion_tokens.saturating_sub(1)) / (self.last - self.first)
    }
}

pub async fn measure(options: &Options) -> anyhow::Result<Table> {
    let subject = Subject::find(&options.subject).await?;
    let [python, node] = tokio::task::spawn_blocking(peers).await??;
    let question = workspace().join("tests/performance/peers/question.txt");
    let text = std::fs::read_to_string(&question)
        .with_context(|| format!("cannot read {}", question.display()))?;
    let names = [
        "cocoon-engine",
        "mistralrs 0.9.5 (Python)",
        "llama.cpp (node-llama-cpp 3.22.1)",
    ];
    let mut said: [Vec<Said>; 3] = Default::default();
    for round in 0..options.rounds {
        for turn in 0..names.len() {
            let who = (round + turn) % names.len();
            let answer = match who {
                0 => ours(&subject, &text, options.tokens).await?,
                1 => {
                    let mut command = Command::new(python.join("bin/python"));
                    command.arg(python.join("wheel.py"));
                    peer(command, &subject.published, &question, options.tokens).await?
                }
                _ => {
                    let mut command = Command::new("node");
                    command.arg(node.join("llama.mjs"));
                    peer(command, &subject.published, &question, options.tokens).await?
                }
            };
            said[who].push(answer);
        }
    }
    let mut table = Table::new(
        format!(
            "The engine against others: medians of {} rounds, two threads each",
            options.rounds
        ),
        &[
            "prompt",
            "answer",
            "prefill tok/s",
            "decode tok/s",
            "ours/prefill",
            "ours/decode",
        ],
    );
    let [ours_prefill, ours_decode] = speeds(&said[0]);
    for (name, said) in names.iter().zip(&said) {
        let [prefill, decode] = speeds(said);
        let count = |tokens: fn(&Said) -> u32| said.last().map_or(0.0, |said| tokens(said).into());
        table.row(
            *name,
            &[
                count(|said| said.prompt_tokens),
                count(|said| said.completion_tokens),
                prefill,
                decode,
                ours_prefill / prefill,
                ours_decode / decode,
            ],
        );
    }
    table.note(subject.note);
    Ok(table)
}

fn speeds(said: &[Said]) -> [f64; 2] {
    [Said::prefill, Said::decode].map(|speed| median(&said.iter().map(speed).collect::<Vec<f64>>()))
}

async fn ours(subject: &Subject, text: &str, tokens: u32) -> anyhow::Result<Said> {
    let mut engine = Direct::start(&subject.setup(1)).await?;
    engine.ask("Hi", 4, 1).await?;
    let together = engine.ask(text, tokens, 1).await?;
    let answer = together.answers.first().context("no answer")?;
    Ok(Said {
        prompt_tokens: answer.prompt,
        completion_tokens: answer.tokens,
        first: answer.first.as_secs_f64(),
        last: answer.last.as_secs_f64(),
    })
}

async fn peer(
    mut command: Command,
    model: &Path,
    question: &Path,
    tokens: u32,
) -> anyhow::Result<Said> {
    command
        .args([model, question])
        .args([&tokens.to_string(), "2"])
        .env("RAYON_NUM_THREADS", "2")
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let output = timeout(DEADLINE, command.output()).await;
    let output = output.context("a peer does not answer")??;
    let told = String::from_utf8_lossy(&output.stdout);
    let line = told.lines().rfind(|line| line.starts_with('{'));
    let line = line.with_context(|| {
        let errors = String::from_utf8_lossy(&output.stderr);
        format!("a peer failed: {}", errors.trim())
    })?;
    Ok(serde_json::from_str(line)?)
}

/// Installs the peers, and returns their folders, each with its script.
fn peers() -> anyhow::Result<[PathBuf; 2]> {
    let place = "tests/performance";
    let source = workspace().join(place).join("peers");
    let python = installed::python(place, &source)?;
    // The binaries for other platforms are optional packages; those for this one are direct dependencies.
    let node = installed::node_without_optional(place, &source)?;
    // Node looks for packages in the script's folder.
    for (root, script) in [(&python, "wheel.py"), (&node, "llama.mjs")] {
        std::fs::copy(source.join(script), root.join(script))
            .with_context(|| format!("cannot copy {script}"))?;
    }
    Ok([python, node])
}
