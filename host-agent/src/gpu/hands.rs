//! Carries a plan out, step by step; stops at the first that fails and says what was done before it.

use std::fs::OpenOptions;
use std::io::{self, Write as _};

use super::plan::{Action, Planned};
use crate::doctor::real::Real;
use crate::doctor::source::{Ran, World as _};
use crate::text::plain;

/// Longest words of a tool that are repeated, in characters.
const WORDS: usize = 300;

/// What changes a machine.
pub trait Hands {
    /// Writes `text` to a file that is there.
    ///
    /// # Errors
    /// What the kernel says.
    fn write(&self, path: &str, text: &str) -> io::Result<()>;

    /// Runs a program to its end.
    ///
    /// # Errors
    /// Why it did not run.
    fn run(&self, command: &[&str]) -> io::Result<Ran>;
}

/// This machine's.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealHands;

impl Hands for RealHands {
    fn write(&self, path: &str, text: &str) -> io::Result<()> {
        // A file of sysfs takes one write, and an empty text as an empty line.
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
    /// Which, from 1 on.
    pub at: usize,
    /// Of how many.
    pub of: usize,
    /// What it was.
    pub action: Action,
    /// Why.
    #[source]
    pub source: io::Error,
}

/// Carries `steps` out; `told` hears of each before it is done.
///
/// # Errors
/// [`Failed`] names the step; the steps after it are not done.
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
