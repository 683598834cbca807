//! Where the vendors are asked: their own services, or mirrors that an operator names.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The addresses, as they stand in a TOML file; what is left out is the vendor's own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Services {
    /// Intel's Provisioning Certification Service, version 4 of its interface, or a caching service (PCCS) with the same
    /// paths.
    pub intel: String,
    /// Where the revocation list of Intel's root lies, DER.
    pub intel_root_crl: String,
    /// AMD's Key Distribution Service.
    pub amd: String,
    /// NVIDIA's reference manifests; a name is appended.
    pub nvidia_rim: String,
    /// NVIDIA's OCSP responder.
    pub nvidia_ocsp: String,
    /// A file with the key that NVIDIA's services may ask for: one line, sent as a bearer token.
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

/// Why there are no addresses.
#[derive(Debug, thiserror::Error)]
pub enum ServicesError {
    /// The file.
    #[error("cannot read {path:?}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// What it says.
    #[error("{path:?} does not name services: {why}")]
    Malformed {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// An address of another kind.
    #[error("{path:?}: {key} is {found:?}, and has to begin with https:// or http://")]
    Scheme {
        /// Which file.
        path: PathBuf,
        /// Which key.
        key: &'static str,
        /// What stands there.
        found: String,
    },
    /// A key that anybody on the way could read.
    #[error(
        "{path:?}: nvidia_key_file is set, and nvidia_rim is {found:?}, over which the key would travel in the clear: use https://, or http:// on this machine's loopback"
    )]
    PlainKey {
        /// Which file.
        path: PathBuf,
        /// The address.
        found: String,
    },
}

impl Services {
    /// Reads a file.
    ///
    /// # Errors
    /// [`ServicesError`].
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

    /// Whether a key that is sent to NVIDIA's manifests stays between this machine and their service.
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
        // Without a key there is nothing to read.
        assert!(read("nvidia_rim = \"http://mirror.example/rim\"").is_ok());
    }
}
