//! Measures what serving costs on this machine: the whole path against the engine alone, the engine against others, attested
//! handshakes against plain ones, and a soak test with many streams for ten minutes. See `README.md` in this folder.
//!
//! Alternatives are measured in turns in one run, and reported as medians. These programs are no tests, because
//! figures depend on the machine and the moment; only a missed goal of the soak makes the command fail.
//!
//! `cargo bench -p cocoon-tests --bench performance -- --help` lists the measurements.

mod asked;
mod direct;
mod double;
mod handshakes;
mod path;
mod peers;
mod soak;
mod soak_streams;
mod streams;
mod subject;
mod table;

#[path = "../openai/appliance.rs"]
#[expect(dead_code, reason = "the clients' test uses more of it")]
mod appliance;
#[path = "../attestation/image.rs"]
mod image;
#[path = "../attestation/machine.rs"]
#[expect(dead_code, reason = "the tests of evidence use more of it")]
mod machine;
#[path = "../attestation/rogue.rs"]
#[expect(dead_code, reason = "the tests of evidence use more of it")]
mod rogue;
#[path = "../attestation/stranger.rs"]
#[expect(dead_code, reason = "the tests of evidence use more of it")]
mod stranger;

use clap::{Parser, Subcommand};

/// Measure the performance of the appliance's software, side by side with alternatives
#[derive(Parser)]
#[command(
    name = "performance",
    bin_name = "cargo bench -p cocoon-tests --bench performance --"
)]
struct Command {
    #[command(subcommand)]
    what: What,
    /// Print JSON instead of a table
    #[arg(long, global = true)]
    json: bool,
    /// Option that cargo passes to every benchmark
    #[arg(long, global = true, hide = true)]
    bench: bool,
}

#[derive(Subcommand)]
enum What {
    /// Compare client, attested TLS, agent and engine with the engine alone: tokens per second, time to the first token
    Path(path::Options),
    /// Compare the engine alone with the Python wheel `mistralrs` and llama.cpp, on the same model file
    Peers(peers::Options),
    /// Compare attested handshakes with plain ones: handshakes per second
    Handshakes(handshakes::Options),
    /// Stream to slow readers and to clients that leave, and measure the agent's memory over time
    Soak(soak::Options),
    /// Run an agent for `soak` in a process of its own
    #[command(hide = true)]
    Serve(soak::Serve),
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let command = Command::parse();
    let table = match command.what {
        What::Path(options) => path::measure(&options).await?,
        What::Peers(options) => peers::measure(&options).await?,
        What::Handshakes(options) => handshakes::measure(&options).await?,
        What::Soak(options) => soak::measure(&options).await?,
        What::Serve(options) => return soak::serve(options).await,
    };
    table.print(command.json)?;
    table.check()
}
