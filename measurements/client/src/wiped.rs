//! Text that grows without leaving copies behind.

use cocoon_protocol::wiping::json_len;
use serde::Serialize;
use zeroize::Zeroizing;

/// Appends. Where the text must move, its old place is wiped.
pub(crate) fn push(to: &mut Zeroizing<String>, more: &str) {
    let length = to.len() + more.len();
    if length > to.capacity() {
        let mut larger = Zeroizing::new(String::with_capacity((length * 2).max(4096)));
        larger.push_str(to);
        *to = larger;
    }
    to.push_str(more);
}

/// A value as JSON, in as much room as it takes.
pub(crate) fn json(value: &impl Serialize) -> serde_json::Result<Zeroizing<Vec<u8>>> {
    // A vector that grew would leave copies behind: measure first, then fill.
    let mut bytes = Zeroizing::new(Vec::with_capacity(json_len(value)?));
    serde_json::to_writer(&mut *bytes, value)?;
    Ok(bytes)
}
