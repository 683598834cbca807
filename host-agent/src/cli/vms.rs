//! The commands that list VMs, print their logs and stop them.

use std::io::{IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::Duration;

use anyhow::{Context as _, bail};
use cocoon_host_agent::client::{Client, ClientError};
use cocoon_host_agent::daemon::api::{About, Code, List, View};
use cocoon_host_agent::lifecycle::Deadlines;
use cocoon_host_agent::text::plain;
use cocoon_host_agent::update::store::{self, Slot};
use cocoon_host_agent::{follow, local, log, state};
use cocoon_protocol::manifest::manifest_id;
use serde_json::json;
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::daemon::{self, MARGIN};
use super::voice::Voice;

/// Who manages a VM.
enum Keeper {
    Daemon(Client),
    /// No daemon does. Holds the state folder that contains the VM's folder.
    Nobody(PathBuf),
}

/// Returns the VM's folder, and who manages the VM.
async fn keeper(name: &str) -> anyhow::Result<(PathBuf, Keeper)> {
    let name = daemon::checked(name)?;
    let (client, denied) = found().await;
    if let Some(client) = client {
        match client.get::<View>(&format!("/v1/appliances/{name}")).await {
            Ok(view) => return Ok((view.folder, Keeper::Daemon(client))),
            // The VM may have been started by `up` in the daemon's state folder.
            Err(error) if error.code() == Some(Code::UnknownAppliance) => {
                let root = client.get::<About>("/v1").await?.state;
                let folder = place(&root, name).await?;
                if folder.exists() {
                    return Ok((folder, Keeper::Nobody(root)));
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
    let root = state::root()?;
    let folder = place(&root, name).await?;
    // A user can always stop VMs of their own, even if they may not use the machine's daemon.
    match denied {
        Some(denied) if !folder.exists() => Err(denied.into()),
        _ => Ok((folder, Keeper::Nobody(root))),
    }
}

/// Returns the daemon, or why this user may not ask it.
async fn found() -> (Option<Client>, Option<ClientError>) {
    match Client::find().await {
        Ok(client) => (client, None),
        Err(denied) => (None, Some(denied)),
    }
}

/// The two folders in which a VM of this name may run; updates alternate between them.
fn places(root: &Path, name: &str) -> anyhow::Result<[PathBuf; 2]> {
    let [a, b] = [Slot::A, Slot::B].map(|slot| state::folder(&slot.root(root), name));
    Ok([a?, b?])
}

/// Whether a VM listens in this folder, even if it answers slowly.
async fn runs(folder: &Path) -> bool {
    UnixStream::connect(folder.join("ctl")).await.is_ok()
}

/// Returns the folder of a VM that no daemon manages: where it runs, or where it ran last.
async fn place(root: &Path, name: &str) -> anyhow::Result<PathBuf> {
    let [a, b] = places(root, name)?;
    for folder in [&a, &b] {
        if runs(folder).await {
            return Ok(folder.clone());
        }
    }
    let kept = store::load(root, name).ok().flatten();
    match kept {
        Some(kept) if kept.slot == Slot::B => Ok(b),
        _ => Ok(a),
    }
}

pub(super) async fn down(name: &str, json: bool) -> anyhow::Result<()> {
    let (folder, keeper) = keeper(name).await?;
    let voice = Voice::new(json);
    let waiting = voice.waiting(
        &format!("stopping {name}"),
        match keeper {
            Keeper::Daemon(_) => "it finishes running requests first",
            Keeper::Nobody(_) => {
                "it finishes running requests first; `down` once more does not wait"
            }
        },
    );
    let stopped = match keeper {
        Keeper::Daemon(client) => {
            let path = format!("/v1/appliances/{name}/stop?wait=true");
            let view: View = client.get(&format!("/v1/appliances/{name}")).await?;
            let patience = daemon::deadlines(&view).down() + MARGIN;
            match timeout(patience, client.post::<View>(&path)).await {
                Ok(stopped) => stopped.map(drop).map_err(anyhow::Error::from),
                Err(late) => Err(late.into()),
            }
        }
        Keeper::Nobody(root) => {
            // The time that the guest gives running requests. `local::down` adds the time that the kernel needs.
            let patience = Deadlines::default().down() + MARGIN;
            let mut stopped = local::down(&folder.join("ctl"), patience).await;
            // During an update two VMs run. The other one is found once this one has ended.
            if matches!(stopped, Ok(true)) {
                let other = place(&root, name).await?;
                if runs(&other).await {
                    stopped = local::down(&other.join("ctl"), patience).await;
                }
            }
            if let Ok(false) = stopped {
                bail!(
                    "{name} has not ended yet: it is finishing running requests, or the kernel is taking a confidential VM's memory back. `cocoon-host ps` says which, and when it is gone; `cocoon-host down {name}` once more does not wait for requests"
                );
            }
            stopped.map(drop).map_err(anyhow::Error::from)
        }
    };
    drop(waiting);
    stopped.with_context(|| format!("cannot stop {name:?}: see `cocoon-host ps` for what runs"))?;
    voice.note(&format!("{name} has stopped"));
    Ok(())
}

pub(super) async fn ps(json: bool) -> anyhow::Result<()> {
    let (mut root, mut kept) = (state::root()?, vec![]);
    let (client, denied) = found().await;
    if let Some(client) = client {
        root = client.root().to_owned();
        kept = client.get::<List>("/v1/appliances").await?.appliances;
    }
    let voice = Voice::new(json);
    let mut names = match (state::names(&root), &denied) {
        // The folder belongs to the daemon, and this user may not read it.
        (Err(_), Some(_)) => vec![],
        (names, _) => names?,
    };
    // This user's own VMs are listed, but the command still fails, because the list is incomplete.
    let denied = denied.map_or(Ok(()), |denied| Err(denied.into()));
    if names.is_empty() && denied.is_err() {
        return denied;
    }
    names.extend(kept.iter().map(|view| view.name.clone()));
    names.sort();
    names.dedup();
    let mut all = Vec::new();
    for name in names {
        if kept.iter().any(|view| view.name == name) {
            // The daemon's view of the appliance says everything.
            all.push((name, None));
            continue;
        }
        let socket = place(&root, &name).await?.join("ctl");
        let mut asked = pin!(local::status(&socket));
        // A VM usually answers at once; a message is printed only if it does not.
        let status = match timeout(Duration::from_millis(500), &mut asked).await {
            Ok(status) => status,
            Err(_) if json => asked.await,
            Err(_) => {
                let what = format!("asking {name}");
                let _waiting = voice.waiting(&what, "its process is slow to answer");
                asked.await
            }
        };
        all.push((name, status.ok()));
    }
    let mut out = std::io::stdout().lock();
    let view = |name: &str| kept.iter().find(|view| view.name == *name);
    if json {
        let list: Vec<_> = all
            .iter()
            .map(|(name, status)| match view(name) {
                Some(view) => json!({ "name": name, "status": status, "appliance": view }),
                None => json!({ "name": name, "status": status }),
            })
            .collect();
        writeln!(out, "{}", json!(list))?;
        return denied;
    }
    writeln!(
        out,
        "{:<20} {:<24} {:<22} {:<10} {:>8}",
        "NAME", "STATUS", "ENDPOINT", "SIMULATED", "QEMU"
    )?;
    for (name, status) in all {
        let pid = |pid: Option<u32>| pid.map(|pid| pid.to_string()).unwrap_or_default();
        if let Some(view) = view(&name) {
            let qemu = pid(view.report.as_ref().and_then(|report| report.qemu_pid));
            let simulated = view.tee.strip_prefix("simulated-").unwrap_or("no");
            let (doing, listen) = (daemon::describe(view), view.listen.to_string());
            writeln!(
                out,
                "{name:<20} {doing:<24} {listen:<22} {simulated:<10} {qemu:>8}"
            )?;
            continue;
        }
        let Some(status) = status else {
            writeln!(out, "{name:<20} stopped")?;
            continue;
        };
        let pid = pid(status.qemu_pid);
        let simulated = status.simulated.unwrap_or_else(|| "no".into());
        let doing = daemon::with_term(status.doing, status.not_after);
        writeln!(
            out,
            "{name:<20} {doing:<24} {:<22} {simulated:<10} {pid:>8}",
            status.endpoint
        )?;
    }
    denied
}

pub(super) async fn logs(name: &str, follow: bool, json: bool) -> anyhow::Result<()> {
    let (folder, keeper) = keeper(name).await?;
    if follow {
        return match keeper {
            Keeper::Daemon(client) => {
                let path = format!("/v1/appliances/{name}/logs?follow=true");
                Ok(client.lines(&path, |line| entry(line, json)).await?)
            }
            Keeper::Nobody(_) => followed(&folder, name, json).await,
        };
    }
    // The log for programs is JSON lines, and its text was sanitised when it was written.
    let file = if json { log::FILE } else { "serial.log" };
    let path = folder.join(file);
    let mut log = std::fs::File::open(&path).with_context(|| unread(&path, name))?;
    let mut out = std::io::stdout().lock();
    if json || !out.is_terminal() {
        std::io::copy(&mut log, &mut out)?;
        return Ok(());
    }
    // Raw guest output could send escape sequences to the terminal.
    let mut text = Vec::new();
    log.take(cocoon_host_agent::up::SERIAL_LIMIT)
        .read_to_end(&mut text)?;
    for line in String::from_utf8_lossy(&text).lines() {
        writeln!(out, "{}", plain(line, 2000))?;
    }
    Ok(())
}

/// Prints the log of a VM that no daemon manages, as it grows.
async fn followed(folder: &Path, name: &str, json: bool) -> anyhow::Result<()> {
    let path = folder.join(log::FILE);
    let file = std::fs::File::open(&path).with_context(|| unread(&path, name))?;
    let (to, mut pieces) = mpsc::channel(1);
    let following = tokio::spawn(follow::send(file, move || path.clone(), true, to));
    let mut rest = Vec::new();
    while let Some(piece) = pieces.recv().await {
        rest.extend_from_slice(&piece);
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = rest.drain(..=end).collect();
            if !entry(&String::from_utf8_lossy(&line[..end]), json) {
                return Ok(());
            }
        }
    }
    Ok(following.await?)
}

/// Prints a line of the log. Returns false if the reader has closed the pipe.
fn entry(line: &str, json: bool) -> bool {
    let mut out = std::io::stdout().lock();
    let told = match serde_json::from_str::<log::Entry>(line) {
        Ok(entry) if !json => writeln!(out, "{}", plain(&entry.text, 2000)),
        _ => writeln!(out, "{line}"),
    };
    told.is_ok()
}

fn unread(path: &Path, name: &str) -> String {
    format!(
        "cannot read {}: has the VM {name:?} ever run?",
        path.display()
    )
}

pub(super) async fn measurements(name: &str, json: bool) -> anyhow::Result<()> {
    let (folder, _) = keeper(name).await?;
    let path = folder.join("manifest.json");
    let manifest = std::fs::read(&path).with_context(|| unread(&path, name))?;
    let id = manifest_id(&manifest);
    if json {
        println!(
            "{}",
            json!({ "name": name, "manifest": path, "manifest_id": id })
        );
    } else {
        println!("{id}  {}", path.display());
    }
    Ok(())
}
