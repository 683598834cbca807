//! A separate home directory for every run of the command, and test files in it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::LazyLock;

use cocoon_protocol::bytes::{Hex32, Hex48};
use cocoon_protocol::manifest::{Manifest, Model, SnpReference, TdxReference};
use tokio::net::TcpSocket;

pub struct Home(tempfile::TempDir);

impl Home {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn write(&self, name: &str, bytes: &[u8]) -> String {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
        path.display().to_string()
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cocoon"));
        command
            .args(arguments)
            .env_remove("XDG_CONFIG_HOME")
            .env_remove("XDG_CACHE_HOME")
            .env_remove("COCOON_TRUST_FILE")
            .env_remove("COCOON_COLLATERAL_CACHE")
            .env("HOME", self.0.path());
        command
    }

    pub fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        ended(self.command(arguments).output().unwrap())
    }

    /// Starts a command that trusts the manifest of release 1. Standard output and error are pipes.
    pub fn start(&self, command: &str, url: &str, arguments: &[&str]) -> Child {
        let bytes = manifest(1);
        let path = self.write("manifest.json", &bytes);
        let pin = Hex32::sha256(&bytes).to_string();
        self.command(&[command, url, "--manifest", &path, "--manifest-sha256", &pin])
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    pub fn trust_file(&self) -> String {
        std::fs::read_to_string(self.path(".config/cocoon/trust.toml")).unwrap()
    }
}

/// Returns exit status, standard output and standard error.
pub fn ended(output: Output) -> (i32, String, String) {
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let status = output.status.code().expect("ended by itself");
    (status, text(output.stdout), text(output.stderr))
}

/// Sends SIGINT, as Ctrl-C does.
pub fn interrupt(child: &Child) {
    let kill = format!("kill -INT {}", child.id());
    let status = Command::new("sh").args(["-c", &kill]).status().unwrap();
    assert!(status.success());
}

/// Returns a manifest of this release that is valid now; always the same bytes, because tests pin
/// their hash.
pub fn manifest(release: u64) -> Vec<u8> {
    static NOW: LazyLock<u64> = LazyLock::new(cocoon_client::now);
    let now = *NOW;
    let manifest = Manifest {
        version: 1,
        release,
        variant: "cpu".into(),
        source_revision: "0".repeat(40),
        not_before: now - 60,
        not_after: now + 3600,
        inputs_lock: Hex32::ZERO,
        unlocked: vec![],
        aml_guard: false,
        gpu: None,
        artefacts: BTreeMap::new(),
        cmdline: String::new(),
        model: Model {
            id: "m".into(),
            verity_root: Hex32::ZERO,
            verity_salt: Hex32::ZERO,
            verity_data_blocks: 1,
            files: BTreeMap::new(),
        },
        tdx: TdxReference {
            mrtd: Hex48::ZERO,
            rtmr1: Hex48::ZERO,
            rtmr2: Hex48::ZERO,
            platforms: vec![],
        },
        snp: SnpReference {
            guest_features: 1,
            launch: vec![],
        },
    };
    manifest.to_json()
}

/// Returns an address where nothing listens while the tests run: a socket binds the port but never
/// listens.
pub fn nowhere() -> String {
    static HELD: LazyLock<TcpSocket> = LazyLock::new(|| {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
        socket
    });
    format!("https://{}", HELD.local_addr().unwrap())
}
