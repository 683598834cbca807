//! Updates that are refused before anything happens, each with its reason, and updates that go back.

use std::path::Path;

use cocoon_host_agent::daemon::End;
use cocoon_host_agent::daemon::api::{Code, UpdateRequest};
use cocoon_host_agent::daemon::journal::UPDATE_FAILED;
use cocoon_host_agent::lifecycle::State;
use cocoon_host_agent::update::Phase;

use crate::image::make;
use crate::load::Load;
use crate::world::{World, line};

/// Key of a signer that the configuration file does not name.
const STRANGER: [u8; 32] = [8; 32];

async fn refusal(world: &World, image: &Path) -> String {
    let error = world.update(image, false, true).await.unwrap_err();
    assert_eq!(error.code(), Some(Code::UpdateRefused));
    error.to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_not_run_is_refused_with_its_reason_and_changes_nothing() {
    let world = World::new("serves old", "").await;
    let before = world.serving("first").await;

    let unsigned = world.image("unsigned", "serves new", 6);
    std::fs::remove_file(unsigned.join("manifest.json.dsse")).unwrap();
    let said = refusal(&world, &unsigned).await;
    let expected = "is not signed: get its signature file (manifest.json.dsse), or pin its hash if you built it yourself";
    assert!(said.ends_with(expected), "{said}");

    let foreign = make(world.path(), "foreign", "serves new", 6, &STRANGER);
    let said = refusal(&world, &foreign).await;
    assert!(
        said.contains(" is signed by nobody you trust: signed by "),
        "{said}"
    );

    let older = world.image("older", "serves new", 4);
    let said = refusal(&world, &older).await;
    let expected = "is of release 4, older than the lowest accepted, 5: the image was rolled back; the operator has to update";
    assert!(said.ends_with(expected), "{said}");

    let changed = world.image("changed", "serves new", 6);
    let kernel = changed.join("vmlinuz");
    let size = std::fs::metadata(&kernel).unwrap().len();
    std::fs::write(&kernel, "longer than it was, and other").unwrap();
    let said = refusal(&world, &changed).await;
    let expected = format!(
        "{kernel:?} is not the file that the manifest names: it has 29 bytes, expected are {size}; take image and manifest \
         from the same release"
    );
    assert_eq!(said, expected);
    std::fs::write(&kernel, "x".repeat(usize::try_from(size).unwrap())).unwrap();
    let said = refusal(&world, &changed).await;
    assert!(
        said.contains(" is not the file that the manifest names: its SHA-256 is "),
        "{said}"
    );

    let missing = world.path().join("missing");
    let said = refusal(&world, &missing).await;
    let expected = format!("cannot read {:?}", missing.join("manifest.json"));
    assert!(
        said.starts_with(&expected) && said.ends_with(": No such file or directory (os error 2)"),
        "{said}"
    );

    let error = world.post("first/rollback").await.unwrap_err();
    assert_eq!(error.code(), Some(Code::NothingBefore));
    assert_eq!(
        error.to_string(),
        "it was never updated: there is nothing to go back to"
    );

    let after = world.show("first").await;
    assert_eq!(after, before);
}

/// The new VM is refused or fails. The old one serves as before, and the reason is reported.
#[tokio::test(flavor = "multi_thread")]
async fn an_update_that_fails_goes_back_and_disturbs_nobody() {
    let world = World::new("serves old", "").await;
    let before = world.serving("first").await;
    let address = before
        .report
        .as_ref()
        .unwrap()
        .endpoint
        .unwrap()
        .to_string();
    let load = Load::on(&world, address.clone());
    let cases = [
        (
            "refused new",
            "a client would not accept its evidence: refused",
        ),
        (
            "fails model",
            "the guest failed in phase model: as it was told",
        ),
    ];
    for (number, (words, expected)) in cases.into_iter().enumerate() {
        let image = world.image(&format!("image-{number}"), words, 6);
        let view = world.update(&image, false, true).await.unwrap();
        let Phase::Failed { reason } = &view.update.as_ref().unwrap().update.phase else {
            panic!("{view:#?}")
        };
        assert!(reason.contains(expected), "{reason}");
        assert_eq!(
            (&view.deployment, &view.life),
            (&before.deployment, &before.life)
        );
        assert_eq!(view.update.unwrap().life, None);
    }
    let failed = world.told().into_iter();
    let failed: Vec<String> = failed
        .filter(|entry| entry.state == UPDATE_FAILED)
        .map(|entry| entry.text)
        .collect();
    assert_eq!(failed.len(), 2, "{failed:?}");
    assert!(failed[0].contains(cases[0].1) && failed[1].contains(cases[1].1));
    let got = load.end().await;
    assert_eq!(got.failed, [""; 0], "{:#?}", world.told());
    assert_eq!(got.answers.keys().collect::<Vec<_>>(), ["old"]);
    assert_eq!(world.show("first").await.report, before.report);
    // Nothing of the new VMs is left.
    let socket = world.root().join("b/vms/first/sup");
    assert!(tokio::net::UnixStream::connect(socket).await.is_err());
}

/// An invalid policy is reported before anything ends. A valid one is passed to the judge.
#[tokio::test(flavor = "multi_thread")]
async fn evidence_is_judged_by_the_policy_that_was_named_and_floors_hold_for_rollbacks() {
    let mut world = World::new("serves old", "").await;
    let before = world.serving("first").await;
    let policy = world.path().join("policy.toml");
    let request = UpdateRequest {
        manifest: world.image("newer", "serves new", 6).join("manifest.json"),
        policy: Some(policy.clone()),
        ..UpdateRequest::default()
    };
    std::fs::write(&policy, "[policy]\nmachnes = []\n").unwrap();
    let error = world.ask(request.clone(), true).await.unwrap_err();
    assert_eq!(error.code(), Some(Code::UpdateRefused));
    let (said, expected) = (
        error.to_string(),
        format!("{policy:?} is not a policy of the client's: "),
    );
    assert!(
        said.starts_with(&expected) && said.contains("unknown field `machnes`"),
        "{said}"
    );
    assert_eq!(world.show("first").await, before);

    std::fs::write(&policy, "release_floor = 6\n").unwrap();
    let view = world.ask(request, true).await.unwrap();
    let update = view.update.unwrap().update;
    assert_eq!(
        (&update.phase, &update.policy),
        (&Phase::Done, &Some(policy.clone()))
    );
    assert_eq!(
        *world.judge.policies.lock().unwrap(),
        [Some(policy.clone())]
    );

    // The file names the same policy, and a floor above the previous release.
    world.end(End::Leave).await;
    let more = format!("proving_seconds = 1\npolicy = {policy:?}\nrelease_floor = 6");
    world.edit("proving_seconds = 1", &more);
    world.begin();
    let before = world.serving("first").await;
    let error = world.post("first/rollback").await.unwrap_err();
    assert_eq!(error.code(), Some(Code::UpdateRefused));
    assert_eq!(
        error.to_string(),
        "it ran release 5 before, and clients refuse what is older than 6, the release_floor of [updates]: lower that and \
         start the daemon again if yours do not, or `cocoon-host update` to a newer image"
    );
    assert_eq!(world.show("first").await.update, before.update);
    let newest = world.image("newest", "serves newest", 7);
    world.update(&newest, false, true).await.unwrap();
    assert_eq!(
        world.judge.policies.lock().unwrap().last(),
        Some(&Some(policy))
    );
}

/// Every client would refuse the expired manifest, so the running VM is not ended for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_to_a_manifest_that_has_ended_is_refused_before_anything_happens() {
    let world = World::new("serves old", "autostart = false").await;
    let path = world.path().join("image-first/manifest.json");
    let text = std::fs::read_to_string(&path).unwrap();
    let manifest: serde_json::Value = serde_json::from_str(&text).unwrap();
    let [begin, end] = ["not_before", "not_after"].map(|key| manifest[key].as_u64().unwrap());
    // A second after its beginning, which is in the past.
    let ended = text.replace(&end.to_string(), &(begin + 1).to_string());
    std::fs::write(&path, ended).unwrap();
    world.post("first/start?wait=true").await.unwrap();
    let newer = world.image("newer", "serves new", 6);
    world.update(&newer, false, true).await.unwrap();
    let before = world.show("first").await;

    let rollback = world.post("first/rollback?wait=true&drain_first=true");
    let error = rollback.await.unwrap_err();
    assert_eq!(error.code(), Some(Code::UpdateRefused));
    let said = error.to_string();
    assert!(
        said.starts_with("the manifest of what it ran before ended on ")
            && said.ends_with(", and clients refuse it: `cocoon-host update` takes a newer image"),
        "{said}"
    );
    let after = world.show("first").await;
    assert_eq!((after.life, after.update), (before.life, before.update));
}

