//! Inner half of the jail: sets up an empty root, drops privileges, installs the system call filter and executes the engine.

use std::convert::Infallible;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use cocoon_protocol::engine::ENGINE_FD;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::mount::{MsFlags, mount};
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::Signal;
use nix::unistd::{self, Gid, Uid};

use super::{Cell, JailError, NOBODY, gpus, seccomp};
use crate::{runtime, sys};

/// Where the new root is assembled. Exists only in the new mount namespace.
const STAGE: &str = "/.engine-root";

/// Devices of the kernel's random generator. In a static executable, libraries do not find the wrapper of the getrandom
/// system call and open these devices instead.
const DEVICES: [&str; 2] = ["random", "urandom"];

/// Resource limits of the engine.
const RLIMITS: [(Resource, u64, &str); 4] = [
    (Resource::RLIMIT_CORE, 0, "a core file would hold prompts"),
    (
        Resource::RLIMIT_FSIZE,
        0,
        "there is nothing to write a file to, and there shall not be",
    ),
    (
        Resource::RLIMIT_NOFILE,
        256,
        "model files and a socket, no more",
    ),
    (
        Resource::RLIMIT_NPROC,
        LEAST_THREADS,
        "threads for computing and waiting",
    ),
];

/// Limit on threads for an engine on few processors.
const LEAST_THREADS: u64 = 512;

/// Returns the limit on threads for this number of processors. The engine's library, the library's arithmetic, its attention
/// and the worker's own pool have one thread per processor each. The rest is for threads that wait.
fn threads(processors: usize) -> u64 {
    let processors = u64::try_from(processors).unwrap_or(u64::MAX);
    let pools = processors.saturating_mul(5).saturating_add(128);
    LEAST_THREADS.max(pools)
}

pub(super) fn enter(cell: &Cell) -> Result<Infallible, JailError> {
    descriptors()?;
    root(cell)?;
    system("set the host name", unistd::sethostname("engine"))?;
    for (resource, limit, _reason) in RLIMITS {
        let limit = match resource {
            Resource::RLIMIT_NOFILE if cell.gpus => gpus::DESCRIPTORS,
            Resource::RLIMIT_FSIZE if cell.gpus => gpus::LONGEST_FILE,
            Resource::RLIMIT_NPROC => threads(cell.threads),
            _ => limit,
        };
        system("set a limit", setrlimit(resource, limit, limit))?;
    }
    rights()?;
    seccomp::install(cell.gpus)?;
    let program = match (cell.gpus, cell.engine.file_name()) {
        (true, Some(name)) => Path::new(runtime::FOLDER).join(name),
        _ => "/engine".into(),
    };
    let error = Command::new(program)
        .args(["--model-dir", "/model", "--model-id", &cell.model_id])
        .args(["--threads", &cell.threads.to_string()])
        .env_clear()
        .envs(environment(cell))
        .envs(gpus::ENVIRONMENT.iter().copied().filter(|_| cell.gpus))
        .stdin(Stdio::inherit())
        .exec();
    Err(JailError::File {
        operation: "execute the engine",
        source: error,
    })
}

