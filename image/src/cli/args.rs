//! Defines the command line. Parsing opens no files.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use cocoon_image::cuda::Release;
use cocoon_image::variant::Variant;

/// Build and verify the appliance image from locked inputs
#[derive(Debug, Parser)]
#[command(
    name = "cocoon-image",
    version,
    propagate_version = true,
    after_long_help = "Exit status:
  0    Done, or accepted
  1    Rejected; the reasons are printed
  2    Wrong usage, or something cannot be read or written
  130  Ended by Ctrl-C; compilers are ended and scratch folders removed
  143  Ended by SIGTERM, in the same way"
)]
pub struct Arguments {
    /// Print one JSON value on standard output instead of text
    #[arg(long, global = true)]
    pub json: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Build an image
    Build(BuildArguments),
    /// Rebuild the image of a manifest and name the first artefact that differs
    Verify(VerifyArguments),
    /// Sign, complete and compare manifests
    #[command(subcommand)]
    Manifest(ManifestCommand),
    /// Change the model of an image
    #[command(subcommand)]
    Model(ModelCommand),
    /// Compile the GPU kernels
    #[command(subcommand)]
    Kernels(KernelsCommand),
    /// Build only the inference engine of the CUDA image; the first build takes half an hour
    Engine {
        /// File to write the engine to
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        /// Where everything comes from.
        #[command(flatten)]
        origin: Origin,
    },
    /// Check or update the lock file of foreign inputs
    Lock(LockArguments),
    /// Clean the cache of foreign inputs
    #[command(subcommand)]
    Cache(CacheCommand),
    /// Print a completion script for a shell
    Completions {
        /// Shell to print the script for
        shell: clap_complete::Shell,
    },
}

/// Where everything comes from.
#[derive(Debug, Args)]
pub struct Origin {
    /// Folder of the sources [default: the workspace around the current folder]
    #[arg(long, value_name = "DIR")]
    pub source: Option<PathBuf>,
    /// Folder of the cache [default: COCOON_CACHE, or ~/.cache/cocoon]
    #[arg(long, value_name = "DIR")]
    pub cache: Option<PathBuf>,
    /// Debian mirror to download from (repeatable) [default: this machine's apt sources]
    #[arg(long = "mirror", value_name = "URL")]
    pub mirrors: Vec<String>,
    /// Keyring to verify Debian's Release files with [default: that of debian-archive-keyring]
    #[arg(long, value_name = "FILE")]
    pub keyring: Option<PathBuf>,
}

/// How an image is made.
#[derive(Debug, Args)]
pub struct Making {
    /// Where everything comes from.
    #[command(flatten)]
    pub origin: Origin,
    /// Replace a locked file that is gone with the newest signed one, and mark the manifest unlocked
    #[arg(long)]
    pub allow_newest: bool,
    /// Folder of guest executables to use instead of compiling them
    ///
    /// It holds `agent` and `engine`, and `cocoon-gpu` for the variant cuda.
    #[arg(long, value_name = "DIR")]
    pub guest_binaries: Option<PathBuf>,
    /// Number of threads for hashing; does not affect the result [default: one per processor]
    #[arg(long, value_name = "N")]
    pub jobs: Option<std::num::NonZeroUsize>,
}

/// The manifest's release and life.
#[derive(Debug, Args)]
pub struct Dates {
    /// Release number, rising from release to release [default: 1; for `model add`, that of the image]
    #[arg(long, value_name = "N")]
    pub release: Option<u64>,
    /// Start of the manifest's validity, in seconds since 1970 [default: now]
    #[arg(long, value_name = "SECONDS", env = "SOURCE_DATE_EPOCH")]
    pub not_before: Option<u64>,
    /// Validity of the manifest in days, 1 to 90
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=90))]
    pub days: u64,
}

/// `build`.
#[derive(Debug, Args)]
pub struct BuildArguments {
    /// Variant of the image
    #[arg(long, value_enum)]
    pub variant: Variant,
    /// Folder to write the image to
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Model: a GGUF file, or a folder with config.json and safetensors [default: the locked model]
    #[arg(long, value_name = "PATH")]
    pub model: Option<PathBuf>,
    /// Identifier of the model in the API [default: from its name]
    #[arg(long, value_name = "ID", requires = "model")]
    pub model_id: Option<String>,
    /// How it is made.
    #[command(flatten)]
    pub making: Making,
    /// The manifest's release and life.
    #[command(flatten)]
    pub dates: Dates,
}

