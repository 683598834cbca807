//! The API's contract: the shapes of answers and refusals, and the modes of the socket and the state files.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use cocoon_host_agent::daemon::api::{About, Code, Entry, List, Refusal};
use cocoon_host_agent::lifecycle::{Deadlines, State};
use serde_json::{Value, json};

use crate::world::{World, raw};

async fn world() -> World {
    let world = World::new(
        &[("first", "serves"), ("second", "serves")],
        "",
        Deadlines::default(),
    );
    let world = world.await;
    world.serving("first").await;
    world.serving("second").await;
    world
}

#[tokio::test]
async fn the_shapes_of_answers_are_those_of_the_document() {
    let world = world().await;
    let (status, kind, body) = raw(&world.root(), "GET /v1", "").await;
    assert_eq!((status, kind.as_str()), (200, "application/json"));
    let about: About = serde_json::from_str(&body).unwrap();
    assert_eq!((about.api.as_str(), about.pid), ("v1", std::process::id()));
    assert_eq!((about.file, about.state), (world.file(), world.root()));

    let (status, _, body) = raw(&world.root(), "GET /v1/appliances", "").await;
    assert_eq!(status, 200);
    let list: List = serde_json::from_str(&body).unwrap();
    let names: Vec<_> = list
        .appliances
        .iter()
        .map(|view| view.name.as_str())
        .collect();
    assert_eq!(names, ["first", "second"]);

    // The whole answer is compared, because other programs rely on it.
    let (_, _, body) = raw(&world.root(), "GET /v1/appliances/first", "").await;
    let mut view: Value = serde_json::from_str(&body).unwrap();
    let since = view["life"]["since"].take();
    assert!(since.as_u64().unwrap() > 1_600_000_000_000, "{since}");
    let pid = view["report"]["pid"].take();
    assert!(pid.as_u64().unwrap() > 1);
    assert_eq!(view["report"]["qemu_pid"].take(), pid);
    let expected = json!({
        "name": "first",
        "image": world.root(),
        "listen": "127.0.0.1:8443",
        "tee": "simulated-tdx",
        "memory_mib": 256,
        "vcpus": 1,
        "autostart": true,
        "outdated": false,
        "folder": world.root().join("vms/first"),
        "deployment": {
            "image": world.root(), "manifest": null, "manifest_id": null, "release": null, "not_after": null
        },
        "previous": null,
        "runs": 1,
        "update": null,
        "life": {
            "state": { "name": "serving" }, "since": null, "run": 1, "failures": 0, "last_failure": null
        },
        "report": {
            "version": 3, "run": 1, "pid": null, "qemu_pid": null, "stage": "serving", "doing": "playing",
            "endpoint": "127.0.0.1:8443", "guest": null, "door": "open", "not_taken": null, "manifest_id": "00".repeat(32), "trust_root": null, "steps": [],
            "metrics": null, "gpus": [], "engine_restarts": 0, "halted": null, "ended": null
        }
    });
    assert_eq!(view, expected);

    let (status, kind, body) = raw(&world.root(), "GET /v1/events?since=1", "").await;
    assert_eq!((status, kind.as_str()), (200, "application/x-ndjson"));
    let lines = body.lines().filter(|line| line.starts_with('{'));
    let entries: Vec<Entry> = lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(entries[0].seq, 2);
    assert!(
        entries
            .iter()
            .any(|entry| entry.text == "serving on https://127.0.0.1:8443")
    );

    let (status, _, body) = raw(&world.root(), "GET /v1/appliances/first/logs", "").await;
    assert_eq!(status, 200);
    assert!(
        body.contains("{\"time\":1.5,\"source\":\"host\",\"text\":\"run 1\"}"),
        "{body}"
    );
}

#[tokio::test]
async fn every_refusal_has_a_code_a_status_and_words() {
    let world = world().await;
    let long = "x".repeat(33);
    let cases = [
        (
            "GET /v2",
            404,
            Code::UnknownPath,
            "there is no /v2: GET /v1 says what this is".to_owned(),
        ),
        (
            "POST /v1/appliances",
            405,
            Code::WrongMethod,
            "/v1/appliances is asked with GET".to_owned(),
        ),
        (
            "GET /v1/appliances/first/stop",
            405,
            Code::WrongMethod,
            "/v1/appliances/first/stop is asked with POST".to_owned(),
        ),
        (
            "GET /v1/events?sinse=3",
            400,
            Code::UnknownParameter,
            "\"sinse\" is no parameter of this path".to_owned(),
        ),
        (
            "GET /v1/events?since=x",
            400,
            Code::BadParameter,
            "\"since\" is \"x\"; allowed: a number".to_owned(),
        ),
        (
            &format!("GET /v1/appliances/{long}"),
            404,
            Code::UnknownAppliance,
            format!("{} describes no appliance {long:?}", world.file().display()),
        ),
    ];
    for (request, status, code, message) in cases {
        let (found, kind, body) = raw(&world.root(), request, "").await;
        assert_eq!(
            (found, kind.as_str()),
            (status, "application/json"),
            "{request}"
        );
        let refusal: Refusal = serde_json::from_str(&body).unwrap();
        assert_eq!(refusal, Refusal::new(code, message), "{request}");
    }
    let request = "POST /v1/appliances/first/stop";
    let (status, _, body) = raw(&world.root(), request, "{}").await;
    let refusal: Refusal = serde_json::from_str(&body).unwrap();
    assert_eq!((status, refusal.error.code), (400, Code::UnexpectedBody));
    // The refused command was not carried out.
    assert_eq!(world.show("first").await.life.state, State::Serving);
}

#[tokio::test]
async fn the_socket_is_its_owners_and_streams_follow() {
    let world = world().await;
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&world.root()), 0o700);
    for name in [
        "host.sock",
        "host.lock",
        "vms/first/sup",
        "vms/first/launch.json",
        "vms/first/life.json",
    ] {
        assert_eq!(mode(&world.root().join(name)), 0o600, "{name}");
    }
    let (seen, mut saw) = tokio::sync::mpsc::unbounded_channel();
    let client = world.client();
    let following = tokio::spawn(async move {
        let path = "/v1/events?since=0&follow=true";
        client
            .lines(path, |line| {
                let entry: Entry = serde_json::from_str(line).unwrap();
                let last = entry.state == "stopped";
                seen.send(entry.seq).unwrap();
                !last
            })
            .await
    });
    world.act("second", "stop").await;
    following.await.unwrap().unwrap();
    let mut numbers = vec![];
    while let Some(seq) = saw.recv().await {
        numbers.push(seq);
    }
    let count = u64::try_from(numbers.len()).unwrap();
    assert!(numbers.into_iter().eq(1..=count));
}
