//! The model token of the kernel command line: `cocoon.model=ID:ROOT:SALT:DATA_BLOCKS`. The command line is measured, so
//! verifiers reject a guest whose model differs from the client's manifest.

use crate::volume::Verity;

/// Name of the command line token.
const TOKEN: &str = "cocoon.model=";

/// Identifier of the model and dm-verity parameters of its volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelReference {
    /// Model identifier in the API.
    pub id: String,
    /// dm-verity parameters of the volume.
    pub verity: Verity,
}

/// Why the command line does not name a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// The token is missing.
    #[error("cocoon.model= is missing")]
    Missing,
    /// The token occurs more than once.
    #[error("cocoon.model= stands more than once")]
    Repeated,
    /// The token's value is malformed.
    #[error("cocoon.model= is not ID:ROOT:SALT:DATA_BLOCKS")]
    Malformed,
}

impl ModelReference {
    /// Reads the token from a whole kernel command line.
    pub fn from_cmdline(cmdline: &str) -> Result<Self, ReferenceError> {
        let mut values = cmdline
            .split_ascii_whitespace()
            .filter_map(|word| word.strip_prefix(TOKEN));
        let value = values.next().ok_or(ReferenceError::Missing)?;
        if values.next().is_some() {
            return Err(ReferenceError::Repeated);
        }
        Self::parse(value).ok_or(ReferenceError::Malformed)
    }

    fn parse(value: &str) -> Option<Self> {
        let parts: Vec<&str> = value.split(':').collect();
        let &[id, root, salt, blocks] = parts.as_slice() else {
            return None;
        };
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let fits = (1..=64).contains(&id.len()) && id.bytes().all(plain);
        fits.then_some(())?;
        Some(Self {
            id: id.to_owned(),
            verity: Verity::parse(root, salt, blocks)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_token_of_the_form_is_needed() {
        let hash = "ab".repeat(32);
        let token = format!("cocoon.model=smol-1.5:{hash}:{hash}:42");
        let found = ModelReference::from_cmdline(&format!("quiet {token} panic=-1\n")).unwrap();
        let blocks = found.verity.data_blocks;
        assert_eq!((found.id.as_str(), blocks), ("smol-1.5", 42));
        assert_eq!(found.verity.root.to_string(), hash);
        for (cmdline, error) in [
            ("quiet".to_owned(), ReferenceError::Missing),
            (format!("{token} {token}"), ReferenceError::Repeated),
            (
                format!("cocoon.model=:{hash}:{hash}:42"),
                ReferenceError::Malformed,
            ),
            (
                format!("cocoon.model=a/b:{hash}:{hash}:42"),
                ReferenceError::Malformed,
            ),
            (
                format!("cocoon.model=a:{hash}:{hash}:0"),
                ReferenceError::Malformed,
            ),
            (
                format!("cocoon.model=a:{hash}:{}:1", "ab".repeat(31)),
                ReferenceError::Malformed,
            ),
            (format!("{token}:1"), ReferenceError::Malformed),
        ] {
            assert_eq!(
                ModelReference::from_cmdline(&cmdline),
                Err(error),
                "{cmdline}"
            );
        }
    }
}
