//! Implements `manifest sign`, `manifest keygen` and `manifest diff`.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use anyhow::Context as _;
use cocoon_image::files::{self, FileError};
use cocoon_image::platform::envelope_path;
use cocoon_image::{add_model, diff as differences};
use cocoon_measurements::manifest::{self, MAX_ENVELOPE_LEN};
use cocoon_protocol::bytes::Hex;
use cocoon_protocol::manifest::{MAX_MANIFEST_LEN, Manifest, manifest_id};
use serde_json::json;
use zeroize::Zeroizing;

use super::{Outcome, Output};

/// Largest key file that is read, in bytes. A key file holds 64 digits and a newline.
const MAX_KEY_FILE: u64 = 1024;

pub(super) fn sign(path: &Path, key: &Path, output: Output) -> anyhow::Result<Outcome> {
    let bytes = files::read(path, MAX_MANIFEST_LEN as u64)?;
    Manifest::parse(&bytes).with_context(|| format!("{} cannot be signed", path.display()))?;
    let secret = secret(key)?;
    let envelope_path = envelope_path(path);
    let signed = if envelope_path.exists() {
        let envelope = files::read(&envelope_path, MAX_ENVELOPE_LEN as u64)?;
        manifest::add_signature(&envelope, &bytes, &secret)
            .with_context(|| format!("cannot add a signature to {}", envelope_path.display()))?
    } else {
        manifest::sign(&bytes, &secret)?
    };
    files::write_to(&envelope_path, &signed)?;
    let signer = Hex(manifest::public_key(&secret));
    let value =
        json!({ "manifest_id": manifest_id(&bytes), "envelope": envelope_path, "signer": signer });
    output.print(
        &value,
        format!("{} signed by {signer}", envelope_path.display()),
    )?;
    Ok(Outcome::Done)
}

pub(super) fn generate(out: &Path, output: Output) -> anyhow::Result<Outcome> {
    let mut secret = Zeroizing::new([0; 32]);
    getrandom::fill(&mut *secret).context("the system has no randomness")?;
    let mut text = Zeroizing::new([0; 65]);
    hex::encode_to_slice(*secret, &mut text[..64])
        .context("cannot write the key in hexadecimal")?;
    text[64] = b'\n';
    write_key(out, &*text)?;
    let signer = Hex(manifest::public_key(&secret));
    output.print(
        &json!({ "key": out, "signer": signer }),
        format!("secret key in {}\nsigner {signer}", out.display()),
    )?;
    Ok(Outcome::Done)
}

/// Writes a new key file, which only its owner can ever read, and flushes it to the disk: a signer that clients pin must
/// survive a power cut. It never overwrites a key. A failed write removes the file, so that the name is free for the next
/// attempt.
fn write_key(out: &Path, text: &[u8]) -> Result<(), FileError> {
    let mut options = File::options();
    options.write(true).create_new(true).mode(0o600);
    let mut file = options.open(out).map_err(FileError::write(out))?;
    let written = file.write_all(text).and_then(|()| file.sync_all());
    if let Err(error) = written {
        files::remove_if_present(out)?;
        return Err(FileError::write(out)(error));
    }
    let folder = files::folder_of(out);
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    synced.map_err(FileError::write(folder))
}

pub(super) fn diff(first: &Path, second: &Path, output: Output) -> anyhow::Result<Outcome> {
    let found = differences::diff(
        &add_model::read_manifest(first)?,
        &add_model::read_manifest(second)?,
    );
    let lines: Vec<String> = found.iter().map(ToString::to_string).collect();
    let text = if lines.is_empty() {
        "no difference".to_owned()
    } else {
        lines.join("\n")
    };
    output.print(&json!({ "differences": found }), text)?;
    Ok(if found.is_empty() {
        Outcome::Done
    } else {
        Outcome::Rejected
    })
}

fn secret(path: &Path) -> anyhow::Result<Zeroizing<[u8; 32]>> {
    let text = Zeroizing::new(files::read(path, MAX_KEY_FILE)?);
    let mut secret = Zeroizing::new([0; 32]);
    let decoded = hex::decode_to_slice(text.trim_ascii(), &mut *secret);
    // The error of `decode_to_slice` is left out, because it quotes a digit of the key.
    anyhow::ensure!(
        decoded.is_ok(),
        "{} is not a secret key: expected 64 hexadecimal digits",
        path.display()
    );
    Ok(secret)
}
