//! `cocoon-simulator`: serves simulated evidence on a Unix socket.

use std::process::ExitCode;

fn main() -> ExitCode {
    cocoon_simulator::command::main()
}
