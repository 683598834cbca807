//! The `cocoon` command as people and scripts see it: what it prints, and its exit status.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use cocoon_protocol::bytes::{Hex32, Hex48};
use cocoon_protocol::manifest::{Manifest, Model, SnpReference, TdxReference};

struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> String {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
        path.display().to_string()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cocoon"));
        command
            .args(arguments)
            .env_remove("XDG_CONFIG_HOME")
            .env_remove("COCOON_TRUST_FILE")
            .env("HOME", self.0.path());
        command
    }

    fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        ended(self.command(arguments).output().unwrap())
    }

    /// Starts a command with the manifest of release 1, believed; standard output and error are pipes.
    fn start(&self, command: &str, url: &str, arguments: &[&str]) -> Child {
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

    fn trust_file(&self) -> String {
        std::fs::read_to_string(self.path(".config/cocoon/trust.toml")).unwrap()
    }
}

/// Exit status, standard output, standard error.
fn ended(output: Output) -> (i32, String, String) {
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let status = output.status.code().expect("ended by itself");
    (status, text(output.stdout), text(output.stderr))
}

/// What Ctrl-C does.
fn interrupt(child: &Child) {
    let kill = format!("kill -INT {}", child.id());
    let status = Command::new("sh").args(["-c", &kill]).status().unwrap();
    assert!(status.success());
}
/// A manifest of release `release` that is valid now.
fn manifest(release: u64) -> Vec<u8> {
    let now = cocoon_client::now();
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

/// An address where nobody is: the port was free a moment ago.
fn nowhere() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    format!("https://{}", listener.local_addr().unwrap())
}

#[test]
fn wrong_usage_is_2() {
    let home = Home::new();
    assert_eq!(home.run(&["verify"]).0, 2);
    let (code, _, error) = home.run(&["verify", "http://a.example", "--manifest", "m"]);
    assert_eq!(code, 2);
    assert!(
        error.contains("the scheme is not https; write https://HOST:PORT"),
        "{error}"
    );
    let (code, _, error) =
        home.run(&["verify", "https://a.example", "--manifest", "/no/such/file"]);
    assert_eq!(code, 2);
    assert!(
        error.starts_with("cocoon: cannot read manifest /no/such/file: No such file"),
        "{error}"
    );
}

#[test]
fn manifests_that_do_not_count_are_1_and_say_why() {
    let home = Home::new();
    let path = home.write("manifest.json", &manifest(1));
    let (code, shown, _) = home.run(&["verify", &nowhere(), "--manifest", &path]);
    assert_eq!(code, 1);
    for part in ["REJECTED", "manifest counts", "no signer is trusted"] {
        assert!(shown.contains(part), "{part} in {shown}");
    }
    let signer = "11".repeat(32);
    let (code, shown, _) = home.run(&[
        "verify",
        &nowhere(),
        "--json",
        "--manifest",
        &path,
        "--signer",
        &signer,
    ]);
    assert_eq!(code, 1);
    let report: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(report["accepted"], false);
    assert_eq!(report["verdict"]["class"], "rejected");
    assert!(
        report["error"].as_str().unwrap().contains("is not signed"),
        "{report}"
    );
}

#[test]
fn an_appliance_that_is_not_there_is_2() {
    let home = Home::new();
    for command in ["verify", "chat"] {
        let child = home.start(command, &nowhere(), &[]);
        let (code, _, error) = ended(child.wait_with_output().unwrap());
        assert_eq!(code, 2, "{error}");
        assert!(error.contains("cannot reach https://127.0.0.1:"), "{error}");
        assert!(error.contains("Connection refused"), "{error}");
    }
}

#[test]
fn floors_rise_with_what_the_trust_file_s_signers_signed() {
    let home = Home::new();
    let secret = [5; 32];
    let signer = hex::encode(cocoon_measurements::manifest::public_key(&secret));
    home.write(
        ".config/cocoon/trust.toml",
        format!("# mine\nsigners = [\"{signer}\"]\n").as_bytes(),
    );
    let signed = |release| {
        let bytes = manifest(release);
        let path = home.write(&format!("{release}/manifest.json"), &bytes);
        let envelope = cocoon_measurements::manifest::sign(&bytes, &secret).unwrap();
        home.write(&format!("{release}/manifest.json.dsse"), &envelope);
        home.run(&["verify", &nowhere(), "--manifest", &path])
    };
    assert_eq!(signed(7).0, 2, "believed, and nobody there");
    assert!(
        home.trust_file().starts_with("# mine\n")
            && home.trust_file().contains("release_floor = 7")
    );
    let (code, shown, _) = signed(6);
    assert_eq!(code, 1);
    assert!(shown.contains("lowest accepted, 7"), "{shown}");
}

#[test]
fn a_trust_file_that_cannot_be_read_names_its_line() {
    let home = Home::new();
    home.write(".config/cocoon/trust.toml", b"threshold = 1\nsigner = []\n");
    let path = home.write("manifest.json", &manifest(1));
    let (code, _, error) = home.run(&["verify", &nowhere(), "--manifest", &path]);
    assert_eq!(code, 2);
    assert!(
        error.contains("line 2") && error.contains("unknown field `signer`"),
        "{error}"
    );
}

