//! `cocoon-host top`: shows the state and load of all appliances, updated until Ctrl-C.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

use cocoon_host_agent::watch::{Watch, top};
use tokio::signal::unix::{SignalKind, signal};

use super::daemon;

#[derive(Debug, clap::Args)]
pub(super) struct Top {
    /// Print the table once and exit
    ///
    /// The table is also printed once if standard output is not a terminal. With --json, one line follows another until Ctrl-C,
    /// terminal or not, unless this option is given.
    #[arg(long)]
    once: bool,
    /// Seconds between two updates, 1 to 3600
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=3600))]
    every: u64,
}

/// Moves the cursor to the top left and clears the screen; the scroll-back buffer stays.
const AGAIN: &str = "\u{1b}[H\u{1b}[2J";
/// Switches to the alternate screen and hides the cursor, so that the terminal can be restored.
const ENTER: &str = "\u{1b}[?1049h\u{1b}[?25l";
const LEAVE: &str = "\u{1b}[?25h\u{1b}[?1049l";

/// The alternate screen, left on drop: a failure must not leave the terminal without a cursor.
struct Screen;

impl Screen {
    fn enter() -> io::Result<Self> {
        io::stdout().write_all(ENTER.as_bytes())?;
        Ok(Self)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // A closed terminal cannot be restored, and nobody could read the error.
        let _ = io::stdout().write_all(LEAVE.as_bytes());
        let _ = io::stdout().flush();
    }
}

pub(super) async fn run(wanted: Top, json: bool) -> anyhow::Result<()> {
    let client = daemon::client().await?;
    let live = io::stdout().is_terminal() && !json;
    // JSON lines go on as long as they are read. A redirected table is printed only once.
    let once = wanted.once || !(live || json);
    let _screen = (live && !once).then(Screen::enter).transpose()?;
    let mut tick = tokio::time::interval(Duration::from_secs(wanted.every));
    let (mut interrupt, mut terminate) = (
        signal(SignalKind::interrupt())?,
        signal(SignalKind::terminate())?,
    );
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            _ = interrupt.recv() => return Ok(()),
            _ = terminate.recv() => return Ok(()),
        }
        let watch: Watch = client.get("/v1/watch").await?;
        let mut text = if json {
            serde_json::to_string(&watch)? + "\n"
        } else {
            top::table(&watch, width(live))
        };
        if live && !once {
            text.insert_str(0, AGAIN);
        }
        let mut out = io::stdout().lock();
        let told = out.write_all(text.as_bytes()).and_then(|()| out.flush());
        // Stops when the reader has closed the pipe.
        if told.is_err() || once {
            return Ok(());
        }
    }
}

/// Width of the terminal in columns; unlimited where output is no terminal.
fn width(live: bool) -> usize {
    if !live {
        return usize::MAX;
    }
    terminal_size::terminal_size().map_or(80, |(width, _)| width.0.into())
}
