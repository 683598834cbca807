//! The local API: HTTP/1.1 on a Unix socket that only this user can open.

use std::collections::HashMap;
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use cocoon_qemu::PciAddress;
use http_body_util::{BodyExt as _, Limited};
use hyper::body::{Body as _, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::net::UnixListener;
use tokio::sync::{Semaphore, broadcast::error::RecvError, mpsc};
use tokio::time::timeout;

use super::api::{About, Code, List, Refusal, UpdateRequest, View};
use super::clock::Clock;
use super::journal::{Entry, Journal};
use super::keeper::{self, Handle, Wanted};
use crate::collateral::keeper::clock;
use crate::doctor::policy::PolicyFile;
use crate::doctor::real::Real;
use crate::lifecycle::Event;
use crate::status::Source;
use crate::text::chain;
use crate::update::check::{self, Updates};
use crate::update::store;
use crate::watch::{GpuUse, HostUse, ProcessUse, Watch, Watched};
use crate::web::Body;
use crate::{follow, watch};

mod route;

use route::{Action, Route};

/// Maximum number of connections; further ones wait in the socket's queue.
const CONNECTIONS: usize = 64;
/// How long a request's headers, or its body, may take to arrive.
const HEADERS: Duration = Duration::from_secs(10);
/// Pause after a failure to accept a connection.
const RETRY: Duration = Duration::from_millis(100);
/// Maximum length of a request's body in bytes.
const MAX_BODY: usize = 16 * 1024;
/// Number of lines queued for a client.
const LINES: usize = 16;

/// Everything that the API gives access to.
pub(super) struct World {
    pub(super) about: About,
    pub(super) handles: Arc<[Handle]>,
    pub(super) journal: Arc<Journal>,
    pub(super) root: PathBuf,
    pub(super) updates: Updates,
    /// GPUs of the appliances, by appliance name.
    pub(super) gpus: HashMap<String, PciAddress>,
    /// Whether appliances are being halted.
    pub(super) ending: AtomicBool,
}

impl World {
    fn handle(&self, name: &str) -> Result<&Handle, Refusal> {
        let found = self.handles.iter().find(|handle| handle.name == name);
        found.ok_or_else(|| {
            let message = format!(
                "{} describes no appliance {name:?}",
                self.about.file.display()
            );
            Refusal::new(Code::UnknownAppliance, message)
        })
    }

    /// Refuses if the daemon is ending: an appliance started now would outlive it.
    fn lives(&self) -> Result<(), Refusal> {
        match self.ending.load(Ordering::SeqCst) {
            true => Err(Refusal::new(Code::Ending, "the daemon is ending")),
            false => Ok(()),
        }
    }

    /// Returns the current state and load of the machine and all appliances.
    pub(super) fn watch(&self) -> Watch {
        let files = &Real;
        let watched = self.handles.iter().map(|handle| {
            let view = handle.view();
            let pid = view.report.as_ref().and_then(|report| report.qemu_pid);
            let qemu = pid.and_then(|pid| ProcessUse::read(files, pid));
            let address = self.gpus.get(&handle.name).copied();
            let told = view.report.as_ref().map(|report| &report.gpus[..]);
            let simulated = watch::is_simulated(&view);
            let gpus = GpuUse::all(files, address, simulated, told.unwrap_or_default());
            Watched::new(view, handle.rates(), qemu, gpus)
        });
        Watch {
            time: Clock::new().now(),
            version: self.about.version.clone(),
            file: self.about.file.clone(),
            events: self.journal.count(),
            host: HostUse::read(files),
            daemon: ProcessUse::read(files, self.about.pid).unwrap_or_default(),
            appliances: watched.collect(),
        }
    }
}

impl Source for World {
    fn watch(&self) -> Watch {
        Self::watch(self)
    }

    fn events(&self, most: usize) -> Vec<Entry> {
        self.journal.newest(most)
    }
}

/// Serves connections until dropped.
pub(super) async fn serve(listener: UnixListener, world: Arc<World>) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = tokio::task::JoinSet::new();
    loop {
        // Acquiring fails only after `close`, which is never called.
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
                    // The client of a broken connection notices by itself.
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

async fn answer(world: &World, request: Request<Incoming>) -> Response<Body> {
    let uri = request.uri();
    let route = route::find(request.method(), uri.path(), uri.query());
    let (uri, empty) = (uri.clone(), request.body().is_end_stream());
    let answered = match route {
        Ok(Route::Update { name, wait }) => match body(request).await {
            Ok(wanted) => update(world, &name, wanted, wait).await,
            Err(refusal) => Err(refusal),
        },
        Ok(_) if !empty => Err(Refusal::new(
            Code::UnexpectedBody,
            "only an update has a body: leave it out",
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

/// Message for a malformed body of an update.
const UPDATE_BODY: &str = "the body must be JSON: {\"manifest\": PATH, \"image\": PATH or null, \"drain_first\": true or false, \
    \"policy\": PATH or null}";

async fn body(request: Request<Incoming>) -> Result<UpdateRequest, Refusal> {
    let refused = || Refusal::new(Code::BadBody, UPDATE_BODY);
    let body = Limited::new(request.into_body(), MAX_BODY).collect();
    let bytes = timeout(HEADERS, body).await.map_err(|_| refused())?;
    let bytes = bytes.map_err(|_| refused())?.to_bytes();
    serde_json::from_slice(&bytes).map_err(|_| refused())
}

/// Checks the image, which may take a while, and then starts the update.
async fn update(
    world: &World,
    name: &str,
    wanted: UpdateRequest,
    wait: bool,
) -> Result<Response<Body>, Refusal> {
    let handle = world.handle(name)?;
    world.lives()?;
    let refused = |why: String| Refusal::new(Code::UpdateRefused, why);
    let (root, own) = (world.root.clone(), handle.name.clone());
    let (updates, release) = (world.updates.clone(), handle.view().deployment.release);
    let UpdateRequest {
        drain_first,
        policy,
        ..
    } = wanted.clone();
    let policy = policy.or_else(|| updates.policy.clone());
    let judged_by = policy.clone();
    let checking = tokio::task::spawn_blocking(move || {
        judgeable(judged_by.as_deref())?;
        let now = clock();
        let image = wanted.image.as_deref();
        let checked = check::check(&wanted.manifest, image, &updates, release, now);
        let checked = checked.map_err(|error| chain(&error))?;
        store::keep(&root, &own, &checked).map_err(|error| chain(&error))
    });
    let to = checking.await.map_err(|error| refused(chain(&error)))?;
    let to = to.map_err(refused)?;
    let wanted = Wanted::Update {
        to,
        drain_first,
        policy,
    };
    changed(handle, wanted, wait).await
}

/// Checks that the policy file can be loaded. Better to find out before the old VM has ended.
fn judgeable(policy: Option<&Path>) -> Result<(), String> {
    let read = policy.map(PolicyFile::load).transpose();
    read.map(drop).map_err(|error| chain(&error))
}

async fn changed(handle: &Handle, wanted: Wanted, wait: bool) -> Result<Response<Body>, Refusal> {
    let mut view = handle.command(wanted).await?;
    if wait {
        let ended = handle.wait(keeper::updated).await;
        view = ended.ok_or_else(|| Refusal::new(Code::Ending, "the daemon is ending"))?;
    }
    Ok(json(&view))
}

async fn act(world: &World, route: Route) -> Result<Response<Body>, Refusal> {
    let ending = || Refusal::new(Code::Ending, "the daemon is ending");
    let handle = |name: &str| world.handle(name);
    match route {
        Route::About => Ok(json(&world.about)),
        Route::Watch => Ok(json(&world.watch())),
        Route::List => Ok(json(&List {
            appliances: world.handles.iter().map(Handle::view).collect(),
        })),
        Route::Show(name) => Ok(json(&handle(&name)?.view())),
        Route::Act { name, action, wait } => {
            let handle = handle(&name)?;
            if action != Action::Stop {
                world.lives()?;
            }
            let (event, settled): (_, fn(&View) -> bool) = match action {
                Action::Start => (Event::Start, keeper::settled),
                Action::Stop => (Event::Stop, keeper::down),
                Action::Restart => (Event::Restart, keeper::settled),
            };
            let mut view = handle.command(Wanted::Life(event)).await?;
            if wait {
                view = handle.wait(settled).await.ok_or_else(ending)?;
            }
            Ok(json(&view))
        }
        Route::Rollback {
            name,
            drain_first,
            wait,
        } => {
            let handle = handle(&name)?;
            world.lives()?;
            let refused = |why| Refusal::new(Code::UpdateRefused, why);
            judgeable(world.updates.policy.as_deref()).map_err(refused)?;
            changed(handle, Wanted::Rollback { drain_first }, wait).await
        }
        // `answer` handles updates, because they have a body.
        Route::Update { .. } => Err(Refusal::new(Code::BadBody, UPDATE_BODY)),
        Route::Logs { name, follow } => {
            let handle = handle(&name)?;
            let path = handle.log();
            let file = std::fs::File::open(path()).map_err(|_| {
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
                // The client was too slow; gaps in the numbers show what it missed.
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return,
            },
            () = to.closed() => return,
        }
    }
}

fn line(entry: &Entry) -> Bytes {
    // Serialisation of numbers and strings cannot fail.
    let mut line = serde_json::to_vec(entry).unwrap_or_default();
    line.push(b'\n');
    line.into()
}

fn lines<F>(send: impl FnOnce(mpsc::Sender<Bytes>) -> F) -> Response<Body>
where
    F: Future<Output = ()> + Send + 'static,
{
    let (to, lines) = mpsc::channel(LINES);
    // Ends when the client disconnects, because the receiver is dropped then.
    tokio::spawn(send(to));
    response("application/x-ndjson", Body::Pieces(lines))
}

fn json(answer: &impl Serialize) -> Response<Body> {
    // Serialisation of these types cannot fail.
    let bytes = serde_json::to_vec(answer).unwrap_or_default();
    response("application/json", Body::Whole(Some(bytes.into())))
}

fn response(kind: &'static str, reply: Body) -> Response<Body> {
    let mut response = Response::new(reply);
    let kind = hyper::header::HeaderValue::from_static(kind);
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}