#[test]
fn a_taken_port_is_named() {
    let home = Home::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let child = home.start("connect", &nowhere(), &["--listen", &address.to_string()]);
    let (code, _, error) = ended(child.wait_with_output().unwrap());
    assert_eq!(code, 2);
    let expected = format!("cocoon: port {} on 127.0.0.1 is in use", address.port());
    assert!(error.contains(&expected), "{error}");
}

#[test]
fn roots_for_real_hardware_cannot_be_named() {
    let home = Home::new();
    let path = home.write("manifest.json", &manifest(1));
    let pin = Hex32::sha256(&std::fs::read(Path::new(&path)).unwrap()).to_string();
    let root = home.write("root.pem", b"no certificate at all");
    let arguments = [
        "verify",
        &nowhere(),
        "--manifest",
        &path,
        "--manifest-sha256",
        &pin,
        "--trust-root",
        &root,
    ];
    let (code, _, error) = home.run(&arguments);
    assert_eq!(code, 2);
    assert!(
        error.contains("is not usable as --trust-root: it holds no certificate in PEM"),
        "{error}"
    );
}

#[test]
fn evidence_that_is_none_is_rejected_offline() {
    let home = Home::new();
    let file = home.write("file", b"nonsense");
    let quote = [
        "appraise",
        "tdx",
        "--quote",
        &file,
        "--collateral",
        &file,
        "--time",
        "1752048802",
    ];
    let report = [
        "appraise",
        "snp",
        "--report",
        &file,
        "--certs",
        &file,
        &file,
        "--time",
        "1752048802",
    ];
    for (arguments, reason) in [
        (&quote[..], "quote"),
        (&report[..], "SNP report has 8 bytes, 1184 expected"),
    ] {
        let (code, shown, _) = home.run(arguments);
        assert_eq!(code, 1);
        assert!(
            shown.starts_with("REJECTED: ") && shown.contains(reason),
            "{shown}"
        );
    }
    let (code, shown, _) = home.run(&[&quote[..], &["--json"]].concat());
    assert_eq!(code, 1);
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(shown["class"], "rejected");
}

#[test]
fn completions_and_bad_firmware() {
    let home = Home::new();
    let (code, script, _) = home.run(&["completions", "bash"]);
    assert!(code == 0 && script.contains("_cocoon()"));
    let file = home.write("firmware", &[0; 4096]);
    for (kind, error) in [
        ("tdx", "the firmware is not sound TDX firmware"),
        ("snp", "the firmware is not sound SEV-SNP firmware"),
    ] {
        let (code, _, shown) = home.run(&[
            "measure",
            kind,
            "--firmware",
            &file,
            "--kernel",
            &file,
            "--vcpus",
            "1",
        ]);
        assert_eq!(code, 2);
        assert!(shown.contains(error), "{shown}");
    }
}

#[test]
fn ctrl_c_ends_a_command_in_good_order() {
    let home = Home::new();
    // Takes connections and never says a word: whoever connected is waiting for the handshake.
    let mute = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}", mute.local_addr().unwrap());
    for (command, arguments) in [
        ("verify", &[][..]),
        ("chat", &["--prompt", "hello"]),
        ("connect", &["--listen", "127.0.0.1:0"]),
    ] {
        let child = home.start(command, &url, arguments);
        let _connection = mute.accept().unwrap();
        interrupt(&child);
        let (code, shown, error) = ended(child.wait_with_output().unwrap());
        assert_eq!((code, shown.as_str()), (130, ""), "{error}");
        assert!(error.ends_with("\ncocoon: stopped by Ctrl-C\n"), "{error}");
    }
}

#[test]
fn what_connect_prints_works_as_printed() {
    let home = Home::new();
    let file = home.write("it's a token", b"a-token-from-a-file-of-its-own\n");
    for arguments in [&[][..], &["--token-file", &file]] {
        let arguments = [&["--listen", "127.0.0.1:0"], arguments].concat();
        let mut child = home.start("connect", &nowhere(), &arguments);
        let mut printed = String::new();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        while !printed.ends_with("Ctrl-C stops the endpoint.\n") {
            assert_ne!(out.read_line(&mut printed).unwrap(), 0, "{printed}");
        }
        // A shell takes it apart, with a `curl` that only tells what it was given.
        let script = printed.replace("Ctrl-C stops the endpoint.", "");
        let script = format!("curl() {{ printf '%s\\n' \"$@\"; }}\n{script}");
        let given = Command::new("sh").args(["-c", &script]).output().unwrap();
        let (code, given, error) = ended(given);
        assert_eq!((code, error.as_str()), (0, ""), "{given}");
        let [url, "-H", authorization, "-H", kind, "-d", body] =
            given.lines().collect::<Vec<_>>()[..]
        else {
            panic!("{given}")
        };
        let url = url.strip_prefix("http://").unwrap();
        let (host, path) = url.split_at(url.find('/').unwrap());
        let mut stream = TcpStream::connect(host).unwrap();
        write!(
            stream,
            "POST {path} HTTP/1.1\r\nHost: {host}\r\n{authorization}\r\n{kind}\r\nConnection: close\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        // Path, token and body are good: only the appliance is missing.
        assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
        assert!(answer.contains("no_appliance_usable"), "{answer}");

        interrupt(&child);
        let (code, _, error) = ended(child.wait_with_output().unwrap());
        assert_eq!(code, 0, "{error}");
        assert!(error.ends_with("stopping\n"), "{error}");
    }
}
