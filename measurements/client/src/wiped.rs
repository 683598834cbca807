//! Buffers that grow without leaving unwiped copies.

use cocoon_protocol::wiping::json_len;
use serde::Serialize;
use zeroize::Zeroizing;

/// Appends text. If the string must grow, its old allocation is wiped.
pub(crate) fn push(to: &mut Zeroizing<String>, more: &str) {
    let length = to.len() + more.len();
    if length > to.capacity() {
        let mut larger = Zeroizing::new(String::with_capacity((length * 2).max(4096)));
        larger.push_str(to);
        *to = larger;
    }
    to.push_str(more);
}

/// Encodes a value as JSON in an allocation of exactly its length.
pub(crate) fn json(value: &impl Serialize) -> serde_json::Result<Zeroizing<Vec<u8>>> {
    // A vector that grows would leave copies behind, so the length is measured first.
    let mut bytes = Zeroizing::new(Vec::with_capacity(json_len(value)?));
    serde_json::to_writer(&mut *bytes, value)?;
    Ok(bytes)
}
