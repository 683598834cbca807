//! Ctrl-C and its relatives: the demo ends in order, whatever it is doing.

use std::io;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Handlers; from now on no signal of these ends the process by itself.
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
    /// None where whoever started us wants it ignored, as `nohup` does.
    hang_up: Option<Signal>,
}

impl Signals {
    /// Installs the handlers. Needs a runtime.
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

    /// Waits for a signal to end; the exit code that it asks for. While a chat is `talking`, Ctrl-C is
    /// the chat's.
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

/// Whether this process ignores a signal, before anybody has installed a handler.
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
    /// Open for as long as `chat` goes on.
    pub async fn during<T>(&self, chat: impl Future<Output = T>) -> T {
        self.0.store(true, Ordering::Relaxed);
        let done = chat.await;
        // The Ctrl-C that has ended the chat is in the other one's hands too: first it shall see it there.
        tokio::task::yield_now().await;
        self.0.store(false, Ordering::Relaxed);
        done
    }
}
