//! `cocoon-simulator`: serves simulated evidence on a unix socket until it is told to stop.

use std::process::ExitCode;

fn main() -> ExitCode {
    cocoon_simulator::command::main()
}
