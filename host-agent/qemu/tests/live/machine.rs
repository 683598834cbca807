//! Tests with a real machine: start, QMP commands and events, and its end.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::guest::{IMAGE, PATIENCE, Running, filled, guest, qemu, start};
use cocoon_qemu::find::MINIMUM;
use cocoon_qemu::process::{SpawnError, StoppedBy};
use cocoon_qemu::qmp::{Event, RunState};
use cocoon_qemu::spec::*;
use cocoon_qemu::{Accel, Qemu, Vm, VmSpec};

#[tokio::test]
async fn a_machine_is_started_asked_and_ended() {
    let Some(qemu) = qemu().await else { return };
    let Running {
        vm, qmp, folder, ..
    } = start(&qemu).await;
    assert_eq!(qmp.version(), qemu.version);
    assert_eq!(qmp.status().await.expect("a state"), RunState::Running);
    let pid = std::fs::read_to_string(folder.path().join("pid")).expect("a pid file");
    assert_eq!(pid.trim(), vm.pid().to_string());

    let port = qmp.forwarded_port(8443).await.expect("a port");
    tokio::net::TcpStream::connect(("127.0.0.1", port))
        .await
        .expect("somebody listens there");
    let error = qmp
        .forwarded_port(8444)
        .await
        .expect_err("no such forwarding");
    assert_eq!(
        error.to_string(),
        "QEMU forwards no host port to the guest's port 8444"
    );

    let mut events = qmp.events();
    let pid = vm.pid();
    let stopped = vm.stop(Some(&qmp), PATIENCE).await.expect("ended");
    assert_eq!(stopped.by, StoppedBy::Quit);
    assert!(
        stopped.status.is_some_and(|status| status.success()),
        "{stopped:?}"
    );
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
    let shutdown = Event::Shutdown {
        guest: false,
        reason: "host-qmp-quit".into(),
    };
    let mut seen = Vec::new();
    while let Ok(event) = events.recv().await {
        seen.push(event);
    }
    assert!(seen.contains(&shutdown), "{seen:?}");
}

#[tokio::test]
async fn it_has_exactly_the_files_it_was_given() {
    let Some(qemu) = qemu().await else { return };
    // A file that a careless start would let QEMU inherit.
    let stray = filled(b"stray");
    nix::fcntl::fcntl(
        &stray,
        nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty()),
    )
    .expect("inheritable");
    let Running { vm, kernel, .. } = start(&qemu).await;
    let folder = PathBuf::from(format!("/proc/{}/fd", vm.pid()));
    assert_eq!(
        std::fs::read(folder.join(kernel.to_string())).expect("the kernel"),
        guest()
    );
    let inode = |path: &Path| {
        std::fs::metadata(path)
            .map(|file| std::os::unix::fs::MetadataExt::ino(&file))
            .ok()
    };
    let strays = inode(&PathBuf::from(format!(
        "/proc/self/fd/{}",
        stray.as_raw_fd()
    )));
    let files = std::fs::read_dir(&folder).expect("its files");
    assert!(
        files.flatten().all(|file| inode(&file.path()) != strays),
        "the stray file was inherited"
    );
}

#[tokio::test]
async fn a_disk_can_be_swapped_and_its_counters_read() {
    let Some(qemu) = qemu().await else { return };
    let Running {
        vm, qmp, folder, ..
    } = start(&qemu).await;
    let before = qmp.block_stats().await.expect("counters");
    assert_eq!(
        before
            .iter()
            .map(|disk| disk.node.as_str())
            .collect::<Vec<_>>(),
        ["model"]
    );
    assert_eq!(before[0].written_bytes, 0);
    assert_eq!(
        qmp.block_stats().await.expect("counters"),
        before,
        "nobody reads"
    );
    let other = folder.path().join("other, image");
    std::fs::write(&other, vec![1; IMAGE.len()]).expect("an image");
    qmp.swap_disk("model", &other).await.expect("swapped");
    assert_eq!(
        qmp.block_stats().await.expect("counters")[0].node,
        "model-swapped"
    );
    let error = qmp
        .device_del("disk-model")
        .await
        .expect_err("the root bus holds it");
    assert!(
        error.to_string().starts_with(
            "QEMU refused device_del: GenericError: Bus 'pcie.0' does not support hot"
        )
    );
    vm.stop(Some(&qmp), PATIENCE).await.expect("ended");
}

#[tokio::test]
async fn a_port_can_be_unplugged() {
    let Some(qemu) = qemu().await else { return };
    let Running { qmp, .. } = &start(&qemu).await;
    let mut events = qmp.events();
    qmp.device_del("control").await.expect("unplugged");
    let gone = Event::DeviceDeleted {
        device: Some("control".into()),
    };
    let wait = async { while events.recv().await.expect("an event") != gone {} };
    tokio::time::timeout(PATIENCE, wait)
        .await
        .expect("gone in time");
}

