//! Carries out a plan step by step. Stops at the first failure, and says which steps were done.

use std::fs::OpenOptions;
use std::io::{self, Write as _};

use super::plan::{Action, Planned};
use crate::doctor::real::Real;
use crate::doctor::source::{Ran, World as _};
use crate::text::plain;

/// Maximum length of a tool's output in an error, in characters.
const WORDS: usize = 300;

/// Operations that change a machine.
pub trait Hands {
    /// Writes `text` to an existing file.
    ///
    /// # Errors
    /// Returns the kernel's error.
    fn write(&self, path: &str, text: &str) -> io::Result<()>;

    /// Runs a program to its end.
    ///
    /// # Errors
    /// Fails if the program cannot be run or does not end in time.
    fn run(&self, command: &[&str]) -> io::Result<Ran>;
}

/// Changes the machine that this program runs on.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealHands;

impl Hands for RealHands {
    fn write(&self, path: &str, text: &str) -> io::Result<()> {
        // A sysfs file takes a single write; an empty text must be an empty line.
        let mut file = OpenOptions::new().write(true).open(path)?;
        file.write_all(format!("{text}\n").as_bytes())
    }

    fn run(&self, command: &[&str]) -> io::Result<Ran> {
        Ok(Real.run(command)?)
    }
}

/// A step that failed.
#[derive(Debug, thiserror::Error)]
#[error("step {at} of {of} failed: {action}; the {} before it are done, and `cocoon-host gpu prepare` or `restore` goes on from there", at - 1)]
pub struct Failed {
    /// Number of the step, counted from 1.
    pub at: usize,
    /// Number of steps in the plan.
    pub of: usize,
    /// What the step does.
    pub action: Action,
    /// The underlying error.
    #[source]
    pub source: io::Error,
}

/// Carries out `steps`; `told` is called with each before it begins.
///
/// # Errors
/// Fails with [`Failed`], which names the step. Later steps are not carried out.
pub fn carry_out(
    steps: &[Planned],
    hands: &dyn Hands,
    mut told: impl FnMut(&Planned),
) -> Result<(), Failed> {
    for (index, planned) in steps.iter().enumerate() {
        told(planned);
        step(&planned.action, hands).map_err(|source| Failed {
            at: index + 1,
            of: steps.len(),
            action: planned.action.clone(),
            source,
        })?;
    }
    Ok(())
}

fn step(action: &Action, hands: &dyn Hands) -> io::Result<()> {
    match action {
        Action::Write { path, text } => hands.write(path, text),
        Action::Run(command) => {
            let words: Vec<&str> = command.iter().map(String::as_str).collect();
            let ran = hands.run(&words)?;
            if ran.success {
                Ok(())
            } else {
                Err(io::Error::other(plain(&ran.output, WORDS)))
            }
        }
    }
}
