//! The serial console, and the end of the machine. The console shows one line per phase and one line on failure, and nothing
//! while serving. The machine always ends by powering off.

use std::error::Error;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use cocoon_protocol::control::{GuestMessage, Phase};
use nix::sys::reboot::{RebootMode, reboot};
use nix::unistd;

use crate::control::Control;

/// How long the host may take to read the last message.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// The only report of a panic while serving: the panic's text could quote a prompt, and its location reveals which code a
/// prompt has reached.
const SOMETHING: &str = "internal error while serving";

/// Reports the progress of the boot on the console and over the control channel. Clones share their state.
#[derive(Clone)]
pub(super) struct Console(Arc<Mutex<State>>);

/// Why the machine ends.
#[derive(Debug)]
pub(super) enum Ending {
    /// The host requested a drain, which is complete.
    Drained,
    /// An error, with its causes.
    Failed(String),
    /// A panic, at this location in the source.
    Panicked(String),
}

#[derive(Debug, PartialEq, Eq)]
struct LastWords {
    console: Option<String>,
    host: GuestMessage,
}

struct State {
    phase: Option<(Phase, Instant)>,
    control: Option<Control>,
    quiet: bool,
}

impl Console {
    /// Starts the console and installs a panic hook. A panic in any thread ends the machine. Its text could quote memory, so
    /// only its location is reported, and not even that while serving.
    pub fn start() -> Self {
        let console = Self(Arc::new(Mutex::new(State {
            phase: None,
            control: None,
            quiet: false,
        })));
        let hook = console.clone();
        std::panic::set_hook(Box::new(move |panic| {
            let place = panic
                .location()
                .map_or_else(String::new, ToString::to_string);
            hook.end(Ending::Panicked(place));
        }));
        console
    }

    /// Ends the current phase and begins `phase`.
    pub fn enter(&self, phase: Phase) {
        let mut state = self.lock();
        state.finish();
        state.phase = Some((phase, Instant::now()));
        state.announce(phase);
    }

    /// From now on reports phases to the host too.
    pub fn attach(&self, control: &Control) {
        let mut state = self.lock();
        state.control = Some(control.clone());
        if let Some((phase, _)) = state.phase {
            control.enter(phase);
        }
    }

    /// Reports that the listener is open. After this line nothing more is printed.
    pub fn serving(&self, port: u16) {
        let mut state = self.lock();
        state.finish();
        line("cocoon: serving");
        state.quiet = true;
        if let Some(control) = &state.control {
            // A host that does not read misses this message; only its own operator suffers.
            let _ = control.send(GuestMessage::Serving {
                port,
                at_ms: since_kernel_start(),
            });
        }
        // Silences library and kernel code that might still print. Our own code does not print; this is a second line of
        // defence, so failures are ignored.
        let _ = fs::write("/proc/sys/kernel/printk", "1 4 1 4");
        if let Ok(null) = File::options().write(true).open("/dev/null") {
            let _ = unistd::dup2_stdout(&null);
            let _ = unistd::dup2_stderr(&null);
        }
    }

