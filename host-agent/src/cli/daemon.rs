//! `cocoon-host serve`, and the commands that need the daemon.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use cocoon_host_agent::client::Client;
use cocoon_host_agent::collateral::keeper::clock;
use cocoon_host_agent::config::{DEFAULT_PATH, HostConfig, LoadError, Machine};
use cocoon_host_agent::daemon::api::{Entry, View};
use cocoon_host_agent::daemon::{Daemon, End};
use cocoon_host_agent::lifecycle::{Deadlines, State};
use cocoon_host_agent::supervisor::Launch;
use cocoon_host_agent::text::plain;
use cocoon_host_agent::watch::journald::Journald;
use cocoon_host_agent::{expiry, state};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{broadcast, broadcast::error::RecvError, oneshot, watch};
use tokio::time::timeout;

use super::voice::Voice;

/// Time that commands allow beyond the daemon's own deadlines.
pub(super) const MARGIN: Duration = Duration::from_secs(30);
/// Exit code after SIGHUP, which leaves the appliances running: 128 plus the signal's number, as in a shell. It tells the
/// service manager to start the next daemon, which it must not do after a halt.
const LEFT: u8 = 129;
/// How long printing the last journal entries may take.
const LAST: Duration = Duration::from_secs(2);

/// Run the daemon: start the appliances of a file and restart those that fail
///
/// The daemon also answers the other commands.
///
/// Ctrl-C and SIGTERM let running requests finish and stop everything. A second signal does not wait.
///
/// SIGHUP ends only the daemon, with exit status 129. The appliances keep running, as they do when the daemon is killed, and
/// the next daemon takes them over.
///
/// Under systemd, `systemctl reload cocoon-host` ends the daemon in this way and starts the next one, which applies an edited
/// file. `systemctl restart cocoon-host` ends the VMs.
#[derive(Debug, clap::Args)]
pub(super) struct Serve {
    /// File that describes the appliances
    #[arg(long, default_value = DEFAULT_PATH)]
    config: PathBuf,
}

pub(super) async fn serve(wanted: Serve, json: bool) -> anyhow::Result<ExitCode> {
    // Installed before anything slow: systemd takes a death by SIGHUP for a wanted end.
    let (mut interrupt, mut terminate, mut hangup) = (
        signal(SignalKind::interrupt())?,
        signal(SignalKind::terminate())?,
        signal(SignalKind::hangup())?,
    );
    let config = match HostConfig::load(&wanted.config, &Machine::this()) {
        Err(LoadError::Problems(problems)) => {
            eprintln!("{problems}");
            return Ok(ExitCode::FAILURE);
        }
        loaded => loaded?,
    };
    let daemon = Daemon::take(config, &wanted.config)?;
    let (kept, coming) = daemon.journal().after(0);
    let journald = (!json).then(Journald::of_this_process).flatten();
    let (over, all) = oneshot::channel();
    let telling = tokio::spawn(tell(kept, coming, all, move |entry| {
        if journald.as_ref().is_some_and(|to| to.write(entry).is_ok()) {
            return;
        }
        let told = if json {
            serde_json::to_string(entry).map(|line| writeln!(io::stdout(), "{line}"))
        } else {
            Ok(writeln!(io::stderr(), "{}", words(entry)))
        };
        // An error means that nobody reads the output. The appliances go on.
        drop(told);
    }));
    let (end, ended) = watch::channel(None);
    let (left, hung_up) = watch::channel(false);
    let signals = tokio::spawn(async move {
        let mut next = End::Halt;
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = hangup.recv() => {
                    next = End::Leave;
                    left.send_replace(true);
                }
            }
            end.send_replace(Some(next));
            // A second signal does not wait for the last requests.
            next = End::Leave;
        }
    });
    daemon.run(ended).await;
    signals.abort();
    drop(over);
    // A reader that has stopped reading must not delay the exit.
    let _ = timeout(LAST, telling).await;
    Ok(match *hung_up.borrow() {
        true => ExitCode::from(LEFT),
        false => ExitCode::SUCCESS,
    })
}

