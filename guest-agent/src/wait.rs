//! Waiting for what the kernel brings about a moment later: device nodes, ports, interfaces, the end of a child.
//!
//! There is no event to wait on without a socket of its own for each kind, and each of these comes once in a boot.

use std::thread;
use std::time::{Duration, Instant};

/// How often it is looked.
const PAUSE: Duration = Duration::from_millis(5);

/// What `look` finds, as soon as it finds something; `None` when it has found nothing for as long as `patience`. It
/// looks at least once.
pub fn until<T>(patience: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + patience;
    loop {
        let found = look();
        if found.is_some() || Instant::now() >= end {
            return found;
        }
        thread::sleep(PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_until_something_is_there_and_no_longer_than_told() {
        let mut looks = 0;
        let third = || {
            looks += 1;
            (looks == 3).then_some(looks)
        };
        assert_eq!(until(Duration::from_secs(60), third), Some(3));
        let mut looks = 0;
        let never = || -> Option<()> {
            looks += 1;
            None
        };
        assert_eq!(until(Duration::ZERO, never), None);
        assert_eq!(looks, 1);
    }
}
