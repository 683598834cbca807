//! How the fuzzer's bytes become changes of something good: so that it spends its time behind the first check, not in
//! guessing a quote.

/// Most changes of one input.
const MOST: usize = 32;

/// Applies `script` to `bytes`: every three bytes of it are an offset (big-endian, modulo the length) and what is
/// XORed there. An empty script changes nothing, and so does a zero.
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

/// A copy of `good` with the changes of `script`.
#[must_use]
pub fn edited(script: &[u8], good: &[u8]) -> Vec<u8> {
    let mut bytes = good.to_vec();
    apply(script, &mut bytes);
    bytes
}

/// The script that flips each bit of `value` at `offset`: for seeds.
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