/// Reports the entries that are `kept` already, then new ones as they come, and after `over` those that still wait.
async fn tell(
    kept: Vec<Entry>,
    mut coming: broadcast::Receiver<Entry>,
    mut over: oneshot::Receiver<()>,
    mut say: impl FnMut(&Entry),
) {
    kept.iter().for_each(&mut say);
    loop {
        tokio::select! {
            biased;
            entry = coming.recv() => match entry {
                Ok(entry) => say(&entry),
                // The skipped entries are still in the daemon's journal.
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return,
            },
            // `biased` polls this branch last, so no entry is waiting.
            _ = &mut over => return,
        }
    }
}

/// Runs `start` or `restart`, and waits until the appliance serves, is given up, or is refused repeatedly.
pub(super) async fn act(name: &str, verb: &str, json: bool) -> anyhow::Result<ExitCode> {
    let client = client().await?;
    let voice = Voice::new(json);
    let waiting = voice.waiting(
        &format!("{verb}ing {name}"),
        "seconds with KVM, up to minutes under emulation",
    );
    let path = format!("/v1/appliances/{}", checked(name)?);
    let view: View = client.get(&path).await?;
    // A running VM ends first, so both deadlines count.
    let deadlines = deadlines(&view);
    let patience = deadlines.down() + deadlines.up() + MARGIN;
    let view: View = timeout(patience, client.post(&format!("{path}/{verb}?wait=true")))
        .await
        .context("it neither serves nor is it given up")??;
    drop(waiting);
    if json {
        writeln!(io::stdout(), "{}", serde_json::to_string(&view)?)?;
    } else {
        voice.note(&format!("{name}: {}", describe(&view)));
    }
    Ok(match view.life.state {
        State::Serving => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}

pub(super) async fn show(name: &str, json: bool) -> anyhow::Result<()> {
    let path = format!("/v1/appliances/{}", checked(name)?);
    let view: View = client().await?.get(&path).await?;
    let mut out = io::stdout().lock();
    if json {
        writeln!(out, "{}", serde_json::to_string(&view)?)?;
        return Ok(());
    }
    writeln!(out, "{name}: {}", describe(&view))?;
    let (life, mut rows) = (&view.life, vec![]);
    rows.push(("image", view.image.display().to_string()));
    rows.push(("tee", view.tee.clone()));
    rows.push((
        "size",
        format!("{} vCPUs, {} MiB", view.vcpus, view.memory_mib),
    ));
    rows.push(("listener", format!("https://{}", view.listen)));
    rows.push((
        "runs",
        format!("{}, {} failures in a row", life.run, life.in_a_row()),
    ));
    if let Some(failure) = &life.last_failure {
        rows.push(("last failure", plain(failure, 400)));
    }
    if let Some(release) = view.deployment.release {
        let image = view.deployment.image.display();
        rows.push(("deployed", format!("release {release}, {image}")));
    }
    if let Some(not_after) = view.deployment.not_after {
        let now = clock();
        rows.push(("manifest", expiry::when(not_after, now)));
        rows.extend(expiry::warning(not_after, now).map(|text| ("warning", text)));
    }
    if let Some(update) = &view.update {
        let update = &update.update;
        let what = if update.rollback {
            "rollback"
        } else {
            "update"
        };
        let words = plain(&update.words(), 400);
        rows.push((what, format!("number {}: {words}", update.number)));
    }
    if view.outdated {
        let how = format!("`cocoon-host restart {name}` makes it what the file says now");
        rows.push(("outdated", how));
    }
    if let Some(report) = &view.report {
        rows.push(("doing", report.doing.clone()));
        rows.push(("supervisor", report.pid.to_string()));
        let qemu = report.qemu_pid.map_or("none".into(), |pid| pid.to_string());
        rows.push(("QEMU", qemu));
        if let Some(root) = &report.trust_root {
            rows.push(("trust root", root.display().to_string()));
        }
        if let Some(id) = &report.manifest_id {
            rows.push(("manifest id", id.clone()));
        }
    }
    for (what, value) in rows {
        writeln!(out, "  {what:<14}{value}")?;
    }
    Ok(())
}

pub(super) async fn events(follow: bool, json: bool) -> anyhow::Result<()> {
    let path = format!("/v1/events?follow={follow}");
    let client = client().await?;
    let taken = client.lines(&path, |line| {
        let told = match serde_json::from_str::<Entry>(line) {
            Ok(entry) if !json => writeln!(io::stdout(), "{:.3} {}", entry.time, words(&entry)),
            _ => writeln!(io::stdout(), "{line}"),
        };
        // Stops when the reader has closed the pipe.
        told.is_ok()
    });
    Ok(taken.await?)
}

/// Runs the process that owns one VM of the daemon.
pub(super) async fn supervise(root: &Path, name: &str, run: u64) -> anyhow::Result<()> {
    cocoon_host_agent::supervisor::supervise(root, name, run).await
}

/// The daemon's deadlines for ending this VM, by the larger of its current and its configured memory.
pub(super) fn deadlines(view: &View) -> Deadlines {
    let launched = Launch::read(&view.folder).map(|launch| launch.reclaim());
    Deadlines::default().reclaiming(view.reclaim().max(launched.unwrap_or_default()))
}

/// Describes the state of an appliance in a few words, with a warning if its manifest is about to expire or has expired.
pub(super) fn describe(view: &View) -> String {
    with_term(state_words(view), view.deployment.not_after)
}

/// Adds a warning to `doing` if the manifest is about to expire or has expired.
pub(super) fn with_term(doing: String, not_after: Option<u64>) -> String {
    let sign = not_after.and_then(|end| expiry::sign(end, clock()));
    match sign {
        Some(sign) => format!("{doing}, {sign}"),
        None => doing,
    }
}

fn state_words(view: &View) -> String {
    let doing = view.report.as_ref().map(|report| report.doing.as_str());
    match (&view.life.state, doing) {
        (State::Failed { reason }, _) => format!("failed: {}", plain(reason, 400)),
        (
            State::Preparing {
                restart_at: Some(_),
            },
            _,
        ) => {
            let last = view.life.last_failure.as_deref().unwrap_or_default();
            format!("waits for its restart: {}", plain(last, 400))
        }
        (State::Booting | State::Attesting, Some(doing)) => {
            format!("{}, {doing}", view.life.state.name())
        }
        (state, _) => state.name().to_owned(),
    }
}

pub(super) async fn client() -> anyhow::Result<Client> {
    if let Some(client) = Client::find().await? {
        return Ok(client);
    }
    anyhow::bail!(
        "no daemon runs with this user's state: start one with `cocoon-host serve`, or set COCOON_STATE to its host.state"
    )
}

/// Returns the name if it is valid, and so safe in a path.
pub(super) fn checked(name: &str) -> anyhow::Result<&str> {
    state::folder(Path::new("/"), name)?;
    Ok(name)
}

pub(super) fn words(entry: &Entry) -> String {
    // Reasons may contain text from a guest.
    let text = plain(&entry.text, 1000);
    match &entry.appliance {
        Some(name) => format!("{name}: {text}"),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use cocoon_host_agent::daemon::journal::Journal;

    use super::*;

    #[test]
    fn a_manifest_that_ends_is_told_beside_what_a_vm_does() {
        let doing = |not_after| with_term("serving".to_owned(), not_after);
        assert_eq!(doing(None), "serving");
        assert_eq!(doing(Some(u64::MAX)), "serving");
        assert_eq!(doing(Some(1)), "serving, manifest ended");
    }

    #[tokio::test]
    async fn the_first_and_the_last_entries_are_told() {
        let journal = Journal::default();
        journal.add(None, "note", "before anybody listened");
        let (kept, coming) = journal.after(0);
        journal.add(None, "note", "meanwhile");
        journal.add(None, "note", "at the end");
        let (over, all) = oneshot::channel();
        drop(over);
        let mut told = vec![];
        tell(kept, coming, all, |entry| told.push(entry.text.clone())).await;
        assert_eq!(told, ["before anybody listened", "meanwhile", "at the end"]);
    }
}
