//! Tests of `cocoon translate`, `summarize` and `reply`: input, refusals and their output.

use std::io::Write as _;
use std::net::TcpListener;
use std::process::Stdio;

use cocoon_protocol::bytes::Hex32;

use crate::home::{Home, ended, interrupt, manifest, nowhere};

/// Returns arguments that make the manifest of release 1 trusted.
fn believed(home: &Home) -> [String; 4] {
    let bytes = manifest(1);
    let path = home.write("manifest.json", &bytes);
    let pin = Hex32::sha256(&bytes).to_string();
    ["--manifest".into(), path, "--manifest-sha256".into(), pin]
}

/// Runs a command with `text` on standard input.
fn run(home: &Home, arguments: &[&str], text: &[u8]) -> (i32, String, String) {
    let flags = believed(home);
    let mut child = home
        .command(arguments)
        .args(&flags)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that refuses its arguments reads nothing.
    let _ = child.stdin.take().unwrap().write_all(text);
    ended(child.wait_with_output().unwrap())
}

#[test]
fn wrong_usage_names_what_is_wrong() {
    let home = Home::new();
    let url = nowhere();
    let file = home.write("one.txt", b"hello");
    let other = home.write("two.txt", b"hello");
    let two = format!("one text at a time: {file} and {other} are two files");
    let behind = format!("{url} stands after the file {file}: name appliances first");
    for (arguments, error) in [
        (&["translate", &url][..], "--to <LANG>"),
        (
            &["translate", &url, "--to", "Frnech"],
            "`Frnech` names no language",
        ),
        (
            &["translate", &url, "--to", "fr", "--from", "x"],
            "`x` names no language",
        ),
        (&["summarize"], "<URL|FILE>..."),
        (
            &["summarize", &file],
            "no appliance is named: write https://HOST:PORT",
        ),
        (&["summarize", &url, &file, &other], &two),
        (&["summarize", &file, &url], &behind),
        (
            &["summarize", "http://a.example", &file],
            "the scheme is not https",
        ),
        (
            &["summarize", &url, "--words", "0"],
            "0 is not in 1..=10000",
        ),
        (
            &["summarize", &url, "--style", "poem"],
            "paragraph, points, sentence",
        ),
        (&["reply", &url, "--drafts", "9"], "9 is not in 1..=8"),
        (
            &["reply", &url, "--tone", "rude"],
            "same, friendly, formal, brief",
        ),
        (
            &["translate", &url, "--to", "fr", "--receipts-with-text"],
            "--receipts <DIR>",
        ),
    ] {
        let (code, shown, told) = run(&home, arguments, b"hello");
        assert_eq!((code, &*shown), (2, ""), "{arguments:?}");
        assert!(told.contains(error), "{error} in {told}");
    }
}

#[test]
fn texts_that_cannot_be_read_are_named() {
    let home = Home::new();
    let url = nowhere();
    let missing = home.path("none.txt").display().to_string();
    let binary = home.write("binary", b"abc\xff");
    let empty = home.write("empty", b" \n");
    let long = home.write("long", &vec![b'a'; 1024 * 1024 + 1]);
    for (file, error) in [
        (&missing, format!("cannot read {missing}: No such file")),
        (
            &binary,
            format!("{binary} is not text in UTF-8: see byte 3"),
        ),
        (&empty, format!("{empty} holds no text")),
        (
            &long,
            format!("{long} has more than 1048576 bytes: divide it"),
        ),
    ] {
        let (code, shown, told) = run(&home, &["summarize", &url, file], b"");
        assert_eq!((code, &*shown), (2, ""), "{told}");
        assert!(told.starts_with(&format!("cocoon: {error}")), "{told}");
    }
    for arguments in [&["reply", &url][..], &["reply", &url, "-"]] {
        let (code, _, told) = run(&home, arguments, b"\n");
        assert_eq!(code, 2);
        assert_eq!(told, "cocoon: standard input holds no text\n");
    }
}

/// The text is read first, from a file or standard input; then the missing appliance is reported.
#[test]
fn an_appliance_that_is_not_there_is_2() {
    let home = Home::new();
    let url = nowhere();
    let file = home.write("text", "Grüße 👋".as_bytes());
    for arguments in [
        &["translate", &url, "--to", "fr"][..],
        &["summarize", &url, &file],
        &["reply", &url, "-"],
    ] {
        let (code, shown, told) = run(&home, arguments, b"hello");
        assert_eq!((code, &*shown), (2, ""), "{told}");
        assert!(told.contains("cannot reach https://127.0.0.1:"), "{told}");
        let (code, shown, _) = run(&home, &[arguments, &["--json"]].concat(), b"hello");
        let line: serde_json::Value = serde_json::from_str(&shown).unwrap();
        assert_eq!((code, shown.lines().count()), (2, 1), "{shown}");
        assert_eq!(line["task"], arguments[0]);
        assert_eq!(
            (&line["url"], &line["class"]),
            (&(&*url).into(), &serde_json::Value::Null)
        );
        assert!(
            line["error"]
                .as_str()
                .unwrap()
                .contains("Connection refused"),
            "{line}"
        );
    }
}

/// An untrusted manifest gives exit status 1 with the verdict, and no text is sent.
#[test]
fn a_manifest_that_does_not_count_is_1() {
    let home = Home::new();
    let path = home.write("manifest.json", &manifest(1));
    let text = home.write("text", b"hello");
    let url = nowhere();
    let arguments = ["reply", &url, &text, "--manifest", &path];
    let (code, shown, told) = home.run(&arguments);
    assert_eq!((code, &*shown), (1, ""));
    assert!(told.contains("no signer is trusted"), "{told}");
    let (code, shown, _) = home.run(&[&arguments[..], &["--json"]].concat());
    assert_eq!(code, 1);
    let line: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(
        (&line["class"], &line["accepted"]),
        (&"rejected".into(), &false.into())
    );
    assert_eq!(line["verdict"]["checks"][0]["id"], "manifest.trust");
}

#[test]
fn ctrl_c_ends_it_in_good_order() {
    let home = Home::new();
    let text = home.write("text", b"hello");
    // Accepts connections but never answers.
    let mute = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}", mute.local_addr().unwrap());
    let child = home.start("translate", &url, &["--to", "fr", &text]);
    let _connection = mute.accept().unwrap();
    interrupt(&child);
    let (code, shown, error) = ended(child.wait_with_output().unwrap());
    assert_eq!((code, shown.as_str()), (130, ""), "{error}");
    assert!(error.ends_with("\ncocoon: stopped by Ctrl-C\n"), "{error}");
}

#[test]
fn help_and_completions_know_them() {
    let home = Home::new();
    let (code, script, _) = home.run(&["completions", "bash"]);
    assert_eq!(code, 0);
    let (_, help, _) = home.run(&["--help"]);
    for command in ["translate", "summarize", "reply"] {
        assert!(script.contains(&format!("cocoon,{command})")), "{command}");
        assert!(
            help.contains(&format!("  {command} ")),
            "{command} in {help}"
        );
        let (code, own, _) = home.run(&[command, "--help"]);
        assert_eq!(code, 0);
        let usage = format!("Usage: cocoon {command} [OPTIONS] --manifest <FILE>");
        assert!(
            own.contains(&usage) && own.contains("<URL>... [FILE|-]"),
            "{own}"
        );
        assert!(own.contains("--receipts <DIR>"), "{own}");
    }
}
