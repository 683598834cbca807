//! `cocoon measure`: predicts what hardware measures, for any artefacts.

use std::path::PathBuf;

use cocoon_client::terminal::print;
use serde::Serialize;

use crate::Outcome;

mod loaded;
mod snp;
mod tdx;

use loaded::{Loaded, read};

/// Predict what hardware measures for firmware, kernel, initrd and command line
#[derive(clap::Subcommand)]
pub enum Measure {
    /// Predict MRTD, RTMR1 and RTMR2 of an Intel TDX guest, and RTMR0 for a machine shape
    Tdx(tdx::Args),
    /// Predict the launch digest of an AMD SEV-SNP guest, and sign an ID block for it
    Snp(snp::Args),
}

#[derive(clap::Args)]
struct Artefacts {
    /// Firmware, as passed to QEMU with -bios
    #[arg(long, value_name = "FILE")]
    firmware: PathBuf,
    /// Kernel
    #[arg(long, value_name = "FILE")]
    kernel: PathBuf,
    /// Initrd
    #[arg(long, value_name = "FILE")]
    initrd: Option<PathBuf>,
    /// Kernel command line, exactly as passed to QEMU with -append
    #[arg(long, value_name = "TEXT", default_value = "")]
    cmdline: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run(measure: &Measure) -> anyhow::Result<Outcome> {
    match measure {
        Measure::Tdx(args) => tdx::run(args)?,
        Measure::Snp(args) => snp::run(args)?,
    }
    Ok(Outcome::Done)
}

fn json(value: &impl Serialize) -> anyhow::Result<()> {
    print(format_args!("{}\n", serde_json::to_string_pretty(value)?))?;
    Ok(())
}

fn memory(text: &str) -> Result<u64, String> {
    let (number, unit) = match text.trim_end_matches(['B', 'b']).trim_end_matches('i') {
        text if text.ends_with(['G', 'g']) => (&text[..text.len() - 1], 1 << 30),
        text if text.ends_with(['M', 'm']) => (&text[..text.len() - 1], 1 << 20),
        // As with QEMU's -m, a number without unit means mebibytes.
        text => (text, 1 << 20),
    };
    let size = number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(unit));
    size.filter(|size| *size > 0)
        .ok_or_else(|| "write a size such as 4G, 4GiB, 1024M or 1024 (mebibytes)".to_owned())
}

fn bits(text: &str) -> Result<u64, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    parsed.map_err(|error| error.to_string())
}

fn bits32(text: &str) -> Result<u32, String> {
    let bits = bits(text)?;
    u32::try_from(bits).map_err(|error| error.to_string())
}
