//! The simulator's command line. It is part of the library so that another executable can act as the simulator.

use std::io::Read;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use clap::Parser;
use cocoon_protocol::binding::Tee;

use tokio::signal::unix::{SignalKind, signal};

use crate::{Roots, server};

/// Simulate TEE hardware for development and tests
///
/// Serves evidence in the vendors' formats, signed with development keys. This evidence proves nothing.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Unix socket to listen on, in an existing folder
    #[arg(long, required_unless_present = "print_roots")]
    socket: Option<PathBuf>,
    /// Folder of the development keys, created on first use
    #[arg(long)]
    roots: PathBuf,
    /// Print the development root certificates and exit
    ///
    /// The certificates are PEM, in this order: Intel, AMD, NVIDIA devices, NVIDIA reference manifests.
    #[arg(long)]
    print_roots: bool,
    /// Exit when standard input is closed, for example because the parent process ended
    #[arg(long)]
    until_stdin_closes: bool,
}

/// Serves simulated evidence on a Unix socket until a signal or, if requested, the end of standard input.
pub fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cocoon-simulator: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let roots = Roots::open(&arguments.roots, &mut |text| {
        eprintln!("cocoon-simulator: {text}")
    })?;
    if arguments.print_roots {
        print!(
            "{}{}{}",
            roots.root_pem(Tee::Tdx)?,
            roots.root_pem(Tee::SevSnp)?,
            roots.gpus(0)?.roots_pem()?
        );
        return Ok(());
    }
    let path = arguments
        .socket
        .as_ref()
        .context("name a socket with --socket")?;
    let listener = server::listen(path)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start")?;
    let outcome = runtime.block_on(async {
        let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let mut ended = thread(move || server::serve(&listener, &Arc::new(roots)));
        let mut closed = thread({
            let watch = arguments.until_stdin_closes;
            move || if watch { drain_stdin() } else { std::thread::park() }
        });
        // The parent process waits for this line.
        println!("listening");
        tokio::select! {
            _ = terminate.recv() => Ok(()),
            _ = interrupt.recv() => Ok(()),
            _ = &mut closed => Ok(()),
            result = &mut ended => result.context("the server ended").and_then(|result| result.context("cannot accept connections")),
        }
    });
    // Threads that still serve VMs end with the process. The socket must be removed.
    let removed =
        std::fs::remove_file(path).with_context(|| format!("cannot remove {}", path.display()));
    outcome.and(removed)
}

/// Runs `work` in a thread. The receiver resolves with its result.
fn thread<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> tokio::sync::oneshot::Receiver<T> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    // Detached: the process ends without waiting for the thread.
    std::thread::spawn(move || drop(sender.send(work())));
    receiver
}

fn drain_stdin() {
    let mut buffer = [0; 256];
    while matches!(std::io::stdin().read(&mut buffer), Ok(count) if count > 0) {}
}
