//! Tests with supervisors that live, that have ended, and that only seem to live.

use std::process::Command;

use tokio::net::UnixListener;

use super::*;

/// Returns a state folder with the VM `first` in it, and that VM's folder.
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
    // Process id 0 names no process: the test must not have one killed.
    let pid = 0;
    let report = Report {
        pid,
        ..Report::first(1)
    };
    let bytes = frame::encode(&report, MAX_MESSAGE).unwrap();
    stream.write_all(&bytes).await.unwrap();
}

/// The socket of a process that is being killed still accepts connections.
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
        // The connection is accepted, but nothing is sent on it.
        socket.accept().await.unwrap();
        drop(socket);
    };
    let (heard, ()) = tokio::join!(link.next(), dying);
    assert_eq!(reason(heard), "its supervisor ended");
}

/// The next VM needs its memory, its ports and its GPU.
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
