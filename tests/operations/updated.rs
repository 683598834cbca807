//! Updates with real VMs and simulated evidence, while clients verify and use whichever release they reach. The first
//! update fails, because a client would not accept the new VM's evidence, and is rolled back. The second is to the same
//! image under a newer, signed manifest. No client goes unserved.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use cocoon_client::{Address, ConnectError};
use cocoon_host_agent::client::Client;
use cocoon_host_agent::config::{HostConfig, Machine};
use cocoon_host_agent::daemon::api::{UpdateRequest, View};
use cocoon_host_agent::daemon::{Daemon, End};
use cocoon_host_agent::lifecycle::State;
use cocoon_host_agent::update::{Phase, Way};
use cocoon_measurements::manifest::{public_key, sign};
use cocoon_protocol::bytes::{Hex, Hex32};
use cocoon_protocol::manifest::{Artefact, Manifest};
use cocoon_tests::image::{SignedImage, cache};
use cocoon_tests::trial::{self, Model};
use cocoon_tests::{processes, role};
use tokio::sync::watch;
use tokio::time::timeout;

use super::DEADLINE;

/// Signing key of this test.
const SIGNER: [u8; 32] = [9; 32];

/// Returns the shared image under a manifest of a later release. The folder has links, and `edit`
/// may change manifest and files.
fn newer(
    image: &SignedImage,
    later: u64,
    edit: impl FnOnce(&mut Manifest, &Path),
) -> (tempfile::TempDir, SignedImage) {
    let folder = image.with("manifest.json", None).unwrap();
    let mut manifest = image.manifest.clone();
    manifest.release += later;
    edit(&mut manifest, folder.path());
    let bytes = manifest.to_json();
    let envelope = sign(&bytes, &SIGNER).unwrap();
    std::fs::write(folder.path().join("manifest.json"), &bytes).unwrap();
    let signatures = folder.path().join("manifest.json.dsse");
    let _ = std::fs::remove_file(&signatures);
    std::fs::write(signatures, &envelope).unwrap();
    let newer = SignedImage {
        folder: folder.path().to_owned(),
        manifest,
        bytes,
        envelope,
        signer: public_key(&SIGNER),
    };
    (folder, newer)
}

/// A signer updated a file's digest, but not the reference values that depend on it. Only the evidence reveals that.
fn forgotten(manifest: &mut Manifest, folder: &Path) {
    let edited = manifest.cmdline.replace(" quiet ", " ");
    assert_ne!(edited, manifest.cmdline);
    let path = folder.join("cmdline");
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, &edited).unwrap();
    let artefact = Artefact {
        sha256: Hex32::sha256(edited.as_bytes()),
        size: edited.len() as u64,
    };
    manifest.artefacts.insert("cmdline".to_owned(), artefact);
}

fn file(folder: &Path, image: &SignedImage) -> PathBuf {
    let executable = Path::new(env!("CARGO_BIN_EXE_demo"));
    let simulator = role::simulator_link(executable, folder).unwrap();
    let text = format!(
        "version = 1\nstatus.listen = \"off\"\n[host]\nstate = {:?}\nsimulator = {simulator:?}\ndevelopment_roots = {:?}\n\
         [updates]\nsigners = [\"{}\"]\nallow_unlocked = true\nproving_seconds = 2\n\
         [[appliance]]\nname = \"first\"\nimage = {:?}\nmemory = \"1G\"\nvcpus = 1\ntee = \"simulated-tdx\"\n\
         listen = \"127.0.0.1:0\"\n",
        folder.join("state"),
        cache().unwrap().join("development-roots"),
        Hex(public_key(&SIGNER)),
        image.folder
    );
    let file = folder.join("host.toml");
    std::fs::write(&file, text).unwrap();
    file
}

/// Connects repeatedly as a client, verifies the one image or the other, and lists the models. Returns all errors
/// except a refusal of the other release's manifest.
async fn asks(
    address: Address,
    root: String,
    images: [SignedImage; 2],
    stop: Arc<AtomicBool>,
    by: Arc<[AtomicU32; 2]>,
) -> Vec<String> {
    let verifiers = images.map(|image| image.verifier(&root).unwrap());
    let mut failed = vec![];
    while !stop.load(Ordering::SeqCst) {
        let mut served = false;
        for (verifier, count) in verifiers.iter().zip(by.iter()) {
            match verifier.connect(&address).await {
                Ok(mut connection) => match connection.models().await {
                    Ok(answer) if answer.status() == 200 => {
                        count.fetch_add(1, Ordering::SeqCst);
                        served = true;
                        break;
                    }
                    Ok(answer) => failed.push(answer.status().to_string()),
                    Err(error) => failed.push(error.to_string()),
                },
                Err(error) if is_of_the_other_release(&error) => {}
                Err(error) => failed.push(error.to_string()),
            }
        }
        // The old release is tried first, so that a switch between the two attempts leaves no client without an answer.
        if !served {
            failed.push("neither release".to_owned());
        }
    }
    failed
}

