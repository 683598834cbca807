//! Supplying a running guest with collateral: at once from the store, and again after each of its requests.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cocoon_host_agent::collateral::guest::serve;
use cocoon_host_agent::collateral::http::Client;
use cocoon_host_agent::collateral::{Keeper, Store};
use cocoon_measurements::nvidia::simulated::Scene;
use cocoon_measurements::nvidia::simulated::status::Status;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use super::double::{Double, Reply};
use super::nvidia::{DRIVER_RIM, filed, needs, policy, responded};
use super::{keeper, services};

/// Deadline of each wait.
const DEADLINE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_is_handed_what_it_asks_for_and_again_when_it_asks_again() {
    // `serve` uses the system clock.
    let now = cocoon_host_agent::collateral::keeper::clock();
    let scene = Scene::at(now).expect("a scene");
    let answering = Scene::at(now).expect("a scene");
    let double = Double::start(move |asked| {
        let times = cocoon_measurements::nvidia::simulated::status::Times {
            this_update: now - 60,
            next_update: Some(now + 86_400),
        };
        match responded(&answering, asked, Status::Good, times) {
            Some(response) => Reply::body(response),
            None if asked.line.ends_with(DRIVER_RIM) => filed(&answering.rims[0]),
            // There is no manifest of the VBIOS.
            None => Reply::Status(404),
        }
    });
    let (_folder, keeper) = keeper(&double, policy(&scene));
    let wishes = watch::Sender::new(None);
    let (hand, mut handed) = mpsc::channel(4);
    let (tell, mut told) = mpsc::unbounded_channel();
    let serving = tokio::spawn(serve(
        Arc::new(keeper),
        wishes.subscribe(),
        hand,
        move |missing, _| tell.send(missing.to_vec()).expect("a listener"),
    ));
    wishes.send_replace(Some(needs(&scene)));
    let first = timeout(DEADLINE, handed.recv()).await.expect("in time");
    let (cpu, gpu) = first.expect("parts");
    assert_eq!(cpu, None);
    let gpu = gpu.expect("of the GPU");
    assert_eq!(gpu.rims, scene.rims[..1]);
    let missing = timeout(DEADLINE, told.recv())
        .await
        .expect("in time")
        .expect("told");
    let titles: Vec<&str> = missing.iter().map(|(title, _)| title.as_str()).collect();
    assert_eq!(
        titles,
        ["NVIDIA, manifest NV_GPU_VBIOS_1010_0200_882_96005E0001"]
    );
    // A repeated request is answered from the store, but not before the minimum pause between two lookups is over.
    double.take();
    let asked = Instant::now();
    wishes.send_replace(Some(needs(&scene)));
    let again = timeout(DEADLINE, handed.recv()).await.expect("in time");
    assert_eq!(again.expect("parts").1, Some(gpu));
    assert!(
        asked.elapsed() >= Duration::from_secs(4),
        "{:?}",
        asked.elapsed()
    );
    assert_eq!(double.lines(), Vec::<String>::new());
    // The guest is gone.
    drop(wishes);
    timeout(DEADLINE, serving)
        .await
        .expect("in time")
        .expect("an end");
}