/// During an update, every command is refused except `stop`, which ends both VMs.
#[tokio::test(flavor = "multi_thread")]
async fn an_update_under_way_refuses_other_orders_but_to_stop() {
    let world = World::new("serves old", "").await;
    world.serving("first").await;
    let newer = world.image("newer", "waits new", 6);
    world.update(&newer, false, false).await.unwrap();
    world.phase("starting").await;
    for path in ["first/start", "first/restart", "first/rollback"] {
        let error = world.post(path).await.unwrap_err();
        let expected = match path {
            "first/rollback" => Code::NothingBefore,
            _ => Code::Updating,
        };
        assert_eq!(error.code(), Some(expected), "{path}: {error}");
    }
    let error = world.update(&newer, false, false).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "an update is under way: the new VM boots beside the old one, which serves"
    );
    let view = world.post("first/stop?wait=true").await.unwrap();
    assert_eq!(view.life.state, State::Stopped { resume: false });
    let reason = "the operator stopped the appliance".to_owned();
    assert_eq!(view.update.unwrap().update.phase, Phase::Failed { reason });
    let view = world.post("first/start?wait=true").await.unwrap();
    let address = view.report.unwrap().endpoint.unwrap().to_string();
    assert_eq!(line(&address, "still").await.unwrap(), "old still");
}

