//! `cocoon translate`, `summarize` and `reply` as people and programs run them: the real command, the real agent, and
//! the real engine with a model that recites the alphabet.
//!
//! For that model every byte is a token, twice the client's estimate for letters. Long texts therefore lead to the
//! appliance's `context_length_exceeded`.

use std::path::PathBuf;
use std::process::Stdio;

use cocoon_protocol::binding::Tee;
use cocoon_protocol::bytes::Hex32;
use cocoon_tests::{alphabet, executables};
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Command;

use crate::appliance::{Appliance, Setup, engine, today};
use crate::machine::{IMAGE, ROOTS};
use crate::skip;

/// An appliance, and the files that the command needs to verify it.
struct Stage {
    appliance: Appliance,
    cocoon: PathBuf,
    folder: TempDir,
}

/// Exit code of a command, and its standard output and error.
struct Ended {
    code: Option<i32>,
    shown: String,
    told: String,
}

impl Stage {
    async fn new() -> anyhow::Result<Self> {
        let engine = engine().await?;
        let folder = tempfile::tempdir()?;
        let model = folder.path().join("model");
        std::fs::create_dir(&model)?;
        std::fs::write(model.join("tiny.gguf"), alphabet::gguf())?;
        let manifest = IMAGE.manifest(today());
        let setup = Setup {
            engine,
            folder: model,
            model: manifest.model.id.clone(),
            slots: 2,
        };
        std::fs::write(folder.path().join("manifest.json"), manifest.to_json())?;
        std::fs::write(folder.path().join("root.pem"), ROOTS.root_pem(Tee::SevSnp)?)?;
        let built = || executables::built("cocoon-client", "cocoon");
        Ok(Self {
            appliance: Appliance::start(setup).await?,
            cocoon: tokio::task::spawn_blocking(built).await??,
            folder,
        })
    }

    /// Runs `cocoon NAME` on `text`.
    async fn run(&self, name: &str, options: &[&str], text: &str) -> Ended {
        let path = |name: &str| self.folder.path().join(name);
        std::fs::write(path("text"), text).unwrap();
        let manifest = std::fs::read(path("manifest.json")).unwrap();
        let output = Command::new(&self.cocoon)
            .args([name, &self.appliance.address.to_string()])
            .arg(path("text"))
            .arg("--manifest")
            .arg(path("manifest.json"))
            .args(["--manifest-sha256", &Hex32::sha256(&manifest).to_string()])
            .arg("--trust-root")
            .arg(path("root.pem"))
            .args(options)
            .env("HOME", self.folder.path())
            .stdin(Stdio::null())
            .output()
            .await
            .unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Ended {
            code: output.status.code(),
            shown: text(output.stdout),
            told: text(output.stderr),
        }
    }

    /// Runs `cocoon NAME --json` on `text`, asserts success, and returns the output.
    async fn json(&self, name: &str, options: &[&str], text: &str) -> Value {
        let ended = self.run(name, &[options, &["--json"]].concat(), text).await;
        assert_eq!(ended.code, Some(0), "{} {}", ended.shown, ended.told);
        assert_eq!(ended.shown.lines().count(), 1, "{}", ended.shown);
        serde_json::from_str(&ended.shown).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_do_what_they_say() {
    let stage = match Stage::new().await {
        Ok(stage) => stage,
        Err(error) => return skip::skipped(format!("the engine cannot be had: {error:#}")),
    };
    translates(&stage).await;
    summarizes(&stage).await;
    replies(&stage).await;
}

async fn translates(stage: &Stage) {
    let line = stage.json("translate", &["--to", "fr"], "Hi").await;
    // Twice the estimated one token, plus 64.
    assert_eq!(line["result"], alphabet::answer(66));
    assert_eq!(
        (&line["class"], &line["complete"]),
        (&"simulated".into(), &false.into())
    );
    assert_eq!(line["usage"]["completion_tokens"], 66);
    assert_eq!(line["parts"].as_array().unwrap().len(), 1);
    assert_eq!(line["error"], Value::Null);

    let text = format!("\n{}\n \n```\ncode\n```\nbye\n", "word ".repeat(8).trim());
    let options = ["--to", "de", "--from", "English", "--max-tokens", "3"];
    let ended = stage.run("translate", &options, &text).await;
    assert_eq!(ended.code, Some(0), "{}", ended.told);
    assert_eq!(ended.shown, "\nabc\n \n```\ncode\n```\nabc\n");
    assert!(ended.told.contains("SIMULATED"), "{}", ended.told);
    assert!(
        ended.told.contains("(cut at the token limit)"),
        "{}",
        ended.told
    );
}

async fn summarizes(stage: &Stage) {
    let line = stage.json("summarize", &["--words", "5"], "short").await;
    assert_eq!(line["parts"].as_array().unwrap().len(), 1);
    let text = "letters upon letters. ".repeat(150);
    let line = stage.json("summarize", &[], &text).await;
    let parts = line["parts"].as_array().unwrap();
    let (last, notes) = parts.split_last().unwrap();
    assert!(
        notes.len() > 3 && notes.iter().all(|part| part["task"] == "notes"),
        "{line}"
    );
    assert_eq!(last["task"], "summarize");
    // The whole text was read, and no part was longer than the model's context.
    let bytes = |part: &Value| part["text_bytes"].as_u64().unwrap();
    assert!(notes.iter().map(bytes).sum::<u64>() >= text.trim().len() as u64 - notes.len() as u64);
    assert!(parts.iter().all(|part| bytes(part) < 1024), "{line}");
    let result = line["result"].as_str().unwrap();
    assert!(
        !result.is_empty() && alphabet::answer(1024).starts_with(result),
        "{line}"
    );
}

async fn replies(stage: &Stage) {
    let options = ["--drafts", "2", "--seed", "5", "--max-tokens", "12"];
    let line = stage
        .json("reply", &options, "Shall we meet at nine?")
        .await;
    let drafts = line["drafts"].as_array().unwrap();
    assert_eq!((drafts.len(), &line["result"]), (2, &Value::Null));
    assert_ne!(drafts[0], drafts[1]);
    let ended = stage.run("reply", &options, "Shall we meet at nine?").await;
    let [one, other] = [0, 1].map(|draft| drafts[draft].as_str().unwrap());
    // The same seed gives the same drafts.
    assert_eq!(ended.shown, format!("{one}\n\n---\n\n{other}\n"));
}
