//! The four steps: image, boot, verdict, conversation.

use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use cocoon_client::{
    Address, ChatOptions, Conversation, Endpoint, EndpointOptions, Token, Upstreams, Verifier,
    chain, table, terminal,
};
use cocoon_host_agent::{Host, Progress, RunningVm};
use cocoon_inputs::report::{self, Reporter, Task};
use cocoon_protocol::control::Phase;
use cocoon_tests::image::{SignedImage, cache};
use cocoon_tests::vm;
use serde_json::json;

use crate::Arguments;

/// Nothing is silent for longer than two seconds.
const PULSE: Duration = Duration::from_millis(1900);

/// Runs the demo.
pub fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let reporter = report::stderr();
    let scratch = cache()?.join("demo");
    std::fs::create_dir_all(&scratch)
        .with_context(|| format!("cannot create {}", scratch.display()))?;
    let folder = tempfile::Builder::new()
        .prefix("run-")
        .tempdir_in(&scratch)?;

    say("1/4  building the image from locked inputs");
    let started = Instant::now();
    let image = SignedImage::build(
        &folder.path().join("image"),
        arguments.model.clone(),
        &reporter,
    )?;
    for input in &image.manifest.unlocked {
        say(&format!("     UNLOCKED: {input}; this image is no release"));
    }
    say(&format!(
        "     built in {:.0} s, signed by a key of this run",
        started.elapsed().as_secs_f64()
    ));

    let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
    runtime.block_on(async {
        tokio::select! {
            done = boot_and_talk(&arguments, &image, folder.path(), &reporter) => done,
            // Dropping the other branch ends every process that it started.
            _ = interrupted(&arguments) => Ok(ExitCode::from(130)),
        }
    })
}

/// Ctrl-C during a one-shot run; a chat handles it by itself.
async fn interrupted(arguments: &Arguments) {
    if arguments.prompt.is_none() {
        std::future::pending::<()>().await;
    }
    // Without a handler for the signal there is nothing to wait for.
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending::<()>().await;
    }
}

async fn boot_and_talk(
    arguments: &Arguments,
    image: &SignedImage,
    folder: &std::path::Path,
    reporter: &Arc<dyn Reporter>,
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
    let vm = Host::up(options, show(Arc::clone(reporter))).await?;

    say("3/4  verifying it, as any client would");
    let roots = vm
        .trust_root_pem
        .as_deref()
        .context("simulated evidence comes without its root")?;
    let verifier = image.verifier(roots)?;
    let address = vm::address(&vm)?;
    let outcome = converse(arguments, image, verifier, address, &vm).await;
    // The VM ends in good order whatever happened.
    say("     shutting down");
    let ended = vm.shutdown().await;
    let code = outcome?;
    ended?;
    Ok(code)
}

async fn converse(
    arguments: &Arguments,
    image: &SignedImage,
    verifier: Verifier,
    address: Address,
    vm: &RunningVm,
) -> anyhow::Result<ExitCode> {
    let connection = match verifier.connect(&address).await {
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
        // Greedy: the demo's answer is the same every time.
        temperature: arguments.prompt.is_some().then_some(0.0),
        ..ChatOptions::default()
    };
    let mut conversation = Conversation::new(upstreams(), options, None);
    match &arguments.prompt {
        Some(prompt) => {
            say("4/4  asking it, over a connection attested of its own");
            terminal::answer(&mut conversation, prompt).await?;
        }
        None => {
            say("4/4  a chat, and an endpoint for applications");
            let token = Token::generate()?;
            let shown = token.expose().to_owned();
            let endpoint = Endpoint::bind(
                upstreams(),
                EndpointOptions {
                    listen: arguments.listen,
                    token,
                },
            )
            .await?;
            say(&format!(
                "     OPENAI_BASE_URL={} OPENAI_API_KEY={shown}",
                endpoint.base_url()
            ));
            tokio::select! {
                talked = terminal::talk(&mut conversation) => talked?,
                () = endpoint.serve(std::future::pending()) => {}
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Shows a boot as it goes: one task per phase, which says that it lives where it has nothing to count.
fn show(reporter: Arc<dyn Reporter>) -> impl Fn(Progress) + Send + Sync + 'static {
    let current = Arc::new(Mutex::new(None::<Step>));
    let watched = Arc::downgrade(&current);
    // Ends with the closure that holds the other end.
    std::thread::spawn(move || {
        while let Some(current) = watched.upgrade() {
            if let Some(step) = locked(&current).as_ref() {
                step.say();
            }
            drop(current);
            std::thread::park_timeout(PULSE);
        }
    });
    move |progress| {
        let mut current = locked(&current);
        let mut begin = |name: &str| {
            let task = reporter.start(&format!("     {name}"), None);
            current.replace(Step {
                task,
                percent: None,
                since: Instant::now(),
            })
        };
        match progress {
            Progress::Note(text) => reporter.note(&format!("     {text}")),
            Progress::Started(_) => drop(begin("firmware and kernel")),
            Progress::Phase { phase, since_start } => {
                if let Some(step) = begin(meaning(phase)) {
                    step.task
                        .finish(&format!("until {:.1} s", since_start.as_secs_f64()));
                }
            }
            Progress::Work { done, total } => {
                if let Some(step) = current.as_mut() {
                    step.percent = done.saturating_mul(100).checked_div(total);
                    step.say();
                }
            }
            Progress::Serving { since_start, .. } => {
                if let Some(step) = current.take() {
                    step.task
                        .finish(&format!("serving after {:.1} s", since_start.as_secs_f64()));
                }
            }
            Progress::Metrics(_) => {}
            Progress::EngineRestarted(count) => {
                reporter.note(&format!("     the engine was started again (time {count})"))
            }
        }
    }
}

/// A phase under way.
struct Step {
    task: Box<dyn Task>,
    percent: Option<u64>,
    since: Instant,
}

impl Step {
    fn say(&self) {
        let seconds = self.since.elapsed().as_secs();
        match self.percent {
            Some(percent) => self.task.say(&format!("{percent} %, {seconds} s")),
            None => self.task.say(&format!("{seconds} s")),
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn meaning(phase: Phase) -> &'static str {
    match phase {
        Phase::Mounts | Phase::Modules | Phase::Platform => "agent starts",
        Phase::Configuration => "configuration, compared with the launch",
        Phase::Model => "model, checked block by block into memory",
        Phase::Keys => "keys, made in the VM",
        Phase::Evidence => "evidence for the certificate",
        Phase::Engine => "engine loads the weights",
        Phase::Serving => "listener opens",
    }
}

fn say(line: &str) {
    terminal::say(line);
}
