//! JSON lines over a socket: routes answers to the callers that wait for them, and events to the listeners.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{broadcast, oneshot};
use tokio::task::JoinHandle;

use super::messages::{Event, Message, Refusal, greeting};
use super::{Closed, MESSAGE_MAX, QmpError};
use crate::find::Version;

/// Number of events that are kept for a slow listener.
const EVENTS_KEPT: usize = 64;

type Lines = BufReader<OwnedReadHalf>;
type Answer = Result<Value, Refusal>;

/// A connection. Dropping it ends its reader.
#[derive(Debug)]
pub(super) struct Transport {
    writer: tokio::sync::Mutex<OwnedWriteHalf>,
    shared: Arc<Shared>,
    reader: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    next: u64,
    waiting: HashMap<u64, oneshot::Sender<Answer>>,
    /// `None` once the connection is closed, so that listeners see the end.
    events: Option<broadcast::Sender<Event>>,
    closed: Option<Closed>,
}

impl Transport {
    /// Reads the greeting and starts to read the messages that follow.
    pub(super) async fn open(stream: UnixStream) -> Result<(Self, Version), QmpError> {
        let (reader, writer) = stream.into_split();
        let mut lines = BufReader::new(reader);
        let line = read_line(&mut lines).await.map_err(QmpError::Closed)?;
        let version = greeting(&line).map_err(QmpError::Greeting)?;
        let events = Some(broadcast::Sender::new(EVENTS_KEPT));
        let state = State {
            next: 0,
            waiting: HashMap::new(),
            events,
            closed: None,
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
        });
        let reader = tokio::spawn(read_all(lines, Arc::clone(&shared)));
        Ok((
            Self {
                writer: writer.into(),
                shared,
                reader,
            },
            version,
        ))
    }

    /// Sends one command and waits for its answer.
    pub(super) async fn execute(
        &self,
        command: &'static str,
        arguments: Value,
    ) -> Result<Value, QmpError> {
        let (asked, id) = self.shared.ask().map_err(QmpError::Closed)?;
        // A caller that stops waiting must not leave an entry behind.
        let _forget = Forget {
            shared: &self.shared,
            id,
        };
        let mut line = json!({ "execute": command, "arguments": arguments, "id": id }).to_string();
        line.push('\n');
        let written = self.writer.lock().await.write_all(line.as_bytes()).await;
        if let Err(error) = written {
            return Err(QmpError::Closed(Closed::Broken(error.kind())));
        }
        match asked.await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(Refusal { class, desc })) => Err(QmpError::Refused {
                command,
                class,
                description: desc,
            }),
            Err(_) => Err(QmpError::Closed(
                self.shared.lock().closed.clone().unwrap_or(Closed::End),
            )),
        }
    }

    pub(super) fn events(&self) -> broadcast::Receiver<Event> {
        let ended = || broadcast::Sender::new(1).subscribe();
        self.shared
            .lock()
            .events
            .as_ref()
            .map_or_else(ended, broadcast::Sender::subscribe)
    }
}

impl Drop for Transport {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ask(&self) -> Result<(oneshot::Receiver<Answer>, u64), Closed> {
        let mut state = self.lock();
        if let Some(closed) = &state.closed {
            return Err(closed.clone());
        }
        let id = state.next;
        state.next += 1;
        let (answer, asked) = oneshot::channel();
        state.waiting.insert(id, answer);
        Ok((asked, id))
    }

    fn take(&self, message: Message) {
        let mut state = self.lock();
        match message {
            Message::Answer { id, result } => {
                if let Some(answer) = state.waiting.remove(&id) {
                    // The caller may have stopped waiting.
                    let _ = answer.send(result);
                }
            }
            Message::Event(event) => {
                if let Some(events) = &state.events {
                    // There may be no listener.
                    let _ = events.send(event);
                }
            }
        }
    }

    fn close(&self, how: Closed) {
        let mut state = self.lock();
        state.closed = Some(how);
        state.waiting.clear();
        state.events = None;
    }
}

struct Forget<'a> {
    shared: &'a Shared,
    id: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.shared.lock().waiting.remove(&self.id);
    }
}

async fn read_all(mut lines: Lines, shared: Arc<Shared>) {
    let how = loop {
        match read_line(&mut lines).await {
            Ok(line) => match Message::parse(&line) {
                Ok(message) => shared.take(message),
                Err(_) => break Closed::NotUnderstood,
            },
            Err(closed) => break closed,
        }
    };
    shared.close(how);
}

