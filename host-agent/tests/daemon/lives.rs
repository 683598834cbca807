//! What happens to appliances when their processes serve, fail, hang or die, and when their daemon dies.

use cocoon_host_agent::daemon::End;
use cocoon_host_agent::lifecycle::{Deadlines, State};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::world::{World, impatient};

fn signal(pid: u32, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(pid).unwrap()), signal).unwrap();
}

/// Returns the appliance's states in the journal, in order.
fn states(world: &World, name: &str) -> Vec<String> {
    let (kept, _) = world.journal.after(0);
    let of = kept
        .into_iter()
        .filter(|entry| entry.appliance.as_deref() == Some(name));
    of.map(|entry| entry.state).collect()
}

#[tokio::test]
async fn two_appliances_start_are_restarted_and_stop() {
    let parts = [("first", "serves"), ("second", "serves")];
    let mut world = World::new(&parts, "", Deadlines::default()).await;
    let (first, second) = (world.serving("first").await, world.serving("second").await);
    assert_eq!((first.life.run, second.life.run), (1, 1));
    let pid = first.report.unwrap().pid;
    assert_ne!(pid, second.report.unwrap().pid);

    let first = world.act("first", "restart").await;
    assert_eq!((first.life.state, first.life.run), (State::Serving, 2));
    assert_ne!(first.report.unwrap().pid, pid);
    assert_eq!(
        world.act("second", "stop").await.life.state,
        State::Stopped { resume: false }
    );
    assert_eq!(world.act("second", "start").await.life.run, 2);
    let expected = [
        "preparing",
        "booting",
        "attesting",
        "serving",
        "draining",
        "preparing",
    ];
    assert_eq!(states(&world, "first")[..6], expected);
    world.end(End::Halt).await;
    assert_eq!(states(&world, "first").last().unwrap(), "stopped");
}

#[tokio::test]
async fn whose_process_is_killed_is_started_again() {
    let more = "restart.delay_seconds = 0";
    let world = World::new(&[("first", "serves")], more, Deadlines::default()).await;
    let before = world.serving("first").await;
    let seq = world.until("first", "serving").await;
    signal(before.report.unwrap().pid, Signal::SIGKILL);
    world.until_after(seq, "first", "serving").await;
    let after = world.show("first").await;
    assert_eq!((after.life.run, after.life.failures), (2, 1));
    let expected = "its supervisor was killed by signal 9";
    assert_eq!(after.life.last_failure.as_deref(), Some(expected));
}

#[tokio::test]
async fn a_crash_loop_is_given_up_with_the_reason_until_the_operator_starts_it() {
    let more = "restart.delay_seconds = 0\nrestart.max_failures = 3";
    let world = World::new(&[("first", "fails")], more, Deadlines::default()).await;
    world.until("first", "failed").await;
    let view = world.show("first").await;
    let reason = "it failed 3 times in a row, the last time because the image is incomplete";
    let reason = reason.to_owned();
    assert_eq!(view.life.state, State::Failed { reason });
    assert_eq!(view.life.run, 3);
    world.part("vms/first", "serves");
    assert_eq!(world.act("first", "start").await.life.state, State::Serving);
}

/// What a VM needs before QEMU runs may come late, as after a boot of the host. A start that waits reports what is missing.
#[tokio::test]
async fn what_is_refused_is_tried_until_it_serves() {
    // The limit keeps the back-off short, however many tries there were before the part changes.
    let more = "restart.delay_seconds = 0\nrestart.max_delay_seconds = 1\nrestart.max_failures = 2";
    let parts = [("refused", "refused"), ("dies", "dies")];
    let world = World::new(&parts, more, Deadlines::default()).await;
    for (name, last) in [
        ("refused", "the image is incomplete"),
        // The supervisor's last output, without the control character that could steer a terminal.
        (
            "dies",
            "its supervisor was killed by signal 6: [31mno words of mine",
        ),
    ] {
        let life = world.act(name, "start").await.life;
        assert_eq!(life.last_failure.as_deref(), Some(last));
        assert!(life.refusals > 2 && life.failures == 0, "{life:?}");
        world.part(&format!("vms/{name}"), "serves");
        let life = world.serving(name).await.life;
        assert_eq!((life.state, life.refusals), (State::Serving, 0));
        assert!(!states(&world, name).contains(&"failed".to_owned()));
    }
}

#[tokio::test]
async fn who_hangs_is_killed() {
    let deadlines = Deadlines {
        preparing: std::time::Duration::from_millis(300),
        ..Deadlines::default()
    };
    let more = "restart.policy = \"never\"";
    let world = World::new(&[("first", "hangs")], more, deadlines).await;
    world.until("first", "failed").await;
    let hung = world.show("first").await.life;
    let reason = "preparing took more than 0 seconds";
    assert_eq!(hung.last_failure.as_deref(), Some(reason));
}