/// Shows that a guest does not wait for services that hang: it first gets what is kept, even if that is due for renewal.
#[tokio::test(flavor = "multi_thread")]
async fn a_guest_has_what_is_kept_before_anybody_answers() {
    let now = cocoon_host_agent::collateral::keeper::clock();
    let scene = Scene::at(now).expect("a scene");
    let answering = Scene::at(now).expect("a scene");
    // Older than the 12 hours after which a response is renewed.
    let earlier = now - 13 * 3600;
    let double = Double::start(move |asked| {
        let times = cocoon_measurements::nvidia::simulated::status::Times {
            this_update: earlier - 60,
            next_update: Some(now + 86_400),
        };
        match responded(&answering, asked, Status::Good, times) {
            Some(response) => Reply::body(response),
            None if asked.line.ends_with(DRIVER_RIM) => filed(&answering.rims[0]),
            None => filed(&answering.rims[1]),
        }
    });
    let (folder, first) = keeper(&double, policy(&scene));
    let kept = first.gather(&needs(&scene), earlier).expect("collateral");
    assert!(kept.gpu_whole && kept.next <= now, "{:?}", kept.missing);

    let (release, held) = std::sync::mpsc::channel::<()>();
    let (knock, mut knocks) = mpsc::unbounded_channel();
    let hanging = Double::start(move |_| {
        knock.send(()).expect("a listener");
        // Blocks until the sender is dropped.
        let _ = held.recv();
        Reply::Status(503)
    });
    let store = Store::open(folder.path()).expect("a store");
    let patient = Client::with_patience(10 * DEADLINE);
    let keeper = Keeper::new(store, services(&hanging), patient, policy(&scene));
    let wishes = watch::Sender::new(Some(needs(&scene)));
    let (hand, mut handed) = mpsc::channel(4);
    let serving = tokio::spawn(serve(Arc::new(keeper), wishes.subscribe(), hand, |_, _| {}));
    let given = timeout(DEADLINE, handed.recv()).await.expect("in time");
    assert_eq!(given.expect("parts").1, kept.gpu);
    // The service is asked nevertheless.
    let knocked = timeout(DEADLINE, knocks.recv()).await.expect("in time");
    assert_eq!(knocked, Some(()));
    drop((release, wishes));
    timeout(DEADLINE, serving)
        .await
        .expect("in time")
        .expect("an end");
}

/// A guest keeps its complete collateral if parts of it can no longer be obtained.
#[tokio::test(flavor = "multi_thread")]
async fn a_guest_is_never_handed_less_than_it_had() {
    let now = cocoon_host_agent::collateral::keeper::clock();
    let scene = Scene::at(now).expect("a scene");
    let answering = Scene::at(now).expect("a scene");
    let gone = Arc::new(AtomicBool::new(false));
    let away = Arc::clone(&gone);
    let double = Double::start(move |asked| {
        let times = cocoon_measurements::nvidia::simulated::status::Times {
            this_update: now - 60,
            next_update: Some(now + 86_400),
        };
        match responded(&answering, asked, Status::Good, times) {
            _ if away.load(Ordering::Relaxed) => Reply::Status(503),
            Some(response) => Reply::body(response),
            None if asked.line.ends_with(DRIVER_RIM) => filed(&answering.rims[0]),
            None => filed(&answering.rims[1]),
        }
    });
    let (folder, keeper) = keeper(&double, policy(&scene));
    let wishes = watch::Sender::new(None);
    let (hand, mut handed) = mpsc::channel(4);
    let (tell, mut told) = mpsc::unbounded_channel();
    let serving = tokio::spawn(serve(
        Arc::new(keeper),
        wishes.subscribe(),
        hand,
        move |missing, _| tell.send(missing.len()).expect("a listener"),
    ));
    wishes.send_replace(Some(needs(&scene)));
    let first = timeout(DEADLINE, handed.recv()).await.expect("in time");
    let whole = first.expect("parts").1.expect("of the GPU");
    assert_eq!((whole.rims.len(), whole.ocsp.len()), (2, 6));
    assert_eq!(
        timeout(DEADLINE, told.recv()).await.expect("in time"),
        Some(0)
    );
    // The kept responses are deleted, and the service no longer answers.
    gone.store(true, Ordering::Relaxed);
    for entry in std::fs::read_dir(folder.path().join("entries")).expect("a folder") {
        let path = entry.expect("an entry").path();
        if std::fs::read_to_string(&path)
            .expect("text")
            .contains("ocsp")
        {
            std::fs::remove_file(path).expect("removed");
        }
    }
    wishes.send_replace(Some(needs(&scene)));
    let again = timeout(DEADLINE, handed.recv()).await.expect("in time");
    assert_eq!(again.expect("parts").1, Some(whole));
    assert_eq!(
        timeout(DEADLINE, told.recv()).await.expect("in time"),
        Some(6)
    );
    drop(wishes);
    timeout(DEADLINE, serving)
        .await
        .expect("in time")
        .expect("an end");
}