/// Reads one line, of which at most [`MESSAGE_MAX`] bytes and one are kept in memory.
async fn read_line(lines: &mut Lines) -> Result<Vec<u8>, Closed> {
    let mut line = Vec::new();
    let mut limited = lines.take(MESSAGE_MAX as u64 + 1);
    limited
        .read_until(b'\n', &mut line)
        .await
        .map_err(|error| Closed::Broken(error.kind()))?;
    match line.last() {
        Some(b'\n') => Ok(line),
        _ if line.len() > MESSAGE_MAX => Err(Closed::TooLong),
        _ => Err(Closed::End),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::qmp::Qmp;

    const GREETING: &str =
        "{\"QMP\": {\"version\": {\"qemu\": {\"micro\": 13, \"minor\": 0, \"major\": 10}}}}\r\n";

    /// A simulated QEMU that greets, answers the first command, sends `rest` in answer to the second, and closes.
    async fn pretend(rest: Vec<u8>) -> (Result<Qmp, QmpError>, JoinHandle<()>) {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let qemu = tokio::spawn(async move {
            let (reader, mut writer) = theirs.into_split();
            let mut lines = BufReader::new(reader);
            writer
                .write_all(GREETING.as_bytes())
                .await
                .expect("greeted");
            read_line(&mut lines).await.expect("capabilities");
            writer
                .write_all(b"{\"return\": {}, \"id\": 0}\r\n")
                .await
                .expect("answered");
            read_line(&mut lines).await.expect("a command");
            // The peer may close the connection in the middle of it.
            let _ = writer.write_all(&rest).await;
        });
        let ours = ours.into_std().expect("a stream");
        (Qmp::over(ours, Duration::from_secs(10)).await, qemu)
    }

    #[tokio::test]
    async fn answers_and_events_find_their_way() {
        let rest =
            b"{\"event\": \"STOP\"}\r\n{\"return\": {\"status\": \"paused\"}, \"id\": 1}\r\n"
                .to_vec();
        let (qmp, _qemu) = pretend(rest).await;
        let qmp = qmp.expect("connected");
        assert_eq!(qmp.version().to_string(), "10.0.13");
        let mut events = qmp.events();
        assert_eq!(
            qmp.status().await.expect("a state"),
            crate::qmp::RunState::Paused
        );
        assert_eq!(events.recv().await, Ok(Event::Stop));
        assert_eq!(
            events.recv().await,
            Err(broadcast::error::RecvError::Closed)
        );
        assert!(matches!(qmp.status().await, Err(QmpError::Closed(_))));
    }

    #[tokio::test]
    async fn refusals_name_the_command() {
        let rest =
            b"{\"error\": {\"class\": \"GenericError\", \"desc\": \"no\"}, \"id\": 1}\r\n".to_vec();
        let qmp = pretend(rest).await.0.expect("connected");
        let error = qmp.device_del("x").await.expect_err("refused");
        assert_eq!(
            error.to_string(),
            "QEMU refused device_del: GenericError: no"
        );
    }

    #[tokio::test]
    async fn foreign_bytes_close_the_connection() {
        let cases = [
            (vec![b'x'; MESSAGE_MAX + 10], Closed::TooLong),
            (b"{}\n".to_vec(), Closed::NotUnderstood),
            (b"\xff\xfe\n".to_vec(), Closed::NotUnderstood),
            (b"{\"return\"".to_vec(), Closed::End),
        ];
        for (rest, expected) in cases {
            let qmp = pretend(rest).await.0.expect("connected");
            let error = qmp.status().await.expect_err("closed");
            assert!(
                matches!(&error, QmpError::Closed(how) if *how == expected),
                "{error:?}"
            );
        }
    }

    #[tokio::test]
    async fn another_greeting_is_not_qemu() {
        let (ours, mut theirs) = UnixStream::pair().expect("a pair");
        theirs.write_all(b"SSH-2.0-hello\n").await.expect("sent");
        let ours = ours.into_std().expect("a stream");
        assert!(matches!(
            Qmp::over(ours, Duration::from_secs(10)).await,
            Err(QmpError::Greeting(_))
        ));
    }
}
