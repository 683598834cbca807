//! `cocoon-host config`, the manual page and the shell completions, as an operator uses them.

use std::path::Path;
use std::process::{Command, Output};

use cocoon_host_agent::config::{EXAMPLE, Problem};
use serde_json::Value;

fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_cocoon-host"))
        .args(arguments)
        .output()
        .unwrap()
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap()
}

/// Returns the example configuration, adapted to a machine of any size and to a folder that exists.
fn fitting(folder: &Path) -> String {
    EXAMPLE
        .replace("/srv/cocoon/appliance", &folder.display().to_string())
        .replace("memory = \"4G\"", "memory = \"256M\"")
        .replace("vcpus = 2", "vcpus = 1")
}

#[test]
fn the_example_is_printed_and_checked() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("host.toml");
    let named = file.display().to_string();
    assert_eq!(text(run(&["config", "example"]).stdout), EXAMPLE);

    std::fs::write(&file, fitting(folder.path())).unwrap();
    let output = run(&["config", "check", &named]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(text(output.stdout), format!("{named} is valid: first\n"));
    let output = run(&["config", "check", &named, "--json"]);
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    let expected = serde_json::json!({
        "file": named, "valid": true, "appliances": ["first"], "problems": [], "warnings": []
    });
    assert_eq!(answer, expected);
}

#[test]
fn what_is_wrong_is_an_answer_and_what_cannot_be_read_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("host.toml");
    let named = file.display().to_string();
    let wrong = fitting(folder.path()).replace("autostart", "autostrat");
    let wrong = wrong.replace("# autostrat", "autostrat");
    std::fs::write(&file, &wrong).unwrap();
    let line = wrong
        .lines()
        .position(|line| line.starts_with("autostrat"))
        .unwrap()
        + 1;
    let output = run(&["config", "check", &named]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = text(output.stdout);
    assert!(
        said.starts_with(&format!(
            "{named}:{line}:1: appliance.autostrat: unknown key; "
        )),
        "{said}"
    );
    assert!(said.ends_with("; did you mean `autostart`?\n"), "{said}");

    let output = run(&["config", "check", &named, "--json"]);
    assert_eq!(output.status.code(), Some(1));
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["valid"], false);
    let problems: Vec<Problem> = serde_json::from_value(answer["problems"].clone()).unwrap();
    let [problem] = &problems[..] else {
        panic!("{problems:?}")
    };
    assert_eq!((problem.line, problem.column), (line, 1));
    assert_eq!(problem.key, "appliance.autostrat");
    assert_eq!(problem.suggestion.as_deref(), Some("`autostart`"));

    let output = run(&["config", "check", "/nonexistent/host.toml"]);
    assert_eq!(output.status.code(), Some(2));
    let said = text(output.stderr);
    assert!(
        said.starts_with("cocoon-host: cannot read \"/nonexistent/host.toml\"; `cocoon-host config example` prints one"),
        "{said}"
    );
}

/// Both are generated from the definition of the command line, so they must list every command.
#[test]
fn manual_and_completions_know_every_command() {
    let help = text(run(&["--help"]).stdout);
    let commands: Vec<&str> = help
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| line.starts_with("  "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .collect();
    assert!(
        commands.contains(&"config") && commands.contains(&"ps"),
        "{commands:?}"
    );
    let manual = text(run(&["man"]).stdout);
    assert!(manual.contains(".TH cocoon-host 1"), "{manual}");
    let shells = ["bash", "zsh", "fish"].map(|shell| text(run(&["completions", shell]).stdout));
    for name in commands {
        // The manual page escapes hyphens.
        let page = format!("cocoon\\-host\\-{}(1)", name.replace('-', "\\-"));
        assert!(manual.contains(&page), "{name} is not in the manual");
        for completions in &shells {
            assert!(completions.contains(name), "{name}");
        }
    }
}