#[tokio::test]
async fn without_qmp_a_signal_ends_it_and_dropping_kills_it() {
    let Some(qemu) = qemu().await else { return };
    let Running { vm, .. } = start(&qemu).await;
    let stopped = vm.stop(None, PATIENCE).await.expect("ended");
    assert_eq!(stopped.by, StoppedBy::Terminate);
    let Running { vm, qmp, .. } = start(&qemu).await;
    let pid = vm.pid();
    drop(vm);
    gone(pid);
    assert!(qmp.status().await.is_err());
}

#[tokio::test]
async fn what_qemu_refuses_is_in_its_diagnostics() {
    let Some(qemu) = qemu().await else { return };
    let spec = VmSpec {
        kernel: Blob::Path("/nonexistent/kernel".into()),
        ..bare()
    };
    let vm = Vm::spawn(&qemu, &spec, Vec::new()).expect("started");
    let status = tokio::time::timeout(PATIENCE, vm.wait())
        .await
        .expect("ends by itself");
    assert_eq!(status.and_then(|status| status.code()), Some(1));
    assert!(
        vm.diagnostics()
            .contains("could not open kernel file '/nonexistent/kernel'"),
        "{}",
        vm.diagnostics()
    );
}

#[tokio::test]
async fn descriptors_must_match_the_specification() {
    let nowhere = Qemu {
        version: MINIMUM,
        program: vec!["/nonexistent/qemu".into()],
        data: Vec::new(),
        environment: Vec::new(),
        origin: cocoon_qemu::find::Origin::Named("/nonexistent/qemu".into()),
    };
    let file = filled(b"x");
    let fd = file.as_raw_fd();
    let named = VmSpec {
        kernel: Blob::Descriptor(fd),
        ..bare()
    };
    assert!(
        matches!(Vm::spawn(&nowhere, &named, Vec::new()), Err(SpawnError::Missing(n)) if n == fd)
    );
    assert!(
        matches!(Vm::spawn(&nowhere, &bare(), vec![file]), Err(SpawnError::Unnamed(n)) if n == fd)
    );
    let error = Vm::spawn(&nowhere, &bare(), Vec::new()).expect_err("no such program");
    assert!(
        matches!(error, SpawnError::Start { source, .. } if source.kind() == std::io::ErrorKind::NotFound)
    );
}

/// The owner dies without a chance to clean up. The test runs itself as the owner.
#[tokio::test]
async fn it_dies_with_its_owner() {
    if std::env::var_os("LIVE_OWNER").is_some() {
        let qemu = qemu().await.expect("the caller found one");
        let running = start(&qemu).await;
        // The caller finds this line among those of the test harness.
        println!("\nowned {}", running.vm.pid());
        std::io::stdout().flush().expect("told");
        std::future::pending::<()>().await;
    }
    if qemu().await.is_none() {
        return;
    }
    let mut owner = Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "machine::it_dies_with_its_owner", "--nocapture"])
        .env("LIVE_OWNER", "1")
        .stdout(Stdio::piped())
        .spawn()
        .expect("an owner");
    let lines = BufReader::new(owner.stdout.take().expect("its output").take(1 << 20)).lines();
    let pid = lines
        .map_while(Result::ok)
        .find_map(|line| line.strip_prefix("owned ")?.parse().ok());
    let pid: u32 = pid.expect("the owner started a machine");
    assert!(Path::new(&format!("/proc/{pid}")).exists());
    owner.kill().expect("killed");
    owner.wait().expect("reaped");
    gone(pid);
}

/// Waits until no living process has this id. A zombie that another process must reap counts as dead.
fn gone(pid: u32) {
    let begin = Instant::now();
    let dead = || match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => stat
            .rsplit(')')
            .next()
            .is_some_and(|rest| rest.trim_start().starts_with(['Z', 'X'])),
        Err(_) => true,
    };
    while !dead() {
        assert!(begin.elapsed() < PATIENCE, "process {pid} lives on");
        std::thread::yield_now();
    }
}

fn bare() -> VmSpec {
    VmSpec {
        name: "bare".into(),
        accel: Accel::Emulated,
        confidential: Confidential::None,
        vcpus: 1,
        memory_mib: 64,
        placement: Placement::default(),
        firmware: None,
        kernel: Blob::Path("/dev/null".into()),
        initrd: None,
        cmdline: String::new(),
        disks: Vec::new(),
        control: None,
        console: Console::Discard,
        network: None,
        gpu: None,
        qmp: None,
        pid_file: None,
    }
}
