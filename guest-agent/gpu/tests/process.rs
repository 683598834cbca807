//! Tests of the process over a socket pair, with a stand-in for NVIDIA's library that is loaded in the same way.

#[path = "../../../tests/src/absent.rs"]
mod absent;
#[path = "../../../tests/src/skip.rs"]
mod skip;

use std::collections::BTreeSet;
use std::fs;
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use cocoon_protocol::bytes::Hex;
use cocoon_protocol::frame::{self, Decoder};
use cocoon_protocol::gpu::GpuMetrics;
use cocoon_protocol::gpu::collector::{
    COLLECTOR_VERSION, Found, FromCollector, GpuEvent, MAX_FROM_COLLECTOR, MAX_TO_COLLECTOR,
    NvmlCall, NvmlFailure, ReadyState, Shown, ToCollector,
};
use tempfile::TempDir;

/// Longest wait for an answer.
const DEADLINE: Duration = Duration::from_secs(30);

/// A collector and the test's end of its socket.
struct Process {
    child: Child,
    socket: UnixStream,
    decoder: Decoder,
    folder: TempDir,
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail if it has already ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Process {
    /// Starts a collector that finds its library in `library` and the device files of two GPUs.
    fn start(library: Option<&Path>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for minor in 0..2 {
            fs::write(folder.path().join(format!("nvidia{minor}")), b"").unwrap();
        }
        let (socket, theirs) = UnixStream::pair().unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_cocoon-gpu"));
        command
            .arg(folder.path())
            .env_clear()
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stderr(Stdio::piped());
        if let Some(library) = library {
            command.env("LD_LIBRARY_PATH", library);
        }
        Self {
            child: command.spawn().unwrap(),
            socket,
            decoder: Decoder::new(MAX_FROM_COLLECTOR),
            folder,
        }
    }

    fn tell(&mut self, message: &ToCollector) {
        let bytes = frame::encode(message, MAX_TO_COLLECTOR).unwrap();
        self.socket.write_all(&bytes).unwrap();
    }

    /// Returns the next message; `None` when the collector closes the socket.
    fn hear(&mut self) -> Option<FromCollector> {
        let mut chunk = [0; 4096];
        loop {
            if let Some(message) = self.decoder.next::<FromCollector>().unwrap() {
                assert_eq!(message.check(), Ok(()), "{message:?}");
                return Some(message);
            }
            match self.socket.read(&mut chunk) {
                Ok(0) => return None,
                Ok(count) => self.decoder.push(&chunk[..count]),
                // The collector ended with unread data in its socket.
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("{error}"),
            }
        }
    }

    fn attach(&mut self) -> Found {
        self.tell(&ToCollector::Attach {
            version: COLLECTOR_VERSION,
        });
        match self.hear() {
            Some(FromCollector::Attached { version, found }) => {
                assert_eq!(version, COLLECTOR_VERSION);
                found
            }
            other => panic!("{other:?}"),
        }
    }

    /// Returns exit status and error output.
    fn end(mut self) -> (Option<i32>, String) {
        self.socket.shutdown(std::net::Shutdown::Both).unwrap();
        let mut words = String::new();
        let mut stderr = self.child.stderr.take().unwrap();
        stderr.read_to_string(&mut words).unwrap();
        (self.child.wait().unwrap().code(), words)
    }
}

/// Returns a folder with a library compiled with these definitions. Returns `None` if there is no C compiler, which is
/// reported or fails the test, or if the jail is impossible.
fn library(definitions: &[&str]) -> Option<TempDir> {
    if !jailable() {
        return None;
    }
    let folder = tempfile::tempdir().unwrap();
    let source = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/stand_in.c");
    let compiled = Command::new("cc")
        .args(["-shared", "-fPIC", "-w"])
        .args(definitions)
        .arg("-o")
        .arg(folder.path().join("libnvidia-ml.so.1"))
        .arg(source)
        .status();
    match compiled {
        Ok(status) => {
            assert!(status.success(), "cc {status}");
            Some(folder)
        }
        Err(error) => {
            skip::skipped(format_args!(
                "there is no compiler of C to make a stand-in for NVML with ({error})"
            ));
            None
        }
    }
}

#[test]
fn without_a_library_there_is_no_driver() {
    if !jailable() {
        return;
    }
    let mut process = Process::start(None);
    assert_eq!(process.attach(), Found::NoDriver);
    process.tell(&ToCollector::Evidence {
        nonce: Hex([1; 32]),
    });
    let none = FromCollector::Evidence {
        nonce: Hex([1; 32]),
        gpus: Vec::new(),
    };
    assert_eq!(process.hear(), Some(none));
    process.tell(&ToCollector::SetReady { ready: true });
    let unsupported = FromCollector::Ready {
        state: ReadyState::Unsupported,
    };
    assert_eq!(process.hear(), Some(unsupported));
    process.tell(&ToCollector::Metrics);
    let gpus = Vec::new();
    assert_eq!(process.hear(), Some(FromCollector::Metrics { gpus }));
    assert_eq!(process.end(), (Some(0), String::new()));
}

#[test]
fn a_driver_without_its_module_is_none_and_an_old_one_says_so() {
    let (Some(unloaded), Some(old)) = (
        library(&["-DCODE=9", "-DCC=1"]),
        library(&["-DCODE=0", "-DOLD"]),
    ) else {
        return;
    };
    let mut process = Process::start(Some(unloaded.path()));
    assert_eq!(process.attach(), Found::NoDriver);
    let mut process = Process::start(Some(old.path()));
    let driver_version = "580.65.06".to_owned();
    assert_eq!(process.attach(), Found::OldDriver { driver_version });
}

#[test]
fn gpus_with_confidential_computing_show_evidence_and_become_ready() {
    let Some(library) = library(&["-DCODE=0", "-DCC=1"]) else {
        return;
    };
    let mut process = Process::start(Some(library.path()));
    let Found::Gpus { mode, gpus, .. } = process.attach() else {
        panic!("no GPUs");
    };
    assert!(mode.confidential_computing && !mode.developer_mode && !mode.protected_pcie);
    let places: Vec<String> = gpus.iter().map(|gpu| gpu.pci.to_string()).collect();
    assert_eq!(places, ["0000:1b:00.0", "0000:1c:00.0"]);
    assert!(
        gpus.iter()
            .all(|gpu| gpu.device == 0x2330 && !gpu.persistent)
    );
    let nonce = Hex([0xa5; 32]);
    process.tell(&ToCollector::Evidence { nonce });
    let Some(FromCollector::Evidence { nonce: of, gpus }) = process.hear() else {
        panic!("no evidence");
    };
    assert_eq!(of, nonce);
    for (number, shown) in (1..).zip(&gpus) {
        let Shown::Evidence(gpu) = shown else {
            panic!("{shown:?}");
        };
        assert_eq!(gpu.report.0[4..36], nonce.0);
        assert_eq!((gpu.report.0.len(), gpu.report.0[36]), (37, number));
        assert!(
            gpu.chain.ends_with("-----END CERTIFICATE-----\n"),
            "{}",
            gpu.chain
        );
    }
    process.tell(&ToCollector::SetReady { ready: true });
    // The stand-in's second GPU then reports an error, which may overtake the answer.
    let heard = [process.hear(), process.hear()];
    let ready = FromCollector::Ready {
        state: ReadyState::Ready,
    };
    let xid = FromCollector::Event(GpuEvent::Xid {
        gpu: Some(1),
        code: 79,
    });
    for expected in [ready, xid] {
        assert!(heard.contains(&Some(expected)), "{heard:?}");
    }
    process.tell(&ToCollector::Metrics);
    let used = |gib: u64, temperature_celsius| GpuMetrics {
        memory_bytes: Some(80 << 30),
        memory_used_bytes: Some(gib << 30),
        temperature_celsius,
    };
    let gpus = vec![used(1, Some(41)), used(2, None)];
    assert_eq!(process.hear(), Some(FromCollector::Metrics { gpus }));
    process.tell(&ToCollector::SetReady { ready: false });
    let state = ReadyState::NotReady;
    assert_eq!(process.hear(), Some(FromCollector::Ready { state }));
    assert_eq!(process.end(), (Some(0), String::new()));
}

/// Events are received again after the driver failed once.
#[test]
fn errors_are_heard_after_a_failure_to_hear_them() {
    let Some(library) = library(&["-DCODE=0", "-DCC=1", "-DDEAF"]) else {
        return;
    };
    let mut process = Process::start(Some(library.path()));
    assert!(matches!(process.attach(), Found::Gpus { .. }));
    let failure = NvmlFailure {
        call: NvmlCall::Events,
        code: 999,
    };
    let deaf = FromCollector::Event(GpuEvent::Deaf(failure));
    assert_eq!(process.hear(), Some(deaf));
    // The stand-in's second GPU then has an error. It is kept until it is received, and may overtake the answer.
    process.tell(&ToCollector::SetReady { ready: true });
    let heard = [process.hear(), process.hear()];
    let (gpu, code) = (Some(1), 79);
    let xid = FromCollector::Event(GpuEvent::Xid { gpu, code });
    assert!(heard.contains(&Some(xid)), "{heard:?}");
}

#[test]
fn with_confidential_computing_off_a_gpu_says_so() {
    let Some(library) = library(&["-DCODE=0", "-DCC=0"]) else {
        return;
    };
    let mut process = Process::start(Some(library.path()));
    assert!(matches!(process.attach(), Found::Gpus { mode, .. } if !mode.confidential_computing));
    let nonce = Hex([1; 32]);
    process.tell(&ToCollector::Evidence { nonce });
    let gpus = vec![Shown::Off, Shown::Off];
    assert_eq!(
        process.hear(),
        Some(FromCollector::Evidence { nonce, gpus })
    );
}

#[test]
fn an_agent_that_breaks_the_protocol_is_left() {
    if !jailable() {
        return;
    }
    let ended = |messages: &[&[u8]]| {
        let mut process = Process::start(None);
        for message in messages {
            // Fails if the collector ended after an earlier message.
            let _ = process.socket.write_all(message);
        }
        while process.hear().is_some() {}
        process.end()
    };
    let frame = |message: &ToCollector| frame::encode(message, MAX_TO_COLLECTOR).unwrap();
    let attach = frame(&ToCollector::Attach {
        version: COLLECTOR_VERSION,
    });
    let newer = frame(&ToCollector::Attach { version: 9 });
    let ready = frame(&ToCollector::SetReady { ready: true });
    let left = |why: &str| (Some(2), format!("cocoon-gpu: {why}\n"));
    assert_eq!(
        ended(&[&ready]),
        left("the agent broke its protocol: it asks before it attaches")
    );
    assert_eq!(
        ended(&[&attach, &attach]),
        left("the agent broke its protocol: it attaches twice")
    );
    assert_eq!(
        ended(&[&newer]),
        left("the agent speaks version 9 of its protocol, this collector speaks 1")
    );
    assert_eq!(
        ended(&[&[0, 0, 4, 1]]),
        left(
            "the agent broke its protocol: frame of 1025 bytes exceeds the limit of 1024 bytes of this channel"
        )
    );
}

/// Every thread has given up its rights, including threads of the library.
#[test]
fn the_process_is_jailed() {
    if !jailable() {
        return;
    }
    let mut process = Process::start(None);
    process.attach();
    let own = PathBuf::from(format!("/proc/{}", process.child.id()));
    let status = fs::read_to_string(own.join("status")).unwrap();
    let value = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().to_owned()
    };
    assert_eq!(value("NoNewPrivs:"), "1");
    assert_eq!(
        (value("Seccomp:"), value("Seccomp_filters:")),
        ("2".into(), "3".into())
    );
    if value("Uid:") == "0" {
        let names = fs::read_dir(own.join("root")).unwrap();
        let names = names.map(|name| name.unwrap().file_name().into_string().unwrap());
        let names: BTreeSet<String> = names.collect();
        // Also the folder of device files, which is a temporary folder in tests.
        let devices = process.folder.path().components().nth(1).unwrap();
        let devices = devices.as_os_str().to_str().unwrap();
        assert_eq!(names, ["proc", "sys", devices].map(str::to_owned).into());
    }
}

/// Returns whether the jail is possible. As root it requires a root that is a mount; the root of a chroot is a plain folder.
fn jailable() -> bool {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let root = mounts
        .lines()
        .any(|mount| mount.split(' ').nth(4) == Some("/"));
    if nix::unistd::geteuid().is_root() && !root {
        absent::absent("the collector's jail needs a root that is no chroot");
        return false;
    }
    true
}
