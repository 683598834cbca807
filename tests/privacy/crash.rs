//! An engine that crashes on a question, inside a real VM: the client gets an error, the VM continues with another
//! engine, and the question is found nowhere.
//!
//! The engine is a stand-in that only this test's image contains, beside the same agent.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use cocoon_client::AttestedConnection;
use cocoon_host_agent::Progress;
use cocoon_image::build::{self, Build, Life};
use cocoon_image::guest;
use cocoon_image::variant::Variant;
use cocoon_inputs::report::{Reporter, Silent};
use cocoon_inputs::{Keyring, Policy};
use cocoon_protocol::binding::Tee;
use cocoon_protocol::engine::{Costs, FromEngine, ModelInfo, Text};
use cocoon_protocol::openai::{ChatRequest, ErrorBody, FinishReason, Message, Role};
use cocoon_tests::image::{SignedImage, cache, workspace};
use cocoon_tests::trial::{Model, Trial};
use cocoon_tests::{alphabet, now};
use http_body_util::BodyExt as _;
use serde_json::Value;
use tempfile::TempDir;
use tokio::time::timeout;

use crate::canaries::{all_places, found, is_in_none_of};
use crate::wire::Wire;

const CANARY: &str = "Z3mSterbenderSchwan";
/// Id of the model.
const MODEL: &str = "alphabet-f32";
/// Placeholder for the id of a generation.
const ID: u64 = 4_242_424_242;
/// Time limit of a wait on a slow machine.
const DEADLINE: Duration = Duration::from_secs(300);

/// Returns the stand-in's messages: the first one, and those that answer each question.
fn words(model_id: &str) -> anyhow::Result<(String, String)> {
    let ready = FromEngine::Ready(ModelInfo {
        id: model_id.to_owned(),
        context_length: alphabet::CONTEXT,
        quantization: "F32".to_owned(),
        vocabulary: 256,
        costs: Costs::default(),
    });
    let answer = [
        FromEngine::Started {
            id: ID,
            prompt_tokens: 3,
        },
        FromEngine::Delta {
            id: ID,
            text: Text("alive".to_owned()),
            tokens: 1,
            logprobs: vec![],
        },
        FromEngine::Done {
            id: ID,
            finish_reason: FinishReason::Stop,
            prompt_tokens: 3,
            completion_tokens: 1,
        },
    ];
    let answer: Result<Vec<String>, _> = answer.iter().map(serde_json::to_string).collect();
    Ok((serde_json::to_string(&ready)?, answer?.join("\n")))
}

/// Compiles the stand-in to `engine` in `folder`: static and without C, like the agent.
fn engine(folder: &Path, model_id: &str) -> anyhow::Result<()> {
    let (ready, answer) = words(model_id)?;
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("privacy/stand_in/engine.rs");
    let program = folder.join("engine");
    let compiled = Command::new("rustc")
        .args([
            "--edition=2024",
            "--target=x86_64-unknown-linux-musl",
            "-Copt-level=1",
            "-Cpanic=abort",
            "-Clinker=rust-lld",
            "-Clinker-flavor=ld.lld",
            "-Clink-self-contained=yes",
            "-o",
        ])
        .args([&program, &source])
        .envs([("READY", ready), ("ANSWER", answer), ("ID", ID.to_string())])
        .current_dir(workspace())
        .output()?;
    anyhow::ensure!(
        compiled.status.success(),
        "{}",
        String::from_utf8_lossy(&compiled.stderr)
    );
    Ok(())
}

/// Builds the image of these sources with the stand-in in place of the engine.
fn image(folder: &Path) -> anyhow::Result<SignedImage> {
    let reporter: Arc<dyn Reporter> = Arc::new(Silent);
    let binaries = folder.join("binaries");
    std::fs::create_dir(&binaries)?;
    std::fs::write(
        binaries.join(build::AGENT),
        guest::build_agent(&workspace(), &cache()?, &*reporter)?,
    )?;
    engine(&binaries, MODEL)?;
    let model = folder.join("alphabet-f32.gguf");
    std::fs::write(&model, alphabet::gguf())?;
    let what = Build {
        variant: Variant::Cpu,
        source: workspace(),
        cache: cache()?,
        mirrors: vec![],
        keyring: Keyring::debian(),
        policy: Policy::AllowNewest,
        model: Some(model),
        model_id: Some(MODEL.to_owned()),
        binaries: Some(binaries),
        jobs: 1,
    };
    let life = Life {
        release: 1,
        not_before: now(),
        not_after: now() + 86_400,
    };
    let place = folder.join("image");
    build::build(&what, &life, &place, &reporter)?;
    SignedImage::open(&place)
}

