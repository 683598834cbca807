//! The commands that talk to a daemon, as an operator types them.

use std::process::{Command, Output};

use cocoon_host_agent::daemon::api::{Entry, View};
use cocoon_host_agent::lifecycle::Deadlines;
use serde_json::Value;

use crate::world::World;

async fn run(world: &World, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cocoon-host"));
    command.args(arguments).env("COCOON_STATE", world.root());
    tokio::task::spawn_blocking(move || command.output().unwrap())
        .await
        .unwrap()
}

async fn printed(world: &World, arguments: &[&str]) -> String {
    let output = run(world, arguments).await;
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_talks_to_the_daemon() {
    let world = World::new(&[("first", "serves")], "", Deadlines::default()).await;
    let view = world.serving("first").await;
    let qemu = view.report.unwrap().qemu_pid.unwrap().to_string();

    let table = printed(&world, &["ps"]).await;
    let row = table.lines().nth(1).unwrap();
    let words: Vec<&str> = row.split_whitespace().collect();
    assert_eq!(words, ["first", "serving", "127.0.0.1:8443", "tdx", &qemu]);
    let list: Value = serde_json::from_str(&printed(&world, &["ps", "--json"]).await).unwrap();
    assert_eq!(
        (&list[0]["name"], &list[0]["status"]),
        (&"first".into(), &Value::Null)
    );
    let view: View = serde_json::from_value(list[0]["appliance"].clone()).unwrap();
    assert_eq!(view, world.show("first").await);

    let shown = printed(&world, &["show", "first", "--json"]).await;
    assert_eq!(serde_json::from_str::<View>(&shown).unwrap(), view);
    assert!(
        printed(&world, &["show", "first"])
            .await
            .starts_with("first: serving\n")
    );

    let logs = printed(&world, &["logs", "first", "--json"]).await;
    assert_eq!(
        logs,
        "{\"time\":1.5,\"source\":\"host\",\"text\":\"run 1\"}\n"
    );
    let events = printed(&world, &["events", "--json"]).await;
    let entries: Vec<Entry> = events
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(entries.last().unwrap().state, "serving");
    assert!(
        printed(&world, &["events"])
            .await
            .ends_with(" first: serving on https://127.0.0.1:8443\n")
    );

    let again = printed(&world, &["restart", "first", "--json"]).await;
    let again: View = serde_json::from_str(again.lines().last().unwrap()).unwrap();
    assert_eq!((again.life.state.name(), again.life.run), ("serving", 2));
    let down = printed(&world, &["down", "first", "--json"]).await;
    assert_eq!(
        down.lines().last().unwrap(),
        "{\"event\":\"note\",\"text\":\"first has stopped\"}"
    );
    assert_eq!(world.show("first").await.life.state.name(), "stopped");
    assert!(
        printed(&world, &["ps"])
            .await
            .contains("first                stopped")
    );
    let started = run(&world, &["start", "first"]).await;
    assert!(started.status.success(), "{started:?}");
    assert!(
        String::from_utf8(started.stderr)
            .unwrap()
            .contains("first: serving")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_done_is_said() {
    let mut world = World::new(
        &[("first", "fails")],
        "restart.max_failures = 1",
        Deadlines::default(),
    )
    .await;
    world.until("first", "failed").await;
    let started = run(&world, &["start", "first", "--json"]).await;
    assert_eq!(started.status.code(), Some(1), "{started:?}");
    let shown = printed(&world, &["ps"]).await;
    assert!(shown.contains("failed: the image is incomplete"), "{shown}");
    let unknown = run(&world, &["start", "second"]).await;
    assert_eq!(unknown.status.code(), Some(2));
    let error = String::from_utf8(unknown.stderr).unwrap();
    let expected = format!(
        "{} describes no appliance \"second\"",
        world.file().display()
    );
    assert!(error.contains(&expected), "{error}");
    let name = run(&world, &["start", "../first"]).await;
    assert!(
        String::from_utf8(name.stderr)
            .unwrap()
            .contains("cannot name a VM")
    );

    world.end(cocoon_host_agent::daemon::End::Halt).await;
    let nobody = run(&world, &["start", "first"]).await;
    assert_eq!(nobody.status.code(), Some(2));
    let error = String::from_utf8(nobody.stderr).unwrap();
    assert!(
        error.contains("no daemon runs with this user's state: start one with `cocoon-host serve`"),
        "{error}"
    );
}
