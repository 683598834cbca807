//! `cocoon-host tables`: the ACPI and SMBIOS tables that a signer of manifests needs for TDX, without TDX hardware.

use std::io::Write as _;
use std::path::PathBuf;

use cocoon_host_agent::config::values::mebibytes;
use cocoon_host_agent::image::Image;
use cocoon_host_agent::qemu;
use cocoon_host_agent::tables::{self, Computed, FILES, Size};
use cocoon_protocol::binding::Tee;
use cocoon_qemu::spec::{MMIO64_MAX, MMIO64_MIN};
use serde_json::json;

use super::voice::Voice;

/// Hint shown while the emulated firmware runs.
const SLOW: &str = "seconds on an idle core, minutes on a busy one: its firmware is emulated";

/// Note shown whenever `--mmio64-mib` is given.
const WITHOUT_GPU: &str = "the GPU's port and window are in these tables, the GPU is not: on a real machine etc/acpi/tables names it \
     and holds its BARs, so that event of RTMR0 will be another (no GPU was ever compared)";

/// Compute the ACPI and SMBIOS tables of an image's machine as a TDX trust domain
///
/// Signers of the image's manifest need them for `cocoon-image manifest platform`.
///
/// Needs neither TDX nor KVM. The tables are valid only for the release of QEMU that computed them.
#[derive(Debug, clap::Args)]
pub(super) struct Tables {
    /// Folder of the image
    #[arg(long)]
    image: PathBuf,
    /// Guest memory in MiB, or with a unit, such as 1G or 1536M
    #[arg(long, value_name = "MIB", value_parser = amount)]
    memory: u32,
    /// Number of virtual CPUs
    #[arg(long, value_name = "N")]
    vcpus: u16,
    /// Window for a GPU's BARs in MiB, 32768 to 16777216; without it, the machine has no port for a GPU
    ///
    /// Adds a GPU's port and this window, as `cocoon-host up --gpu` does. The size is 262144 for a GPU with a BAR of 128 GiB.
    /// The GPU itself is absent, so what it would add to the tables is missing.
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u32).range(i64::from(MMIO64_MIN)..=i64::from(MMIO64_MAX)))]
    mmio64_mib: Option<u32>,
    /// TEE that will measure the tables: tdx
    #[arg(long, default_value = "tdx", value_parser = tee)]
    tee: Tee,
    /// Folder to write acpi-loader.bin, acpi-rsdp.bin, acpi-tables.bin and smbios.bin to
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,
    /// QEMU executable to use, of the release that will run the trust domain
    #[arg(long, env = "COCOON_QEMU")]
    qemu: Option<PathBuf>,
}

pub(super) async fn run(wanted: Tables, json: bool) -> anyhow::Result<()> {
    let voice = Voice::new(json);
    // Cheap refusals come first: a QEMU may have to be fetched.
    let image = Image::open(&wanted.image, None)?;
    let obtained = qemu::find(wanted.qemu.as_deref(), voice.reporter()).await?;
    voice.note(&obtained.reason);
    let waiting = voice.waiting("the machine's firmware reads its tables", SLOW);
    let size = Size {
        vcpus: wanted.vcpus,
        memory_mib: wanted.memory,
        mmio64_mib: wanted.mmio64_mib,
    };
    let computed = tables::compute(image, size, &obtained.qemu).await?;
    if let Some(waiting) = waiting {
        waiting.finish("done");
    }
    computed.write(&wanted.out)?;
    let version = computed.qemu;
    if !computed.starts_trust_domains() {
        voice.note(&format!(
            "QEMU {version} starts no trust domain: compute the tables again with the QEMU that will, named with --qemu"
        ));
    }
    if wanted.mmio64_mib.is_some() {
        voice.note(WITHOUT_GPU);
    }
    let mut out = std::io::stdout().lock();
    if json {
        let event = json!({
            "event": "tables",
            "tee": wanted.tee,
            "folder": wanted.out,
            "files": FILES,
            "memory_mib": wanted.memory,
            "vcpus": wanted.vcpus,
            "mmio64_mib": wanted.mmio64_mib,
            "qemu": version.to_string(),
            "machine": Computed::MACHINE,
            "starts_trust_domains": computed.starts_trust_domains(),
        });
        writeln!(out, "{event}")?;
        return Ok(());
    }
    let (folder, memory, vcpus) = (wanted.out.display(), wanted.memory, wanted.vcpus);
    let machine = Computed::MACHINE;
    let window = wanted.mmio64_mib.map(|mib| format!(" --mmio64-mib {mib}"));
    let window = window.unwrap_or_default();
    writeln!(
        out,
        "tables in {folder}\n\
         They are those of {machine} with {vcpus} vCPUs and {memory} MiB under QEMU {version}, and count for that release alone.\n\
         Next: cocoon-image manifest platform MANIFEST --tables {folder} --name '{vcpus} vCPUs, {memory} MiB, QEMU {version}' \
         --memory {memory} --vcpus {vcpus}{window} --cpu-signature BITS --cpu-features BITS"
    )?;
    Ok(())
}

fn tee(text: &str) -> Result<Tee, String> {
    match text {
        "tdx" => Ok(Tee::Tdx),
        "sev-snp" => Err("SEV-SNP measures no tables: use tdx".to_owned()),
        other => Err(format!("{other:?} is no TEE that measures tables: use tdx")),
    }
}

fn amount(text: &str) -> Result<u32, String> {
    text.parse().or_else(|_| mebibytes(text))
}
