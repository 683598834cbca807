//! JSON encoding of byte strings: fixed-length values in hexadecimal, longer ones in Base64.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use sha2::{Digest as _, Sha256, Sha384};

/// Exactly `N` bytes, encoded in JSON as `2 * N` lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hex<const N: usize>(pub [u8; N]);

/// A SHA-256 digest or another 32-byte value.
pub type Hex32 = Hex<32>;
/// A SHA-384 digest, the size of every TDX measurement register and of the SNP launch digest.
pub type Hex48 = Hex<48>;
/// 64 bytes, the size of TDX and SNP report data.
pub type Hex64 = Hex<64>;

impl<const N: usize> Hex<N> {
    /// All zero bytes. Means "not measured" for TDX registers and "absent" for digests.
    pub const ZERO: Self = Self([0; N]);

    /// Returns whether every byte is zero.
    pub fn is_zero(&self) -> bool {
        self.0.iter().all(|b| *b == 0)
    }
}

impl Hex32 {
    /// Returns the SHA-256 digest of `data`.
    pub fn sha256(data: &[u8]) -> Self {
        Self(Sha256::digest(data).into())
    }
}

impl Hex48 {
    /// Returns the SHA-384 digest of `data`.
    pub fn sha384(data: &[u8]) -> Self {
        Self(Sha384::digest(data).into())
    }
}

impl<const N: usize> Default for Hex<N> {
    fn default() -> Self {
        Self::ZERO
    }
}

impl<const N: usize> fmt::Display for Hex<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl<const N: usize> fmt::Debug for Hex<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<const N: usize> zeroize::Zeroize for Hex<N> {
    fn zeroize(&mut self) {
        self.0.zeroize();
    }
}

impl<const N: usize> AsRef<[u8]> for Hex<N> {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// Error for text that is not the hexadecimal form of the expected number of bytes.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("expected {expected} bytes as {} hexadecimal digits in lower case, found {found:?}", expected * 2)]
pub struct NotHex {
    expected: usize,
    found: String,
}

impl<const N: usize> std::str::FromStr for Hex<N> {
    type Err = NotHex;

    /// Parses lower-case hexadecimal digits. Upper case is refused, so that each value has one encoding only.
    fn from_str(text: &str) -> Result<Self, NotHex> {
        let mut bytes = [0; N];
        let is_lower = !text.bytes().any(|byte| byte.is_ascii_uppercase());
        if is_lower && hex::decode_to_slice(text, &mut bytes).is_ok() {
            return Ok(Self(bytes));
        }
        Err(NotHex {
            expected: N,
            // The text is untrusted and may be long: the message quotes only its beginning.
            found: text.chars().take(2 * N + 8).collect(),
        })
    }
}

impl<const N: usize> Serialize for Hex<N> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de, const N: usize> Deserialize<'de> for Hex<N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

/// Bytes of any length, encoded in JSON as standard Base64 with padding. The containing type limits the length.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Blob(pub Vec<u8>);

impl fmt::Debug for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl From<Vec<u8>> for Blob {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

impl AsRef<[u8]> for Blob {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Serialize for Blob {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        STANDARD
            .decode(text.as_bytes())
            .map(Self)
            .map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_is_exact() {
        let value: Hex<4> = "00ff10a5".parse().unwrap();
        assert_eq!(value.0, [0, 255, 16, 165]);
        assert_eq!(value.to_string(), "00ff10a5");
        for wrong in ["00ff", "00FF10A5", "00ff10A5"] {
            assert_eq!(
                wrong.parse::<Hex<4>>().unwrap_err().to_string(),
                format!("expected 4 bytes as 8 hexadecimal digits in lower case, found {wrong:?}")
            );
            assert!(serde_json::from_value::<Hex<4>>(wrong.into()).is_err());
        }
    }

    #[test]
    fn blob_round_trips_and_refuses_rubbish() {
        let json = serde_json::to_string(&Blob(vec![1, 2, 3])).unwrap();
        assert_eq!(json, "\"AQID\"");
        assert_eq!(serde_json::from_str::<Blob>(&json).unwrap().0, [1, 2, 3]);
        assert!(serde_json::from_str::<Blob>("\"A*\"").is_err());
    }
}
