//! The command line's word for the model: `cocoon.model=ID:ROOT:SALT:DATA_BLOCKS`. It is measured,
//! so it is what the client's manifest says, or there is no verdict.

use crate::volume::Verity;

/// Token of the command line.
const TOKEN: &str = "cocoon.model=";

/// Which model, and how its volume verifies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelReference {
    /// Identifier in the API.
    pub id: String,
    /// What its blocks are compared with.
    pub verity: Verity,
}

/// Why there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// No token.
    #[error("cocoon.model= is missing")]
    Missing,
    /// Two tokens.
    #[error("cocoon.model= stands more than once")]
    Repeated,
    /// Not of the form.
    #[error("cocoon.model= is not ID:ROOT:SALT:DATA_BLOCKS")]
    Malformed,
}

impl ModelReference {
    /// Reads the token from a whole command line.
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
