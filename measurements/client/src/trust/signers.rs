//! Trusted signers, and the number of them that must have signed.

use std::path::Path;

use cocoon_measurements::manifest::ManifestTrust;
use cocoon_protocol::bytes::Hex32;

use super::{MAX_SMALL_FILE, TrustError, TrustFile, TrustOptions, read};

/// Combines flags and files: signers or pinned hashes among the flags replace those of the files.
pub(super) fn believed(
    options: &TrustOptions,
    file: &TrustFile,
) -> Result<ManifestTrust, TrustError> {
    let mut believed = file.believed();
    if !options.signers.is_empty() || !options.pinned.is_empty() {
        believed.signers = options
            .signers
            .iter()
            .map(|signer| self::signer(signer))
            .collect::<Result<_, _>>()?;
        // The threshold of the files stays: if one signature is not enough, that holds for other
        // signers too.
        believed.threshold = believed.threshold.max(1);
        believed.pinned.clone_from(&options.pinned);
    }
    if let Some(threshold) = options.threshold {
        believed.threshold = threshold;
    }
    believed.allow_unlocked = options.allow_unlocked;
    Ok(believed)
}

fn signer(text: &str) -> Result<[u8; 32], TrustError> {
    if let Ok(key) = text.parse::<Hex32>() {
        return Ok(key.0);
    }
    let path = Path::new(text);
    if !path.exists() {
        return Err(TrustError::Signer(text.to_owned()));
    }
    let bytes = read("signer's key", path, MAX_SMALL_FILE)?;
    let key = std::str::from_utf8(&bytes)
        .ok()
        .and_then(|text| text.trim().parse::<Hex32>().ok());
    key.map(|key| key.0)
        .ok_or_else(|| TrustError::Signer(text.to_owned()))
}
