//! `cocoon-host`: the operator's side, from the command line.

mod cli;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let arguments = cli::Arguments::parse();
    match cli::run(arguments) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("cocoon-host: {error:#}");
            ExitCode::from(2)
        }
    }
}
