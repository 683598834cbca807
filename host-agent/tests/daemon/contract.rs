//! Checks the API against its document: every refusal can occur, and `docs/api.md` lists exactly the codes and fields of the
//! answers.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use cocoon_host_agent::attest::{Asked, Judge, Judging};
use cocoon_host_agent::daemon::End;
use cocoon_host_agent::daemon::api::{Code, Refusal, UpdateRequest, View};
use cocoon_host_agent::doctor::real::Real;
use cocoon_host_agent::lifecycle::{Deadlines, Ending, Lifecycle, State, Then};
use cocoon_host_agent::log::FILE;
use cocoon_host_agent::timings::Step;
use cocoon_host_agent::watch::{Evidence, GpuUse, PhaseTime, Rates, Watch};
use cocoon_measurements::manifest::public_key;
use cocoon_protocol::bytes::Hex;
use cocoon_protocol::control::Metrics;
use cocoon_protocol::gpu::GpuMetrics;
use serde_json::Value;
use tokio::time::timeout;

use crate::hosted::DEADLINE;
use crate::image::{SIGNER, make};
use crate::world::{World, impatient, raw};

const DOCUMENT: &str = include_str!("../../docs/api.md");

const CODES: [Code; 12] = [
    Code::UnknownPath,
    Code::WrongMethod,
    Code::UnknownAppliance,
    Code::UnknownParameter,
    Code::BadParameter,
    Code::UnexpectedBody,
    Code::BadBody,
    Code::Updating,
    Code::UpdateRefused,
    Code::NothingBefore,
    Code::NoLog,
    Code::Ending,
];

/// Returns the index of the code in `CODES`. The exhaustive match makes a new code a compile error here.
fn place(code: Code) -> usize {
    match code {
        Code::UnknownPath => 0,
        Code::WrongMethod => 1,
        Code::UnknownAppliance => 2,
        Code::UnknownParameter => 3,
        Code::BadParameter => 4,
        Code::UnexpectedBody => 5,
        Code::BadBody => 6,
        Code::Updating => 7,
        Code::UpdateRefused => 8,
        Code::NothingBefore => 9,
        Code::NoLog => 10,
        Code::Ending => 11,
    }
}

fn name(code: Code) -> String {
    let name = serde_json::to_value(code).unwrap();
    name.as_str().unwrap().to_owned()
}

/// A judge that never decides, so that an update stays in the phase `Examining`.
struct Undecided;

impl Judge for Undecided {
    fn judge(&self, _asked: Asked) -> Judging {
        Box::pin(std::future::pending())
    }
}

/// Returns a world with one appliance that serves and takes updates.
async fn world(part: &str, deadlines: Deadlines) -> World {
    let head = format!("[updates]\nsigners = [\"{}\"]", Hex(public_key(&SIGNER)));
    let more = "tee = \"simulated-tdx\"";
    let parts = [("first", part)];
    let world = World::of(&parts, &head, more, deadlines, Arc::new(Undecided)).await;
    world.serving("first").await;
    world.part("b/vms/first", "serves");
    world
}

fn newer(world: &World) -> UpdateRequest {
    let image = make(world.path(), "newer", "serves new", 6, &SIGNER);
    UpdateRequest {
        manifest: image.join("manifest.json"),
        ..UpdateRequest::default()
    }
}

/// Sends a request as any program would, and returns the status and the refusal.
async fn refused(root: &Path, request: &str, body: &str) -> (u16, Refusal) {
    let (status, _, body) = raw(root, request, body).await;
    (status, serde_json::from_str(&body).expect(&body))
}

