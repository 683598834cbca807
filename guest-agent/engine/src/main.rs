//! The engine's process: loads the weights from a folder and serves the agent's socket.

use std::os::fd::{FromRawFd as _, OwnedFd};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use cocoon_protocol::engine::ENGINE_FD;
use tokio::net::UnixStream;

const USAGE: &str = "usage: cocoon-engine --model-dir DIR --model-id ID --threads N (started by the guest agent, with its socket as file descriptor 3)";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Only start-up errors get here, before any prompt has been received.
            eprintln!("cocoon-engine: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Command line arguments, which the agent passes.
struct Arguments {
    model_dir: PathBuf,
    model_id: String,
    threads: usize,
}

fn run() -> anyhow::Result<()> {
    let arguments = parse(std::env::args().skip(1)).context(USAGE)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(arguments.threads.clamp(1, 4))
        .enable_io()
        .enable_time()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(async {
        let socket = agent_socket().context("file descriptor 3 is not the agent's socket")?;
        start(arguments, socket).await
    })
}

#[cfg(feature = "mistralrs")]
async fn start(arguments: Arguments, socket: UnixStream) -> anyhow::Result<()> {
    use cocoon_engine::Backend as _;
    use cocoon_engine::mistral::{Mistral, counted, driver_result};
    use cocoon_engine::start;
    use std::sync::Arc;

    let backend = match Mistral::load(&arguments.model_dir, &arguments.model_id).await {
        Ok(backend) => Arc::new(backend),
        Err(error) => {
            let failure = start::failure(&error, driver_result);
            start::tell(socket, counted(), failure).await;
            return Err(error);
        }
    };
    let served = cocoon_engine::serve::serve(socket, Arc::clone(&backend)).await;
    backend.close().await;
    Ok(served?)
}

#[cfg(not(feature = "mistralrs"))]
async fn start(arguments: Arguments, _socket: UnixStream) -> anyhow::Result<()> {
    anyhow::bail!(
        "built without the feature `mistralrs`: cannot serve {} from {} with {} threads",
        arguments.model_id,
        arguments.model_dir.display(),
        arguments.threads
    )
}

fn parse(mut words: impl Iterator<Item = String>) -> anyhow::Result<Arguments> {
    let (mut model_dir, mut model_id, mut threads) = (None, None, None);
    while let Some(flag) = words.next() {
        let value = words
            .next()
            .with_context(|| format!("{flag} needs a value"))?;
        match flag.as_str() {
            "--model-dir" => model_dir = Some(PathBuf::from(value)),
            "--model-id" => model_id = Some(value),
            "--threads" => {
                threads = Some(
                    value
                        .parse()
                        .with_context(|| format!("--threads {value} is not a number"))?,
                )
            }
            _ => anyhow::bail!("unknown option {flag}"),
        }
    }
    Ok(Arguments {
        model_dir: model_dir.context("--model-dir is missing")?,
        model_id: model_id.context("--model-id is missing")?,
        threads: threads.context("--threads is missing")?,
    })
}

fn agent_socket() -> std::io::Result<UnixStream> {
    // SAFETY: the agent passes descriptor 3 to this process only. Nothing else in the process has opened or will close it, and
    // this function runs once.
    #[expect(unsafe_code, reason = "the only way to adopt an inherited descriptor")]
    let socket = unsafe { OwnedFd::from_raw_fd(ENGINE_FD) };
    let socket = std::os::unix::net::UnixStream::from(socket);
    socket.set_nonblocking(true)?;
    UnixStream::from_std(socket)
}
