//! The commands that look at VMs and stop them.

use std::io::{IsTerminal, Read, Write};
use std::pin::pin;
use std::time::Duration;

use anyhow::Context as _;
use cocoon_host_agent::{local, log, state};
use cocoon_protocol::manifest::manifest_id;
use serde_json::json;
use tokio::time::timeout;

use super::voice::Voice;

pub(super) async fn down(name: &str, json: bool) -> anyhow::Result<()> {
    let socket = state::folder(&state::root()?, name)?.join("ctl");
    let voice = Voice::new(json);
    let waiting = voice.waiting(
        &format!("stopping {name}"),
        "it finishes running requests first",
    );
    let stopped = local::down(&socket, Duration::from_secs(60)).await;
    drop(waiting);
    stopped.with_context(|| format!("cannot stop {name:?}: see `cocoon-host ps` for what runs"))?;
    voice.note(&format!("{name} has stopped"));
    Ok(())
}

pub(super) async fn ps(json: bool) -> anyhow::Result<()> {
    let root = state::root()?;
    let voice = Voice::new(json);
    let mut all = Vec::new();
    for name in state::names(&root)? {
        let socket = state::folder(&root, &name)?.join("ctl");
        let mut asked = pin!(local::status(&socket));
        // Answers come at once; only one that does not is worth a line.
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
    if json {
        let list: Vec<_> = all
            .iter()
            .map(|(name, status)| json!({ "name": name, "status": status }))
            .collect();
        writeln!(out, "{}", json!(list))?;
        return Ok(());
    }
    writeln!(
        out,
        "{:<20} {:<24} {:<22} {:<10} {:>8}",
        "NAME", "STATUS", "ENDPOINT", "SIMULATED", "QEMU"
    )?;
    for (name, status) in all {
        let Some(status) = status else {
            writeln!(out, "{name:<20} stopped")?;
            continue;
        };
        let pid = status
            .qemu_pid
            .map(|pid| pid.to_string())
            .unwrap_or_default();
        let simulated = status.simulated.unwrap_or_else(|| "no".into());
        writeln!(
            out,
            "{name:<20} {:<24} {:<22} {simulated:<10} {pid:>8}",
            status.doing, status.endpoint
        )?;
    }
    Ok(())
}

pub(super) fn logs(name: &str, json: bool) -> anyhow::Result<()> {
    // The file for programs is JSON lines already, and made harmless when it was written.
    let file = if json { log::FILE } else { "serial.log" };
    let path = state::folder(&state::root()?, name)?.join(file);
    let mut log = std::fs::File::open(&path).with_context(|| {
        format!(
            "cannot read {}: has the VM {name:?} ever run?",
            path.display()
        )
    })?;
    let mut out = std::io::stdout().lock();
    if json || !out.is_terminal() {
        std::io::copy(&mut log, &mut out)?;
        return Ok(());
    }
    // The guest's output could steer the terminal.
    let mut text = Vec::new();
    log.take(cocoon_host_agent::up::SERIAL_LIMIT)
        .read_to_end(&mut text)?;
    for line in String::from_utf8_lossy(&text).lines() {
        writeln!(out, "{}", cocoon_host_agent::text::plain(line, 2000))?;
    }
    Ok(())
}

pub(super) fn measurements(name: &str, json: bool) -> anyhow::Result<()> {
    let path = state::folder(&state::root()?, name)?.join("manifest.json");
    let manifest = std::fs::read(&path).with_context(|| {
        format!(
            "cannot read {}: has the VM {name:?} ever run?",
            path.display()
        )
    })?;
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
