//! Supervisors that close their connection, that do not end, or whose machine outlives them.

use cocoon_host_agent::lifecycle::{Deadlines, State};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::world::World;

/// Returns whether the process lives. A zombie has no open files and does not count.
fn lives(pid: u32) -> bool {
    std::fs::read_dir(format!("/proc/{pid}/fd")).is_ok_and(|fds| fds.count() > 0)
}

/// A supervisor closes the connection to a daemon that reads too slowly, but its VM keeps running.
#[tokio::test]
async fn a_supervisor_that_closes_its_connection_is_connected_to_again() {
    let world = World::new(&[("first", "shuts")], "", Deadlines::default()).await;
    let before = world.serving("first").await;
    let told = world.until("first", "note").await;
    let told = world.journal.after(told - 1).0.remove(0).text;
    assert_eq!(told, "its supervisor was lost sight of, and found again");
    let after = world.show("first").await;
    assert_eq!((after.life.state, after.life.run), (State::Serving, 1));
    assert_eq!(after.report.unwrap().pid, before.report.unwrap().pid);
    let stopped = world.act("first", "stop").await.life.state;
    assert_eq!(stopped, State::Stopped { resume: false });
}

/// It has sent its last report but does not end. With its socket, it would stand in the way of the next run.
#[tokio::test]
async fn a_supervisor_that_does_not_end_is_killed() {
    let world = World::new(&[("first", "stays")], "", Deadlines::default()).await;
    let pid = world.serving("first").await.report.unwrap().pid;
    let again = world.act("first", "restart").await;
    assert_eq!((again.life.state, again.life.run), (State::Serving, 2));
    assert!(!lives(pid));
}

/// A machine whose memory the kernel reclaims slowly still exists when its supervisor is gone.
#[tokio::test]
async fn the_end_is_told_when_the_machine_is_gone_too() {
    let world = World::new(&[("first", "outlived")], "", Deadlines::default()).await;
    let report = world.serving("first").await.report.unwrap();
    let path = "/v1/appliances/first/stop";
    let _: serde_json::Value = world.client().post(path).await.unwrap();
    while lives(report.pid) {
        tokio::task::yield_now().await;
    }
    assert_eq!(world.show("first").await.life.state.name(), "draining");
    let machine = Pid::from_raw(i32::try_from(report.qemu_pid.unwrap()).unwrap());
    kill(machine, Signal::SIGKILL).unwrap();
    world.until("first", "stopped").await;
}
