//! What a daemon shows its operator: moments over the API, and the status page and metrics over HTTP.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;

use cocoon_host_agent::daemon::End;
use cocoon_host_agent::lifecycle::Deadlines;
use cocoon_host_agent::watch::{Evidence, Watch};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::world::World;

#[tokio::test]
async fn a_moment_is_everything_at_once() {
    let parts = [("first", "serves"), ("second", "fails")];
    let world = World::new(&parts, "autostart = true", Deadlines::default()).await;
    world.serving("first").await;
    let watch: Watch = world.client().get("/v1/watch").await.unwrap();
    let names: Vec<&str> = watch
        .appliances
        .iter()
        .map(|one| one.view.name.as_str())
        .collect();
    assert_eq!(names, ["first", "second"]);
    let first = &watch.appliances[0];
    assert_eq!(first.view, world.show("first").await);
    // The stand-in reports neither steps nor counters.
    assert_eq!(first.evidence, Evidence::Taken { at: None });
    assert_eq!((first.rates, first.phases.len()), (None, 0));
    assert!(watch.events > 0 && watch.daemon.resident_bytes > 1 << 20);
    assert_eq!(watch.file, world.file());
}

#[tokio::test]
async fn the_page_and_the_metrics_are_the_operators() {
    let mut world = World::new(&[("first", "serves")], "", Deadlines::default()).await;
    world.serving("first").await;
    world.end(End::Leave).await;
    let text = std::fs::read_to_string(world.file()).unwrap();
    assert!(text.contains("status.listen = \"off\""), "{text}");
    std::fs::write(world.file(), text.replace("\"off\"", "\"127.0.0.1:0\"")).unwrap();
    world.begin(Deadlines::default()).await;
    world.until("first", "note").await;
    let said = world.journal.after(0).0;
    let address = said
        .iter()
        .find_map(|entry| entry.text.strip_prefix("status page on http://"));
    let address = address.expect("a status page").trim_end_matches('/');

    let (head, page) = get(address, "/", address).await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert!(
        head.contains("content-security-policy: default-src 'none'; script-src 'self';"),
        "{head}"
    );
    assert!(
        page.contains("<title>1 of 1 serving · Cocoon</title>"),
        "{page}"
    );
    let (head, metrics) = get(address, "/metrics", "localhost:1").await;
    assert!(
        head.contains("content-type: application/openmetrics-text; version=1.0.0"),
        "{head}"
    );
    let serving = "cocoon_appliance_state{appliance=\"first\",state=\"serving\"} 1";
    assert!(metrics.lines().any(|line| line == serving), "{metrics}");
    for path in ["/style.css", "/script.js", "/icon.svg"] {
        let (head, _) = get(address, path, address).await;
        assert!(head.starts_with("HTTP/1.1 200 "), "{path}: {head}");
    }
    // This listener has no API commands, and refuses foreign host names.
    let (head, _) = get(address, "/v1/appliances", address).await;
    assert!(head.starts_with("HTTP/1.1 404 "), "{head}");
    let (head, body) = get(address, "/", "evil.example").await;
    assert!(head.starts_with("HTTP/1.1 421 "), "{head}");
    assert!(
        body.starts_with("this listener is asked by its address or as localhost"),
        "{body}"
    );
}

#[tokio::test]
async fn with_a_login_nothing_is_shown_without() {
    let mut world = World::new(&[("first", "serves")], "", Deadlines::default()).await;
    world.serving("first").await;
    world.end(End::Leave).await;
    let login = world.path().join("login");
    std::fs::write(&login, "operator:correct horse battery\n").unwrap();
    std::fs::set_permissions(&login, Permissions::from_mode(0o600)).unwrap();
    let text = std::fs::read_to_string(world.file()).unwrap();
    let shown = format!("status.listen = \"127.0.0.1:0\"\nstatus.login = {login:?}");
    std::fs::write(
        world.file(),
        text.replace("status.listen = \"off\"", &shown),
    )
    .unwrap();
    world.begin(Deadlines::default()).await;
    world.until("first", "note").await;
    let said = world.journal.after(0).0;
    let address = said
        .iter()
        .find_map(|entry| entry.text.strip_prefix("status page on http://"));
    let address = address.expect("a status page").trim_end_matches('/');
    // Base64 of `operator:correct horse battery`, and of the same user with another password.
    let known =
        format!("{address}\r\nauthorization: Basic b3BlcmF0b3I6Y29ycmVjdCBob3JzZSBiYXR0ZXJ5");
    let other =
        format!("{address}\r\nauthorization: Basic b3BlcmF0b3I6Y29ycmVjdCBob3JzZSBiYXR0ZXJ6");
    for path in ["/", "/metrics", "/style.css", "/script.js"] {
        for nobody in [address, &other] {
            let (head, body) = get(address, path, nobody).await;
            assert!(head.starts_with("HTTP/1.1 401 "), "{path}: {head}");
            let challenge = "www-authenticate: Basic realm=\"cocoon-host\"";
            assert!(head.contains(challenge), "{head}");
            let words = "who are you? see login of [status] in the configuration file\n";
            assert_eq!(body, words, "{path}");
        }
        let (head, _) = get(address, path, &known).await;
        assert!(head.starts_with("HTTP/1.1 200 "), "{path}: {head}");
    }
}

/// Returns head and body of an answer. `host` may contain further header lines.
async fn get(address: &str, path: &str, host: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}
