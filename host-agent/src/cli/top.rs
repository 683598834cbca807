//! `cocoon-host top`: what everything is doing, again and again.

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

/// Top left, after all that stood there is gone; what scrolled away before stays.
const AGAIN: &str = "\u{1b}[H\u{1b}[2J";
/// Another screen, so that the terminal is as it was afterwards, without a cursor.
const ENTER: &str = "\u{1b}[?1049h\u{1b}[?25l";
const LEAVE: &str = "\u{1b}[?25h\u{1b}[?1049l";

/// The other screen, until it is dropped: a failure must not leave a terminal without a cursor.
struct Screen;

impl Screen {
    fn enter() -> io::Result<Self> {
        io::stdout().write_all(ENTER.as_bytes())?;
        Ok(Self)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // Nobody is left to be told.
        let _ = io::stdout().write_all(LEAVE.as_bytes());
        let _ = io::stdout().flush();
    }
}

pub(super) async fn run(wanted: Top, json: bool) -> anyhow::Result<()> {
    let client = daemon::client().await?;
    let live = io::stdout().is_terminal() && !json;
    // Lines for programs go on as long as they are read; a table in a file would be one picture after the other.
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
        // Whoever read it may have seen enough.
        if told.is_err() || once {
            return Ok(());
        }
    }
}

/// Of the terminal; where there is none, lines are as long as they are.
fn width(live: bool) -> usize {
    if !live {
        return usize::MAX;
    }
    terminal_size::terminal_size().map_or(80, |(width, _)| width.0.into())
}
