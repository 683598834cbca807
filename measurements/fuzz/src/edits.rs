//! Edit scripts: the fuzzer's bytes describe changes of a valid input. The fuzzer thus spends its time past the first check
//! and not on guessing a quote.

/// Most changes that one script can make.
const MOST: usize = 32;

/// Applies `script` to `bytes`. Every three bytes of the script are one change: an offset (big-endian, modulo the length) and
/// the value to XOR at it. An empty script and a value of zero change nothing.
pub fn apply(script: &[u8], bytes: &mut [u8]) {
    for change in script.chunks_exact(3).take(MOST) {
        let [high, low, value] = *change else {
            continue;
        };
        let offset = usize::from(u16::from_be_bytes([high, low])) % bytes.len().max(1);
        if let Some(byte) = bytes.get_mut(offset) {
            *byte ^= value;
        }
    }
}

/// Returns a copy of `good` with the changes of `script`.
#[must_use]
pub fn edited(script: &[u8], good: &[u8]) -> Vec<u8> {
    let mut bytes = good.to_vec();
    apply(script, &mut bytes);
    bytes
}

/// Returns the script that flips the bits of `value` at `offset`, for use as a seed.
#[must_use]
pub fn flip(offset: u16, value: u8) -> [u8; 3] {
    let [high, low] = offset.to_be_bytes();
    [high, low, value]
}

#[cfg(test)]
mod tests {
    use super::{edited, flip};

    #[test]
    fn a_script_changes_what_it_names() {
        assert_eq!(edited(&[], b"good"), b"good");
        assert_eq!(edited(&flip(1, 1), b"good"), b"gnod");
        assert_eq!(edited(&flip(5, 1), b"good"), b"gnod", "offsets wrap");
        assert_eq!(edited(&[flip(0, 2), flip(0, 2)].concat(), b"good"), b"good");
        assert_eq!(edited(&flip(0, 1), b""), b"");
    }
}