#[tokio::test]
async fn every_code_is_an_answer_with_its_status_and_words() {
    let world = world("serves", Deadlines::default()).await;
    let root = world.root();
    let file = world.file();
    let first = "POST /v1/appliances/first";
    let cases = [
        (
            "GET /v1/nothing".to_owned(),
            "",
            Code::UnknownPath,
            "there is no /v1/nothing: GET /v1 says what this is".to_owned(),
        ),
        (
            "POST /v1".to_owned(),
            "",
            Code::WrongMethod,
            "/v1 is asked with GET".to_owned(),
        ),
        (
            "POST /v1/appliances/second/start".to_owned(),
            "",
            Code::UnknownAppliance,
            format!("{} describes no appliance \"second\"", file.display()),
        ),
        (
            format!("{first}/start?force=true"),
            "",
            Code::UnknownParameter,
            "\"force\" is no parameter of this path".to_owned(),
        ),
        (
            format!("{first}/start?wait=1"),
            "",
            Code::BadParameter,
            "\"wait\" is \"1\"; allowed: true or false".to_owned(),
        ),
        (
            format!("{first}/start"),
            "{}",
            Code::UnexpectedBody,
            "only an update has a body: leave it out".to_owned(),
        ),
        (
            format!("{first}/update"),
            "{\"manifest\": 3}",
            Code::BadBody,
            "the body must be JSON: {\"manifest\": PATH, \"image\": PATH or null, \"drain_first\": true or false, \
             \"policy\": PATH or null}"
                .to_owned(),
        ),
        (
            format!("{first}/update"),
            "{\"manifest\": \"/nowhere\"}",
            Code::UpdateRefused,
            "cannot read \"/nowhere\": No such file or directory (os error 2)".to_owned(),
        ),
        (
            format!("{first}/rollback"),
            "",
            Code::NothingBefore,
            "it was never updated: there is nothing to go back to".to_owned(),
        ),
    ];
    let mut seen = BTreeSet::new();
    for (request, body, code, message) in cases {
        let (status, refusal) = refused(&root, &request, body).await;
        assert_eq!((status, refusal.error.code), (code.status(), code));
        assert_eq!(refusal.error.message, message, "{request}");
        seen.insert(place(code));
    }

    let client = world.client();
    let update = newer(&world);
    let begun = client.post_with::<View>("/v1/appliances/first/update", &update);
    begun.await.unwrap();
    let examined = async {
        while client
            .get::<View>("/v1/appliances/first")
            .await
            .unwrap()
            .update
            .unwrap()
            .update
            .phase
            .name()
            != "examining"
        {
            tokio::task::yield_now().await;
        }
    };
    timeout(DEADLINE, examined).await.unwrap();
    let (status, refusal) = refused(&root, &format!("{first}/restart"), "").await;
    assert_eq!((status, refusal.error.code), (409, Code::Updating));
    assert_eq!(
        refusal.error.message,
        "an update is under way: the new VM serves; its evidence is judged as a client would"
    );
    seen.insert(place(Code::Updating));

    std::fs::remove_file(root.join("vms/first").join(FILE)).unwrap();
    let (status, refusal) = refused(&root, "GET /v1/appliances/first/logs", "").await;
    assert_eq!((status, refusal.error.code), (404, Code::NoLog));
    assert_eq!(
        refusal.error.message,
        "\"first\" has never run: it has no log"
    );
    seen.insert(place(Code::NoLog));
    drop(world);

    seen.insert(ending().await);
    assert_eq!(seen, BTreeSet::from_iter(0..CODES.len()));
}

/// A daemon that is ending finishes running requests and refuses to begin anything. Returns the index of the code.
async fn ending() -> usize {
    let mut world = world("deaf", impatient()).await;
    let root = world.root();
    let asked = async {
        loop {
            let (status, _, body) = raw(&root, "POST /v1/appliances/first/start", "").await;
            if status == 503 {
                return serde_json::from_str::<Refusal>(&body).unwrap();
            }
        }
    };
    let asked = async {
        let said = timeout(DEADLINE, asked).await;
        said.expect("nothing said that the daemon ends")
    };
    let ((), refusal) = tokio::join!(world.end(End::Halt), asked);
    assert_eq!(
        refusal,
        Refusal::new(Code::Ending, "the daemon is ending".to_owned())
    );
    place(refusal.error.code)
}

#[test]
fn the_documents_codes_are_the_codes() {
    for (index, code) in CODES.into_iter().enumerate() {
        assert_eq!(place(code), index);
    }
    let errors = DOCUMENT.split("## Errors").nth(1).unwrap();
    let errors = errors.split("\n## ").next().unwrap();
    let mut stated = BTreeMap::new();
    for row in errors.lines().filter(|line| line.starts_with("| ")) {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let Ok(status) = cells[1].parse::<u16>() else {
            continue;
        };
        for code in cells[2].split(", ") {
            stated.insert(code.trim_matches('`').to_owned(), status);
        }
    }
    let codes = CODES.into_iter().map(|code| (name(code), code.status()));
    assert_eq!(stated, codes.collect());
}

