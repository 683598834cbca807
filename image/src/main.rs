//! `cocoon-image`: builds an image from sources, and rebuilds it for a verifier.

mod cli;

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser as _;
use cli::{Outcome, args::Arguments, ending};
use cocoon_image::shown;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let json = arguments.json;
    let done = ending::watch()
        .context("cannot listen to signals")
        .and_then(|()| cli::run(arguments));
    match done {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Rejected) => ExitCode::from(1),
        Err(error) => {
            // The failure only follows from the signal that ended the build, so it is not reported.
            if let Some(code) = ending::asked() {
                return code;
            }
            if json {
                let causes: Vec<String> = error.chain().map(ToString::to_string).collect();
                println!("{}", serde_json::json!({ "error": causes }));
            } else {
                let causes = error.chain().map(ToString::to_string);
                let causes: Vec<String> = causes.map(|cause| shown::lines(&cause)).collect();
                eprintln!("error: {}", causes.join("\n  because: "));
            }
            ExitCode::from(2)
        }
    }
}
