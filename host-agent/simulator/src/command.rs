//! The command line of the simulator, in the library so that another executable can play its part.

use std::io::Read;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use clap::Parser;
use cocoon_protocol::binding::Tee;

use tokio::signal::unix::{SignalKind, signal};

use crate::{Roots, server};

/// Software stand-in for TEE hardware. Its evidence proves nothing: use it to develop and to test.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Unix socket to serve; its folder must exist.
    #[arg(long, required_unless_present = "print_roots")]
    socket: Option<PathBuf>,
    /// Folder of the development roots, made at the first start.
    #[arg(long)]
    roots: PathBuf,
    /// Print the development root certificates (PEM; Intel's place, AMD's, NVIDIA's two) and exit.
    #[arg(long)]
    print_roots: bool,
    /// End when standard input closes, as it does when the process that started this one dies.
    #[arg(long)]
    until_stdin_closes: bool,
}

/// Serves simulated evidence on a unix socket until it is told to stop.
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
        // Whoever started this waits for the line.
        println!("listening");
        tokio::select! {
            _ = terminate.recv() => Ok(()),
            _ = interrupt.recv() => Ok(()),
            _ = &mut closed => Ok(()),
            result = &mut ended => result.context("the server ended").and_then(|result| result.context("cannot accept connections")),
        }
    });
    // Threads that still wait for their VMs end with the process; the socket must not outlive it.
    let removed =
        std::fs::remove_file(path).with_context(|| format!("cannot remove {}", path.display()));
    outcome.and(removed)
}

/// Runs `work` beside the signals; the receiver resolves when it returns.
fn thread<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> tokio::sync::oneshot::Receiver<T> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    // Detached: the process ends without waiting for it.
    std::thread::spawn(move || drop(sender.send(work())));
    receiver
}

fn drain_stdin() {
    let mut buffer = [0; 256];
    while matches!(std::io::stdin().read(&mut buffer), Ok(count) if count > 0) {}
}