#[tokio::test]
async fn who_halts_or_is_deaf_is_killed() {
    let more = "restart.policy = \"never\"";
    let parts = [("halts", "halts"), ("deaf", "deaf")];
    let world = World::new(&parts, more, impatient()).await;
    world.until("halts", "failed").await;
    let halted = world.show("halts").await.life;
    assert_eq!(halted.last_failure.unwrap(), "the guest panicked");
    world.serving("deaf").await;
    let stopped = world.act("deaf", "stop").await.life.state;
    assert_eq!(stopped, State::Stopped { resume: false });
    // It drains twice: first it was asked to end, then it was killed.
    let states = states(&world, "deaf");
    let draining = states.iter().filter(|state| *state == "draining");
    assert_eq!(draining.count(), 2);
}

#[tokio::test]
async fn a_killed_daemon_finds_its_appliances_again() {
    let parts = [("first", "serves"), ("deaf", "deaf"), ("stopped", "serves")];
    let mut world = World::new(&parts, "", impatient()).await;
    let first = world.serving("first").await;
    let deaf = world.serving("deaf").await;
    world.serving("stopped").await;
    world.act("stopped", "stop").await;
    // This appliance is draining when the daemon dies.
    let path = "/v1/appliances/deaf/stop";
    let _: serde_json::Value = world.client().post(path).await.unwrap();
    world.kill().await;

    world.begin(impatient()).await;
    world.until("deaf", "stopped").await;
    let again = world.show("first").await;
    assert_eq!((again.life.state, again.life.run), (State::Serving, 1));
    assert_eq!(again.life.since, first.life.since);
    // The next daemon does not start an appliance that the operator stopped.
    let stopped = world.show("stopped").await.life.state;
    assert_eq!(stopped, State::Stopped { resume: false });
    assert!(!std::path::Path::new(&format!("/proc/{}/exe", deaf.report.unwrap().pid)).exists());
    assert_eq!(
        world.act("first", "stop").await.life.state,
        State::Stopped { resume: false }
    );
}

#[tokio::test]
async fn what_died_while_no_daemon_was_there_is_started_again() {
    let more = "restart.delay_seconds = 0";
    let mut world = World::new(&[("first", "serves")], more, Deadlines::default()).await;
    let pid = world.serving("first").await.report.unwrap().pid;
    world.end(End::Leave).await;
    assert!(std::path::Path::new(&format!("/proc/{pid}")).exists());
    signal(pid, Signal::SIGKILL);
    // Its socket closes when the process is gone.
    let socket = world.root().join("vms/first/sup");
    while tokio::net::UnixStream::connect(&socket).await.is_ok() {
        tokio::task::yield_now().await;
    }
    world.begin(Deadlines::default()).await;
    let after = world.serving("first").await.life;
    assert_eq!((after.run, after.failures), (2, 1));
    let expected = "it was gone when the daemon came back";
    assert_eq!(after.last_failure.as_deref(), Some(expected));
}

#[tokio::test]
async fn what_only_the_daemons_end_stopped_comes_back_with_the_next() {
    let mut world = World::new(&[("first", "serves")], "", Deadlines::default()).await;
    world.serving("first").await;
    world.end(End::Halt).await;
    world.begin(Deadlines::default()).await;
    assert_eq!(world.serving("first").await.life.run, 2);
}

/// The supervisor takes longer to end than the daemon, and is still ending when the next daemon starts.
#[tokio::test]
async fn what_still_ends_when_the_next_daemon_comes_is_started_again() {
    let mut world = World::new(&[("first", "deaf")], "", Deadlines::default()).await;
    world.serving("first").await;
    world.tell(End::Halt);
    world.until("first", "draining").await;
    world.kill().await;
    world.part("vms/first", "serves");
    world.begin(impatient()).await;
    let seq = world.until("first", "draining").await;
    world.until_after(seq, "first", "serving").await;
    let life = world.show("first").await.life;
    assert_eq!((life.state, life.run), (State::Serving, 2));
}

/// The edited file names a VM that takes the kernel longer to reclaim than a test lasts; the running VM's deadline applies.
#[tokio::test]
async fn an_end_has_the_time_that_belongs_to_what_runs() {
    let mut world = World::new(&[("first", "deaf")], "", impatient()).await;
    world.serving("first").await;
    world.kill().await;
    let text = std::fs::read_to_string(world.file()).unwrap();
    let text = text.replace("simulated-tdx", "tdx");
    std::fs::write(world.file(), text.replace("256M", "64G")).unwrap();
    world.begin(impatient()).await;
    assert!(world.show("first").await.reclaim() > 2 * crate::hosted::DEADLINE);
    let stopped = world.act("first", "stop").await.life.state;
    assert_eq!(stopped, State::Stopped { resume: false });
}

#[tokio::test]
async fn a_folder_has_one_daemon() {
    let world = World::new(
        &[("first", "serves")],
        "autostart = false",
        Deadlines::default(),
    )
    .await;
    assert_eq!(world.show("first").await.life.state, State::Created);
    let machine = cocoon_host_agent::config::Machine::this();
    let config = cocoon_host_agent::config::HostConfig::load(&world.file(), &machine).unwrap();
    let second = cocoon_host_agent::daemon::Daemon::take(config, &world.file());
    let error = second.err().unwrap().to_string();
    let root = world.root();
    let expected = format!(
        "another daemon keeps its state in {root:?}: `cocoon-host ps` talks to it; stop it, or choose another host.state"
    );
    assert_eq!(error, expected);
}
