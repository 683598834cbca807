//! Ctrl-C and SIGTERM: a build that is told to end takes its compilers, pip and what it has not finished with it.
//!
//! SIGHUP is left alone: a terminal that goes away tells everything that was started from it, and `nohup` wants it ignored.

use std::io;
use std::process::{ExitCode, exit};
use std::sync::atomic::{AtomicI32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use cocoon_image::{family, scratch};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// For the build whose program has ended to say so and to remove what it has made.
const GRACE: Duration = Duration::from_secs(10);

/// Between two signals of somebody who does not want to wait: `timeout` sends each of its own twice, at once.
const IMPATIENCE: Duration = Duration::from_secs(1);

/// The number of the signal that has come; 0 is none.
static ASKED: AtomicI32 = AtomicI32::new(0);

/// From now on signals end this process here, and what it runs.
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
                // Where nothing runs, nothing fails: whoever assembles or downloads would go on to the end.
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

/// The exit code of a command that was told to end, and did.
pub fn asked() -> Option<ExitCode> {
    let signal = ASKED.load(Ordering::SeqCst);
    let code = u8::try_from(code(signal)).ok()?;
    (signal != 0).then(|| ExitCode::from(code))
}

/// As a shell has it.
fn code(signal: i32) -> i32 {
    128 + signal
}
