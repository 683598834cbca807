//! Handles SIGINT, SIGTERM and SIGHUP, so that the demo shuts down cleanly whatever it is doing.

use std::io;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Handlers of the three signals. Once they are installed, none of these signals ends the process by itself.
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
    /// `None` if the parent process had the signal ignored, as `nohup` does.
    hang_up: Option<Signal>,
}

impl Signals {
    /// Installs the handlers. Must be called within a runtime.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: match ignored(SignalKind::hangup())? {
                true => None,
                false => Some(signal(SignalKind::hangup())?),
            },
        })
    }

    /// Waits for a signal that ends the demo, and returns its exit code. While a chat is open (`talking`), the chat
    /// itself handles Ctrl-C.
    pub async fn end(&mut self, talking: &Talking) -> ExitCode {
        loop {
            tokio::select! {
                Some(()) = self.interrupt.recv() => {
                    if !talking.0.load(Ordering::Relaxed) {
                        return ExitCode::from(130);
                    }
                }
                Some(()) = self.terminate.recv() => return ExitCode::from(143),
                Some(()) = hung_up(&mut self.hang_up) => return ExitCode::from(129),
                // Without handlers there is nothing to wait for.
                else => std::future::pending().await,
            }
        }
    }
}

async fn hung_up(signal: &mut Option<Signal>) -> Option<()> {
    match signal {
        Some(signal) => signal.recv().await,
        None => None,
    }
}

/// Returns whether this process ignores a signal. Call it before any handler is installed.
fn ignored(kind: SignalKind) -> io::Result<bool> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .ok_or(io::ErrorKind::InvalidData)?;
    Ok(mask >> (kind.as_raw_value() - 1) & 1 == 1)
}

/// Whether a chat is open.
#[derive(Default)]
pub struct Talking(AtomicBool);

impl Talking {
    /// Marks the chat as open while `chat` runs.
    pub async fn during<T>(&self, chat: impl Future<Output = T>) -> T {
        self.0.store(true, Ordering::Relaxed);
        let done = chat.await;
        // The Ctrl-C that ended the chat also wakes `Signals::end`, which must see the chat still open.
        tokio::task::yield_now().await;
        self.0.store(false, Ordering::Relaxed);
        done
    }
}