/// Collects every key in `value`, at any depth.
fn keys(value: &Value, into: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                into.insert(key.clone());
                keys(value, into);
            }
        }
        Value::Array(values) => values.iter().for_each(|value| keys(value, into)),
        _ => {}
    }
}

/// Returns the names in back quotes. `life.state` and `.killed` count as the names of their parts.
fn quoted(text: &str) -> BTreeSet<String> {
    let spans = text.split('`').skip(1).step_by(2);
    let words = spans.flat_map(|span| {
        span.split(|c: char| !c.is_ascii_lowercase() && !c.is_ascii_digit() && c != '_')
    });
    words
        .filter(|word| !word.is_empty())
        .map(str::to_owned)
        .collect()
}

/// Returns the names in the first column of the tables in a section.
fn fields(section: &str) -> BTreeSet<String> {
    let section = DOCUMENT.split(section).nth(1).unwrap();
    let section = section.split("\n## ").next().unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    let cells = rows.filter_map(|row| row.split(" | ").next());
    cells.flat_map(quoted).collect()
}

/// Fills in every optional field.
fn whole(mut watch: Watch) -> Watch {
    for one in &mut watch.appliances {
        one.rates = Some(Rates {
            completion_tokens: 0.0,
            prompt_tokens: 0.0,
            requests: 0.0,
            seconds: 0.0,
        });
        one.evidence = Evidence::Taken { at: None };
        one.phases = vec![PhaseTime {
            name: "model".into(),
            from_ms: 0,
            to_ms: None,
        }];
        one.qemu = Some(watch.daemon);
        one.gpus = GpuUse::all(&Real, None, true, &[GpuMetrics::default()]);
        let report = one.view.report.as_mut().unwrap();
        report.metrics = Some(Metrics {
            gpu: Some(Default::default()),
            ..Metrics::default()
        });
        report.gpus = vec![GpuMetrics::default()];
        report.steps = vec![Step {
            name: "model".into(),
            host_ms: 1,
            guest_ms: None,
        }];
        report.ended = Some(Ending::Failed {
            reason: String::new(),
        });
        one.view.previous = Some(one.view.deployment.clone());
    }
    watch
}

#[tokio::test]
async fn the_documents_fields_are_the_fields() {
    let world = world("serves", Deadlines::default()).await;
    let client = world.client();
    let update = newer(&world);
    let path = "/v1/appliances/first/update?wait=false";
    client.post_with::<View>(path, &update).await.unwrap();
    let watch = whole(client.get("/v1/watch").await.unwrap());
    let mut found = BTreeSet::new();
    keys(&serde_json::to_value(&watch).unwrap(), &mut found);
    for state in [
        State::Preparing { restart_at: None },
        State::Draining {
            then: Then::Fail {
                reason: String::new(),
            },
            killed: true,
        },
        State::Stopped { resume: true },
    ] {
        keys(&serde_json::to_value(&state).unwrap(), &mut found);
    }
    let refused = Lifecycle {
        refusals: 1,
        ..world.show("first").await.life
    };
    keys(&serde_json::to_value(&refused).unwrap(), &mut found);
    let mut entry = BTreeSet::new();
    let told = world.journal.after(0).0;
    keys(&serde_json::to_value(&told[0]).unwrap(), &mut entry);
    let mut about = BTreeSet::new();
    let value: Value = client.get("/v1").await.unwrap();
    keys(&value, &mut about);

    let known = quoted(DOCUMENT);
    for fields in [&found, &entry, &about] {
        let missing: Vec<&String> = fields.difference(&known).collect();
        assert!(missing.is_empty(), "not in docs/api.md: {missing:?}");
    }
    let mut stated = fields("## An appliance");
    stated.append(&mut fields("## A moment"));
    let invented: Vec<&String> = stated.difference(&found).collect();
    assert!(invented.is_empty(), "in docs/api.md alone: {invented:?}");
}
