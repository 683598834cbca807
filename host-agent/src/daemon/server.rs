//! The local API over HTTP/1.1 on a Unix socket of this user alone.

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body as _, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::net::UnixListener;
use tokio::sync::{Semaphore, broadcast::error::RecvError, mpsc};

use super::api::{About, Code, List, Refusal};
use super::body::Reply;
use super::journal::{Entry, Journal};
use super::keeper::{self, Handle};
use crate::lifecycle::Event;
use crate::{follow, log, state};

mod route;

use route::{Action, Route};

/// Connections at once; more wait in the system's queue.
const CONNECTIONS: usize = 64;
/// How long a request may take to arrive.
const HEADERS: Duration = Duration::from_secs(10);
/// How long to leave a system alone that cannot accept a connection.
const RETRY: Duration = Duration::from_millis(100);
/// Lines that wait to be taken.
const LINES: usize = 16;

/// What the API speaks of.
pub(super) struct World {
    pub(super) about: About,
    pub(super) handles: Arc<[Handle]>,
    pub(super) journal: Arc<Journal>,
    pub(super) root: PathBuf,
    /// Appliances are being halted.
    pub(super) ending: AtomicBool,
}

/// Serves until dropped.
pub(super) async fn serve(listener: UnixListener, world: Arc<World>) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = tokio::task::JoinSet::new();
    loop {
        // Never closed: acquiring fails only after `close`.
        let permit = Arc::clone(&permits).acquire_owned().await.ok();
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else {
                    tokio::time::sleep(RETRY).await;
                    continue;
                };
                let world = Arc::clone(&world);
                connections.spawn(async move {
                    let _permit = permit;
                    let service = service_fn(move |request| {
                        let world = Arc::clone(&world);
                        async move { Ok::<_, Infallible>(answer(&world, request).await) }
                    });
                    // A broken connection concerns its client, who notices.
                    let _ = http1::Builder::new()
                        .timer(TokioTimer::new())
                        .header_read_timeout(HEADERS)
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn answer(world: &World, request: Request<Incoming>) -> Response<Reply> {
    let uri = request.uri();
    let route = route::find(request.method(), uri.path(), uri.query());
    let empty = request.body().is_end_stream();
    let answered = match route {
        Ok(_) if !empty => Err(Refusal::new(
            Code::UnexpectedBody,
            "requests have no body: leave it out",
        )),
        Ok(route) => act(world, route).await,
        Err(refusal) => Err(refusal),
    };
    answered.unwrap_or_else(|refusal| {
        let code = refusal.error.code;
        let mut response = json(&refusal);
        *response.status_mut() =
            StatusCode::from_u16(code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        if code == Code::WrongMethod {
            let method = route::method(uri.path());
            response
                .headers_mut()
                .insert(ALLOW, hyper::header::HeaderValue::from_static(method));
        }
        response
    })
}

async fn act(world: &World, route: Route) -> Result<Response<Reply>, Refusal> {
    let ending = || Refusal::new(Code::Ending, "the daemon is ending");
    let handle = |name: &str| {
        let found = world.handles.iter().find(|handle| handle.name == name);
        found.ok_or_else(|| {
            let message = format!(
                "{} describes no appliance {name:?}",
                world.about.file.display()
            );
            Refusal::new(Code::UnknownAppliance, message)
        })
    };
    match route {
        Route::About => Ok(json(&world.about)),
        Route::List => Ok(json(&List {
            appliances: world.handles.iter().map(Handle::view).collect(),
        })),
        Route::Show(name) => Ok(json(&handle(&name)?.view())),
        Route::Act { name, action, wait } => {
            let handle = handle(&name)?;
            if action != Action::Stop && world.ending.load(Ordering::SeqCst) {
                return Err(ending());
            }
            let (event, settled): (_, fn(&_) -> bool) = match action {
                Action::Start => (Event::Start, keeper::settled),
                Action::Stop => (Event::Stop, keeper::down),
                Action::Restart => (Event::Restart, keeper::settled),
            };
            let mut view = handle.command(event).await.ok_or_else(ending)?;
            if wait {
                view = handle.wait(settled).await.ok_or_else(ending)?;
            }
            Ok(json(&view))
        }
        Route::Logs { name, follow } => {
            let handle = handle(&name)?;
            let folder = state::folder(&world.root, &handle.name);
            let path = folder.map_err(|_| ending())?.join(log::FILE);
            let file = std::fs::File::open(&path).map_err(|_| {
                Refusal::new(
                    Code::NoLog,
                    format!("{name:?} has never run: it has no log"),
                )
            })?;
            Ok(lines(|to| follow::send(file, path, follow, to)))
        }
        Route::Events { since, follow } => {
            let journal = Arc::clone(&world.journal);
            Ok(lines(move |to| events(journal, since, follow, to)))
        }
    }
}

async fn events(journal: Arc<Journal>, since: u64, follow: bool, to: mpsc::Sender<Bytes>) {
    let (mut kept, mut coming) = journal.after(since);
    loop {
        for entry in kept.drain(..) {
            if to.send(line(&entry)).await.is_err() {
                return;
            }
        }
        if !follow {
            return;
        }
        tokio::select! {
            entry = coming.recv() => match entry {
                Ok(entry) => kept.push(entry),
                // It did not keep up: the numbers show what is missing.
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return,
            },
            () = to.closed() => return,
        }
    }
}

fn line(entry: &Entry) -> Bytes {
    // Numbers and strings: serialisation cannot fail.
    let mut line = serde_json::to_vec(entry).unwrap_or_default();
    line.push(b'\n');
    line.into()
}

fn lines<F>(send: impl FnOnce(mpsc::Sender<Bytes>) -> F) -> Response<Reply>
where
    F: Future<Output = ()> + Send + 'static,
{
    let (to, lines) = mpsc::channel(LINES);
    // Ends when the client is gone: then the receiver is, too.
    tokio::spawn(send(to));
    response("application/x-ndjson", Reply::Lines(lines))
}

fn json(answer: &impl Serialize) -> Response<Reply> {
    // Our own types: serialisation cannot fail.
    let bytes = serde_json::to_vec(answer).unwrap_or_default();
    response("application/json", Reply::Whole(Some(bytes.into())))
}

fn response(kind: &'static str, reply: Reply) -> Response<Reply> {
    let mut response = Response::new(reply);
    let kind = hyper::header::HeaderValue::from_static(kind);
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}
