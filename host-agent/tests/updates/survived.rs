//! Daemons that are killed during an update, alone or with a VM. Afterwards the appliance is in one of two whole states.

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

/// Waits until a killed process has closed this socket.
async fn closed(world: &World, socket: &str) {
    let socket = world.root().join(socket);
    while tokio::net::UnixStream::connect(&socket).await.is_ok() {
        tokio::task::yield_now().await;
    }
}

/// Starts an update of a serving appliance and waits for `phase`. Returns the world and the appliance's address.
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

/// Both VMs keep running. The next daemon finds them and finishes the update, and no client is refused.
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

/// The new VM dies with the daemon. The old one stays the appliance and accepts clients again.
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

/// The new VM dies in the phase `Proving`. The old one, which was held back, takes over.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_vm_that_dies_while_it_proves_itself_is_replaced_by_the_old_one() {
    let (world, address) = updating("proving").await;
    killed(new_pid(&world.show("first").await));
    let view = world.phase("failed").await;
    assert_eq!(line(&address, "again").await.unwrap(), "old again");
    assert_eq!(view.deployment.release, Some(5));
}

/// The new VM has failed but is not gone, as while the kernel reclaims confidential memory. The update does not wait for it.
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

/// The old VM dies while it is held back, and later the new one does. If the old VM runs again, it leaves the listener to the
/// new one until that dies. If it was given up, it is then started again. The address stays the same.
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

/// A signal to the whole service also reaches supervisors and QEMUs, but is meant for the daemon.
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

/// The daemon, both supervisors and their machines die at once. The old deployment starts again.
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

/// After an edit of the file, the update goes back and the old VM accepts clients again. If the old VM had to end first, the
/// image that the file now names is started.
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

/// While the old VM finishes, the new one is already the appliance.
#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_dies_while_the_old_vm_finishes_changes_nothing() {
    let world = World::new("serves old", "").await;
    let address = endpoint(&world.serving("first").await);
    let newer = world.image("newer", "serves new", 6);
    let mut held = BufReader::new(TcpStream::connect(&address).await.unwrap());
    assert_eq!(ask(&mut held, "before").await.unwrap(), "old before");
    world.update(&newer, false, false).await.unwrap();
    world.phase("proving").await;
    // Takes longer than the rest of the phase `Proving`, so that the old VM has to finish it.
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
