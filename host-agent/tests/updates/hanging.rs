//! Guests that hang in each phase of their boot without reporting it, and guests that have failed but are not gone yet.

use std::io::ErrorKind;
use std::time::Duration;

use cocoon_host_agent::daemon::api::View;
use cocoon_host_agent::lifecycle::{Deadlines, State, Then};
use cocoon_host_agent::relay::DoorState;
use cocoon_host_agent::update::Phase;
use tokio::net::TcpStream;

use crate::world::{World, line};

/// The phases that a guest reports, and why an appliance is given up if its guest hangs there.
const PHASES: [(&str, &str); 7] = [
    ("hello", "booting took more than 10 seconds"),
    ("configuration", "booting took more than 10 seconds"),
    ("model", "booting took more than 10 seconds"),
    ("keys", "booting took more than 10 seconds"),
    ("evidence", "attesting took more than 5 seconds"),
    ("engine", "attesting took more than 5 seconds"),
    ("serving", "attesting took more than 5 seconds"),
];

/// Each guest is killed at its deadline, with its QEMU, and the appliance is given up with the reason.
#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_hangs_in_any_phase_is_killed_and_named() {
    let deadlines = Deadlines {
        booting: Duration::from_secs(10),
        attesting: Duration::from_secs(5),
        ..Deadlines::default()
    };
    let words = PHASES.map(|(phase, _)| format!("hangs {phase}"));
    let names = PHASES.map(|(phase, _)| format!("in-{phase}"));
    let parts: Vec<(&str, &str)> = names
        .iter()
        .map(String::as_str)
        .zip(words.iter().map(String::as_str))
        .collect();
    let world = World::of(&parts, "restart.policy = \"never\"", deadlines).await;
    for (name, (_, reason)) in names.iter().zip(PHASES) {
        let view = world
            .until(name, |view| view.life.state.is_terminal())
            .await;
        let reason = reason.to_owned();
        assert_eq!(
            view.life.state,
            State::Failed { reason },
            "{name}: {:#?}",
            world.told()
        );
        let pid = std::fs::read_to_string(view.folder.join("supervisor.pid")).unwrap();
        let process = format!("/proc/{}/fd", pid.trim());
        assert!(
            std::fs::read_dir(process).is_err(),
            "{name} left its supervisor"
        );
        // QEMU dies with its supervisor, and the appliance has failed only when QEMU is gone, too.
        let qemu = std::fs::read_to_string(view.folder.join("qemu.pid")).unwrap();
        let process = format!("/proc/{}/fd", qemu.trim());
        // A zombie has no open files and counts as gone.
        let lives = std::fs::read_dir(process).is_ok_and(|files| files.count() > 0);
        assert!(!lives, "{name} left its QEMU");
    }
}

/// While the QEMU of a failed VM still exists, the VM is not reported as serving, and its listener is closed to clients.
#[tokio::test(flavor = "multi_thread")]
async fn a_vm_that_has_failed_does_not_serve_until_it_is_gone() {
    let world = World::new("lingers old", "restart.policy = \"never\"").await;
    let view = world.serving("first").await;
    let address = view.report.unwrap().endpoint.unwrap();
    std::fs::write(view.folder.join("fail"), "").unwrap();
    let failing = |view: &View| view.life.state.name() == "draining";
    let folder = view.folder;
    let view = world.until("first", failing).await;
    let reason = "the guest failed in phase serving: as it was told".to_owned();
    let (then, killed) = (Then::Fail { reason }, false);
    assert_eq!(view.life.state, State::Draining { then, killed });
    let report = view.report.unwrap();
    assert_eq!((report.door, report.endpoint), (DoorState::Shut, None));
    let refused = TcpStream::connect(address).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    std::fs::write(folder.join("go"), "").unwrap();
    let failed = |view: &View| view.life.state.name() == "failed";
    world.until("first", failed).await;
}

/// In an update, the old VM is not affected.
#[tokio::test(flavor = "multi_thread")]
async fn an_update_to_a_guest_that_hangs_goes_back() {
    let mut world = World::new("serves old", "").await;
    world.serving("first").await;
    world.kill().await;
    world.edit("start_seconds = 60", "start_seconds = 2");
    world.begin();
    let before = world.serving("first").await;
    let image = world.image("hanging", "hangs engine", 6);
    let view = world.update(&image, false, true).await.unwrap();
    let reason = "it did not serve within 2 seconds".to_owned();
    assert_eq!(view.update.unwrap().update.phase, Phase::Failed { reason });
    assert_eq!(view.life, before.life);
    let address = view.report.unwrap().endpoint.unwrap().to_string();
    assert_eq!(line(&address, "still").await.unwrap(), "old still");
}
