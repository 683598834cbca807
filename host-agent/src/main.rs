//! The `cocoon-host` command: the operator's command-line interface to appliance VMs.

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
