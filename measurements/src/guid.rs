//! GUIDs as UEFI stores them: the first three groups little-endian.

use std::fmt;

/// A GUID, as its 16 bytes in stored order.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Guid(pub [u8; 16]);

impl Guid {
    /// Parses the usual text form, `"96b582de-1fb2-45f7-baea-a366c55a082d"`.
    ///
    /// Meant for constants: in a `const`, malformed text fails the build.
    ///
    /// # Panics
    /// When the text is not 36 characters of hexadecimal digits and hyphens in their places.
    #[must_use]
    pub const fn parse(text: &str) -> Self {
        const ORDER: [usize; 16] = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];
        let text = text.as_bytes();
        assert!(text.len() == 36, "a GUID has 36 characters");
        let mut stored = [0; 16];
        let (mut at, mut index) = (0, 0);
        while index < 16 {
            if at == 8 || at == 13 || at == 18 || at == 23 {
                assert!(
                    text[at] == b'-',
                    "a GUID has hyphens after 8, 12, 16 and 20 digits"
                );
                at += 1;
            }
            stored[ORDER[index]] = digit(text[at]) << 4 | digit(text[at + 1]);
            at += 2;
            index += 1;
        }
        Self(stored)
    }
}

const fn digit(character: u8) -> u8 {
    match character {
        b'0'..=b'9' => character - b'0',
        b'a'..=b'f' => character - b'a' + 10,
        b'A'..=b'F' => character - b'A' + 10,
        _ => panic!("a GUID has hexadecimal digits"),
    }
}

impl fmt::Display for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let g = &self.0;
        write!(
            f,
            "{:02x}{:02x}{:02x}{:02x}-{:02x}{:02x}-{:02x}{:02x}-",
            g[3], g[2], g[1], g[0], g[5], g[4], g[7], g[6]
        )?;
        write!(f, "{}-{}", hex::encode(&g[8..10]), hex::encode(&g[10..]))
    }
}

impl fmt::Debug for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::Guid;

    #[test]
    fn stored_order_and_text_agree() {
        let text = "96b582de-1fb2-45f7-baea-a366c55a082d";
        let guid = Guid::parse(text);
        assert_eq!(hex::encode(guid.0), "de82b596b21ff745baeaa366c55a082d");
        assert_eq!(guid.to_string(), text);
    }
}
