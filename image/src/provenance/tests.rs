//! Tests revisions, marks, and failures of git.

use std::sync::Mutex;

use cocoon_inputs::report::{Silent, Task};

use super::*;

/// Records all notes.
#[derive(Debug, Default)]
struct Told(Mutex<Vec<String>>);

impl Reporter for Told {
    fn start(&self, what: &str, total: Option<u64>) -> Box<dyn Task> {
        Silent.start(what, total)
    }

    fn note(&self, line: &str) {
        self.0.lock().unwrap().push(line.to_owned());
    }
}

#[test]
fn only_a_clean_revision_is_unmarked() {
    let name = |revision: &str, own| Name {
        revision: revision.to_owned(),
        refusal: None,
        own,
        committed: None,
    };
    assert_eq!(marks(&name("0a1b", true), None), Vec::<String>::new());
    let mut all = marks(&name("0a1b-dirty", true), Some(Path::new("binaries")));
    assert_eq!(
        all,
        [
            "source: changed since the revision, so nobody else has it",
            "source: the guest's executables were given, not built"
        ]
    );
    assert_eq!(
        marks(&name("none", true), None),
        ["source: git names no revision, so nobody else can have it"]
    );
    assert_eq!(
        marks(&name("0a1b", false), None),
        ["source: assembled by a program of other sources"]
    );
    all.push("linux-image 1.2: newest signed".to_owned());
    without_marks(&mut all);
    assert_eq!(all, ["linux-image 1.2: newest signed"]);
}

#[test]
fn only_what_goes_into_an_image_makes_it_dirty() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    let git = |arguments: &[&str]| {
        let identity = ["-c", "user.name=n", "-c", "user.email=n@localhost"];
        let mut git = Command::new("git");
        git.current_dir(folder.path())
            .args(identity)
            .args(arguments);
        assert!(git.output().unwrap().status.success(), "{arguments:?}");
    };
    let revision = || Name::of(folder.path(), folder.path()).revision;
    git(&["init", "--quiet"]);
    write("Cargo.toml", "[workspace]\nmembers = ['guest-agent']\n");
    for name in ["Cargo.lock", "rust-toolchain.toml", "guest-agent/a.rs"] {
        write(name, "");
    }
    assert_eq!(revision(), "none");
    git(&["add", "."]);
    git(&["commit", "--quiet", "--message", "m"]);
    let clean = revision();
    assert_eq!(clean.len(), 40, "{clean}");
    // These files lie beside the sources, or are never staged.
    write("signer.key", "");
    write("guest-agent/target/x", "");
    assert_eq!(revision(), clean);
    // `git status` does not show this file, but it is compiled.
    git(&["config", "status.showUntrackedFiles", "no"]);
    write(".git/info/exclude", "*.rs\n");
    write("guest-agent/b.rs", "");
    let dirty = format!("{clean}-dirty");
    assert_eq!(revision(), dirty);
    std::fs::remove_file(folder.path().join("guest-agent/b.rs")).unwrap();
    assert_eq!(revision(), clean);
    write("guest-agent/a.rs", "x");
    assert_eq!(revision(), dirty);
    write("guest-agent/a.rs", "");
    assert_eq!(revision(), clean);
    // The revision has this file, and the sources lack it.
    std::fs::remove_file(folder.path().join("guest-agent/a.rs")).unwrap();
    assert_eq!(revision(), dirty);
}

