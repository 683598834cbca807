//! Updates and rollbacks that succeed.

use std::time::Duration;

use cocoon_host_agent::daemon::End;
use cocoon_host_agent::lifecycle::State;
use cocoon_host_agent::update::store::Slot;
use cocoon_host_agent::update::{Phase, Way};
use tokio::time::timeout;

use crate::load::{Load, begun};
use crate::machine::SLOWLY;
use crate::world::{DEADLINE, World, line};

fn endpoint(view: &cocoon_host_agent::daemon::api::View) -> String {
    view.report.as_ref().unwrap().endpoint.unwrap().to_string()
}

/// Shows that no client is refused during an update and the rollback after it.
#[tokio::test(flavor = "multi_thread")]
async fn no_request_fails_while_an_appliance_is_updated_and_rolled_back() {
    let world = World::new("serves old", "").await;
    let before = world.serving("first").await;
    let address = endpoint(&before);
    let newer = world.image("newer", "serves new", 6);

    let load = Load::on(&world, address.clone());
    // This request takes longer than everything else, so the old VM has to finish it.
    let (asked, late) = (address.clone(), tokio::sync::oneshot::channel());
    let slow = tokio::spawn(async move {
        late.0.send(()).unwrap();
        line(&asked, SLOWLY).await
    });
    late.1.await.unwrap();
    let view = world.update(&newer, false, true).await.unwrap();
    assert_eq!(line(&address, "and now").await.unwrap(), "new and now");
    let got = load.end().await;
    assert_eq!(got.failed, [""; 0], "{:#?}", world.told());
    assert!(
        got.answers["old"] > 10 && got.answers["new"] > 10,
        "{got:?}"
    );
    assert_eq!(slow.await.unwrap().unwrap(), format!("old {SLOWLY}"));

    let update = view.update.as_ref().unwrap();
    assert_eq!(
        (&update.update.phase, update.update.way),
        (&Phase::Done, Way::Beside)
    );
    assert_eq!(
        (view.deployment.release, &view.deployment.image),
        (Some(6), &newer)
    );
    assert_eq!(view.previous.as_ref().unwrap().release, Some(5));
    assert_eq!(view.folder, Slot::B.root(&world.root()).join("vms/first"));
    assert_eq!(view.life.state, State::Serving);
    assert_eq!(endpoint(&view), address);
    // The old VM is gone, not only hidden.
    let pid = before.report.unwrap().pid;
    world
        .until("first", |_| {
            !std::path::Path::new(&format!("/proc/{pid}")).exists()
        })
        .await;

    let load = Load::on(&world, address.clone());
    let view = world.post("first/rollback?wait=true").await.unwrap();
    assert_eq!(line(&address, "again").await.unwrap(), "old again");
    let got = load.end().await;
    assert_eq!(got.failed, [""; 0], "{:#?}", world.told());
    assert!(
        got.answers["old"] > 10 && got.answers["new"] > 10,
        "{got:?}"
    );
    assert_eq!(
        (view.deployment.release, view.folder),
        (Some(5), before.folder)
    );
    assert!(view.update.unwrap().update.rollback);
    assert!(world.says(
        "this goes back from release 6 to 5: clients that have seen release 6 refuse 5 until they are told \
         --reset-release-floor"
    ));
}

