//! The README's commands as processes: an operator's `cocoon-host`, a client's `cocoon`, and an interrupt.

use std::io::{BufRead as _, BufReader, Lines};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use cocoon_tests::executables::built;
use cocoon_tests::image::SignedImage;
use cocoon_tests::trial::turn;
use cocoon_tests::{alphabet, processes};
use serde_json::Value;

/// A folder with a signed image, and the executables.
struct Hands {
    image: &'static SignedImage,
    folder: tempfile::TempDir,
    state: tempfile::TempDir,
    host: PathBuf,
    client: PathBuf,
    simulator: PathBuf,
}

impl Hands {
    fn new() -> anyhow::Result<Self> {
        let image = SignedImage::alphabet()?;
        Ok(Self {
            folder: image.with("manifest.json.dsse", Some(&image.envelope))?,
            image,
            state: tempfile::Builder::new().prefix("cocoon-").tempdir()?,
            host: built("cocoon-host-agent", "cocoon-host")?,
            client: built("cocoon-client", "cocoon")?,
            simulator: built("cocoon-simulator", "cocoon-simulator")?,
        })
    }

    fn host(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.host);
        command
            .args(arguments)
            .env("COCOON_STATE", self.state.path());
        command.stdin(Stdio::null());
        command
    }

    /// Returns the command `cocoon-host up` with its events in JSON.
    fn up(&self) -> Command {
        let mut command = self.host(&[
            "--json",
            "up",
            "--simulate",
            "tdx",
            "--listen",
            "127.0.0.1:0",
        ]);
        command.arg("--image").arg(self.folder.path());
        command.arg("--simulator").arg(&self.simulator);
        command.args(["--vcpus", "2"]);
        command
    }

    /// Returns the command `cocoon` with all options that state what it trusts.
    fn client(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.client);
        command.args(arguments);
        command
            .arg("--manifest")
            .arg(self.folder.path().join("manifest.json"));
        command.args([
            "--signer",
            &hex::encode(self.image.signer),
            "--allow-unlocked",
        ]);
        command
            .arg("--trust-root")
            .arg(self.vm().join("trust-root.pem"));
        command.env("COCOON_TRUST_FILE", self.state.path().join("trust.toml"));
        command.stdin(Stdio::null());
        command
    }

    fn vm(&self) -> PathBuf {
        self.state.path().join("vms/default")
    }
}

/// A running `cocoon-host up`, killed on drop.
struct Running {
    child: Child,
    news: Lines<BufReader<ChildStdout>>,
}

impl Running {
    fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let news = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, news }
    }

    /// Waits for the next event of that name. The host has a deadline for a boot, so this ends.
    fn event(&mut self, name: &str) -> Value {
        for line in self.news.by_ref() {
            let event: Value = serde_json::from_str(&line.unwrap()).unwrap();
            if event["event"] == name {
                return event;
            }
        }
        panic!("it ended without {name:?}")
    }

    fn interrupt(&self) {
        assert!(processes::signal(self.child.id(), "INT"));
    }

    fn end(mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // The process has usually ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn said(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (
        output.status.code(),
        text(&output.stdout),
        text(&output.stderr),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_and_a_client_need_the_readme_alone() {
    let _turn = turn(2).await;
    tokio::task::spawn_blocking(day).await.unwrap();
}

fn day() {
    let hands = Hands::new().unwrap();
    let mut up = Running::start(hands.up());
    let serving = up.event("serving");
    let endpoint = serving["endpoint"].as_str().unwrap();
    let url = format!("https://{endpoint}");

    let (code, text, _) = said(&hands.host(&["ps", "--json"]).output().unwrap());
    let listed: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(code, Some(0));
    let status = &listed[0]["status"];
    assert_eq!(
        (&status["name"], &status["doing"], &status["endpoint"]),
        (&"default".into(), &"serving".into(), &endpoint.into()),
        "{text}"
    );

    let verify = hands.client(&["verify", &url, "--json"]).output().unwrap();
    let (code, text, told) = said(&verify);
    assert_eq!(code, Some(0), "{told}");
    let verdict: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(verdict["verdict"]["class"], "simulated", "{text}");

    let question = [
        "chat",
        &url,
        "--prompt",
        "Hi",
        "--max-tokens",
        "4",
        "--temperature",
        "0",
    ];
    let (code, text, told) = said(&hands.client(&question).output().unwrap());
    assert_eq!(
        (code, text.trim_end()),
        (Some(0), &*alphabet::answer(4)),
        "{told}"
    );

    // A second VM of the same name is refused, and does not disturb the first.
    let (code, _, told) = said(&hands.up().output().unwrap());
    assert_eq!(code, Some(2));
    assert_eq!(
        told.trim_end(),
        "cocoon-host: a VM named \"default\" is running already: choose another --name, or stop that one with `cocoon-host down`"
    );

    // Ctrl-C while the VM serves is a clean shutdown: running answers are completed, and nothing is left behind.
    up.interrupt();
    assert_eq!(up.end(), Some(0));
    assert_eq!(processes::naming(hands.state.path()), [] as [u32; 0]);

    interrupted_while_it_boots(&hands);
}

fn interrupted_while_it_boots(hands: &Hands) {
    let mut command = hands.up();
    command.stderr(Stdio::piped());
    let mut up = Running::start(command);
    up.event("phase");
    up.interrupt();
    let mut told = String::new();
    let mut errors = up.child.stderr.take().unwrap();
    std::io::Read::read_to_string(&mut errors, &mut told).unwrap();
    assert_eq!(up.end(), Some(2));
    assert_eq!(
        told.lines().last(),
        Some("cocoon-host: interrupted before the VM served")
    );
    assert_eq!(processes::naming(hands.state.path()), [] as [u32; 0]);
    assert!(!Path::new(&hands.vm().join("ctl")).exists());
}
