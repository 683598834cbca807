//! Handles Ctrl-C and SIGTERM: a build that is told to end kills its compilers and pip, and removes its unfinished files.
//!
//! SIGHUP is not handled. When a terminal closes, the programs that were started from it get the signal anyway, and `nohup`
//! expects a program to ignore it.

use std::io;
use std::process::{ExitCode, exit};
use std::sync::atomic::{AtomicI32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use cocoon_image::{family, scratch};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// Time in which a build whose programs were killed can fail and remove its files by itself.
const GRACE: Duration = Duration::from_secs(10);

/// A second signal within this time belongs to the same request, because `timeout` sends each signal twice in a row. A later
/// one ends the process at once.
const IMPATIENCE: Duration = Duration::from_secs(1);

/// Number of the signal that was received; 0 if there was none.
static ASKED: AtomicI32 = AtomicI32::new(0);

/// Starts a thread that ends this process and the programs that it runs when a signal arrives.
pub fn watch() -> io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            let mut first = None;
            for signal in signals.forever() {
                let again = ASKED.swap(signal, Ordering::SeqCst) != 0;
                let since = first.get_or_insert_with(Instant::now).elapsed();
                if again && since < IMPATIENCE {
                    continue;
                }
                // If no program was running, nothing fails, and assembling or downloading would go on to the end.
                if again || !family::end_all() {
                    end(signal);
                }
                thread::spawn(move || {
                    thread::sleep(GRACE);
                    end(signal);
                });
            }
        })?;
    Ok(())
}

fn end(signal: i32) -> ! {
    scratch::remove_all();
    exit(code(signal))
}

/// Returns the exit code of a process that a signal told to end, or `None` if there was no signal.
pub fn asked() -> Option<ExitCode> {
    let signal = ASKED.load(Ordering::SeqCst);
    let code = u8::try_from(code(signal)).ok()?;
    (signal != 0).then(|| ExitCode::from(code))
}

/// Returns the exit code that a shell reports for a process killed by `signal`.
fn code(signal: i32) -> i32 {
    128 + signal
}
