//! A daemon in its own folder, with appliances that play given parts.

use std::ops::{Deref, DerefMut};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use cocoon_host_agent::attest::{AsClients, Judge};
use cocoon_host_agent::daemon::api::View;
use cocoon_host_agent::lifecycle::Deadlines;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::hosted::{DEADLINE, Hosted};

/// Sends a request without our own client, and returns status, content type and body of the answer.
pub async fn raw(root: &Path, request: &str, body: &str) -> (u16, String, String) {
    let mut stream = UnixStream::connect(root.join("host.sock")).await.unwrap();
    let length = match body.len() {
        0 => String::new(),
        length => format!("content-length: {length}\r\n"),
    };
    let request =
        format!("{request} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{length}\r\n{body}");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let kind = head
        .lines()
        .find_map(|line| line.strip_prefix("content-type: "))
        .unwrap();
    (status, kind.to_owned(), body.to_owned())
}

/// Returns deadlines that leave little time for draining.
pub fn impatient() -> Deadlines {
    Deadlines {
        draining: Duration::from_millis(300),
        ..Deadlines::default()
    }
}

pub struct World {
    hosted: Hosted,
    judge: Arc<dyn Judge>,
}

impl Deref for World {
    type Target = Hosted;

    fn deref(&self) -> &Hosted {
        &self.hosted
    }
}

impl DerefMut for World {
    fn deref_mut(&mut self) -> &mut Hosted {
        &mut self.hosted
    }
}

impl World {
    /// Starts a daemon with these appliances, given as name and part. `more` is added to the table of each.
    pub async fn new(parts: &[(&str, &str)], more: &str, deadlines: Deadlines) -> Self {
        let more = format!("tee = \"simulated-tdx\"\n{more}");
        Self::of(parts, "", &more, deadlines, Arc::new(AsClients)).await
    }

    /// Like [`new`](Self::new), with `head` before all appliances and a judge. `more` must name the TEE.
    pub async fn of(
        parts: &[(&str, &str)],
        head: &str,
        more: &str,
        deadlines: Deadlines,
        judge: Arc<dyn Judge>,
    ) -> Self {
        let hosted = Hosted::new();
        let mut world = Self { hosted, judge };
        // Tests run at the same time, and the status page has one default address.
        let mut text = format!(
            "version = 1\nstatus.listen = \"off\"\n[host]\nstate = {:?}\n{head}\n",
            world.root()
        );
        for (index, (name, part)) in parts.iter().enumerate() {
            world.part(&format!("vms/{name}"), part);
            text += &format!(
                "[[appliance]]\nname = {name:?}\nimage = {:?}\nmemory = \"256M\"\nvcpus = 1\n\
                 listen = \"127.0.0.1:{}\"\n{more}\n",
                world.root(),
                8443 + index
            );
        }
        std::fs::write(world.file(), text).unwrap();
        world.begin(deadlines).await;
        world
    }

    /// Determines what the supervisor in this folder of the state plays.
    pub fn part(&self, folder: &str, part: &str) {
        let folder = self.root().join(folder);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("part"), part).unwrap();
    }

    /// Starts a daemon for the same folder and file.
    pub async fn begin(&mut self, deadlines: Deadlines) {
        let judge = Arc::clone(&self.judge);
        self.start(|daemon| {
            daemon
                .with_program(crate::stand_in::program())
                .with_deadlines(deadlines)
                .with_judge(judge)
        });
    }

    /// Sends a command, waits until it has taken effect, and returns the appliance.
    pub async fn act(&self, name: &str, verb: &str) -> View {
        let path = format!("/v1/appliances/{name}/{verb}?wait=true");
        let client = self.client();
        let acted = timeout(DEADLINE, client.post(&path));
        acted.await.unwrap().unwrap()
    }

    /// Waits until the journal has an entry for this appliance and state, and returns its number.
    pub async fn until(&self, name: &str, state: &str) -> u64 {
        self.until_after(0, name, state).await
    }

    /// Like [`until`](Self::until), but only for entries after number `seq`.
    pub async fn until_after(&self, seq: u64, name: &str, state: &str) -> u64 {
        let (mut kept, mut coming) = self.journal.after(seq);
        let found = async {
            loop {
                for entry in kept.drain(..) {
                    if entry.appliance.as_deref() == Some(name) && entry.state == state {
                        return entry.seq;
                    }
                }
                kept.push(coming.recv().await.unwrap());
            }
        };
        match timeout(DEADLINE, found).await {
            Ok(seq) => seq,
            Err(_) => panic!(
                "{name} never came to {state}: {:#?}",
                self.journal.after(0).0
            ),
        }
    }

    /// Waits until the appliance serves, and returns it.
    pub async fn serving(&self, name: &str) -> View {
        self.until(name, "serving").await;
        self.show(name).await
    }
}

impl Drop for World {
    /// Ensures that nothing that a test started outlives it.
    fn drop(&mut self) {
        // The daemon ends first, so that it does not start the stand-ins again.
        self.abort();
        let places = ["vms", "b/vms"].map(|place| std::fs::read_dir(self.root().join(place)));
        for folder in places.into_iter().flatten().flatten().flatten() {
            // A stand-in ends by itself only when it is asked to drain, so it is killed by its process id.
            if let Ok(text) = std::fs::read_to_string(folder.path().join("pid"))
                && let Ok(pid) = text.parse()
            {
                let _ = nix::sys::signal::kill(
                    nix::unistd::Pid::from_raw(pid),
                    nix::sys::signal::Signal::SIGKILL,
                );
            }
        }
    }
}
