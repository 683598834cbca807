//! The operator's configuration (SPEC.md §6): prices, payout and capacity in canonical bytes. The launch measures it
//! (MRCONFIGID on TDX, HOST_DATA on SNP), and the guest compares the digest with its own report.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256, Sha384};

use crate::binding::Tee;
use crate::bytes::{Hex, Hex48};

/// Largest canonical encoding of a configuration, in bytes.
pub const MAX_CONFIG_LEN: usize = 4096;
/// Version of the configuration's schema.
pub const CONFIG_VERSION: u16 = 1;
/// Upper limit of [`OperatorConfig::max_concurrent_requests`].
pub const MAX_CONCURRENT: u16 = 1024;

/// Settings of the operator. None of them can change which code runs or who can read a prompt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OperatorConfig {
    /// Version of the schema: [`CONFIG_VERSION`].
    pub version: u16,
    /// Name shown to clients, 1 to 64 characters of `[A-Za-z0-9._-]`.
    pub name: String,
    /// TON address that receives payments, in its user-friendly form; `None` if the operator serves without payment.
    pub payout_address: Option<String>,
    /// Price of one million prompt tokens, in nanotons.
    pub price_prompt_million: u64,
    /// Price of one million completion tokens, in nanotons.
    pub price_completion_million: u64,
    /// Most requests that may run at once, 1 to [`MAX_CONCURRENT`].
    pub max_concurrent_requests: u16,
}

impl Default for OperatorConfig {
    fn default() -> Self {
        Self {
            version: CONFIG_VERSION,
            name: "cocoon".to_owned(),
            payout_address: None,
            price_prompt_million: 0,
            price_completion_million: 0,
            max_concurrent_requests: 4,
        }
    }
}

/// Reason why bytes are not a valid configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The encoding is longer than [`MAX_CONFIG_LEN`].
    #[error("operator configuration of {0} bytes exceeds the limit of {MAX_CONFIG_LEN}")]
    TooLong(usize),
    /// The bytes are not JSON of the schema.
    #[error("operator configuration is not JSON of the expected schema")]
    Malformed(#[source] serde_json::Error),
    /// The bytes are JSON of the schema, but not the encoding that [`OperatorConfig::canonical`] returns.
    #[error(
        "operator configuration is not in canonical form: encode it again with this release's tools"
    )]
    NotCanonical,
    /// A field is out of range.
    #[error("operator configuration: `{field}` {problem}")]
    Field {
        /// Name of the field.
        field: &'static str,
        /// What is wrong with the value.
        problem: &'static str,
    },
}

impl OperatorConfig {
    /// Returns the canonical encoding: compact JSON with the fields in the order of the type.
    pub fn canonical(&self) -> Vec<u8> {
        // Strings, integers and an option: serialisation cannot fail.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Parses a configuration from its canonical encoding. Refuses any other encoding.
    pub fn parse(bytes: &[u8]) -> Result<Self, ConfigError> {
        if bytes.len() > MAX_CONFIG_LEN {
            return Err(ConfigError::TooLong(bytes.len()));
        }
        let config: Self = serde_json::from_slice(bytes).map_err(ConfigError::Malformed)?;
        config.validate()?;
        if config.canonical() != bytes {
            return Err(ConfigError::NotCanonical);
        }
        Ok(config)
    }

    /// Checks that each field is within its range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let field = |field, problem| Err(ConfigError::Field { field, problem });
        if self.version != CONFIG_VERSION {
            return field("version", "must be 1");
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if self.name.is_empty() || self.name.len() > 64 || !self.name.chars().all(plain) {
            return field("name", "must be 1 to 64 characters of A-Z a-z 0-9 . _ -");
        }
        if let Some(address) = &self.payout_address
            && (address.is_empty()
                || address.len() > 96
                || !address.chars().all(|c| plain(c) || c == ':'))
        {
            return field("payout_address", "must be a TON address");
        }
        if !(1..=MAX_CONCURRENT).contains(&self.max_concurrent_requests) {
            return field("max_concurrent_requests", "must be 1 to 1024");
        }
        Ok(())
    }
}

/// Returns the digest of a canonical configuration as the launch measures it: SHA-384 in MRCONFIGID for TDX; SHA-256 in
/// HOST_DATA for SNP, here followed by 16 zero bytes.
pub fn digest(tee: Tee, canonical: &[u8]) -> Hex48 {
    match tee {
        Tee::Tdx => Hex(Sha384::digest(canonical).into()),
        Tee::SevSnp => {
            let mut digest = [0; 48];
            digest[..32].copy_from_slice(&Sha256::digest(canonical));
            Hex(digest)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cocoon_config_1() {
        let canonical = OperatorConfig::default().canonical();
        assert_eq!(
            OperatorConfig::parse(&canonical).unwrap(),
            OperatorConfig::default()
        );
        let spaced = [b" ", canonical.as_slice()].concat();
        assert!(matches!(
            OperatorConfig::parse(&spaced),
            Err(ConfigError::NotCanonical)
        ));
        let unknown = String::from_utf8(canonical)
            .unwrap()
            .replace("{\"version\"", "{\"debug\":true,\"version\"");
        assert!(matches!(
            OperatorConfig::parse(unknown.as_bytes()),
            Err(ConfigError::Malformed(_))
        ));
    }

    #[test]
    fn cocoon_config_2() {
        let bad = OperatorConfig {
            max_concurrent_requests: 0,
            ..OperatorConfig::default()
        };
        assert_eq!(
            OperatorConfig::parse(&bad.canonical())
                .unwrap_err()
                .to_string(),
            "operator configuration: `max_concurrent_requests` must be 1 to 1024"
        );
        let bad = OperatorConfig {
            name: "a b".into(),
            ..OperatorConfig::default()
        };
        assert_eq!(
            bad.validate().unwrap_err().to_string(),
            "operator configuration: `name` must be 1 to 64 characters of A-Z a-z 0-9 . _ -"
        );
    }

    #[test]
    fn cocoon_config_3() {
        let tdx = digest(Tee::Tdx, b"abc");
        assert!(
            tdx.to_string()
                .starts_with("cb00753f45a35e8bb5a03d699ac65007272c32ab0eded163"),
            "SHA-384 of FIPS 180-4"
        );
        let snp = digest(Tee::SevSnp, b"abc");
        assert_eq!(
            snp.to_string(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad00000000000000000000000000000000"
        );
    }

    #[test]
    fn every_field_has_its_range() {
        let refused = |edit: fn(&mut OperatorConfig)| {
            let mut config = OperatorConfig::default();
            edit(&mut config);
            config.validate().unwrap_err().to_string()
        };
        assert_eq!(
            refused(|c| c.version = 2),
            "operator configuration: `version` must be 1"
        );
        assert_eq!(
            refused(|c| c.payout_address = Some("EQ/..".into())),
            "operator configuration: `payout_address` must be a TON address"
        );
        let name = "operator configuration: `name` must be 1 to 64 characters of A-Z a-z 0-9 . _ -";
        assert_eq!(refused(|c| c.name = String::new()), name);
        assert_eq!(refused(|c| c.name = "x".repeat(65)), name);
        assert_eq!(refused(|c| c.name = "\u{202e}".into()), name);
        let huge = vec![b' '; MAX_CONFIG_LEN + 1];
        assert_eq!(
            OperatorConfig::parse(&huge).unwrap_err().to_string(),
            "operator configuration of 4097 bytes exceeds the limit of 4096"
        );
    }
}