/// The operator is told that the old VM finishes first. The update outlasts the daemon until the file names another image.
#[tokio::test(flavor = "multi_thread")]
async fn in_place_the_old_one_finishes_first_and_that_is_said() {
    let mut world = World::new("serves old", "restart.delay_seconds = 0").await;
    let before = world.serving("first").await;
    let newer = world.image("newer", "serves new", 6);
    let asked = endpoint(&before);
    let slow = tokio::spawn(async move { line(&asked, SLOWLY).await });
    let is_begun = async {
        while !begun(&world.root(), "first")
            .iter()
            .any(|one| one == SLOWLY)
        {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(DEADLINE, is_begun).await.unwrap();
    let view = world.update(&newer, true, true).await.unwrap();
    assert_eq!(slow.await.unwrap().unwrap(), format!("old {SLOWLY}"));
    assert!(world.says("the old VM finishes before the new one starts: as asked"));
    let update = &view.update.as_ref().unwrap().update;
    assert_eq!((&update.phase, update.way), (&Phase::Done, Way::InPlace));
    assert_eq!(line(&endpoint(&view), "now").await.unwrap(), "new now");

    // The manifest that was checked is also the one that is published.
    let published = std::fs::read(view.folder.join("manifest.json")).unwrap();
    assert_eq!(
        published,
        std::fs::read(newer.join("manifest.json")).unwrap()
    );
    assert!(view.deployment.manifest.unwrap().starts_with(world.root()));

    // A new daemon and a new run use the new image.
    world.end(End::Halt).await;
    world.begin();
    let view = world.serving("first").await;
    assert_eq!(line(&endpoint(&view), "still").await.unwrap(), "new still");
    assert!(!view.outdated);
    // An edited file that names another image takes precedence.
    world.end(End::Halt).await;
    let other = world.image("other", "serves other", 4);
    world.edit("image-first", other.file_name().unwrap().to_str().unwrap());
    world.begin();
    let view = world.serving("first").await;
    assert_eq!(line(&endpoint(&view), "and").await.unwrap(), "other and");
    assert_eq!(view.previous.unwrap().image, newer);
}

/// A VM in slot B that the file no longer names is found by its name and can be stopped.
#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_in_the_other_place_is_shown_and_stopped() {
    let mut world = World::new("serves old", "").await;
    let before = world.serving("first").await;
    let newer = world.image("newer", "serves new", 6);
    let view = world.update(&newer, false, true).await.unwrap();
    assert_eq!((before.runs, view.runs, view.life.run), (1, 2, 1));
    let pid = view.report.unwrap().pid;
    world.end(End::Leave).await;
    world.edit("name = \"first\"", "name = \"second\"");
    world.begin();
    world.serving("second").await;
    assert!(
        world.says("it runs and is not in the file any more: `cocoon-host down first` stops it")
    );

    let row = |table: &str| {
        let row = table.lines().find(|line| line.starts_with("first "));
        row.map(|row| row[21..].trim_end().to_owned())
    };
    let shown = command(&world, &["ps"]).await;
    let status = row(&shown).unwrap_or_default();
    // The tests' manifests are valid for an hour, so the status warns of the expiry.
    assert!(status.starts_with("serving, manifest "), "{shown}");
    let id = cocoon_host_agent::image::manifest(&newer, None).unwrap().0;
    let measured = command(&world, &["measurements", "first"]).await;
    assert!(measured.starts_with(&id.to_string()), "{measured}");
    command(&world, &["down", "first"]).await;
    world
        .until("second", |_| {
            !std::path::Path::new(&format!("/proc/{pid}/fd/0")).exists()
        })
        .await;
    let shown = command(&world, &["ps"]).await;
    assert_eq!(row(&shown).as_deref(), Some("stopped"), "{shown}");
}

/// Runs the command and returns its output.
async fn command(world: &World, arguments: &[&str]) -> String {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_cocoon-host"));
    command.args(arguments).env("COCOON_STATE", world.root());
    let output = command.output().await.unwrap();
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// After the switch, the new VM has an ordinary life cycle.
#[tokio::test(flavor = "multi_thread")]
async fn the_new_vm_is_restarted_when_it_dies() {
    let world = World::new("serves old", "restart.delay_seconds = 0").await;
    world.serving("first").await;
    let newer = world.image("newer", "serves new", 6);
    let view = world.update(&newer, false, true).await.unwrap();
    let (run, pid) = (view.life.run, view.report.unwrap().pid);
    let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    let view = world
        .until("first", |view| {
            view.life.run > run && view.life.state == State::Serving
        })
        .await;
    assert_eq!(line(&endpoint(&view), "again").await.unwrap(), "new again");
    assert_eq!(view.deployment.image, newer);
}
