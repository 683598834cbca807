//! Tests of the output and exit status of the `cocoon` command.

mod home;
mod receipts;
mod releases;
mod texts;
mod trusting;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};

use cocoon_protocol::bytes::Hex32;

use crate::home::{Home, ended, interrupt, nowhere};

#[test]
fn wrong_usage_is_2() {
    let home = Home::new();
    assert_eq!(home.run(&["verify"]).0, 2);
    let (code, _, error) = home.run(&["verify", "http://a.example", "--manifest", "m"]);
    assert_eq!(code, 2);
    assert_eq!(
        error,
        "error: invalid value 'http://a.example' for '<URL>': `http://a.example` is not an appliance's address: the scheme is not https; write https://HOST:PORT\n\n\
         For more information, try '--help'.\n"
    );
    let (code, _, error) =
        home.run(&["verify", "https://a.example", "--manifest", "/no/such/file"]);
    assert_eq!(code, 2);
    assert_eq!(
        error,
        "cocoon: cannot read manifest /no/such/file: No such file or directory (os error 2)\n"
    );
}

#[test]
fn an_appliance_that_is_not_there_is_2() {
    let home = Home::new();
    for (command, first) in [("verify", ""), ("chat", "no appliance can be used: ")] {
        let url = nowhere();
        let child = home.start(command, &url, &[]);
        let (code, _, error) = ended(child.wait_with_output().unwrap());
        assert_eq!(code, 2, "{error}");
        assert_eq!(
            error,
            format!(
                "attesting {url} …\ncocoon: {first}cannot reach {url}: check the address, and that the appliance is serving: Connection \
                 refused (os error 111)\n"
            )
        );
    }
}

/// A standard error that cannot be written to does not change the exit status.
#[test]
fn errors_that_cannot_be_shown_change_nothing() {
    let home = Home::new();
    let full = || std::fs::File::options().write(true).open("/dev/full");
    let path = home.write("manifest.json", &home::manifest(1));
    let pin = Hex32::sha256(&home::manifest(1)).to_string();
    for (command, code) in [("verify", 2), ("chat", 2)] {
        let arguments = [command, &nowhere(), "--manifest", &path];
        let mut command = home.command(&arguments);
        command.args(["--manifest-sha256", &pin]);
        let status = command
            .stderr(full().unwrap())
            .stdin(Stdio::null())
            .status();
        assert_eq!(status.unwrap().code(), Some(code));
    }
}

#[test]
fn a_taken_port_is_named() {
    let home = Home::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let child = home.start("connect", &nowhere(), &["--listen", &address.to_string()]);
    let (code, _, error) = ended(child.wait_with_output().unwrap());
    assert_eq!(code, 2);
    assert_eq!(
        error,
        format!(
            "cocoon: port {} on 127.0.0.1 is in use: stop the program that holds it, or choose another with --listen\n",
            address.port()
        )
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
        (
            &quote[..],
            "TDX quote cannot be decoded: Could not decode `Header::qe_svn`: Not enough data to fill buffer",
        ),
        (&report[..], "SNP report has 8 bytes, 1184 expected"),
    ] {
        let (code, shown, _) = home.run(arguments);
        assert_eq!(code, 1);
        assert_eq!(
            shown.lines().next(),
            Some(format!("REJECTED: {reason}").as_str()),
            "{shown}"
        );
    }
    let (code, shown, _) = home.run(&[&quote[..], &["--json"]].concat());
    assert_eq!(code, 1);
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(shown["class"], "rejected");
    assert_eq!(shown["checks"][0]["id"], "evidence.signature");
    assert_eq!(shown["checks"][0]["cause"], shown["reason"]);
}

#[test]
fn completions_and_bad_firmware() {
    let home = Home::new();
    let (code, script, _) = home.run(&["completions", "bash"]);
    assert!(code == 0 && script.contains("_cocoon()"));
    let file = home.write("firmware", &[0; 4096]);
    for (kind, error) in [
        (
            "tdx",
            "the firmware is not sound TDX firmware: cannot find TDX metadata: firmware has no GUID table: \
             96b582de-1fb2-45f7-baea-a366c55a082d expected at offset 0xfd0; use an OVMF image built for TDX or SEV",
        ),
        (
            "snp",
            "the firmware is not sound SEV-SNP firmware: cannot find SEV metadata: firmware has no GUID table: \
             96b582de-1fb2-45f7-baea-a366c55a082d expected at offset 0xfd0; use an OVMF image built for TDX or SEV",
        ),
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
        assert_eq!(shown, format!("cocoon: {error}\n"));
    }
}

#[test]
fn ctrl_c_ends_a_command_in_good_order() {
    let home = Home::new();
    // Accepts connections but never answers, so that clients wait for the handshake.
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
        assert_eq!(
            error,
            format!("attesting {url} …\n\ncocoon: stopped by Ctrl-C\n")
        );
    }
}

/// Ctrl-C also ends the fetching of a manifest.
#[test]
fn ctrl_c_ends_a_fetch() {
    let home = Home::new();
    let mute = TcpListener::bind("127.0.0.1:0").unwrap();
    let manifest = format!("http://{}/manifest.json", mute.local_addr().unwrap());
    let text = home.write("text", b"Good morning");
    let url = nowhere();
    for arguments in [
        &["verify", &*url][..],
        &["chat", &url, "--prompt", "hello"],
        &["chat", &url, "--prompt", "hello", "--json"],
        &["connect", &url],
        &["translate", &url, &text, "--to", "fr"],
    ] {
        let mut command = home.command(arguments);
        command.args(["--manifest", &manifest]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn().unwrap();
        let _connection = mute.accept().unwrap();
        interrupt(&child);
        let ended = ended(child.wait_with_output().unwrap());
        let stopped = "\ncocoon: stopped by Ctrl-C\n";
        assert_eq!(
            ended,
            (130, String::new(), stopped.to_owned()),
            "{arguments:?}"
        );
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
        // Runs the printed commands in a shell, with a `curl` that only prints its arguments.
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
        // Path, token and body are accepted; only the appliance is missing.
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 502 Bad Gateway\r\n"), "{head}");
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(body["error"]["code"], "no_appliance_usable");

        interrupt(&child);
        let (code, _, error) = ended(child.wait_with_output().unwrap());
        assert_eq!(code, 0, "{error}");
        assert!(error.ends_with("stopping\n"), "{error}");
    }
}
