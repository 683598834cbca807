//! An appliance behind passt, set up as by an operator: a client verifies it and gets an answer, all through passt.

use std::fs::{self, File, Permissions};
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use cocoon_host_agent::config::Network;
use cocoon_inputs::unpack::{Limits, Node, unpack_deb};
use cocoon_inputs::{Cache, Fetcher, Lock, Mirrors, Options, Policy, report};
use cocoon_tests::alphabet;

use super::absent::absent;
use super::skip::skipped;
use super::{DEADLINE, trial};

/// A running passt, killed on drop.
struct Passt {
    process: Child,
    socket: PathBuf,
    relay: SocketAddr,
}

impl Passt {
    /// Starts `program` as described in `host-agent/docs/tee-hosts.md`. The error says why it does not run on this machine.
    fn start(program: &Path, folder: &Path) -> Result<Self, String> {
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let relay = free.local_addr().unwrap();
        drop(free);
        let (socket, words) = (folder.join("passt.sock"), folder.join("passt.log"));
        let mut command = Command::new(program);
        command
            .args(["--foreground", "--stderr", "--socket"])
            .arg(&socket)
            .args([
                "--address",
                "10.0.2.15",
                "--netmask",
                "24",
                "--gateway",
                "10.0.2.2",
            ])
            .args(["--no-map-gw", "--no-dhcp", "--no-dhcpv6"])
            .args(["--no-ra", "--no-ndp", "--udp-ports", "none"])
            .arg("--tcp-ports")
            .arg(format!("127.0.0.1/{}:8443", relay.port()))
            .stderr(File::create(&words).unwrap());
        if fs::metadata(folder).unwrap().uid() == 0 {
            // Otherwise passt runs as the user nobody, who may not create a socket here.
            command.args(["--runas", "0:0"]);
        }
        let process = command.spawn();
        let process = process.map_err(|error| format!("{}: {error}", program.display()))?;
        let mut passt = Self {
            process,
            socket,
            relay,
        };
        let until = Instant::now() + DEADLINE;
        while !passt.socket.exists() {
            if let Some(status) = passt.process.try_wait().unwrap() {
                let said = fs::read_to_string(words).unwrap_or_default();
                return Err(format!("passt ended with {status}: {}", said.trim()));
            }
            assert!(Instant::now() < until, "passt does not listen");
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(passt)
    }
}

impl Drop for Passt {
    fn drop(&mut self) {
        // The process may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Returns this machine's passt, or Debian's, unpacked into `folder`. The error says why there is none.
fn program(folder: &Path) -> Result<PathBuf, String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut own = std::env::split_paths(&path).map(|folder| folder.join("passt"));
    if let Some(own) = own.find(|path| path.is_file()) {
        return Ok(own);
    }
    let said = |error: &dyn std::fmt::Display| format!("passt cannot be fetched: {error}");
    let cache = Cache::default_root().and_then(Cache::open);
    let lock = Lock::parse(include_str!("passt.lock")).map_err(|error| said(&error))?;
    let options = Options {
        policy: Policy::AllowNewest,
        ..Options::default()
    };
    let cache = cache.map_err(|error| said(&error))?;
    let fetcher = Fetcher::new(lock, cache, Mirrors::discover(), options, report::stderr());
    for package in fetcher.fetch_group("passt").map_err(|error| said(&error))? {
        let bytes = package.read().map_err(|error| said(&error))?;
        let is_passt = |path: &str| path == "usr/bin/passt";
        let files = unpack_deb(&bytes, Limits::default(), is_passt);
        for node in files.map_err(|error| said(&error))?.into_values() {
            if let Node::File { data, .. } = node {
                let path = folder.join("passt");
                let mut file = File::create(&path).unwrap();
                file.write_all(&data).unwrap();
                file.set_permissions(Permissions::from_mode(0o700)).unwrap();
                return Ok(path);
            }
        }
    }
    Err("Debian's package has no usr/bin/passt".to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_are_answered_through_passt() {
    let folder = tempfile::Builder::new()
        .prefix("cocoon-")
        .tempdir()
        .unwrap();
    let program = match program(folder.path()) {
        Ok(program) => program,
        Err(why) => return skipped(why),
    };
    let passt = match Passt::start(&program, folder.path()) {
        Ok(passt) => passt,
        // The requirements on kernel and routes cannot be fetched, so this is no failure.
        Err(why) => return absent(why),
    };
    let mut trial = trial("passt").await;
    trial.options.network = Network::Passt {
        socket: passt.socket.clone(),
        relay: passt.relay,
        address: Default::default(),
    };
    let vm = trial.up().await.unwrap();
    // The relay forwards clients to the port of passt.
    assert_eq!(vm.vm.guest, passt.relay);
    let mut conversation = vm.conversation(20).unwrap();
    let mut answer = String::new();
    let asked = conversation.ask("Hi", |piece| answer.push_str(piece));
    tokio::time::timeout(DEADLINE, asked)
        .await
        .expect("answered in time")
        .unwrap();
    assert_eq!(answer, alphabet::answer(20));
    drop(conversation);
    vm.vm.shutdown().await.unwrap();
}
