//! The demo's four steps: image, boot, verdict, conversation.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use cocoon_client::{
    Address, ChatOptions, Conversation, Endpoint, LocalPort, Token, Upstreams, Verifier, chain,
    table, terminal,
};
use cocoon_host_agent::progress::show;
use cocoon_host_agent::waiting::Waiting;
use cocoon_host_agent::{Host, RunningVm};
use cocoon_image::family;
use cocoon_inputs::report::{self, Reporter};
use cocoon_tests::image::{SignedImage, cache};
use cocoon_tests::vm;
use serde_json::json;

use crate::Arguments;
use crate::scratch::Scratch;
use crate::signals::{Signals, Talking};

/// Explains long waits during steps that an emulated machine does.
const SLOW: &str = "an emulated machine is slow";
/// Time for running tasks to end after a signal.
const STOP: Duration = Duration::from_secs(3);

/// Runs the demo.
pub fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
    // The first step, so that a signal never leaves anything behind.
    let signals = runtime.block_on(async { Signals::new() });
    let mut signals = signals.context("cannot handle signals")?;
    let scratch = Scratch::take(&cache()?.join("demo"))?;
    let talking = Talking::default();
    let outcome = runtime.block_on(async {
        tokio::select! {
            // Signals are polled first, so that a Ctrl-C is seen while the chat that it was meant for is still open.
            biased;
            code = signals.end(&talking) => Err(code),
            done = build_and_talk(&arguments, scratch.path(), &talking) => Ok(done),
        }
    });
    match outcome {
        Ok(done) => {
            // A thread may still block on standard input, which is no longer needed.
            runtime.shutdown_background();
            done
        }
        Err(code) => {
            // Dropping the futures ended their processes. The build's thread cannot be dropped, but its compilers are ended.
            family::end_all();
            runtime.shutdown_timeout(STOP);
            Ok(code)
        }
    }
}

async fn build_and_talk(
    arguments: &Arguments,
    folder: &Path,
    talking: &Talking,
) -> anyhow::Result<ExitCode> {
    let reporter = report::stderr();
    // Before the build: a port already in use must not cost a build and a boot.
    let wish = match &arguments.prompt {
        Some(prompt) => Wish::Answer(prompt.clone()),
        None => Wish::Chat(LocalPort::take(arguments.listen).await?),
    };
    say("1/4  building the image from locked inputs");
    let started = Instant::now();
    let (place, model) = (folder.join("image"), arguments.model.clone());
    let told = Arc::clone(&reporter);
    let build = move || SignedImage::build(&place, model, &told);
    let image = tokio::task::spawn_blocking(build).await??;
    for input in &image.manifest.unlocked {
        say(&format!("     UNLOCKED: {input}; this image is no release"));
    }
    say(&format!(
        "     built in {:.0} s, signed by a key of this run",
        started.elapsed().as_secs_f64()
    ));
    boot_and_talk(arguments, &image, folder, &reporter, talking, wish).await
}

async fn boot_and_talk(
    arguments: &Arguments,
    image: &SignedImage,
    folder: &Path,
    reporter: &Arc<dyn Reporter>,
    talking: &Talking,
    wish: Wish,
) -> anyhow::Result<ExitCode> {
    say("2/4  booting it: QEMU, simulated hardware");
    let executable = std::env::current_exe().context("cannot find this program's file")?;
    let mut options = vm::options(
        &image.folder,
        "demo",
        arguments.tee.into(),
        folder.to_owned(),
        &executable,
        Arc::clone(reporter),
    )?;
    options.memory_mib = arguments.memory;
    let vm = Host::up(options, show(Arc::clone(reporter), "     ")).await?;

    say("3/4  verifying it, as any client would");
    let roots = vm
        .trust_root_pem
        .as_deref()
        .context("simulated evidence comes without its root")?;
    let verifier = image.verifier(roots)?;
    let address = vm::address(&vm)?;
    let client = Client {
        verifier,
        address,
        reporter,
        talking,
        wish,
    };
    let outcome = converse(arguments, image, client, &vm).await;
    // The VM is shut down cleanly whatever the outcome.
    let shutting = Waiting::new(&**reporter, "     shutting down", SLOW);
    let ended = vm.shutdown().await;
    drop(shutting);
    let code = outcome?;
    ended?;
    Ok(code)
}

/// What the demo does once the VM is verified.
enum Wish {
    /// Prints the answer to this prompt.
    Answer(String),
    /// Opens a chat, and an endpoint on this port.
    Chat(LocalPort),
}

/// What the last steps need to talk to the VM.
struct Client<'a> {
    verifier: Verifier,
    address: Address,
    reporter: &'a Arc<dyn Reporter>,
    talking: &'a Talking,
    wish: Wish,
}

async fn converse(
    arguments: &Arguments,
    image: &SignedImage,
    client: Client<'_>,
    vm: &RunningVm,
) -> anyhow::Result<ExitCode> {
    let Client {
        verifier,
        address,
        reporter,
        talking,
        wish,
    } = client;
    let verifying = Waiting::new(&**reporter, "     handshake and evidence", SLOW);
    let connected = verifier.connect(&address).await;
    verifying.finish("done");
    let connection = match connected {
        Ok(connection) => connection,
        Err(error) => {
            if let Some(verdict) = error.verdict() {
                terminal::print(table(verdict, terminal::style(false)))?;
            }
            say(&format!("demo: {}", chain(&error)));
            return Ok(ExitCode::from(if error.is_rejection() { 1 } else { 2 }));
        }
    };
    if arguments.json {
        let all = json!({ "verdict": connection.verdict(), "timings": vm.timings().steps() });
        terminal::print(format_args!("{all}\n"))?;
    } else {
        terminal::print(format_args!(
            "{}\n",
            table(connection.verdict(), terminal::style(false))
        ))?;
    }
    drop(connection);

    let upstreams = || Upstreams::new(verifier.clone(), vec![address.clone()]);
    let options = ChatOptions {
        model: image.manifest.model.id.clone(),
        max_tokens: Some(arguments.max_tokens),
        // Greedy sampling, so that the demo's answer is always the same.
        temperature: matches!(wish, Wish::Answer(_)).then_some(0.0),
        ..ChatOptions::default()
    };
    let mut conversation = Conversation::new(upstreams(), options, None);
    match wish {
        Wish::Answer(prompt) => {
            say("4/4  asking it, over a connection attested of its own");
            let mut first = None;
            let begins = || first = Some(vm.timings().elapsed());
            terminal::answer_told(&mut conversation, &prompt, begins).await?;
            if let Some(first) = first {
                say(&format!(
                    "     first verified token {:.0} s after QEMU's start",
                    first.as_secs_f64()
                ));
            }
        }
        Wish::Chat(port) => {
            say("4/4  a chat, and an endpoint for applications");
            let token = Token::generate()?;
            let shown = token.expose().to_owned();
            let endpoint = Endpoint::on(port, upstreams(), token);
            say(&format!(
                "     OPENAI_BASE_URL={} OPENAI_API_KEY={shown}",
                endpoint.base_url()
            ));
            tokio::select! {
                talked = talking.during(terminal::talk(&mut conversation)) => talked?,
                () = endpoint.serve(std::future::pending()) => {}
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn say(line: &str) {
    terminal::say(line);
}
