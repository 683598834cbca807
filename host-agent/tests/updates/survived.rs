//! Daemons that are killed in the middle of an update, alone or with a VM: what comes after is one of two whole states.

use cocoon_host_agent::daemon::api::View;
use cocoon_host_agent::lifecycle::State;
use cocoon_host_agent::relay::DoorState;
use cocoon_host_agent::update::Phase;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::BufReader;
use tokio::net::TcpStream;

use crate::load::{Load, ask};
use crate::machine::SLOWLY;
use crate::world::{World, line};

fn endpoint(view: &View) -> String {
    view.report.as_ref().unwrap().endpoint.unwrap().to_string()
}

fn new_pid(view: &View) -> u32 {
    view.update.as_ref().unwrap().report.as_ref().unwrap().pid
}

fn killed(pid: u32) {
    kill(Pid::from_raw(i32::try_from(pid).unwrap()), Signal::SIGKILL).unwrap();
}

/// Whoever was killed is gone once its socket is.
async fn closed(world: &World, socket: &str) {
    let socket = world.root().join(socket);
    while tokio::net::UnixStream::connect(&socket).await.is_ok() {
        tokio::task::yield_now().await;
    }
}

/// An update of a serving appliance, brought to `phase`.
async fn updating(phase: &str) -> (World, String) {
    let world = World::new("serves old", "restart.delay_seconds = 0").await;
    let address = endpoint(&world.serving("first").await);
    let words = if phase == "starting" {
        "waits new"
    } else {
        "serves new"
    };
    let newer = world.image("newer", words, 6);
    world.judge.held.send_replace(phase == "examining");
    world.update(&newer, false, false).await.unwrap();
    world.phase(phase).await;
    (world, address)
}

fn go(world: &World) {
    std::fs::write(world.root().join("b/vms/first/go"), "").unwrap();
    world.judge.held.send_replace(false);
}

/// Both VMs live on: the next daemon finds them and finishes, and nobody is turned away.
#[tokio::test(flavor = "multi_thread")]
async fn the_next_daemon_finishes_what_was_begun() {
    for phase in ["starting", "examining", "proving"] {
        let (mut world, address) = updating(phase).await;
        let load = Load::on(&world, address.clone());
        world.kill().await;
        world.begin();
        go(&world);
        let view = world.phase("done").await;
        assert_eq!(line(&address, phase).await.unwrap(), format!("new {phase}"));
        let got = load.end().await;
        assert_eq!(got.failed, [""; 0], "{phase}: {:#?}", world.told());
        assert_eq!(view.deployment.release, Some(6), "{phase}");
    }
}

/// The new VM dies with the daemon: the old one is the appliance, and takes clients again.
#[tokio::test(flavor = "multi_thread")]
async fn without_the_new_vm_the_old_one_is_the_appliance() {
    for phase in ["starting", "examining", "proving"] {
        let (mut world, address) = updating(phase).await;
        let view = world
            .until("first", |view| {
                view.update.as_ref().unwrap().report.is_some()
            })
            .await;
        world.kill().await;
        killed(new_pid(&view));
        closed(&world, "b/vms/first/sup").await;
        world.begin();
        let view = world.phase("failed").await;
        assert_eq!(view.deployment.release, Some(5), "{phase}");
        assert_eq!(line(&address, phase).await.unwrap(), format!("old {phase}"));
        let reason = "it was gone when the daemon came back".to_owned();
        let found = view.update.unwrap().update.phase;
        assert_eq!(found, Phase::Failed { reason }, "{phase}");
    }
}

/// The new VM dies while it proves itself: the old one, kept ready, takes over.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_vm_that_dies_while_it_proves_itself_is_replaced_by_the_old_one() {
    let (world, address) = updating("proving").await;
    killed(new_pid(&world.show("first").await));
    let view = world.phase("failed").await;
    assert_eq!(line(&address, "again").await.unwrap(), "old again");
    assert_eq!(view.deployment.release, Some(5));
}

/// It fails and is not gone yet, as a confidential guest whose memory the kernel takes back: it is not waited for.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_vm_that_fails_while_it_proves_itself_does_not_become_the_appliance() {
    let mut world = World::new("serves old", "").await;
    let address = endpoint(&world.serving("first").await);
    world.kill().await;
    world.edit("proving_seconds = 1", "proving_seconds = 60");
    world.begin();
    let newer = world.image("newer", "lingers new", 6);
    world.update(&newer, false, false).await.unwrap();
    world.phase("proving").await;
    std::fs::write(world.root().join("b/vms/first/fail"), "").unwrap();
    let view = world.phase("failed").await;
    let why = "the guest failed in phase serving: as it was told";
    assert!(world.says(&format!("going back to the old VM: {why}")));
    let reason = why.to_owned();
    assert_eq!(view.update.unwrap().update.phase, Phase::Failed { reason });
    assert_eq!(line(&address, "again").await.unwrap(), "old again");
}