/// `verify`.
#[derive(Debug, Args)]
pub struct VerifyArguments {
    /// Manifest of the image
    pub manifest: PathBuf,
    /// Model of the image, if it is not the locked one
    #[arg(long, value_name = "PATH")]
    pub model: Option<PathBuf>,
    /// How the image is made.
    #[command(flatten)]
    pub making: Making,
}

/// `manifest …`.
#[derive(Debug, Subcommand)]
pub enum ManifestCommand {
    /// Sign a manifest
    ///
    /// The signature is written, or added, to MANIFEST.dsse beside the manifest.
    Sign {
        /// Manifest to sign
        manifest: PathBuf,
        /// File with the secret key, as written by `manifest keygen`
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
    },
    /// Generate a signing key and print the public key, which clients pin with --signer
    Keygen {
        /// New file for the secret key, readable only by you
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Add the shape of a real TDX machine to a manifest
    ///
    /// Replaces a shape of the same name, and removes the signatures of the old manifest.
    ///
    /// RTMR0 is predicted from the firmware beside the manifest and from tables that `cocoon-host tables` computed. A rebuild
    /// cannot compute these tables: the signer of the manifest vouches for them.
    Platform(PlatformArguments),
    /// List the fields in which two manifests differ
    ///
    /// Exits with 1 if there are any.
    Diff {
        /// First manifest
        first: PathBuf,
        /// Second manifest
        second: PathBuf,
    },
}

/// `manifest platform`.
#[derive(Debug, Args)]
pub struct PlatformArguments {
    /// Manifest to extend, with its image beside it
    pub manifest: PathBuf,
    /// Folder with acpi-loader.bin, acpi-rsdp.bin, acpi-tables.bin and smbios.bin
    ///
    /// They must be computed on an emulated machine of the same shape. Never take them from the machine that is to be judged.
    #[arg(long, value_name = "FOLDER")]
    pub tables: PathBuf,
    /// Name of the shape in verdicts, such as "2 vCPUs, 1024 MiB, QEMU 10.1.0"
    #[arg(long, value_name = "NAME")]
    pub name: String,
    /// Guest memory in MiB, or with a unit, such as 1G or 1536M
    #[arg(long, value_name = "MIB", value_parser = mebibytes)]
    pub memory: u64,
    /// Number of virtual CPUs that the tables were computed for
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub vcpus: u32,
    /// Window for a GPU's BARs in MiB, such as 262144; leave it out for machines without a GPU
    ///
    /// It is the value that `cocoon-host` gives a machine with that GPU (`opt/ovmf/X-PciMmio64Mb`). The firmware measures it.
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u32).range(1..))]
    pub mmio64_mib: Option<u32>,
    /// CPUID.1:EAX of the guest, such as 0x806f8; measured as part of SMBIOS
    #[arg(long, value_name = "HEX", value_parser = bits)]
    pub cpu_signature: u32,
    /// CPUID.1:EDX of the guest; measured as part of SMBIOS
    #[arg(long, value_name = "HEX", value_parser = bits)]
    pub cpu_features: u32,
}

fn mebibytes(text: &str) -> Result<u64, String> {
    let (digits, factor) = match text.strip_suffix('G') {
        Some(digits) => (digits, 1024),
        None => (text.strip_suffix('M').unwrap_or(text), 1),
    };
    let size = digits.parse::<u64>().ok();
    size.and_then(|size| size.checked_mul(factor))
        .filter(|size| *size > 0)
        .ok_or_else(|| format!("{text:?} is no amount of memory: write it like 1024, 1G or 1536M"))
}

/// Parses a number as `cocoon measure` does: hexadecimal with the prefix `0x`, decimal without it.
fn bits(text: &str) -> Result<u32, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16),
        None => text.parse(),
    };
    parsed.map_err(|error| error.to_string())
}

