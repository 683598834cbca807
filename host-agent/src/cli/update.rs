//! `cocoon-host update` and `rollback`: send the request to the daemon and report its progress.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use cocoon_host_agent::client::{Client, ClientError};
use cocoon_host_agent::daemon::api::{Code, Entry, UpdateRequest, View};
use cocoon_host_agent::text::plain;
use cocoon_host_agent::update::Phase;
use cocoon_host_agent::watch::Watch;
use serde_json::json;

use super::daemon::{checked, client, words};
use super::voice::Voice;

/// Update an appliance of the daemon to another image
///
/// The daemon checks the manifest's signatures (MANIFEST.dsse) against the signers that the daemon's file pins, the release
/// against the running one, and every file of the image against the manifest.
///
/// The new VM then boots beside the old one. The daemon judges its evidence as a client would, the new VM takes over the public
/// listener, and the old VM finishes its requests. No client is turned away where there is room for two VMs.
///
/// If anything fails before the takeover, the old VM goes on. The command exits with 1 if the update is refused or goes back.
#[derive(Debug, clap::Args)]
pub(super) struct Update {
    /// Name of the appliance
    name: String,
    /// Manifest of the new image
    ///
    /// Its signatures are in MANIFEST.dsse beside it, where `cocoon-image manifest sign` writes them.
    manifest: PathBuf,
    /// Folder of the new image [default: the manifest's folder]
    #[arg(long)]
    image: Option<PathBuf>,
    /// Let the old VM finish before the new one starts, even if there is room for both
    #[arg(long)]
    drain_first: bool,
    /// Client policy file to judge the new VM's evidence by [default: the one that the daemon's file names]
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
}

/// Roll an appliance of the daemon back to what it ran before its last update
///
/// A rollback runs in the same way as an update.
#[derive(Debug, clap::Args)]
pub(super) struct Rollback {
    /// Name of the appliance
    name: String,
    /// Let the running VM finish before the other one starts, even if there is room for both
    #[arg(long)]
    drain_first: bool,
}

pub(super) async fn update(wanted: Update, json: bool) -> anyhow::Result<ExitCode> {
    let absolute = |path: &Path| {
        let path = std::path::absolute(path);
        path.context("the current folder is not there any more")
    };
    let request = UpdateRequest {
        manifest: absolute(&wanted.manifest)?,
        image: wanted.image.as_deref().map(absolute).transpose()?,
        drain_first: wanted.drain_first,
        policy: wanted.policy.as_deref().map(absolute).transpose()?,
    };
    let path = format!("/v1/appliances/{}/update?wait=true", checked(&wanted.name)?);
    let client = client().await?;
    let asked = async { client.post_with::<View>(&path, &request).await };
    told(&client, &wanted.name, "update", asked, json).await
}

pub(super) async fn rollback(wanted: Rollback, json: bool) -> anyhow::Result<ExitCode> {
    let name = checked(&wanted.name)?;
    let first = wanted.drain_first;
    let path = format!("/v1/appliances/{name}/rollback?wait=true&drain_first={first}");
    let client = client().await?;
    let asked = async { client.post::<View>(&path).await };
    told(&client, name, "rollback", asked, json).await
}

/// Waits for the update's end, and prints the appliance's events until then.
async fn told(
    client: &Client,
    name: &str,
    what: &str,
    asked: impl Future<Output = Result<View, ClientError>>,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let voice = Voice::new(json);
    let last = client.get::<Watch>("/v1/watch").await?.events;
    let path = format!("/v1/events?since={last}&follow=true");
    let telling = client.lines(&path, |line| {
        match serde_json::from_str::<Entry>(line) {
            Ok(entry) if entry.appliance.as_deref() == Some(name) => voice.note(&words(&entry)),
            _ => {}
        }
        true
    });
    let waiting = voice.waiting(
        &format!("{what} of {name}: reading the new image"),
        "seconds with KVM, minutes under emulation",
    );
    tokio::pin!(asked);
    tokio::pin!(telling);
    let answer = tokio::select! {
        biased;
        answer = &mut asked => answer,
        // The stream of events may end early: the daemon is going away, as the answer will say, or we read too slowly.
        _ = &mut telling => asked.await,
    };
    drop(waiting);
    let view = match answer {
        Ok(view) => view,
        Err(error) if error.code().is_some_and(is_answer) => {
            let (reason, code) = (plain(&error.to_string(), 1000), error.code());
            if json {
                let refused = json!({ "event": "refused", "code": code, "reason": reason });
                writeln!(io::stdout(), "{refused}")?;
            } else {
                voice.note(&format!("refused: {reason}"));
            }
            return Ok(ExitCode::FAILURE);
        }
        Err(error) => return Err(error.into()),
    };
    if json {
        writeln!(io::stdout(), "{}", serde_json::to_string(&view)?)?;
    }
    let update = view.update.as_ref().map(|update| &update.update);
    let done = update.is_some_and(|update| update.phase == Phase::Done);
    if let (false, Some(update)) = (json, update) {
        voice.note(&format!("{name}: {}", plain(&update.words(), 1000)));
    }
    Ok(match done {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

/// Whether the code is a refusal with reasons (exit code 1) rather than an error.
fn is_answer(code: Code) -> bool {
    matches!(
        code,
        Code::Updating | Code::UpdateRefused | Code::NothingBefore
    )
}
