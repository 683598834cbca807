//! Tests that the same ingredients give the same image, whatever folder, user, umask, locale, time zone and threads.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::world::{ARTEFACTS, World, program, succeed};
use cocoon_protocol::manifest::Manifest;

fn same(one: &Path, other: &Path) {
    for name in ARTEFACTS {
        let differ = fs::read(one.join(name)).unwrap() != fs::read(other.join(name)).unwrap();
        assert!(
            !differ,
            "{name} differs between {} and {}",
            one.display(),
            other.display()
        );
    }
}

/// Returns a shell command that runs `command` with another umask.
fn with_umask(umask: &str, command: &Command) -> Command {
    let mut shell = Command::new("sh");
    shell
        .args(["-c", &format!("umask {umask}; exec \"$0\" \"$@\"")])
        .arg(command.get_program());
    shell
        .args(command.get_args())
        .env_remove("SOURCE_DATE_EPOCH");
    shell
}

#[test]
fn folder_umask_locale_zone_and_jobs_do_not_matter() {
    let world = World::new();
    let first = world.path("first");
    succeed(world.build(&first).args(["--jobs", "1"]));

    let second = world.path("another/folder with spaces");
    let mut command = world.build(&second);
    command.args(["--jobs", "7"]);
    let mut command = with_umask("077", &command);
    command
        .env("LC_ALL", "tr_TR.UTF-8")
        .env("TZ", "Pacific/Kiritimati")
        .current_dir("/");
    succeed(&mut command);
    same(&first, &second);
}

#[test]
fn two_worlds_made_apart_agree() {
    let (one, other) = (World::new(), World::new());
    let (first, second) = (one.path("image"), other.path("image"));
    succeed(&mut one.build(&first));
    succeed(&mut other.build(&second));
    same(&first, &second);
}

#[test]
fn the_user_does_not_matter() {
    if fs::metadata("/proc/self")
        .map(|own| std::os::unix::fs::MetadataExt::uid(&own))
        .unwrap()
        != 0
    {
        return crate::skip::skipped("only root can build as another user");
    }
    let world = World::new();
    let first = world.path("first");
    succeed(&mut world.build(&first));
    // The other user must be able to enter the folders, to read the program, and to write.
    let copy = world.path("program");
    fs::copy(program().get_program(), &copy).unwrap();
    let open = |path: &Path| {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        fs::set_permissions(path, mode).unwrap();
    };
    for path in every(world.folder.path()) {
        open(&path);
    }
    open(world.folder.path());
    let second = world.path("second");
    let mut command = Command::new(&copy);
    command
        .args(world.build(&second).get_args())
        .env_remove("SOURCE_DATE_EPOCH")
        .env("HOME", "/nonexistent");
    succeed(command.uid(65534).gid(65534));
    same(&first, &second);
}

#[test]
fn without_a_date_only_the_manifests_life_follows_the_clock() {
    let world = World::new();
    let (dated, undated) = (world.path("dated"), world.path("undated"));
    succeed(&mut world.build(&dated));
    let mut command = program();
    let arguments: Vec<_> = world
        .build(&undated)
        .get_args()
        .map(ToOwned::to_owned)
        .collect();
    let date = arguments
        .iter()
        .position(|argument| argument == "--not-before")
        .unwrap();
    command.args(arguments[..date].iter().chain(&arguments[date + 2..]));
    succeed(&mut command);
    let manifest =
        |folder: &Path| Manifest::parse(&fs::read(folder.join("manifest.json")).unwrap()).unwrap();
    let (dated, undated) = (manifest(&dated), manifest(&undated));
    assert_ne!(dated.not_before, undated.not_before);
    assert_eq!(
        Manifest {
            not_before: dated.not_before,
            not_after: dated.not_after,
            ..undated
        },
        dated
    );
}

fn every(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap().flatten() {
        if entry.path().is_dir() {
            found.extend(every(&entry.path()));
        }
        found.push(entry.path());
    }
    found
}