/// The revision must be that of the files that are compiled, even if the sources are changed meanwhile.
#[test]
fn the_copy_is_judged_and_not_the_sources_that_went_on() {
    let (folder, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (source, copy) = (folder.path(), copy.path());
    let write = |name: &str, text: &str| std::fs::write(source.join(name), text).unwrap();
    let commit = |message: &str| {
        let script = "git init -q && git add . && git -c user.name=n -c user.email=n@localhost commit -q -m $0";
        let mut shell = Command::new("sh");
        shell.current_dir(source).args(["-c", script, message]);
        assert!(shell.status().unwrap().success());
    };
    std::fs::create_dir_all(source.join("image")).unwrap();
    write("Cargo.toml", "[workspace]\nmembers = ['image']\n");
    for name in [
        "Cargo.lock",
        "rust-toolchain.toml",
        "image/a.rs",
        "image/inputs.lock",
    ] {
        write(name, "");
    }
    commit("one");
    stage::stage(source, copy).unwrap();
    let judge = || Sources::judge(source, copy).unwrap();
    let clean = judge();
    assert_eq!(clean.name.revision.len(), 40, "{clean:?}");
    assert_eq!(clean.name_with(Hex32::sha256(b"")), clean.name);
    let other_lock = clean.name_with(Hex32::sha256(b"another")).revision;
    assert_eq!(other_lock, format!("{}-dirty", clean.name.revision));

    write("image/a.rs", "changed after it was copied");
    write("Cargo.lock", "of other packages");
    assert_eq!(judge(), clean);
    commit("two");
    let late = judge();
    assert!(late.name.revision.ends_with("-dirty"), "{late:?}");
    assert_eq!(late.cargo_lock, "");
    stage::stage(source, copy).unwrap();
    let two = judge();
    assert_eq!(
        (two.name.revision.len(), &*two.cargo_lock),
        (40, "of other packages")
    );
    assert_eq!(clean.clone().and(&clean), clean);
    assert!(two.clone().and(&clean).name.revision.ends_with("-dirty"));

    // A different revision with the same sources.
    write("README.md", "beside them");
    commit("three");
    let three = judge();
    assert_ne!(three.name.revision, two.name.revision);
    assert_eq!(two.clone().and(&three), two);
    let of_other_packages = Sources {
        cargo_lock: String::new(),
        ..three
    };
    let mixed = two.and(&of_other_packages);
    assert!(mixed.name.revision.ends_with("-dirty"), "{mixed:?}");
    // Files that differ from every revision may be any files, so even equal states stay dirty.
    assert!(late.clone().and(&late).name.revision.ends_with("-dirty"));
}

#[test]
fn a_repository_around_the_sources_does_not_vouch_for_them() {
    let folder = tempfile::tempdir().unwrap();
    let inner = folder.path().join("unpacked");
    std::fs::create_dir_all(inner.join("guest-agent")).unwrap();
    std::fs::write(
        inner.join("Cargo.toml"),
        "[workspace]\nmembers = ['guest-agent']\n",
    )
    .unwrap();
    for name in ["Cargo.lock", "rust-toolchain.toml", "guest-agent/a.rs"] {
        std::fs::write(inner.join(name), "").unwrap();
    }
    let script =
        "git init -q && git -c user.name=n -c user.email=n@localhost commit -q --allow-empty -m m";
    let mut shell = Command::new("sh");
    shell.current_dir(folder.path()).args(["-c", script]);
    assert!(shell.status().unwrap().success());
    assert!(Name::of(&inner, &inner).revision.ends_with("-dirty"));
}

/// For example, git refuses a repository of another user. Without the reason, it would look as if there were no repository.
#[test]
fn what_git_says_where_it_refuses_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path();
    std::fs::create_dir(source.join("image")).unwrap();
    for (name, text) in [
        ("Cargo.toml", "[workspace]\nmembers = ['image']\n"),
        (".git", "rubbish"),
    ] {
        std::fs::write(source.join(name), text).unwrap();
    }
    let name = Name::of(source, source);
    assert_eq!(name.revision, "none");
    let said = name.refusal.unwrap();
    assert!(said.contains(".git") && said.lines().count() == 1, "{said}");

    // Git knows the revision, but not its tree.
    std::fs::remove_file(source.join(".git")).unwrap();
    let script = "git init -q && git add . && git -c user.name=n -c user.email=n@localhost commit -q -m m && \
                  git rev-parse HEAD^{tree}";
    let mut shell = Command::new("sh");
    let output = shell.current_dir(source).args(["-c", script]).output();
    let tree = String::from_utf8(output.unwrap().stdout).unwrap();
    let (folder, file) = tree.trim().split_at(2);
    std::fs::remove_file(source.join(".git/objects").join(folder).join(file)).unwrap();
    let name = Name::of(source, source);
    assert!(name.revision.ends_with("-dirty"), "{name:?}");
    let said = name.refusal.unwrap();
    assert_eq!(said.lines().count(), 1, "{said}");
}

/// Only the program's own sources count, and neither those of the checkout nor what the manifest says.
#[test]
fn only_the_program_of_the_very_revision_adds_a_model_unmarked() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path();
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    for file in program::files(workspace).unwrap() {
        let to = source.join(&file);
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::copy(workspace.join(file), to).unwrap();
    }
    let write = |name: &str, text: &str| std::fs::write(source.join(name), text).unwrap();
    let commit = || {
        let script = "git init -q && git add . && git -c user.name=n -c user.email=n@localhost commit -q -m m && \
                      git rev-parse HEAD";
        let mut shell = Command::new("sh");
        let output = shell
            .current_dir(source)
            .args(["-c", script])
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let told = Told::default();
    let mark = |revision: &str| mark_of_model(Some(source), revision, &[], &told);
    let marked = Some(
        "source: another model, added by a program that is not known to be of these sources"
            .to_owned(),
    );
    let first = commit();
    assert_eq!(mark(&first), None);
    // This file is not a part of the program.
    write("README.md", "x");
    let second = commit();
    assert_eq!((mark(&first), mark(&second)), (None, None));
    assert_eq!(mark_of_model(None, &first, &[], &Silent), marked);
    for word in ["HEAD", "none", "--help"] {
        assert_eq!(mark(word), marked, "{word}");
    }
    let why = "git does not name the image's sources: ";
    let refused = || {
        let notes = told.0.lock().unwrap().clone();
        notes.iter().filter(|note| note.starts_with(why)).count()
    };
    assert_eq!(refused(), 0, "{told:?}");
    assert_eq!(mark(&"0".repeat(40)), marked);
    assert_eq!(refused(), 1, "{told:?}");
    let next = "run the cocoon-image that was built in a checkout of the image's revision";
    let notes = told.0.lock().unwrap().clone();
    assert!(
        notes.last().is_some_and(|note| note.contains(next)),
        "{notes:?}"
    );
    // The manifest promises nothing that a new mark would have to withdraw.
    let entry = "source: changed since the revision, so nobody else has it".to_owned();
    assert_eq!(mark_of_model(None, "none", &[entry], &Silent), None);

    // The revision has another part of the program, and then a part is changed.
    write("image/src/gone.rs", "");
    let with_another = commit();
    assert_eq!(
        (mark(&first), mark(&with_another)),
        (marked.clone(), marked.clone())
    );
    std::fs::remove_file(source.join("image/src/gone.rs")).unwrap();
    assert_eq!((mark(&first), mark(&with_another)), (None, marked.clone()));
    write("rust-toolchain.toml", "x");
    assert_eq!(mark(&first), marked);
}
