//! NVIDIA's services: reference manifests (RIMs) by name, and OCSP for the certificates of GPUs and manifests.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cocoon_measurements::nvidia::{self, fetching};
use cocoon_measurements::policy::Policy;
use cocoon_protocol::gpu::{MAX_OCSP, MAX_RIM, rim_name};
use serde::Deserialize;

use super::http::{Client, HttpError};
use super::{CollateralError, Dates, Services, wrong};
use crate::text::chain;

const NVIDIA: &str = "NVIDIA";
const RIM: &str = "the reference manifest";
const OCSP: &str = "the OCSP response";
const NAMES: &str = "the list of manifests";
/// Maximum length of the list of names in bytes. It has about 100 KB.
const MAX_NAMES: usize = 4 << 20;

/// The field of the service's answer that is read; it has others.
#[derive(Deserialize)]
struct Answered {
    rim: String,
}

/// Requests the names of all manifests. Returns those for GPUs, sorted, one per line.
pub(super) fn names(client: &Client, services: &Services) -> Result<Vec<u8>, CollateralError> {
    #[derive(Deserialize)]
    struct Names {
        ids: Vec<String>,
    }
    let url = format!("{}/ids", services.nvidia_rim.trim_end_matches('/'));
    let answer = client.get(&url, MAX_NAMES, None)?;
    let names: Names = serde_json::from_slice(&answer.body)
        .map_err(|error| wrong(NAMES, NVIDIA)(error.to_string()))?;
    let mut names = names.ids;
    names.retain(|name| name.starts_with("NV_GPU_") && rim_name(NAMES, name).is_ok());
    names.sort();
    names.dedup();
    Ok(names.join("\n").into_bytes())
}

/// Checks a list of names. It has no dates of its own, so it counts as valid for a week.
pub(super) fn check_names(bytes: &[u8], now: u64) -> Result<Dates, CollateralError> {
    let refused = |why: &str| wrong(NAMES, NVIDIA)(why.to_owned());
    let text = std::str::from_utf8(bytes).map_err(|_| refused("it is no text"))?;
    if bytes.len() > MAX_NAMES || text.lines().any(|name| rim_name(NAMES, name).is_err()) {
        return Err(refused("a name in it is none"));
    }
    if text.is_empty() {
        return Err(refused("it names no manifest for a GPU"));
    }
    let due = now.saturating_add(7 * 24 * 60 * 60);
    Ok(Dates { made: now, due })
}

/// Requests a reference manifest.
pub(super) fn rim(
    client: &Client,
    services: &Services,
    name: &str,
) -> Result<Vec<u8>, CollateralError> {
    let url = format!("{}/{name}", services.nvidia_rim.trim_end_matches('/'));
    let key = services.nvidia_key_file.as_deref().map(key).transpose()?;
    if key.is_some() && !services.keeps_key() {
        return Err(CollateralError::Unasked(
            "nvidia_rim would carry the key of nvidia_key_file in the clear: use https://, or http:// on this machine's loopback",
        ));
    }
    // The answer holds the manifest in Base64 within JSON, with other fields.
    let answer = client.get(&url, 2 * MAX_RIM, key.as_deref());
    let answer = answer.map_err(|error| match error {
        HttpError::Status { url, status: 404 } => CollateralError::None {
            vendor: NVIDIA,
            url,
            advice: "there is nothing to compare this driver or VBIOS with: use a version that NVIDIA released for confidential computing",
        },
        HttpError::Status {
            status: 401 | 403, ..
        } => CollateralError::Unasked(
            "NVIDIA asks for a key, or refuses this one: name its file as nvidia_key_file in the file of services",
        ),
        other => other.into(),
    })?;
    let refused = wrong(RIM, NVIDIA);
    let answered: Answered =
        serde_json::from_slice(&answer.body).map_err(|error| refused(error.to_string()))?;
    STANDARD
        .decode(answered.rim.trim())
        .map_err(|error| refused(error.to_string()))
}

fn key(path: &Path) -> Result<String, CollateralError> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let key = text.trim();
    match key.is_empty() || key.chars().any(|c| !c.is_ascii_graphic()) {
        true => Err(CollateralError::Unasked(
            "nvidia_key_file names no file with one key in it: write it there, or leave the name out",
        )),
        false => Ok(key.to_owned()),
    }
}

/// Checks that `bytes` are the manifest `name`, with a valid signature and valid at `now`. Development roots count if the
/// policy names them.
pub(super) fn check_rim(
    bytes: &[u8],
    name: &str,
    policy: &Policy,
    now: u64,
) -> Result<Dates, CollateralError> {
    let refused = wrong(RIM, NVIDIA);
    if bytes.len() > MAX_RIM || std::str::from_utf8(bytes).is_err() {
        let length = bytes.len();
        return Err(refused(format!("{length} bytes that are no manifest")));
    }
    let reference =
        nvidia::verify_manifest(bytes, policy, now).map_err(|error| refused(chain(&error)))?;
    let version = reference.version.to_uppercase();
    let plain = version.replace('.', "");
    // The name of a driver's manifest ends with the version, that of a VBIOS with the version without dots.
    if !name.ends_with(&format!("_{version}")) && !name.ends_with(&format!("_{plain}")) {
        let version = crate::text::plain(&reference.version, 64);
        return Err(refused(format!("it is of version {version:?}")));
    }
    let due = fetching::end_of_manifest(bytes).map_err(|error| refused(chain(&error)))?;
    // A manifest does not say when it was issued.
    Dates { made: 0, due }.hold(RIM, NVIDIA, now)
}

/// Requests the revocation status of a certificate.
pub(super) fn ocsp(
    client: &Client,
    services: &Services,
    certificate: &[u8],
    issuer: &[u8],
) -> Result<Vec<u8>, CollateralError> {
    let request = fetching::request(certificate, issuer)
        .map_err(|error| wrong("the certificate", NVIDIA)(chain(&error)))?;
    let kind = "application/ocsp-request";
    let answer = client.post(&services.nvidia_ocsp, MAX_OCSP, kind, &request)?;
    Ok(answer.body)
}

/// Checks that `bytes` are a signed response about this certificate, valid at `now`. The status itself is for clients to
/// judge. A response without a next update is valid until the maximum age that clients accept by default (`policy`).
pub(super) fn check_ocsp(
    bytes: &[u8],
    (certificate, issuer): (&[u8], &[u8]),
    policy: &Policy,
    now: u64,
) -> Result<Dates, CollateralError> {
    let refused = wrong(OCSP, NVIDIA);
    let told = fetching::told(bytes, certificate, issuer, now);
    match told.map_err(|error| refused(chain(&error)))? {
        Some(told) => {
            let oldest = told.made.saturating_add(policy.max_gpu_ocsp_age);
            Dates {
                made: told.made,
                due: told.due.unwrap_or(oldest),
            }
            .hold(OCSP, NVIDIA, now)
        }
        None => Err(refused("it is about another certificate".to_owned())),
    }
}
