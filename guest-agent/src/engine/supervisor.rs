//! Starts engines, one after another: an engine that dies costs its requests, but never the VM.

use std::io;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};

use super::link::{self, LinkError};
use super::{Command, Engine, EngineState, Failure, Piece};

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// How long an engine that is not needed any more may take to end.
const FINISHING: Duration = Duration::from_secs(3);
/// An engine that lived this long is restarted quickly.
const LONG_LIFE: Duration = Duration::from_secs(60);

/// Starts engine processes.
pub trait Launcher: Send + 'static {
    /// Starts an engine process. Blocks for as long as this takes.
    fn launch(&mut self) -> io::Result<Launched>;
}

/// A started engine.
pub struct Launched {
    /// The agent's end of the engine's socket pair.
    pub stream: StdUnixStream,
    /// The process of the engine.
    pub process: Box<dyn Process>,
}

/// A process that can be ended.
pub trait Process: Send {
    /// Kills the process if it lives, and waits until it is gone.
    fn end(&mut self);

    /// Gives the process, whose socket is closed, `patience` to end by itself, so that it can erase its data on GPUs.
    /// Then does the same as [`Self::end`].
    fn finish(&mut self, patience: Duration) {
        let _ = patience;
        self.end();
    }
}

/// Starts the supervisor task, and returns the handle to its engine.
///
/// `model_id` is the only name that an engine may give its model; `concurrent` is the operator's limit of running generations.
pub fn start(launcher: impl Launcher, model_id: String, concurrent: u16) -> Engine {
    let state = watch::Sender::new(EngineState::default());
    let (engine, commands, end) = Engine::new(concurrent, state.subscribe());
    tokio::spawn(supervise(launcher, model_id, (commands, end), state));
    engine
}

async fn supervise(
    mut launcher: impl Launcher,
    model_id: String,
    (mut commands, mut end): (mpsc::Receiver<Command>, watch::Receiver<bool>),
    state: watch::Sender<EngineState>,
) {
    let mut pause = FIRST_PAUSE;
    loop {
        let born = Instant::now();
        let launched = tokio::task::spawn_blocking(move || {
            let launched = launcher.launch();
            (launcher, launched)
        });
        // The closure cannot fail: with `panic = "abort"` a panic ends the process.
        let Ok((returned, launched)) = launched.await else {
            return;
        };
        launcher = returned;
        if let Ok(Launched {
            stream,
            mut process,
        }) = launched
        {
            let life = match stream
                .set_nonblocking(true)
                .and_then(|()| UnixStream::from_std(stream))
            {
                Ok(stream) => tokio::select! {
                    life = link::run(stream, &mut commands, &state, &model_id) => life,
                    // An error means that no handle is left, which the link notices too.
                    Ok(_) = end.wait_for(|end| *end) => LinkError::Unneeded,
                },
                Err(error) => LinkError::Io(error),
            };
            let unneeded = matches!(life, LinkError::Unneeded);
            let ended = tokio::task::spawn_blocking(move || match unneeded {
                true => process.finish(FINISHING),
                false => process.end(),
            });
            if ended.await.is_err() || unneeded {
                return;
            }
        }
        if *end.borrow() {
            return;
        }
        state.send_modify(|state| {
            *state = EngineState {
                deaths: state.deaths.saturating_add(1),
                gpu: state.gpu,
                unable: state.unable,
                ..EngineState::default()
            };
        });
        refuse_waiting(&mut commands);
        if born.elapsed() >= LONG_LIFE {
            pause = FIRST_PAUSE;
        }
        tokio::select! {
            () = sleep(pause) => {}
            Ok(_) = end.wait_for(|end| *end) => return,
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Refuses requests that were sent after the engine died and before its handles noticed.
fn refuse_waiting(commands: &mut mpsc::Receiver<Command>) {
    while let Ok(command) = commands.try_recv() {
        if let Command::Generate { pieces, .. } = command {
            // The client may be gone.
            let _ = pieces.try_send(Piece::Failed(Failure::Died));
        }
    }
}
