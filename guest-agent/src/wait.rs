//! Waits for what the kernel completes a moment later: device nodes, ports, interfaces, the end of a child process.
//!
//! It polls, because events would need a different socket for each kind, and each kind occurs once per boot.

use std::thread;
use std::time::{Duration, Instant};

/// Polling interval.
const PAUSE: Duration = Duration::from_millis(5);

/// Calls `look` until it returns something or `patience` has passed. Calls it at least once.
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
