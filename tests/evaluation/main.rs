//! Measures how well a model translates messages. The tests do not judge the scores, which are for people to read. They
//! show that the scores can be trusted: the sentences are complete, the script sends the requests of `cocoon
//! translate`, and its scores are those of sacrebleu.
//!
//! `sacrebleu` is installed into the cache from its registry, from a lock file with hashes. Where that fails, the test prints
//! `SKIPPED` with the reason; with `COCOON_NO_SKIP=1` in the environment, as in continuous integration, it fails.
//!
//! With `--ignored --nocapture`, the engine that the image build left in the cache translates all sentences with the
//! default model, and the table is printed; see `README.md` in this folder.

#[path = "../openai/appliance.rs"]
#[expect(dead_code, reason = "other tests use more of it")]
mod appliance;
mod commands;
mod copyist;
#[path = "../attestation/image.rs"]
mod image;
#[path = "../attestation/machine.rs"]
#[expect(dead_code, reason = "the tests of evidence use more of it")]
mod machine;
mod model;
mod script;
mod sentences;
#[path = "../src/skip.rs"]
mod skip;

use cocoon_client::ChatOptions;
use cocoon_client::messenger::Task;
use serde_json::Value;

use appliance::Appliance;
use copyist::Copyist;
use sentences::{LANGUAGES, sentences};

const TOKEN: &str = "a-token-that-a-person-chose";

#[test]
fn the_sentences_are_whole() {
    let all = sentences();
    assert_eq!(all.len(), 40);
    let mut seen = std::collections::HashSet::new();
    for row in &all {
        for text in row {
            assert_eq!(text.trim(), text);
            assert!(!text.is_empty() && seen.insert(text), "twice: {text}");
        }
        // Links and names must be the same in every language.
        for kept in row[0].split(' ').filter(|word| {
            word.starts_with(['@', 'h']) && (word.starts_with('@') || word.contains("://"))
        }) {
            assert!(row.iter().all(|text| text.contains(kept)), "{kept}");
        }
    }
}

/// The script sends the same requests as `cocoon translate`.
#[test]
fn the_script_asks_what_the_client_asks() {
    let asked = script::requests("m").unwrap();
    let options = ChatOptions {
        model: "m".into(),
        max_tokens: Some(200),
        ..ChatOptions::default()
    };
    let mut expected = Vec::new();
    for language in &LANGUAGES[1..] {
        let task = Task::Translate {
            to: language.parse().unwrap(),
            from: None,
        };
        for row in sentences() {
            let mut request = task.request(&options, &row[0]);
            (request.stream, request.stream_options) = (false, None);
            expected.push(serde_json::to_value(&request).unwrap());
        }
    }
    let plain: Vec<Value> = asked.lines().map(plain).collect();
    assert_eq!(plain, expected);
}

/// Normalises a request: without `stream` the answer comes whole, and a temperature of 0 equals 0.0.
fn plain(line: &str) -> Value {
    let mut request: Value = serde_json::from_str(line).unwrap();
    assert_eq!(request["temperature"], 0);
    request["temperature"] = 0.0.into();
    request["stream"] = false.into();
    request
}

/// Perfect, copied and missing translations get the scores that are known for them.
#[tokio::test(flavor = "multi_thread")]
async fn scores_are_right_where_they_are_known() {
    let python = match script::install().await {
        Ok(python) => python,
        Err(error) => return skip::skipped(format!("sacrebleu cannot be had: {error:#}")),
    };
    let copyist = Copyist::start(TOKEN).await;
    let told = script::evaluate(&python, &copyist.url, TOKEN, "m", &["--json"]).await;
    let report: Value = serde_json::from_str(&told.unwrap()).unwrap();
    assert_eq!(
        (&report["model"], &report["sentences"]),
        (&"m".into(), &40.into())
    );
    let row = |language: &str| {
        let row = &report["languages"][language];
        let score = |name: &str| row[name].as_f64().unwrap();
        (score("chrf"), score("bleu"), row["cut"].as_u64().unwrap())
    };
    // The translation itself, the English text, nothing, and the translation reported as cut.
    assert_eq!(row("fr"), (100.0, 100.0, 0));
    let (chrf, bleu, cut) = row("de");
    assert!(
        chrf > 1.0 && chrf < 50.0 && bleu < 20.0 && cut == 0,
        "{chrf} {bleu}"
    );
    assert_eq!(row("es"), (0.0, 0.0, 0));
    assert_eq!(row("ru"), (100.0, 100.0, 40));
    assert_eq!(report["languages"]["fr"]["completion_tokens"], 40 * 7);
    let signature = report["signatures"]["bleu"].as_str().unwrap();
    assert!(signature.contains("nrefs:1|case:mixed"), "{signature}");

    let told = script::evaluate(&python, &copyist.url, TOKEN, "m", &["--to", "fr"]).await;
    let table = told.unwrap();
    assert!(
        table.starts_with("m: 40 sentences from English\n"),
        "{table}"
    );
    assert!(
        table.contains("French     100.00 100.00    0     280"),
        "{table}"
    );
    assert!(!table.contains("German"), "{table}");

    let refused = script::evaluate(&python, &copyist.url, "another", "m", &[]).await;
    let error = refused.unwrap_err().to_string();
    assert!(
        error.contains("the endpoint answers with status 401"),
        "{error}"
    );
}

/// Prints the table of the default model, or of the GGUF file that `COCOON_TEST_MODEL` names.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes, and asserts nothing about the figures"]
async fn figures_of_a_model() {
    let python = script::install().await.unwrap();
    let setup = model::setup().await.unwrap();
    let name = setup.model.clone();
    let appliance = Appliance::start(setup).await.unwrap();
    let url = appliance::endpoint(&appliance, TOKEN).await.unwrap();
    let told = script::evaluate(&python, &url, TOKEN, &name, &[])
        .await
        .unwrap();
    println!("{told}");
}