/// `model …`.
#[derive(Debug, Subcommand)]
pub enum ModelCommand {
    /// Make the same image with another model; kernel, initrd and firmware stay unchanged
    ///
    /// The manifest is marked unlocked unless this program was compiled from the sources of the image's revision.
    Add {
        /// Folder of the image
        #[arg(long, value_name = "DIR")]
        image: PathBuf,
        /// Model: a GGUF file, or a folder with config.json and safetensors
        #[arg(long, value_name = "PATH")]
        model: PathBuf,
        /// Identifier of the model in the API [default: from its name]
        #[arg(long, value_name = "ID")]
        model_id: Option<String>,
        /// Folder to write the new image to; may be that of the old one
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// Folder of the sources [default: the workspace around the current folder]
        ///
        /// They show whether this program was compiled from the image's revision.
        #[arg(long, value_name = "DIR")]
        source: Option<PathBuf>,
        /// Number of threads for hashing; does not affect the result [default: one per processor]
        #[arg(long, value_name = "N")]
        jobs: Option<std::num::NonZeroUsize>,
        /// The manifest's release and life.
        #[command(flatten)]
        dates: Dates,
    },
}

/// `kernels …`.
#[derive(Debug, Subcommand)]
pub enum KernelsCommand {
    /// Compile the kernels with the locked compiler and compare them with the pinned list
    ///
    /// The list is kernels/sm90.sha256. Exits with 1 if the kernels differ from it.
    Build {
        /// Folder to write the cubins to
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// Update the list to the result, after a kernel was changed
        #[arg(long)]
        pin: bool,
        /// CUDA release; the image uses 12.4, whose list is kernels/sm90.cuda-12.sha256
        #[arg(long, value_enum, default_value_t)]
        release: Release,
        /// Where everything comes from.
        #[command(flatten)]
        origin: Origin,
    },
    /// Unpack NVIDIA's tools from the same locked packages into a CUDA folder
    Toolkit {
        /// Folder to create
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// Tools to unpack (repeatable)
        #[arg(long = "tool", value_enum, required = true)]
        tools: Vec<Tool>,
        /// Where everything comes from.
        #[command(flatten)]
        origin: Origin,
    },
}

/// Tools of NVIDIA's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Tool {
    /// nvcc with its headers
    Compiler,
    /// cuobjdump and nvdisasm
    Inspect,
    /// compute-sanitizer
    Sanitizer,
}

/// `lock`.
#[derive(Debug, Args)]
pub struct LockArguments {
    /// Replace every entry with its newest signed version; without this, the lock is only checked and summarised
    ///
    /// Only Release files that are no older than the lock's are used.
    #[arg(long)]
    pub update: bool,
    /// Where everything comes from.
    #[command(flatten)]
    pub origin: Origin,
}

/// `cache …`.
#[derive(Debug, Subcommand)]
pub enum CacheCommand {
    /// Remove all inputs that the lock file does not name
    Gc {
        /// Where everything comes from.
        #[command(flatten)]
        origin: Origin,
        /// Also remove the compiled guest and NVIDIA's compiled modules
        ///
        /// Waits for running builds. The next build then takes a quarter of an hour, and much longer for GPUs.
        #[arg(long)]
        guest: bool,
    },
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn the_contract_parses() {
        for line in [
            "build --variant cpu --out o",
            "build --variant cuda-simulated --out o",
            "build --variant cuda --out o",
            "build --variant cpu --out o --model m --release 3 --allow-newest --json",
            "verify m.json",
            "manifest sign m.json --key k",
            "manifest keygen --out k",
            "manifest diff a b",
            "manifest platform m.json --tables t --name n --memory 1024 --vcpus 2 --cpu-signature 0x806f8 --cpu-features 0xbfebfbff",
            "manifest platform m.json --tables t --name n --memory 4G --vcpus 4 --mmio64-mib 262144 --cpu-signature 1 --cpu-features 2 --json",
            "model add --image i --model m --out o",
            "model add --image i --model m --out o --source s --release 2",
            "kernels build --out o",
            "kernels build --out o --pin --json",
            "kernels build --out o --release 12.4",
            "engine --out o --json",
            "kernels toolkit --out o --tool compiler --tool sanitizer",
            "lock --update",
            "cache gc",
            "completions bash",
        ] {
            let parsed = Arguments::try_parse_from(format!("cocoon-image {line}").split(' '));
            assert!(parsed.is_ok(), "{line}: {}", parsed.unwrap_err());
        }
        let refused =
            Arguments::try_parse_from(["cocoon-image", "build", "--variant", "gpu", "--out", "o"]);
        assert_eq!(refused.unwrap_err().exit_code(), 2);
        assert_eq!((mebibytes("2G"), bits("0x10")), (Ok(2048), Ok(16)));
        assert_eq!(
            mebibytes("0M").unwrap_err(),
            "\"0M\" is no amount of memory: write it like 1024, 1G or 1536M"
        );
    }
}
