//! The console: one line per phase, one line on failure, silence while serving. And the end of the
//! machine, which is always the same: power off.

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
/// All that is told of a panic while serving: its text could quote a prompt, and its place says which
/// code a prompt has reached.
const SOMETHING: &str = "internal error while serving";

/// Says where the boot is, on the console and over the control channel. Clones are the same.
#[derive(Clone)]
pub(super) struct Console(Arc<Mutex<State>>);

/// Why the machine ends.
#[derive(Debug)]
pub(super) enum Ending {
    /// The host asked for it.
    Drained,
    /// An error, with its causes.
    Failed(String),
    /// A defect, at this place in the source.
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
    /// Also takes over panics: their text could quote memory, so that only their place is told,
    /// and not even that while serving. A panic in any thread ends the machine.
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

    /// A phase begins, and the one before it ends.
    pub fn enter(&self, phase: Phase) {
        let mut state = self.lock();
        state.finish();
        state.phase = Some((phase, Instant::now()));
        state.announce(phase);
    }

    /// From now on the host hears of phases too.
    pub fn attach(&self, control: &Control) {
        let mut state = self.lock();
        state.control = Some(control.clone());
        if let Some((phase, _)) = state.phase {
            control.enter(phase);
        }
    }

    /// The listener is open: one last line, and then nothing more, ever.
    pub fn serving(&self, port: u16) {
        let mut state = self.lock();
        state.finish();
        line("cocoon: serving");
        state.quiet = true;
        if let Some(control) = &state.control {
            // A host that does not read will not learn that it could connect: its own loss.
            let _ = control.send(GuestMessage::Serving {
                port,
                at_ms: since_kernel_start(),
            });
        }
        // Whatever library or kernel code still prints shall print nowhere. Both are second lines
        // of defence behind code that does not print: failing costs nothing.
        let _ = fs::write("/proc/sys/kernel/printk", "1 4 1 4");
        if let Ok(null) = File::options().write(true).open("/dev/null") {
            let _ = unistd::dup2_stdout(&null);
            let _ = unistd::dup2_stderr(&null);
        }
    }

    /// Ends the machine.
    pub fn end(&self, ending: Ending) -> ! {
        let (words, control) = {
            // A panic may come while this very thread holds the lock: then the machine ends without words.
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
    /// What is said at the end, and to whom. Nothing that a client's words could have shaped leaves
    /// the machine: the errors that end it while serving are the host's own doing, and panics are one
    /// constant.
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
            // See `serving`.
            let _ = control.send(GuestMessage::Phase {
                phase,
                at_ms: since_kernel_start(),
            });
        }
    }
}

/// An error with its causes on one line.
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
    // One write, so that lines of the kernel do not come in between; without a console there is
    // nobody to tell.
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
    // File systems hold nothing worth writing back: everything is memory.
    let _ = reboot(RebootMode::RB_POWER_OFF);
    // Unreachable as PID 1. Should the kernel refuse, it panics when PID 1 ends, which ends the
    // machine as well.
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
