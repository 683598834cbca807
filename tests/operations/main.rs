//! Operating real VMs: inspecting one, starting a second of the same name, shutting one down while it answers, giving up on
//! one that is still booting or hangs, a killed daemon, updates, an interrupted demo, and the README's own commands.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use cocoon_host_agent::state::{self, VmFolder};
use cocoon_host_agent::timings::Step;
use cocoon_host_agent::{Progress, local, log};
use cocoon_protocol::binding::Tee;
use cocoon_protocol::control::Phase;
use cocoon_protocol::manifest::manifest_id;
use cocoon_tests::trial::{Model, Trial};
use cocoon_tests::{alphabet, processes};
use tokio::sync::oneshot;

#[path = "../src/absent.rs"]
mod absent;
mod by_hand;
mod demonstrated;
mod hanging;
mod interrupted;
mod kept;
mod passt;
#[path = "../src/skip.rs"]
mod skip;
mod updated;

/// Time limit of every wait, on a slow and busy machine.
const DEADLINE: Duration = Duration::from_secs(300);

async fn trial(name: &str) -> Trial {
    let demo = Path::new(env!("CARGO_BIN_EXE_demo"));
    let trial = Trial::new(demo, name, Tee::Tdx, Model::Alphabet).await;
    trial.unwrap()
}

/// `ps`, `down` and the files behind them.
#[tokio::test(flavor = "multi_thread")]
async fn a_vm_is_looked_at_and_drained() {
    let trial = trial("operated").await;
    let root = trial.options.state.clone();
    let mut vm = trial.up().await.unwrap();
    assert_eq!(state::names(&root).unwrap(), ["operated"]);
    let socket = vm.folder.join("ctl");
    let status = local::status(&socket).await.unwrap();
    assert_eq!(
        (status.name.as_str(), status.doing.as_str()),
        ("operated", "serving")
    );
    assert_eq!(status.endpoint, vm.vm.endpoint.to_string());
    assert_eq!(status.simulated.as_deref(), Some("tdx"));
    assert_eq!(status.qemu_pid, Some(vm.vm.qemu_pid));
    assert_eq!(status.manifest_id, manifest_id(&vm.image.bytes).to_string());
    let steps = std::fs::read(vm.folder.join("phases.json")).unwrap();
    let steps: Vec<Step> = serde_json::from_slice(&steps).unwrap();
    assert_eq!(steps, vm.vm.timings().steps());
    let names: Vec<&str> = steps.iter().map(|step| step.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "hello",
            "configuration",
            "model",
            "keys",
            "evidence",
            "engine",
            // When the phase began and when it was complete.
            "serving",
            "serving"
        ]
    );
    assert!(steps.is_sorted_by_key(|step| step.host_ms));
    assert_eq!(
        VmFolder::take(&root, "operated").unwrap_err().to_string(),
        "a VM named \"operated\" is running already: choose another --name, or stop that one with `cocoon-host down`"
    );

    the_log_is_of_both_sides(&vm.folder);
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&vm.folder), mode(&socket)), (0o700, 0o600));

    // An answer in progress is completed after `down`, and no new client is served.
    let (begun, begins) = oneshot::channel();
    let mut conversation = vm.conversation(60).unwrap();
    let talking = tokio::spawn(async move {
        let (mut answer, mut begun) = (String::new(), Some(begun));
        let ending = conversation.ask("Hi", |piece| {
            answer.push_str(piece);
            begun.take().map(|begun| begun.send(()));
        });
        ending.await.unwrap();
        answer
    });
    begins.await.unwrap();
    local::down(&socket, DEADLINE).await.unwrap();
    assert_eq!(talking.await.unwrap(), alphabet::answer(60));
    vm.vm.wait().await.unwrap();
    assert!(processes::naming(&vm.folder).is_empty());
    let refused = vm.verifier().unwrap().connect(&vm.address().unwrap()).await;
    assert!(refused.is_err());
    assert!(local::status(&socket).await.is_err());
    for gone in ["ctl", "sim", "qemu.pid", "host.pid"] {
        assert!(!vm.folder.join(gone).exists(), "{gone}");
    }
    for kept in [
        "serial.log",
        "phases.json",
        "trust-root.pem",
        "manifest.json",
    ] {
        assert!(vm.folder.join(kept).is_file(), "{kept}");
    }
}

/// Asserts that the log, as printed by `logs --json`, has the guest's console and the host's events in order of arrival.
fn the_log_is_of_both_sides(folder: &Path) {
    let text = std::fs::read_to_string(folder.join(log::FILE)).unwrap();
    let entries: Vec<log::Entry> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let holds = |source, text: &str| {
        let mut found = entries.iter();
        found.any(|entry| entry.source == source && entry.text == text)
    };
    assert!(holds(log::Source::Console, "cocoon: serving"), "{text}");
    assert!(holds(log::Source::Host, "phase model"), "{text}");
    assert!(entries.is_sorted_by_key(|entry| entry.time), "{text}");
}

/// A boot whose future is dropped leaves no process behind, not even a zombie.
#[tokio::test(flavor = "multi_thread")]
async fn a_boot_that_is_given_up_leaves_nothing() {
    let trial = trial("given-up").await;
    let (seen, folder) = (trial.seen.clone(), trial.folder());
    let booting = tokio::spawn(trial.up());
    let pid = seen.until(DEADLINE, |progress| match progress {
        Progress::Started(pid) => Some(*pid),
        _ => None,
    });
    let pid = pid.await.unwrap();
    let phase = seen.until(DEADLINE, |progress| match progress {
        Progress::Phase { phase, .. } => Some(*phase),
        _ => None,
    });
    assert_eq!(phase.await.unwrap(), Phase::Configuration);
    let running = processes::naming(&folder);
    assert!(running.len() == 2 && running.contains(&pid), "{running:?}");
    booting.abort();
    assert!(booting.await.is_err_and(|error| error.is_cancelled()));
    // The VM's owner is a separate task, which ends at its next step.
    let gone = async {
        while running.iter().any(|pid| processes::exists(*pid)) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, gone).await.unwrap();
}
