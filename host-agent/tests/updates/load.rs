//! Clients that send requests all the time and count the answers.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::machine::BEGUN;
use crate::world::{World, line};

/// Number of clients of each kind.
const CLIENTS: usize = 4;

/// What the clients received.
#[derive(Debug, Default)]
pub struct Got {
    /// Number of answers by the name of the machine that gave them.
    pub answers: BTreeMap<String, u64>,
    /// Requests that were not answered correctly.
    pub failed: Vec<String>,
    /// Requests that were sent on a kept connection, got no answer, and were sent again on a new one.
    again: Vec<String>,
}

/// Running clients.
pub struct Load {
    stop: Arc<AtomicBool>,
    clients: JoinSet<Got>,
    root: PathBuf,
}

impl Load {
    /// Starts clients. Some open a connection for each request. The others keep theirs, as HTTP clients do, and repeat a
    /// request on a new one if the old one was closed. No request that a machine of `world` began may be lost.
    pub fn on(world: &World, address: String) -> Self {
        // Gives every request of a test process a name of its own.
        static LOADS: AtomicUsize = AtomicUsize::new(0);
        let (stop, mut clients) = (Arc::new(AtomicBool::new(false)), JoinSet::new());
        let first = LOADS.fetch_add(CLIENTS, Ordering::SeqCst);
        for number in first..first + CLIENTS {
            clients.spawn(fresh(address.clone(), number, Arc::clone(&stop)));
            clients.spawn(kept(address.clone(), number, Arc::clone(&stop)));
        }
        let root = world.root();
        Self {
            stop,
            clients,
            root,
        }
    }

    /// Stops the clients and returns all that they received.
    pub async fn end(self) -> Got {
        self.stop.store(true, Ordering::SeqCst);
        let mut all = Got::default();
        for got in self.clients.join_all().await {
            for (who, count) in got.answers {
                *all.answers.entry(who).or_default() += count;
            }
            all.failed.extend(got.failed);
            all.again.extend(got.again);
        }
        let begun = begun(&self.root, "first");
        for asked in &all.again {
            let times = begun.iter().filter(|one| *one == asked).count();
            if times > 1 {
                all.failed.push(format!(
                    "{asked}: a machine began it, and its answer was lost"
                ));
            }
        }
        all
    }
}

impl Got {
    fn take(&mut self, answer: std::io::Result<String>, asked: &str) {
        match answer {
            Ok(answer) => match answer.split_once(' ') {
                Some((who, echo)) if echo == asked => {
                    *self.answers.entry(who.to_owned()).or_default() += 1;
                }
                _ => self.failed.push(format!("{asked}: {answer:?}")),
            },
            Err(error) => self.failed.push(format!("{asked}: {error}")),
        }
    }
}

async fn fresh(address: String, number: usize, stop: Arc<AtomicBool>) -> Got {
    let mut got = Got::default();
    for request in 0.. {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        let asked = format!("fresh-{number}-{request}");
        got.take(line(&address, &asked).await, &asked);
    }
    got
}

async fn kept(address: String, number: usize, stop: Arc<AtomicBool>) -> Got {
    let mut got = Got::default();
    let mut connection: Option<BufReader<TcpStream>> = None;
    for request in 0.. {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        let asked = format!("kept-{number}-{request}");
        let answer = match connection.take() {
            Some(mut old) => ask(&mut old, &asked).await.map(|answer| (answer, old)),
            None => Err(std::io::ErrorKind::NotConnected.into()),
        };
        let answer = match answer {
            Ok(answer) => Ok(answer),
            // The connection was closed, apparently between two requests.
            Err(error) => {
                if error.kind() != std::io::ErrorKind::NotConnected {
                    got.again.push(asked.clone());
                }
                on_new(&address, &asked).await
            }
        };
        match answer {
            Ok((answer, kept)) => {
                connection = Some(kept);
                got.take(Ok(answer), &asked);
            }
            Err(error) => got.take(Err(error), &asked),
        }
    }
    got
}

async fn on_new(address: &str, asked: &str) -> std::io::Result<(String, BufReader<TcpStream>)> {
    let mut stream = BufReader::new(TcpStream::connect(address).await?);
    let answer = ask(&mut stream, asked).await?;
    Ok((answer, stream))
}

pub async fn ask(stream: &mut BufReader<TcpStream>, asked: &str) -> std::io::Result<String> {
    stream.write_all(format!("{asked}\n").as_bytes()).await?;
    let mut answer = String::new();
    match stream.read_line(&mut answer).await? {
        0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(answer.trim_end().to_owned()),
    }
}

/// Returns the requests that any machine of `name` began, from both slots of its VM.
pub fn begun(root: &Path, name: &str) -> Vec<String> {
    let read = |root: PathBuf| std::fs::read_to_string(root.join("vms").join(name).join(BEGUN));
    let texts = [root.to_owned(), root.join("b")].map(|root| read(root).unwrap_or_default());
    let lines = texts.iter().flat_map(|text| text.lines());
    lines.map(str::to_owned).collect()
}
