//! Full disks: what runs keeps running, nothing is half begun, and all works again once there is room. One file at a time is
//! full: a link to `/dev/full`, the kernel's device for that, stands in its place.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use cocoon_host_agent::daemon::api::Code;
use cocoon_host_agent::lifecycle::{Deadlines, State};
use cocoon_host_agent::update::Phase;

use crate::world::{World, line};

/// A file to which nothing can be written until this is dropped.
struct Full(PathBuf);

impl Full {
    fn new(folder: &Path, name: &str) -> Self {
        std::fs::create_dir_all(folder).unwrap();
        let path = folder.join(name);
        symlink("/dev/full", &path).unwrap();
        Self(path)
    }
}

impl Drop for Full {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn no_space(path: &Path) -> String {
    format!(
        "no space left for {path:?}: free some, or set COCOON_STATE to a folder on another disk"
    )
}

/// An appliance whose state cannot be kept serves nevertheless, and the operator is told.
#[tokio::test(flavor = "multi_thread")]
async fn an_appliance_serves_on_while_its_disk_is_full() {
    let world = World::new("serves old", "restart.delay_seconds = 0").await;
    let view = world.serving("first").await;
    let full = Full::new(&view.folder, "life.json.partial");
    let expected = format!("its state is not kept: {}", no_space(&full.0));
    let stopped = world.post("first/stop?wait=true").await.unwrap();
    assert_eq!(stopped.life.state, State::Stopped { resume: false });
    assert!(world.says(&expected), "{:#?}", world.told());
    let started = world.post("first/start?wait=true").await.unwrap();
    assert_eq!(started.life.state, State::Serving);
    drop(full);
    let view = world.post("first/restart?wait=true").await.unwrap();
    let kept = std::fs::read_to_string(view.folder.join("life.json")).unwrap();
    assert!(kept.contains("\"serving\""), "{kept}");
}

/// Nothing is started that a later daemon could not find. The reason is reported, and a try succeeds once there is room.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_starts_on_a_full_disk_and_it_heals_by_itself() {
    for name in [
        "launch.json.partial",
        "supervisor.pid.partial",
        "supervisor.log",
    ] {
        let more = "autostart = false\nrestart.delay_seconds = 0";
        let world = World::of(&[("first", "serves old")], more, Deadlines::default()).await;
        let folder = world.show("first").await.folder;
        // The supervisor's standard error is only opened, not written. Only a failure to open it would matter.
        let full = Full::new(&folder, name);
        let view = world.post("first/start?wait=true").await.unwrap();
        if name == "supervisor.log" {
            assert_eq!(view.life.state, State::Serving);
            continue;
        }
        assert_eq!(view.life.state.name(), "preparing", "{name}");
        assert_eq!(view.life.last_failure, Some(no_space(&full.0)), "{name}");
        drop(full);
        // A try that is under way may still have met the full disk; the next one does not.
        world.post("first/start?wait=false").await.unwrap();
        world.serving("first").await;
    }
}

/// If a file that the VM needs cannot be written, the supervisor ends with the reason. Other files are only reported.
#[tokio::test(flavor = "multi_thread")]
async fn a_supervisor_on_a_full_disk_says_so() {
    for (name, needed) in [
        ("host.pid.partial", true),
        ("manifest.json.partial", true),
        ("phases.json.partial", false),
    ] {
        let more = "autostart = false\nrestart.policy = \"never\"";
        let world = World::of(&[("first", "serves old")], more, Deadlines::default()).await;
        let folder = world.show("first").await.folder;
        let full = Full::new(&folder, name);
        let view = world.post("first/start?wait=true").await.unwrap();
        if needed {
            let reason = no_space(&full.0);
            assert_eq!(view.life.state, State::Failed { reason }, "{name}");
        } else {
            assert_eq!(view.life.state, State::Serving, "{name}");
            let log = std::fs::read_to_string(folder.join("log.jsonl")).unwrap();
            assert!(
                log.contains("timings are not kept: no space left for "),
                "{log}"
            );
        }
    }
}

/// An update whose beginning cannot be kept is not begun. One whose next step cannot be kept goes back.
#[tokio::test(flavor = "multi_thread")]
async fn an_update_on_a_full_disk_changes_nothing() {
    let world = World::new("serves old", "").await;
    let before = world.serving("first").await;
    let newer = world.image("newer", "waits new", 6);
    for name in ["manifests", "deployment.json.partial"] {
        let full = match name {
            "manifests" => {
                let id = cocoon_host_agent::image::manifest(&newer, None).unwrap().0;
                Full::new(
                    &before.folder.join(name),
                    &format!("{id}.json.dsse.partial"),
                )
            }
            _ => Full::new(&before.folder, name),
        };
        let error = world.update(&newer, false, true).await.unwrap_err();
        assert_eq!(error.code(), Some(Code::UpdateRefused));
        assert!(error.to_string().ends_with(&no_space(&full.0)), "{error}");
        drop(full);
        assert_eq!(world.show("first").await, before, "{name}");
    }

    world.update(&newer, false, false).await.unwrap();
    world.phase("starting").await;
    let full = Full::new(&before.folder, "deployment.json.partial");
    std::fs::write(world.root().join("b/vms/first/go"), "").unwrap();
    let view = world.phase("failed").await;
    let reason = no_space(&full.0);
    assert_eq!(view.update.unwrap().update.phase, Phase::Failed { reason });
    assert_eq!(view.deployment, before.deployment);
    let address = view.report.unwrap().endpoint.unwrap().to_string();
    assert_eq!(line(&address, "still").await.unwrap(), "old still");
    drop(full);
    let view = world.update(&newer, false, true).await.unwrap();
    assert_eq!(view.deployment.release, Some(6));
}

/// In place, the update ends with the commit. If the commit cannot be kept, the update goes back.
#[tokio::test(flavor = "multi_thread")]
async fn an_update_in_place_whose_commit_cannot_be_kept_goes_back() {
    let mut world = World::new("serves old", "").await;
    let before = world.serving("first").await;
    world.kill().await;
    // Leaves time to fill the disk after the last step before the commit.
    world.edit("proving_seconds = 1", "proving_seconds = 3");
    world.begin();
    world.serving("first").await;
    let newer = world.image("newer", "serves new", 6);
    world.update(&newer, true, false).await.unwrap();
    world.phase("proving").await;
    let full = Full::new(&before.folder, "deployment.json.partial");
    let view = world.phase("failed").await;
    let reason = no_space(&full.0);
    assert_eq!(view.update.unwrap().update.phase, Phase::Failed { reason });
    assert_eq!(view.deployment, before.deployment);
    let view = world.serving("first").await;
    let address = view.report.unwrap().endpoint.unwrap().to_string();
    assert_eq!(line(&address, "again").await.unwrap(), "old again");
}