/// Returns the complete environment of the engine.
fn environment(cell: &Cell) -> [(&'static str, String); 2] {
    [
        // Thread pools of the arithmetic read this variable, because there is no /proc to count processors in.
        ("RAYON_NUM_THREADS", cell.threads.to_string()),
        // The library looks for a cache in the home folder and panics without one. The root is read-only.
        ("HOME", "/".to_owned()),
    ]
}

/// Points descriptors 0 to 2 to `/dev/null` and moves the socket pair from 0 to 3.
fn descriptors() -> Result<(), JailError> {
    file("close descriptors", sys::close_from(3))?;
    let moved = system(
        "move the socket",
        fcntl(std::io::stdin(), FcntlArg::F_DUPFD(ENGINE_FD)),
    )?;
    if moved != ENGINE_FD {
        return Err(JailError::System {
            operation: "move the socket to descriptor 3",
            source: Errno::EBUSY,
        });
    }
    let null = file(
        "open /dev/null",
        File::options().read(true).write(true).open("/dev/null"),
    )?;
    system("redirect input", unistd::dup2_stdin(&null))?;
    system("redirect output", unistd::dup2_stdout(&null))?;
    system("redirect errors", unistd::dup2_stderr(&null))
}

/// Replaces the root by one that contains only what the engine may use.
fn root(cell: &Cell) -> Result<(), JailError> {
    let none = None::<&str>;
    let plain = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    // Keeps these mounts from propagating to the agent's namespace.
    system(
        "make mounts private",
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none),
    )?;
    let stage = Path::new(STAGE);
    file("create the new root", fs::create_dir_all(stage))?;
    system(
        "mount the new root",
        mount(
            Some("root"),
            stage,
            Some("tmpfs"),
            plain,
            Some("mode=0755,size=64k"),
        ),
    )?;

    let (engine, model) = (stage.join("engine"), stage.join("model"));
    file("create the model's place", fs::create_dir(&model))?;
    if !cell.gpus {
        file("create the engine's place", File::create(&engine).map(drop))?;
        bind(&cell.engine, &engine, plain)?;
    }
    bind(&cell.model, &model, plain | MsFlags::MS_NOEXEC)?;
    file(
        "create the devices' place",
        fs::create_dir(stage.join("dev")),
    )?;
    for device in DEVICES {
        let place = stage.join("dev").join(device);
        file("create a device's place", File::create(&place).map(drop))?;
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
        bind(&Path::new("/dev").join(device), &place, flags)?;
    }
    if cell.gpus {
        let runtime = cell.engine.parent().ok_or(JailError::Usage)?;
        gpus::lend(stage, runtime)?;
    }
    // Prevents every user, including the owner, from adding files.
    file(
        "open the root",
        fs::set_permissions(stage, fs::Permissions::from_mode(0o555)),
    )?;
    let sealed = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY | plain;
    system(
        "seal the new root",
        mount(none, stage, none, sealed, Some("size=64k")),
    )?;

    // Like switch_root: the initial root cannot be pivoted, so the new one is moved over it.
    system("enter the new root", unistd::chdir(stage))?;
    system(
        "move the new root",
        mount(Some("."), "/", none, MsFlags::MS_MOVE, none),
    )?;
    system("change root", unistd::chroot("."))?;
    system("enter the new root", unistd::chdir("/"))
}

pub(super) fn bind(source: &Path, target: &Path, flags: MsFlags) -> Result<(), JailError> {
    let none = None::<&str>;
    system(
        "bind into the new root",
        mount(Some(source), target, none, MsFlags::MS_BIND, none),
    )?;
    let sealed = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY | flags;
    system(
        "seal in the new root",
        mount(none, target, none, sealed, none),
    )
}

/// Gives up root for good.
fn rights() -> Result<(), JailError> {
    let (user, group) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
    system("leave groups", unistd::setgroups(&[]))?;
    system("change group", unistd::setresgid(group, group, group))?;
    // The kernel drops all capabilities when root becomes another user.
    system("change user", unistd::setresuid(user, user, user))?;
    system("forbid new privileges", prctl::set_no_new_privs())?;
    system("forbid dumps", prctl::set_dumpable(false))?;
    // Set after the change of user, which clears it.
    system("die with the jail", prctl::set_pdeathsig(Signal::SIGKILL))
}

pub(super) fn system<T>(operation: &'static str, outcome: nix::Result<T>) -> Result<T, JailError> {
    outcome.map_err(|source| JailError::System { operation, source })
}

pub(super) fn file<T>(
    operation: &'static str,
    outcome: std::io::Result<T>,
) -> Result<T, JailError> {
    outcome.map_err(|source| JailError::File { operation, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pool_has_a_thread_for_each_processor() {
        assert_eq!(threads(2), 512);
        // Processor counts up to the largest that a host may give.
        for processors in [76, 127, 128, 255] {
            let pools = 4 * processors as u64;
            assert!(threads(processors) > pools + 100, "{processors}");
        }
        assert_eq!(threads(usize::MAX), u64::MAX);
    }
}
