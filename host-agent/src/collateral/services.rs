//! The addresses of the vendors' services, or of mirrors that an operator names.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The addresses in a TOML file. A key that is left out has the vendor's own address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Services {
    /// Intel's Provisioning Certification Service, version 4, or a caching service (PCCS) with the same paths.
    pub intel: String,
    /// Address of the revocation list of Intel's root, DER.
    pub intel_root_crl: String,
    /// AMD's Key Distribution Service.
    pub amd: String,
    /// NVIDIA's service for reference manifests; a manifest's name is appended.
    pub nvidia_rim: String,
    /// NVIDIA's OCSP responder.
    pub nvidia_ocsp: String,
    /// File with the key that NVIDIA's service for reference manifests may require: one line, sent as a bearer token.
    pub nvidia_key_file: Option<PathBuf>,
}

impl Default for Services {
    fn default() -> Self {
        Self {
            intel: "https://api.trustedservices.intel.com".to_owned(),
            intel_root_crl: "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der"
                .to_owned(),
            amd: "https://kdsintf.amd.com".to_owned(),
            nvidia_rim: "https://rim.attestation.nvidia.com/v1/rim".to_owned(),
            nvidia_ocsp: "https://ocsp.ndis.nvidia.com".to_owned(),
            nvidia_key_file: None,
        }
    }
}

/// Why a file of services was refused.
#[derive(Debug, thiserror::Error)]
pub enum ServicesError {
    /// The file cannot be read.
    #[error("cannot read {path:?}")]
    Read {
        /// Path of the file.
        path: PathBuf,
        /// The error of the system.
        #[source]
        source: std::io::Error,
    },
    /// The file is not TOML, or has unknown keys.
    #[error("{path:?} does not name services: {why}")]
    Malformed {
        /// Path of the file.
        path: PathBuf,
        /// The parser's message.
        why: String,
    },
    /// An address is neither HTTPS nor HTTP.
    #[error("{path:?}: {key} is {found:?}, and has to begin with https:// or http://")]
    Scheme {
        /// Path of the file.
        path: PathBuf,
        /// Name of the key.
        key: &'static str,
        /// The address in the file.
        found: String,
    },
    /// The bearer token would be sent unencrypted.
    #[error(
        "{path:?}: nvidia_key_file is set, and nvidia_rim is {found:?}, over which the key would travel in the clear: use https://, or http:// on this machine's loopback"
    )]
    PlainKey {
        /// Path of the file.
        path: PathBuf,
        /// The address in the file.
        found: String,
    },
}

impl Services {
    /// Reads a file of services.
    ///
    /// # Errors
    /// Fails with [`ServicesError`] if the file cannot be read or an address is refused.
    pub fn read(path: &Path) -> Result<Self, ServicesError> {
        let text = std::fs::read_to_string(path).map_err(|source| ServicesError::Read {
            path: path.to_owned(),
            source,
        })?;
        let malformed = |error: toml::de::Error| ServicesError::Malformed {
            path: path.to_owned(),
            why: error.message().to_owned(),
        };
        let services: Self = toml::from_str(&text).map_err(malformed)?;
        for (key, address) in services.addresses() {
            if !address.starts_with("https://") && !address.starts_with("http://") {
                return Err(ServicesError::Scheme {
                    path: path.to_owned(),
                    key,
                    found: crate::text::plain(address, 100),
                });
            }
        }
        if services.nvidia_key_file.is_some() && !services.keeps_key() {
            return Err(ServicesError::PlainKey {
                path: path.to_owned(),
                found: crate::text::plain(&services.nvidia_rim, 100),
            });
        }
        Ok(services)
    }

    /// Whether a bearer token sent to `nvidia_rim` stays secret: over HTTPS, or on the loopback interface.
    pub(super) fn keeps_key(&self) -> bool {
        let Ok(address) = self.nvidia_rim.parse::<hyper::Uri>() else {
            return false;
        };
        let host = address.host().unwrap_or_default();
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let loopback = host == "localhost"
            || (host.parse::<IpAddr>()).is_ok_and(|address| address.is_loopback());
        address.scheme_str() == Some("https") || loopback
    }

    fn addresses(&self) -> [(&'static str, &str); 5] {
        [
            ("intel", &self.intel),
            ("intel_root_crl", &self.intel_root_crl),
            ("amd", &self.amd),
            ("nvidia_rim", &self.nvidia_rim),
            ("nvidia_ocsp", &self.nvidia_ocsp),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Services, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let path = format!("{:?}", file.path());
        Services::read(file.path()).map_err(|error| error.to_string().replace(&path, "F"))
    }

    #[test]
    fn what_is_left_out_is_the_vendors_own() {
        assert_eq!(read("").unwrap(), Services::default());
        let one = read("amd = \"http://127.0.0.1:9/kds\"").unwrap();
        assert_eq!(one.amd, "http://127.0.0.1:9/kds");
        assert_eq!(one.intel, Services::default().intel);
        assert_eq!(
            read("amd = \"ftp://kds\"").unwrap_err(),
            "F: amd is \"ftp://kds\", and has to begin with https:// or http://"
        );
        assert!(
            read("amt = \"x\"")
                .unwrap_err()
                .starts_with("F does not name services: unknown field `amt`")
        );
    }

    #[test]
    fn a_key_goes_over_no_address_that_anybody_can_read() {
        let with_key =
            |rim: &str| read(&format!("nvidia_key_file = \"/k\"\nnvidia_rim = \"{rim}\""));
        for good in [
            "https://mirror.example/rim",
            "http://127.0.0.1:9/rim",
            "http://[::1]:9/rim",
            "http://localhost/rim",
        ] {
            assert_eq!(with_key(good).unwrap().nvidia_rim, good);
        }
        for bad in [
            "http://mirror.example/rim",
            "http://127.0.0.1@mirror.example/rim",
            "http://127.0.0.1.example/rim",
            "http://10.0.0.1/rim",
        ] {
            assert_eq!(
                with_key(bad).unwrap_err(),
                format!(
                    "F: nvidia_key_file is set, and nvidia_rim is {bad:?}, over which the key would travel in the clear: use \
                     https://, or http:// on this machine's loopback"
                )
            );
        }
        // Without a key, plain HTTP reveals nothing.
        assert!(read("nvidia_rim = \"http://mirror.example/rim\"").is_ok());
    }
}