/// The old VM dies while it is held back, and then the new one: a next run of the old one leaves the listener to the new one
/// as long as that lives; one that was given up is started again. The address stays the same.
#[tokio::test(flavor = "multi_thread")]
async fn an_old_vm_that_died_meanwhile_serves_again_when_the_new_one_dies() {
    for given_up in [false, true] {
        let most = if given_up { 1 } else { 5 };
        let more = format!("restart.delay_seconds = 0\nrestart.max_failures = {most}");
        let mut world = World::new("serves old", &more).await;
        world.serving("first").await;
        world.kill().await;
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap().to_string();
        drop(free);
        world.edit("127.0.0.1:0", &address);
        world.edit("proving_seconds = 1", "proving_seconds = 60");
        world.begin();
        world.serving("first").await;
        world.post("first/restart?wait=true").await.unwrap();
        let newer = world.image("newer", "serves new", 6);
        world.update(&newer, false, false).await.unwrap();
        let view = world.phase("proving").await;
        let new = new_pid(&view);
        killed(view.report.unwrap().pid);
        let next = |view: &View| match given_up {
            true => view.life.state.name() == "failed",
            false => view.life.run == 3 && view.life.state == State::Serving,
        };
        let view = world.until("first", next).await;
        let door = view.report.map(|report| report.door);
        assert_eq!(door, (!given_up).then_some(DoorState::Shut));
        assert_eq!(line(&address, "now").await.unwrap(), "new now");

        killed(new);
        world.phase("failed").await;
        let open = |view: &View| {
            let report = view.report.as_ref();
            let open = report.is_some_and(|report| report.door == DoorState::Open);
            open && view.life.state == State::Serving
        };
        let view = world.until("first", open).await;
        assert_eq!((view.life.run, view.deployment.release), (3, Some(5)));
        assert_eq!(line(&address, "again").await.unwrap(), "old again");
    }
}

/// Whoever signals a whole service signals them, too: it is meant for the daemon.
#[tokio::test(flavor = "multi_thread")]
async fn a_vm_survives_the_signal_that_ends_the_daemon_alone() {
    let world = World::new("serves old", "").await;
    let report = world.serving("first").await.report.unwrap();
    for pid in [report.qemu_pid.unwrap(), report.pid] {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let blocked = status
            .lines()
            .find_map(|line| line.strip_prefix("SigBlk:\t"));
        let blocked = u64::from_str_radix(blocked.unwrap(), 16).unwrap();
        assert_eq!(blocked & 1, 1, "process {pid} does not hold SIGHUP back");
        let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGHUP).unwrap();
    }
    let view = world.post("first/stop?wait=true").await.unwrap();
    assert_eq!(view.life.state, State::Stopped { resume: false });
    assert_eq!((view.life.run, view.life.last_failure), (1, None));
}

/// Daemon, both supervisors and their machines, all at once: the old deployment starts again.
#[tokio::test(flavor = "multi_thread")]
async fn when_everything_is_killed_the_old_one_starts_again() {
    let (mut world, _) = updating("proving").await;
    let view = world.show("first").await;
    world.kill().await;
    killed(new_pid(&view));
    killed(view.report.as_ref().unwrap().pid);
    closed(&world, "b/vms/first/sup").await;
    closed(&world, "vms/first/sup").await;
    world.begin();
    world.phase("failed").await;
    let view = world.serving("first").await;
    assert_eq!(line(&endpoint(&view), "again").await.unwrap(), "old again");
    assert_eq!((view.deployment.release, view.life.run), (Some(5), 2));
}

/// The file was edited meanwhile: the update goes back, and the old VM takes clients again, or, where it had to end first,
/// what the file names is started.
#[tokio::test(flavor = "multi_thread")]
async fn an_edited_file_ends_the_update_and_leaves_nobody_without_a_vm() {
    let reason = || "the file names another image now".to_owned();
    for phase in ["starting", "examining", "proving"] {
        let (mut world, address) = updating(phase).await;
        world.kill().await;
        world.image("other", "serves other", 7);
        world.edit("image-first", "other");
        world.begin();
        let view = world.phase("failed").await;
        let found = view.update.unwrap().update.phase;
        assert_eq!(found, Phase::Failed { reason: reason() }, "{phase}");
        assert_eq!(line(&address, phase).await.unwrap(), format!("old {phase}"));
    }

    let mut world = World::new("serves old", "").await;
    world.serving("first").await;
    let newer = world.image("newer", "waits new", 6);
    world.update(&newer, true, false).await.unwrap();
    world.phase("starting").await;
    world.kill().await;
    world.image("other", "serves other", 7);
    world.edit("image-first", "other");
    world.begin();
    let view = world.phase("failed").await;
    let found = view.update.unwrap().update.phase;
    assert_eq!(found, Phase::Failed { reason: reason() });
    let view = world.serving("first").await;
    assert_eq!(line(&endpoint(&view), "now").await.unwrap(), "other now");
}

/// While the old one finishes, the new one is the appliance already.
#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_dies_while_the_old_vm_finishes_changes_nothing() {
    let world = World::new("serves old", "").await;
    let address = endpoint(&world.serving("first").await);
    let newer = world.image("newer", "serves new", 6);
    let mut held = BufReader::new(TcpStream::connect(&address).await.unwrap());
    assert_eq!(ask(&mut held, "before").await.unwrap(), "old before");
    world.update(&newer, false, false).await.unwrap();
    world.phase("proving").await;
    // Longer than the rest of proving: the old one finishes it.
    let slow = tokio::spawn(async move { ask(&mut held, SLOWLY).await });
    let mut world = world;
    world.phase("retiring").await;
    world.kill().await;
    world.begin();
    let view = world.phase("done").await;
    assert_eq!(view.deployment.release, Some(6));
    assert_eq!(line(&address, "now").await.unwrap(), "new now");
    assert_eq!(slow.await.unwrap().unwrap(), format!("old {SLOWLY}"));
}
