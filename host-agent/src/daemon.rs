//! `cocoon-host serve`: the daemon, which keeps the appliances of one file running and answers the local API.
//!
//! ```text
//! cocoon-host ps, start, stop, … ──HTTP──▶ server ──▶ keeper (one task for each appliance)
//!                                            │            │ lifecycle decides, the keeper acts
//!                                         journal ◀───────┴──▶ supervisor (one process for each VM)
//! ```
//!
//! The daemon may be killed at any moment. Every decision is on disk before it is carried out, and VMs belong to their
//! supervisors. The next daemon finds both and continues.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::attest::{AsClients, Judge};
use crate::config::HostConfig;
use crate::lifecycle::Deadlines;
use crate::publish;
use crate::state::{self, StateError};
use crate::status::{Login, LoginError};
use crate::supervisor::{Launch, OWN_PROGRAM};
use crate::text::chain;
use crate::update::store::Slot;
use crate::web::{Web, WebError};

pub mod api;
mod clock;
pub mod journal;
mod keeper;
mod rooms;
mod server;
mod store;
mod unit;

use journal::Journal;
use keeper::{Handle, Keeper};

/// Name of the API's socket in the state folder.
pub const SOCKET: &str = "host.sock";
/// Name of the lock file in the state folder; the daemon holds the lock.
const LOCK: &str = "host.lock";
/// How long a lock may outlive its daemon: a child process holds it between fork and exec.
const LOCKED: Duration = Duration::from_millis(500);
/// Interval between two attempts to take the lock.
const RETRY: Duration = Duration::from_millis(50);

/// Why the daemon cannot start.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The state folder cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// Another daemon holds the state folder.
    #[error(
        "another daemon keeps its state in {0:?}: `cocoon-host ps` talks to it; stop it, or choose another host.state"
    )]
    Running(PathBuf),
    /// The listener or the certificate of `[web]` or `[status]` cannot be used.
    #[error("nothing can be shown as [web] says")]
    Web(#[from] WebError),
    /// The login file of the status page cannot be used.
    #[error(transparent)]
    Login(#[from] LoginError),
}

/// How the daemon ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Appliances finish their requests and stop. The next daemon starts them again.
    Halt,
    /// Appliances go on, and the next daemon takes them over.
    Leave,
}

/// A daemon that holds its state folder and is ready to run.
pub struct Daemon {
    config: HostConfig,
    file: PathBuf,
    program: PathBuf,
    deadlines: Deadlines,
    judge: Arc<dyn Judge>,
    listener: UnixListener,
    journal: Arc<Journal>,
    web: Option<Web>,
    status: Option<Web>,
    login: Option<Login>,
    /// Holds the lock as long as it is open.
    _lock: File,
}