/// Of two updates at once, the one to the older release is checked for longer. What counts is the release that runs by then.
#[tokio::test(flavor = "multi_thread")]
async fn an_older_release_is_refused_also_when_the_newer_one_came_while_it_was_checked() {
    let world = World::new("serves old", "").await;
    world.serving("first").await;
    let (newer, older) = (
        world.image("newer", "serves newer", 7),
        world.image("older", "serves older", 6),
    );
    let manifest = older.join("manifest.json");
    let bytes = std::fs::read(&manifest).unwrap();
    std::fs::remove_file(&manifest).unwrap();
    nix::unistd::mkfifo(&manifest, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let asked = async {
        let error = world.update(&older, false, true).await.unwrap_err();
        assert_eq!(error.code(), Some(Code::UpdateRefused));
        error.to_string()
    };
    let meanwhile = async {
        // The pipe opens once the daemon reads it. By then the daemon has looked up the running release.
        let pipe = tokio::task::spawn_blocking(move || std::fs::File::create(manifest));
        let mut pipe = pipe.await.unwrap().unwrap();
        let view = world.update(&newer, false, true).await.unwrap();
        assert_eq!(view.deployment.release, Some(7));
        std::io::Write::write_all(&mut pipe, &bytes).unwrap();
    };
    let (said, ()) = tokio::join!(asked, meanwhile);
    assert_eq!(
        said,
        "it is of release 6, and by now release 7 runs: another update came while this one was checked; \
         take a manifest of release 7 or later, or `cocoon-host rollback first` for the one that ran before"
    );
    assert_eq!(world.show("first").await.deployment.release, Some(7));
}