    /// Reports `ending` and powers the machine off.
    pub fn end(&self, ending: Ending) -> ! {
        let (words, control) = {
            // A panic may occur while this thread holds the lock. The machine then ends without a message.
            let Ok(state) = self.0.try_lock() else {
                power_off()
            };
            (state.last_words(ending), state.control.clone())
        };
        if let Some(text) = words.console {
            line(&text);
        }
        if let Some(control) = control {
            // Nothing more can be done for a host that does not read.
            let _ = control.send(words.host);
            control.flush(LAST_WORDS);
        }
        power_off()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Returns the last messages for the console and the host. None of them contains text that a client could have
    /// influenced: an error that ends the machine while serving is a fault of the host or of the GPUs, worded by this code,
    /// and a panic is reported as one constant.
    fn last_words(&self, ending: Ending) -> LastWords {
        let phase = self.phase.map_or(Phase::Mounts, |(phase, _)| phase);
        let reason = match ending {
            Ending::Drained => {
                return LastWords {
                    console: None,
                    host: GuestMessage::Drained,
                };
            }
            Ending::Failed(reason) => reason,
            Ending::Panicked(_) if self.quiet => SOMETHING.to_owned(),
            Ending::Panicked(place) => format!("internal error at {place}"),
        };
        let line = format!("cocoon: FAILED in phase {}: {reason}", phase.name());
        LastWords {
            console: (!self.quiet).then_some(line),
            host: GuestMessage::Failed { phase, reason },
        }
    }

    fn finish(&self) {
        if let Some((phase, began)) = self.phase {
            line(&format!(
                "cocoon: phase {} {} ms",
                phase.name(),
                began.elapsed().as_millis()
            ));
        }
    }

    fn announce(&self, phase: Phase) {
        if let Some(control) = &self.control {
            control.enter(phase);
            // A host that does not read misses this message, as in `serving`.
            let _ = control.send(GuestMessage::Phase {
                phase,
                at_ms: since_kernel_start(),
            });
        }
    }
}

/// Returns an error and its causes on one line.
pub(super) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        // Writing into a string cannot fail.
        let _ = write!(text, ": {error}");
        cause = error.source();
    }
    text.replace('\n', " ")
}

fn line(text: &str) {
    // A single write keeps kernel messages from splitting the line. Without a console there is no reader, so errors are
    // ignored.
    let _ = std::io::stdout().write_all(format!("{text}\n").as_bytes());
}

fn since_kernel_start() -> u64 {
    let uptime = fs::read_to_string("/proc/uptime").unwrap_or_default();
    let (seconds, rest) = uptime.split_once('.').unwrap_or(("0", "0"));
    let hundredths = rest
        .get(..2)
        .and_then(|text| text.parse::<u64>().ok())
        .unwrap_or(0);
    seconds.parse::<u64>().unwrap_or(0).saturating_mul(1000) + hundredths * 10
}

fn power_off() -> ! {
    // There is nothing to write back: all file systems are in memory.
    let _ = reboot(RebootMode::RB_POWER_OFF);
    // Unreachable as PID 1. If the kernel refuses to power off, it panics when PID 1 ends, which also ends the machine.
    std::process::abort()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::ControlError;
    use crate::control::door::Refused;

    fn state(quiet: bool) -> State {
        State {
            phase: Some((Phase::Serving, Instant::now())),
            control: None,
            quiet,
        }
    }

    #[test]
    fn a_panic_while_serving_tells_one_constant_whatever_it_says() {
        for place in ["src/api/chat.rs:12:34", "Q7vKanarienvogel"] {
            let words = state(true).last_words(Ending::Panicked(place.to_owned()));
            let reason = "internal error while serving".to_owned();
            let expected = LastWords {
                console: None,
                host: GuestMessage::Failed {
                    phase: Phase::Serving,
                    reason,
                },
            };
            assert_eq!(words, expected);
        }
    }

    #[test]
    fn before_serving_the_console_and_the_host_hear_the_same() {
        for (ending, reason) in [
            (
                Ending::Panicked("src/model/copy.rs:1:2".to_owned()),
                "internal error at src/model/copy.rs:1:2",
            ),
            (Ending::Failed("no disk".to_owned()), "no disk"),
        ] {
            let words = state(false).last_words(ending);
            let line = format!("cocoon: FAILED in phase serving: {reason}");
            assert_eq!(words.console, Some(line));
            let (phase, reason) = (Phase::Serving, reason.to_owned());
            assert_eq!(words.host, GuestMessage::Failed { phase, reason });
        }
    }

    #[test]
    fn the_console_is_quiet_about_a_host_that_misbehaves_while_serving() {
        let words = state(true).last_words(Ending::Failed("the host closed".to_owned()));
        assert_eq!(words.console, None);
        assert_eq!(state(true).last_words(Ending::Drained).console, None);
    }

    #[test]
    fn a_chain_is_one_line_and_repeats_nothing() {
        let error = ControlError::Refused(Refused {
            message: "drain",
            phase: Phase::Platform,
        });
        assert_eq!(
            chain(&error),
            "the host broke the control protocol: message `drain` has no place in phase platform"
        );
    }
}