fn is_of_the_other_release(error: &ConnectError) -> bool {
    let Some(verdict) = error.verdict() else {
        return false;
    };
    let failed: Vec<&str> = verdict.failures().map(|check| check.id).collect();
    failed == ["document.manifest"]
}

#[tokio::test(flavor = "multi_thread")]
async fn an_appliance_is_updated_under_its_clients() {
    let _turn = trial::turn(2).await;
    let folder = tempfile::Builder::new()
        .prefix("cocoon-")
        .tempdir()
        .unwrap();
    let image = trial::image(Model::Alphabet).await.unwrap();
    let (_wrong, wrong) = newer(image, 1, forgotten);
    let (_links, newer) = newer(image, 2, |_, _| ());
    let path = file(folder.path(), image);
    let config = HostConfig::load(&path, &Machine::this()).unwrap();
    let supervisor = role::supervisor_link(Path::new(env!("CARGO_BIN_EXE_demo")), folder.path());
    let daemon = Daemon::take(config, &path)
        .unwrap()
        .with_program(supervisor.unwrap());
    let journal = daemon.journal();
    let (end, ended) = watch::channel(None);
    let running = tokio::spawn(daemon.run(ended));
    let client = Client::of(&folder.path().join("state"));

    let show = || client.get::<View>("/v1/appliances/first");
    let until = Instant::now() + DEADLINE;
    let before = loop {
        match show().await {
            Ok(view) if view.life.state == State::Serving => break view,
            _ => assert!(Instant::now() < until, "{:#?}", journal.after(0).0),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    let report = before.report.unwrap();
    let root = std::fs::read_to_string(report.trust_root.unwrap()).unwrap();
    let address: Address = format!("https://{}", report.endpoint.unwrap())
        .parse()
        .unwrap();
    let (stop, by) = (
        Arc::new(AtomicBool::new(false)),
        Arc::<[AtomicU32; 2]>::default(),
    );
    let images = [image.clone(), newer.clone()];
    let asking = tokio::spawn(asks(
        address,
        root,
        images,
        Arc::clone(&stop),
        Arc::clone(&by),
    ));

    let update = async |image: &SignedImage, policy: Option<PathBuf>| {
        let request = UpdateRequest {
            manifest: image.folder.join("manifest.json"),
            policy,
            ..UpdateRequest::default()
        };
        let updated = client.post_with::<View>("/v1/appliances/first/update?wait=true", &request);
        // Includes a boot, and the time that the old VM needs to finish.
        let updated = timeout(DEADLINE * 2, updated).await;
        let updated = updated.unwrap_or_else(|_| panic!("{:#?}", journal.after(0).0));
        updated.unwrap()
    };

    // The files match the signed manifest, and the VM boots and serves, but its evidence does not match the reference values.
    let view = update(&wrong, None).await;
    let reason = "a client would not accept its evidence: RTMR2 (command line, initrd): edited command line: the kernel was started \
        with another one than the manifest's; words missing (-) and added (+): -quiet"
        .to_owned();
    let over = view.update.unwrap().update;
    assert_eq!(
        (&over.phase, over.way),
        (&Phase::Failed { reason }, Way::Beside),
        "{:#?}",
        journal.after(0).0
    );
    assert_eq!(view.deployment.release, Some(image.manifest.release));
    assert_eq!(
        view.report.unwrap().endpoint.unwrap(),
        report.endpoint.unwrap()
    );
    assert_eq!(by[1].load(Ordering::SeqCst), 0);

    // The strictest client policy possible here.
    let policy = folder.path().join("policy.toml");
    let floor = format!("release_floor = {}\n", newer.manifest.release);
    std::fs::write(&policy, floor).unwrap();
    let view = update(&newer, Some(policy.clone())).await;
    let update = view.update.unwrap().update;
    assert_eq!(
        (&update.phase, update.way),
        (&Phase::Done, Way::Beside),
        "{:#?}",
        journal.after(0).0
    );
    assert_eq!(view.deployment.release, Some(newer.manifest.release));
    let said = journal.after(0).0;
    let accepted = format!(
        "its evidence is accepted as simulated (policy {})",
        policy.display()
    );
    assert!(said.iter().any(|entry| entry.text == accepted), "{said:#?}");
    stop.store(true, Ordering::SeqCst);
    let failed = asking.await.unwrap();
    // A client that met the other release was refused for that and served at the next attempt. There were no other errors.
    let (old, new) = (by[0].load(Ordering::SeqCst), by[1].load(Ordering::SeqCst));
    assert!(old > 0 && new > 0, "{old} and {new}: {said:#?}");
    assert_eq!(failed, [""; 0], "{said:#?}");

    end.send(Some(End::Halt)).unwrap();
    timeout(DEADLINE, running).await.unwrap().unwrap();
    assert!(processes::naming(folder.path()).is_empty());
}
