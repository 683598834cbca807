//! Supervisors that are there, are not, and seem to be.

use std::process::Command;

use tokio::net::UnixListener;

use super::*;

/// A folder of state with the VM `first` in it, and that VM's folder.
fn place() -> (tempfile::TempDir, PathBuf) {
    let root = tempfile::tempdir().unwrap();
    let folder = state::prepare(root.path(), "first").unwrap();
    (root, folder)
}

fn reason(heard: Heard) -> String {
    match heard {
        Heard::Ended(Ending::Failed { reason }) => reason,
        other => panic!("{other:?}"),
    }
}

async fn report(stream: &mut UnixStream) {
    // Of nobody's process: who does not end in time is killed.
    let pid = 0;
    let report = Report {
        pid,
        ..Report::first(1)
    };
    let bytes = frame::encode(&report, MAX_MESSAGE).unwrap();
    stream.write_all(&bytes).await.unwrap();
}

/// The queue of a socket whose process is being killed takes connections, too.
#[tokio::test]
async fn a_supervisor_is_back_when_it_speaks_and_not_when_its_socket_is_there() {
    let (root, folder) = place();
    let socket = UnixListener::bind(folder.join(SOCKET)).unwrap();
    let mut link = Link::find(root.path(), "first", 1).await.unwrap();
    assert!(!link.is_orphan());
    let (mut first, _) = socket.accept().await.unwrap();
    report(&mut first).await;
    assert!(matches!(link.next().await, Heard::Report(_)));

    drop(first);
    let speaking = async {
        let (mut second, _) = socket.accept().await.unwrap();
        report(&mut second).await;
        second
    };
    let (heard, second) = tokio::join!(link.next(), speaking);
    assert!(matches!(heard, Heard::Back), "{heard:?}");
    assert!(matches!(link.next().await, Heard::Report(_)));

    drop(second);
    let dying = async {
        // It is connected to, and nobody is there.
        socket.accept().await.unwrap();
        drop(socket);
    };
    let (heard, ()) = tokio::join!(link.next(), dying);
    assert_eq!(reason(heard), "its supervisor ended");
}

/// Whoever comes after it needs its memory, its ports and its GPU.
#[tokio::test]
async fn a_machine_without_its_supervisor_is_waited_for() {
    let (root, folder) = place();
    let find = || Link::find(root.path(), "first", 1);
    let gone = || Ending::Failed {
        reason: GONE.to_owned(),
    };
    assert_eq!(find().await.err(), Some(gone()));

    let mut machine = Command::new("sleep").arg("600").spawn().unwrap();
    state::write(
        &folder.join("qemu.pid"),
        format!("{}\n", machine.id()).as_bytes(),
    )
    .unwrap();
    let mut link = find().await.unwrap();
    assert!(link.is_orphan());
    assert!(timeout(Duration::ZERO, link.next()).await.is_err());
    machine.kill().unwrap();
    assert_eq!(reason(link.next().await), GONE);
    machine.wait().unwrap();
    assert_eq!(find().await.err(), Some(gone()));
}
