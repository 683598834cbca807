//! Examines the machine that this program runs on.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, VsockAddr};
use nix::sys::statvfs::statvfs;
use sev::firmware::host::Firmware;

use super::source::{Files, MAX_FILE, Peer, Ran, Refusal, SnpStatus, World};

/// How long a program or a connection may take; NVIDIA's tools start slowly.
const PATIENCE: Duration = Duration::from_secs(20);
/// Maximum length of a program's output in bytes; the kernel's log is the longest.
const MAX_OUTPUT: u64 = 4 << 20;

/// The machine that this program runs on.
#[derive(Debug, Clone, Copy, Default)]
pub struct Real;

impl Files for Real {
    fn read(&self, path: &str) -> Result<Vec<u8>, Refusal> {
        let mut bytes = Vec::new();
        let file = File::open(path).map_err(|error| error.kind())?;
        match file.take(MAX_FILE).read_to_end(&mut bytes) {
            Ok(_) => Ok(bytes),
            Err(error) => Err(error.kind()),
        }
    }

    fn list(&self, path: &str) -> Vec<String> {
        let entries = fs::read_dir(path).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        names.sort();
        names
    }

    fn link(&self, path: &str) -> Option<String> {
        let target = fs::read_link(path).ok()?;
        Some(target.file_name()?.to_str()?.to_owned())
    }

    fn open(&self, path: &str) -> Result<(), Refusal> {
        let opened = OpenOptions::new().read(true).write(true).open(path);
        opened.map(drop).map_err(|error| error.kind())
    }
}

impl World for Real {
    fn run(&self, command: &[&str]) -> Result<Ran, Refusal> {
        run(command).map_err(|error| error.kind())
    }

    fn cpuid(&self, leaf: u32) -> [u32; 4] {
        #[cfg(target_arch = "x86_64")]
        {
            let answer = std::arch::x86_64::__cpuid_count(leaf, 0);
            [answer.eax, answer.ebx, answer.ecx, answer.edx]
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            let _ = leaf;
            [0; 4]
        }
    }

    fn msr(&self, register: u32) -> Option<u64> {
        let mut bytes = [0; 8];
        let file = File::open("/dev/cpu/0/msr").ok()?;
        file.read_exact_at(&mut bytes, register.into()).ok()?;
        Some(u64::from_le_bytes(bytes))
    }

    fn snp_status(&self) -> Result<SnpStatus, String> {
        within(PATIENCE, || {
            let mut firmware = Firmware::open()?;
            let status = firmware.snp_platform_status().map_err(io::Error::other)?;
            Ok(SnpStatus::from(&status))
        })
        .map_err(|error| error.to_string())
    }

    fn connect(&self, to: &Peer) -> Result<(), Refusal> {
        let to = to.clone();
        within(PATIENCE, move || match to {
            Peer::Unix(path) => UnixStream::connect(path).map(drop),
            Peer::Tcp(address) => TcpStream::connect_timeout(&address, PATIENCE).map(drop),
            Peer::Vsock { cid, port } => vsock(cid, port),
        })
        .map_err(|error| error.kind())
    }

    fn listen(&self, address: SocketAddr) -> Result<(), Refusal> {
        let listener = TcpListener::bind(address);
        listener.map(drop).map_err(|error| error.kind())
    }

    fn free(&self, folder: &Path) -> Option<u64> {
        let there = folder.ancestors().find(|folder| folder.exists())?;
        let disk = statvfs(there).ok()?;
        disk.blocks_available().checked_mul(disk.fragment_size())
    }

    fn now(&self) -> u64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        now.unwrap_or_default().as_secs()
    }
}

/// Runs `command` in the C locale, and kills it if it does not end in time.
fn run(command: &[&str]) -> io::Result<Ran> {
    let (program, arguments) = command.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    let (output, both) = io::pipe()?;
    let mut child = {
        // The block drops `command`, and with it the parent's write ends of the pipe.
        let mut command = Command::new(program);
        command.args(arguments).env("LC_ALL", "C");
        command
            .stdin(Stdio::null())
            .stdout(both.try_clone()?)
            .stderr(both);
        command.spawn()?
    };
    let text = within(PATIENCE, move || {
        let mut bytes = Vec::new();
        output.take(MAX_OUTPUT).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    });
    if text.is_err() {
        // The program may have ended meanwhile.
        let _ = child.kill();
    }
    let status = child.wait()?;
    Ok(Ran {
        success: status.success(),
        output: text?,
    })
}

/// Runs `something` that may hang on a thread of its own. A thread that hangs for ever ends with this program.
fn within<T: Send + 'static>(
    patience: Duration,
    something: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        // After the timeout nobody receives the result.
        let _ = sender.send(something());
    });
    receiver
        .recv_timeout(patience)
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

fn vsock(cid: u32, port: u32) -> io::Result<()> {
    let socket = socket::socket(
        AddressFamily::Vsock,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    Ok(socket::connect(
        socket.as_raw_fd(),
        &VsockAddr::new(cid, port),
    )?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_heard_whole_and_their_end_is_told() {
        let both = Real
            .run(&["sh", "-c", "echo out; echo err >&2; exit 3"])
            .unwrap();
        assert_eq!((both.success, both.output.as_str()), (false, "out\nerr\n"));
        assert_eq!(Real.run(&["/nonexistent/program"]), Err(Refusal::NotFound));
        assert_eq!(Real.run(&[]), Err(Refusal::InvalidInput));
    }

    #[test]
    fn what_hangs_is_given_up() {
        let (_never, wait) = mpsc::channel::<()>();
        let error = within(Duration::from_millis(10), move || {
            wait.recv().map_err(io::Error::other)
        });
        assert_eq!(error.unwrap_err().kind(), Refusal::TimedOut);
    }

    #[test]
    fn files_sockets_and_disks_answer() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let peer = Peer::Unix(path.clone());
        assert_eq!(Real.connect(&peer), Err(Refusal::NotFound));
        let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert_eq!(Real.connect(&peer), Ok(()));

        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        assert_eq!(Real.listen(address), Err(Refusal::AddrInUse));
        assert_eq!(Real.connect(&Peer::Tcp(address)), Ok(()));
        drop(listener);
        assert_eq!(Real.listen(address), Ok(()));

        assert_eq!(Real.read("/nonexistent"), Err(Refusal::NotFound));
        assert_eq!(Real.open("/dev/null"), Ok(()));
        assert!(Real.free(&folder.path().join("not/yet/there")).is_some());
        assert!(Real.list("/proc/self/ns").contains(&"net".to_owned()));
        assert!(Real.text("/proc/cpuinfo").unwrap().starts_with("processor"));
    }
}