fn question(model: &str, text: &str) -> ChatRequest {
    ChatRequest {
        model: model.to_owned(),
        messages: vec![Message {
            role: Role::User,
            content: text.to_owned(),
        }],
        stream: false,
        stream_options: None,
        max_completion_tokens: Some(4),
        max_tokens: None,
        temperature: Some(0.0),
        top_p: None,
        seed: None,
        stop: None,
        padding: None,
    }
}

async fn ask(connection: &mut AttestedConnection, request: &ChatRequest) -> (u16, Vec<u8>) {
    let response = connection.chat(request).await.unwrap();
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap();
    (status, body.to_bytes().to_vec())
}

fn code(body: &[u8]) -> Option<String> {
    serde_json::from_slice::<ErrorBody>(body)
        .unwrap()
        .error
        .code
}

/// Runs the whole test.
pub async fn tells_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().to_owned();
    let image = tokio::task::spawn_blocking(move || image(&place));
    let image = image.await.unwrap().unwrap();
    let vm = boot(&image, &folder).await;
    let wire = Wire::tap(vm.vm.endpoint).await;
    let address = format!("https://{}", wire.address).parse().unwrap();
    let verifier = image.verifier(vm.root().unwrap()).unwrap();
    let mut connection = verifier.connect(&address).await.unwrap();
    let model = &image.manifest.model.id;
    let good = question(model, "Hi");
    let (status, body) = ask(&mut connection, &good).await;
    let answer: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer["choices"][0]["message"]["content"], "alive");

    for (deaths, how) in (1..).zip(["abort", "fault"]) {
        let deadly = question(model, &format!("{how} {CANARY}"));
        let (status, body) = ask(&mut connection, &deadly).await;
        assert_eq!((status, code(&body).as_deref()), (503, Some("engine_died")));
        let told = vm.seen.until(DEADLINE, |progress| match progress {
            Progress::EngineRestarted(count) if *count == deaths => Some(()),
            _ => None,
        });
        told.await.unwrap();

        // On the same connection: the VM continues, and its next engine answers. Until then, each answer is
        // an error in OpenAI's format.
        let served = async {
            loop {
                let (status, body) = ask(&mut connection, &good).await;
                if status == 200 {
                    return serde_json::from_slice::<Value>(&body).unwrap();
                }
                assert_eq!(
                    (status, code(&body).as_deref()),
                    (503, Some("engine_not_ready"))
                );
            }
        };
        let answer = timeout(DEADLINE, served).await.expect("served again");
        assert_eq!(answer["choices"][0]["message"]["content"], "alive");
    }
    let told = vm
        .seen
        .metrics(|metrics| metrics.engine_restarts == 2 && metrics.requests == 5);
    let told = told.await.unwrap();
    assert_eq!((told.requests, told.completion_tokens), (5, 3));

    drop(connection);
    let places = all_places(vm, &wire, told).await;
    // The search finds text that is present, and the crash is visible.
    assert_eq!(found(&places, "cocoon: serving").len(), 2, "console, log");
    assert_eq!(found(&places, "EngineRestarted(2)"), ["news"]);
    is_in_none_of(&places, CANARY);
}

async fn boot(image: &SignedImage, folder: &TempDir) -> cocoon_tests::trial::Appliance {
    let demo = Path::new(env!("CARGO_BIN_EXE_demo"));
    let mut trial = Trial::new(demo, "crash", Tee::Tdx, Model::Alphabet)
        .await
        .unwrap();
    assert!(image.folder.starts_with(folder.path()));
    trial.options.image = image.folder.clone();
    trial.up().await.unwrap()
}
