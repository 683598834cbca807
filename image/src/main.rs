//! `cocoon-image`: what turns sources into an image, and what a verifier runs to do it again.

mod cli;

use std::process::ExitCode;

use clap::Parser as _;
use cli::{Outcome, args::Arguments};

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let json = arguments.json;
    match cli::run(arguments) {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Rejected) => ExitCode::from(1),
        Err(error) => {
            let causes: Vec<String> = error.chain().map(ToString::to_string).collect();
            if json {
                println!("{}", serde_json::json!({ "error": causes }));
            } else {
                eprintln!("error: {}", causes.join("\n  because: "));
            }
            ExitCode::from(2)
        }
    }
}