impl Daemon {
    /// Takes the state folder and binds the sockets; `file` is the path that `config` was read from. Must be called within a
    /// Tokio runtime.
    ///
    /// # Errors
    /// Fails with [`DaemonError`] if the state folder, a listener or the login file cannot be used.
    pub fn take(config: HostConfig, file: &Path) -> Result<Self, DaemonError> {
        let root = config.host.state.clone();
        state::folder_of_ours(&root)?;
        let path = root.join(LOCK);
        let lock = state::private()
            .open(&path)
            .map_err(state::fail("open", &path))?;
        let mut patience = LOCKED;
        loop {
            match lock.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if !patience.is_zero() => {
                    std::thread::sleep(RETRY);
                    patience = patience.saturating_sub(RETRY);
                }
                Err(TryLockError::WouldBlock) => return Err(DaemonError::Running(root)),
                Err(TryLockError::Error(source)) => {
                    return Err(state::fail("lock", &path)(source).into());
                }
            }
        }
        let web = config.web.as_ref().map(Web::bind).transpose()?;
        let journal = Journal::default();
        let login = config
            .status
            .as_ref()
            .and_then(|status| status.login.as_deref());
        let login = login.map(Login::load).transpose()?;
        let status = match config.status_page() {
            Ok(None) => None,
            Err(why) => {
                journal.add(None, "note", &format!("there is no status page: {why}"));
                None
            }
            Ok(Some(status)) => match Web::bind(&status.web) {
                Ok(web) => Some(web),
                Err(error) if status.named => return Err(error.into()),
                Err(error) => {
                    let text = format!("there is no status page: {}", chain(&error));
                    journal.add(None, "note", &text);
                    None
                }
            },
        };
        for warning in &config.warnings {
            let text = format!("{}:{warning}", file.display());
            journal.add(None, "note", &text);
        }
        let listener = state::listen(&root.join(SOCKET))?;
        Ok(Self {
            config,
            file: file.to_owned(),
            program: OWN_PROGRAM.into(),
            deadlines: Deadlines::default(),
            judge: Arc::new(AsClients),
            listener,
            journal: Arc::new(journal),
            web,
            status,
            login,
            _lock: lock,
        })
    }

    /// Sets the program to start supervisors from, instead of this one.
    #[must_use]
    pub fn with_program(self, program: PathBuf) -> Self {
        Self { program, ..self }
    }

    /// Sets other deadlines.
    #[must_use]
    pub fn with_deadlines(self, deadlines: Deadlines) -> Self {
        Self { deadlines, ..self }
    }

    /// Sets another judge of the evidence of new VMs.
    #[must_use]
    pub fn with_judge(self, judge: Arc<dyn Judge>) -> Self {
        Self { judge, ..self }
    }

    /// The daemon's journal of events.
    #[must_use]
    pub fn journal(&self) -> Arc<Journal> {
        Arc::clone(&self.journal)
    }

    /// Runs until `end` says how to end. A halt returns when no VM runs any more, or when `end` changes to [`End::Leave`].
    pub async fn run(self, mut end: watch::Receiver<Option<End>>) {
        let Self {
            config,
            file,
            program,
            deadlines,
            judge,
            listener,
            journal,
            web,
            status,
            login,
            _lock,
        } = self;
        let socket = config.host.state.join(SOCKET);
        let mut keepers = JoinSet::new();
        let mut handles = Vec::new();
        let rooms = Arc::<rooms::Rooms>::default();
        self::strangers(&config, &journal).await;
        for appliance in &config.appliances {
            let setting = keeper::Setting {
                launch: Launch::new(appliance, &config.host),
                appliance: appliance.clone(),
                root: config.host.state.clone(),
                cache: config.host.cache.clone(),
                program: program.clone(),
                deadlines,
                updates: config.updates.clone(),
                memory_reserve_mib: config.host.memory_reserve_mib,
                judge: Arc::clone(&judge),
                rooms: Arc::clone(&rooms),
                journal: Arc::clone(&journal),
            };
            let (keeper, handle) = Keeper::new(setting);
            keepers.spawn(keeper.run());
            handles.push(handle);
        }
        let about = api::About {
            api: api::VERSION.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            file,
            state: config.host.state.clone(),
        };
        let gpus = config.appliances.iter();
        let gpus = gpus.filter_map(|one| Some((one.name.clone(), one.gpu?)));
        let gpus = gpus.collect();
        let handles: Arc<[Handle]> = handles.into();
        // Without a cache folder, no collateral is kept either.
        let cache = config.host.cache.clone();
        let cache = cache.or_else(|| cocoon_inputs::Cache::default_root().ok());
        let collateral = cache.unwrap_or_default().join("collateral");
        let world = server::World {
            about,
            handles: Arc::clone(&handles),
            journal,
            root: config.host.state,
            updates: config.updates,
            gpus,
            ending: AtomicBool::new(false),
        };
        let world = Arc::new(world);
        let serving =
            crate::running::Task(tokio::spawn(server::serve(listener, Arc::clone(&world))));
        let shown = Arc::clone(&handles);
        let routes = publish::routes(publish::Sources {
            views: Arc::new(move || shown.iter().map(Handle::view).collect()),
            state: world.root.clone(),
            collateral,
            showing: Arc::new(publish::OverTls),
        });
        let noted = |web: Web| {
            let world = Arc::clone(&world);
            web.noting(move |text| world.journal.add(None, "note", text))
        };
        let _showing = web
            .map(noted)
            .map(|web| crate::running::Task(tokio::spawn(web.run(routes))));
        let secure = config.status.is_some_and(|status| status.web.tls.is_some());
        let _telling = status.map(noted).map(|web| {
            let listen = web.address().unwrap_or_else(|_| ([0, 0, 0, 0], 0).into());
            let scheme = if secure { "https" } else { "http" };
            let text = format!("status page on {scheme}://{listen}/");
            world.journal.add(None, "note", &text);
            let source: Arc<dyn crate::status::Source> = Arc::clone(&world) as _;
            let routes = crate::status::routes(&source, listen, login.as_ref());
            crate::running::Task(tokio::spawn(web.run(routes)))
        });
        // A dropped sender counts as a halt, but the end of the VMs is not awaited.
        let first = end.wait_for(Option::is_some).await.map_or(None, |end| *end);
        if first != Some(End::Leave) {
            // An appliance started after this point would outlive the halt.
            world.ending.store(true, Ordering::SeqCst);
            for handle in &*handles {
                handle.halt().await;
            }
            let rest = async {
                for handle in &*handles {
                    handle.at_rest().await;
                }
            };
            tokio::select! {
                () = rest => {}
                _ = end.wait_for(|end| *end == Some(End::Leave)) => {}
            }
        }
        drop(serving);
        // Keepers are aborted only between two steps, and each step is on disk before it is taken.
        keepers.shutdown().await;
        // Commands see at once that no daemon runs. If the socket cannot be removed, the next daemon replaces it.
        let _ = std::fs::remove_file(socket);
    }
}

/// Reports VMs that run but are no longer in the file. They are left running, because nobody has asked to stop them.
async fn strangers(config: &HostConfig, journal: &Journal) {
    let root = &config.host.state;
    for name in state::names(root).unwrap_or_default() {
        if config.appliance(&name).is_none()
            && (runs(root, &name).await || runs(&Slot::B.root(root), &name).await)
        {
            let text = format!(
                "it runs and is not in the file any more: `cocoon-host down {name}` stops it"
            );
            journal.add(Some(&name), "unknown", &text);
        }
    }
}

async fn runs(root: &Path, name: &str) -> bool {
    match store::load(root, name, clock::Clock::new().now()) {
        Ok(Some(life)) => crate::supervisor::Link::find(root, name, life.run)
            .await
            .is_ok(),
        _ => false,
    }
}
