//! NVIDIA's services: reference manifests by name, and OCSP about the certificates of GPUs and manifests.

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
/// The list has some 100 KB.
const MAX_NAMES: usize = 4 << 20;

/// What the service answers; it says more than is read here.
#[derive(Deserialize)]
struct Answered {
    rim: String,
}

/// Asks for the names of all manifests, and keeps those for GPUs: a line each, sorted.
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

/// Whether this is such a list. It has no dates of its own: after a week it says little about what is new.
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

/// Asks for a manifest.
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
    // In Base64 within JSON, with more beside it.
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

/// Whether this is the manifest of this name, verified and good at `now`. Development roots count as the policy names them.
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
    // A driver's name ends with its version, a VBIOS's with the version without points.
    if !name.ends_with(&format!("_{version}")) && !name.ends_with(&format!("_{plain}")) {
        let version = crate::text::plain(&reference.version, 64);
        return Err(refused(format!("it is of version {version:?}")));
    }
    let due = fetching::end_of_manifest(bytes).map_err(|error| refused(chain(&error)))?;
    // A manifest does not say when it was made.
    Dates { made: 0, due }.hold(RIM, NVIDIA, now)
}

/// Asks about a certificate.
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

/// Whether this is a response about this certificate, verified and good at `now`; what it says is for others. One that names
/// no next one is good for as long as `policy`, which is that of clients, takes one of its age.
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
