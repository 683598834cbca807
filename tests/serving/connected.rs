//! The official Python client with a real VM, through the program `cocoon connect` as a user starts it. The checks are
//! those that `tests/openai` makes through the library.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use cocoon_protocol::bytes::Hex32;
use cocoon_tests::executables;
use cocoon_tests::trial::Appliance;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::time::timeout;

use crate::clients::{self, Client};

/// Time limit for the attestation of an emulated machine.
const DEADLINE: Duration = Duration::from_secs(120);

/// The running program, killed on drop.
struct Connecting(Child);

impl Drop for Connecting {
    fn drop(&mut self) {
        // The process may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub async fn the_official_client_gets_what_it_expects(vm: &Appliance) {
    let client = Client::Python;
    let installed = tokio::task::spawn_blocking(move || client.install());
    let Some(installed) = clients::had(client.name(), installed.await.unwrap()) else {
        return;
    };
    let built = || executables::built("cocoon-client", "cocoon");
    let cocoon = tokio::task::spawn_blocking(built).await.unwrap().unwrap();

    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("manifest.json"), &vm.image.bytes).unwrap();
    std::fs::write(path("root.pem"), vm.root().unwrap()).unwrap();
    let mut child = Command::new(cocoon)
        .arg("connect")
        .arg(vm.address().unwrap().to_string())
        .args(["--json", "--listen", "127.0.0.1:0", "--manifest"])
        .arg(path("manifest.json"))
        .args([
            "--manifest-sha256",
            &Hex32::sha256(&vm.image.bytes).to_string(),
        ])
        .arg("--allow-unlocked")
        .arg("--trust-root")
        .arg(path("root.pem"))
        // Keeps the program's persistent data within this test.
        .env("HOME", folder.path())
        .env_remove("XDG_CONFIG_HOME")
        .env_remove("XDG_CACHE_HOME")
        .env_remove("XDG_STATE_HOME")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = child.stdout.take().unwrap();
    let _connecting = Connecting(child);
    let output = tokio::process::ChildStdout::from_std(output).unwrap();
    let mut line = String::new();
    let mut lines = BufReader::new(output);
    let reading = timeout(DEADLINE, lines.read_line(&mut line));
    reading.await.expect("it connects in time").unwrap();
    let said: Value =
        serde_json::from_str(&line).expect("one line of JSON: what went wrong stands above");
    let word = |name: &str| said[name].as_str().unwrap();
    let model = &vm.image.manifest.model.id;
    assert_eq!(word("model"), model);

    let checks = installed.run(word("base_url"), word("token"), model).await;
    assert!(checks.success, "{}", checks.output);
    assert_eq!(checks.checks, client.checks(), "{}", checks.output);
}
