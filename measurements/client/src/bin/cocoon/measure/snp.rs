//! `cocoon measure snp`: predicts the launch digest, and signs an ID block for it if there is a
//! key.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cocoon_client::terminal::print;
use cocoon_measurements::snp::cpu::CpuModel;
use cocoon_measurements::snp::firmware::SnpFirmware;
use cocoon_measurements::snp::id_block::{IdAuth, IdBlock, IdKey};
use cocoon_measurements::snp::launch::{FEATURE_SNP, KernelHashes, Vcpus, launch_digest};
use serde::Serialize;

use super::{Artefacts, Loaded, bits, bits32, json, memory, read};

/// Default guest policy: only SMT is allowed (the other bit is reserved and must be 1).
const POLICY: u64 = 0x3_0000;

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    artefacts: Artefacts,
    /// Number of virtual CPUs
    #[arg(long, value_name = "N")]
    vcpus: u32,
    /// CPU model, by QEMU's name
    #[arg(long, value_name = "MODEL", default_value = "EPYC-v4")]
    cpu: CpuModel,
    /// SEV_FEATURES of the guest, in decimal or as 0x…
    #[arg(long, value_name = "BITS", default_value_t = FEATURE_SNP, value_parser = bits)]
    guest_features: u64,
    /// Guest memory, which SEV-SNP does not measure
    #[arg(long, value_name = "SIZE", value_parser = memory)]
    memory: Option<u64>,
    /// P-384 key in PKCS#8 PEM to sign an ID block for this launch with
    #[arg(long, value_name = "FILE")]
    id_key: Option<PathBuf>,
    /// P-384 key in PKCS#8 PEM that vouches for the ID key
    #[arg(long, value_name = "FILE", requires = "id_key")]
    author_key: Option<PathBuf>,
    /// Guest policy in the ID block, as passed to QEMU
    #[arg(long, value_name = "BITS", default_value_t = POLICY, value_parser = bits, requires = "id_key")]
    policy: u64,
    /// Security version of the guest in the ID block, chosen by its owner
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = bits32, requires = "id_key")]
    guest_svn: u32,
    /// Family ID in the ID block, chosen by the owner: 16 bytes in hexadecimal
    #[arg(long, value_name = "HEX", default_value = ZERO_ID, value_parser = id, requires = "id_key")]
    family_id: [u8; 16],
    /// Image ID in the ID block, chosen by the owner: 16 bytes in hexadecimal
    #[arg(long, value_name = "HEX", default_value = ZERO_ID, value_parser = id, requires = "id_key")]
    image_id: [u8; 16],
}

const ZERO_ID: &str = "00000000000000000000000000000000";

#[derive(Serialize)]
struct Measurements {
    launch_digest: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    id_block: Option<Identity>,
}

/// ID block and authentication information: in Base64 for QEMU, digests in hexadecimal for the
/// verifier.
#[derive(Serialize)]
struct Identity {
    block: String,
    auth: String,
    author_key_enabled: bool,
    id_key_digest: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    author_key_digest: Option<String>,
}

pub fn run(args: &Args) -> anyhow::Result<()> {
    let loaded = Loaded::read(&args.artefacts)?;
    let firmware = SnpFirmware::parse(&loaded.firmware)
        .context("the firmware is not sound SEV-SNP firmware")?;
    let hashes = KernelHashes::of(
        &loaded.kernel,
        loaded.initrd.as_deref(),
        &args.artefacts.cmdline,
    );
    let vcpus = Vcpus {
        count: args.vcpus,
        model: args.cpu.clone(),
        guest_features: args.guest_features,
    };
    let digest = launch_digest(&firmware, Some(&hashes), &vcpus)?;
    let measured = Measurements {
        launch_digest: hex::encode(digest),
        id_block: identity(args, digest)?,
    };
    drop(loaded.measuring);
    if args.artefacts.json {
        return json(&measured);
    }
    print(format_args!("launch digest  {}\n", measured.launch_digest))?;
    let Some(identity) = &measured.id_block else {
        return Ok(());
    };
    print(format_args!("ID key digest  {}\n", identity.id_key_digest))?;
    if let Some(digest) = &identity.author_key_digest {
        print(format_args!("author digest  {digest}\n"))?;
    }
    print(format_args!(
        "for QEMU       id-block={},id-auth={}{}\n",
        identity.block,
        identity.auth,
        if identity.author_key_enabled {
            ",author-key-enabled=on"
        } else {
            ""
        }
    ))?;
    Ok(())
}

fn identity(args: &Args, launch_digest: [u8; 48]) -> anyhow::Result<Option<Identity>> {
    let Some(id_key) = &args.id_key else {
        return Ok(None);
    };
    let id_key = key(id_key)?;
    let author = args.author_key.as_deref().map(key).transpose()?;
    let block = IdBlock {
        launch_digest,
        family_id: args.family_id,
        image_id: args.image_id,
        guest_svn: args.guest_svn,
        policy: args.policy,
    };
    let auth = IdAuth::sign(&block, &id_key, author.as_ref());
    Ok(Some(Identity {
        block: STANDARD.encode(block.to_bytes()),
        auth: STANDARD.encode(auth.as_bytes()),
        author_key_enabled: author.is_some(),
        id_key_digest: hex::encode(id_key.digest()),
        author_key_digest: author.map(|author| hex::encode(author.digest())),
    }))
}

fn key(path: &Path) -> anyhow::Result<IdKey> {
    let pem = zeroize::Zeroizing::new(read(path)?);
    let pem =
        std::str::from_utf8(&pem).with_context(|| format!("{} is no text", path.display()))?;
    IdKey::from_pem(pem).with_context(|| format!("cannot use {}", path.display()))
}

fn id(text: &str) -> Result<[u8; 16], String> {
    let mut id = [0; 16];
    hex::decode_to_slice(text, &mut id).map_err(|error| error.to_string())?;
    Ok(id)
}
