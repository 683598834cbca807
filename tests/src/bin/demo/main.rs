//! `cargo demo`: builds the image, boots it under simulated hardware, verifies it, and talks to it.
//!
//! It only combines the other crates; each step can also be done by hand with their commands.

mod scratch;
mod signals;
mod steps;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use cocoon_protocol::binding::Tee;

/// Build an appliance, boot it, verify it and chat with it, on a machine without TEE hardware
#[derive(Debug, Parser)]
#[command(name = "cargo demo --", version)]
struct Arguments {
    /// Question to ask; the answer is printed, everything shuts down and the demo exits [default: open a chat]
    #[arg(long, value_name = "TEXT")]
    prompt: Option<String>,
    /// TEE to simulate
    #[arg(long, value_enum, default_value = "tdx")]
    tee: SimulatedTee,
    /// Model: a GGUF file or a folder of safetensors [default: the locked model]
    #[arg(long, value_name = "PATH")]
    model: Option<PathBuf>,
    /// Maximum number of tokens in an answer
    #[arg(long, value_name = "N", default_value_t = 64)]
    max_tokens: u32,
    /// Address and port of the local OpenAI-compatible endpoint while the chat is open
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// Guest memory in MiB
    #[arg(long, value_name = "MIB", default_value_t = 1024)]
    memory: u32,
    /// Print the verdict and the timings as JSON on standard output, before the answer
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum SimulatedTee {
    Tdx,
    SevSnp,
}

impl From<SimulatedTee> for Tee {
    fn from(tee: SimulatedTee) -> Self {
        match tee {
            SimulatedTee::Tdx => Tee::Tdx,
            SimulatedTee::SevSnp => Tee::SevSnp,
        }
    }
}

fn main() -> ExitCode {
    if let Some(code) = cocoon_tests::role::other_if_named() {
        return code;
    }
    match steps::run(Arguments::parse_from(words(std::env::args_os()))) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Drops the `--` that `cargo demo -- --prompt …` passes as the first argument: the alias already ends with one.
fn words(mut given: impl Iterator<Item = OsString>) -> impl Iterator<Item = OsString> {
    let program = given.next();
    let mut rest = given.peekable();
    rest.next_if(|word| word == "--");
    program.into_iter().chain(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_demo_is_called_with_one_separator_or_none() {
        for line in [
            &["demo", "--", "--prompt", "Hello"][..],
            &["demo", "--prompt", "Hello"],
        ] {
            let arguments = Arguments::parse_from(words(line.iter().map(OsString::from)));
            assert_eq!(arguments.prompt.as_deref(), Some("Hello"));
        }
        assert!(
            Arguments::parse_from(words([OsString::from("demo")].into_iter()))
                .prompt
                .is_none()
        );
    }
}
