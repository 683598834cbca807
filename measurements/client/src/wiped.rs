//! Text that grows without leaving copies behind.

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
