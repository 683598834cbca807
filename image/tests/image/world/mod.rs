//! Makes everything to build an image from: packages, firmware, executables and a model, with a lock file and a cache that hold
//! them. Nothing is fetched and nothing is compiled.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use cocoon_inputs::{Cache, Digest, Entry, Kind, Lock, Release, Request, Take};

pub mod firmware;
#[path = "../../../src/kernel/test_module.rs"]
mod test_module;

pub const ARTEFACTS: [&str; 8] = [
    "vmlinuz",
    "initrd.img",
    "cmdline",
    "OVMF.tdx.fd",
    "OVMF.snp.fd",
    "model.img",
    "sbom.spdx.json",
    "manifest.json",
];

pub struct World {
    pub folder: tempfile::TempDir,
}

impl World {
    pub fn new() -> Self {
        let world = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        let kernel = [
            ("boot/vmlinuz-6.12-test", firmware::kernel()),
            ("usr/lib/modules/6.12/modules.builtin", builtin()),
            (
                "usr/lib/modules/6.12/kernel/dm-verity.ko",
                test_module::module("dm-mod", true),
            ),
            (
                "usr/lib/modules/6.12/kernel/dm-mod.ko",
                test_module::module("", true),
            ),
        ];
        let tdx = [("usr/share/ovmf/OVMF.inteltdx.ms.fd", firmware::tdx())];
        let vars = [("usr/share/OVMF/OVMF_VARS_4M.fd", firmware::varstore())];
        let snp = [("usr/share/ovmf/OVMF.amdsev.fd", firmware::snp())];
        let packages = [
            ("kernel", "linux-image-test", package(&kernel)),
            ("firmware-tdx", "ovmf-inteltdx", package(&tdx)),
            ("firmware-vars", "ovmf-generic", package(&vars)),
            ("firmware-snp", "ovmf-amdsev", package(&snp)),
        ];
        let cache = Cache::open(world.path("cache")).unwrap();
        let (mut entries, mut requests) = (Vec::new(), Vec::new());
        for (group, name, bytes) in packages {
            let (sha256, _) = cache.insert_bytes(&bytes, name).unwrap();
            requests.push(Request {
                group: group.to_owned(),
                kind: Kind::Debian,
                name: name.to_owned(),
                version: None,
                suites: vec!["test".to_owned()],
                components: vec![],
                take: Take::Package,
                without: vec![],
                reason: "a test's input".to_owned(),
            });
            entries.push(Entry {
                name: name.to_owned(),
                version: "1".to_owned(),
                architecture: "amd64".to_owned(),
                kind: Kind::Debian,
                suite: Some("test".to_owned()),
                path: format!("pool/{name}.deb"),
                sha256,
                size: bytes.len() as u64,
                groups: vec![group.to_owned()],
            });
        }
        let release = Release {
            suite: "test".to_owned(),
            date: "Thu, 01 Jan 1970 00:00:00 UTC".to_owned(),
            inrelease_sha256: Digest::of(b""),
            packages_sha256: Digest::of(b""),
            components: std::collections::BTreeMap::new(),
        };
        let lock = Lock::new(requests, vec![release], entries).unwrap();
        // The sources are those of the program under test, because `verify` refuses a program of other sources.
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        for file in cocoon_image::program::files(workspace).unwrap() {
            let bytes = fs::read(workspace.join(&file)).unwrap();
            world.write(&format!("source/{}", file.display()), &bytes);
        }
        world.write("source/image/inputs.lock", lock.render().as_bytes());
        world.write("binaries/agent", &firmware::executable(1, 50_000));
        world.write("binaries/engine", &firmware::executable(2, 300_000));
        world.write("tiny.gguf", &gguf(3, 1_000_001));
        world
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn write(&self, name: &str, bytes: &[u8]) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    /// Returns a command that builds this world's image into `out`, with `--not-before` and all paths given.
    pub fn build(&self, out: &Path) -> Command {
        let mut command = program();
        command
            .args([
                "build",
                "--variant",
                "cpu",
                "--not-before",
                "1000000",
                "--out",
            ])
            .arg(out);
        command.arg("--model").arg(self.path("tiny.gguf"));
        self.making(&mut command);
        command
    }

    pub fn making(&self, command: &mut Command) {
        command.arg("--guest-binaries").arg(self.path("binaries"));
        command
            .arg("--source")
            .arg(self.path("source"))
            .arg("--cache")
            .arg(self.path("cache"));
    }
}

pub fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cocoon-image"));
    command.env_remove("SOURCE_DATE_EPOCH");
    command
}

/// Returns a command that runs `command` with a limit of `blocks` of 512 bytes on the size of files, as on a full disk.
pub fn limited(blocks: &str, command: &Command) -> Command {
    let mut shell = Command::new("sh");
    let script = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" \"$@\"");
    shell.args(["-c", &script]).arg(command.get_program());
    shell
        .args(command.get_args())
        .env_remove("SOURCE_DATE_EPOCH");
    shell
}

pub fn succeed(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// Runs a command that must end with exit code `code`, and returns its standard error.
pub fn fail(command: &mut Command, code: i32) -> String {
    let output = command.output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{command:?}: {error}");
    error
}

/// Returns a GGUF file without tensors, and with noise after its header.
pub fn gguf(seed: u64, length: usize) -> Vec<u8> {
    let header = [&b"GGUF\x03\0\0\0"[..], &[0; 16]].concat();
    [header, firmware::noise(seed, length)].concat()
}

fn builtin() -> Vec<u8> {
    let modules = cocoon_image::kernel::MODULES
        .iter()
        .filter(|(name, _)| *name != "dm-verity");
    modules
        .map(|(name, _)| format!("kernel/{name}.ko\n"))
        .collect::<String>()
        .into_bytes()
}

/// Returns a Debian package with these files.
fn package(files: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, format!("./{path}"), &bytes[..])
            .unwrap();
    }
    let data = tar.into_inner().unwrap();
    let mut ar = ar::Builder::new(Vec::new());
    for (name, bytes) in [
        ("debian-binary", &b"2.0\n"[..]),
        ("control.tar", b""),
        ("data.tar", &data),
    ] {
        ar.append(&ar::Header::new(name.into(), bytes.len() as u64), bytes)
            .unwrap();
    }
    ar.into_inner().unwrap()
}
