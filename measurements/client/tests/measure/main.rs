//! Tests of `cocoon measure` from files to output: each flag is compared with values computed here
//! or by the library.

mod snp;
mod tdx;

use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

#[path = "../../../../image/tests/image/world/firmware.rs"]
#[expect(dead_code, reason = "the image's own tests use more of it")]
mod firmware;

const CMDLINE: &str = "console=ttyS0 quiet";

/// A folder with the artefacts of an image.
struct Artefacts(tempfile::TempDir);

impl Artefacts {
    fn new() -> Self {
        let artefacts = Self(tempfile::tempdir().unwrap());
        artefacts.write("tdx.fd", &firmware::tdx());
        artefacts.write("snp.fd", &firmware::snp());
        artefacts.write("vmlinuz", &kernel());
        artefacts.write("initrd", &initrd());
        artefacts
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }

    /// Runs `cocoon measure TEE` with the artefacts and `arguments`, and returns exit status,
    /// standard output and standard error. An argument that begins with `@` is a file of the
    /// folder.
    fn run(&self, tee: &str, arguments: &[&str]) -> (i32, String, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cocoon"));
        command.args(["measure", tee, "--cmdline", CMDLINE]);
        for (flag, name) in [
            ("--firmware", format!("{tee}.fd")),
            ("--kernel", "vmlinuz".to_owned()),
            ("--initrd", "initrd".to_owned()),
        ] {
            command.arg(flag).arg(self.path(&name));
        }
        for argument in arguments {
            match argument.strip_prefix('@') {
                Some(name) => command.arg(self.path(name)),
                None => command.arg(argument),
            };
        }
        let output = command.output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (
            output.status.code().unwrap(),
            text(output.stdout),
            text(output.stderr),
        )
    }

    /// Returns the JSON output.
    fn measured(&self, tee: &str, arguments: &[&str]) -> Value {
        let (code, shown, error) = self.run(tee, &[arguments, &["--json"]].concat());
        assert_eq!(code, 0, "{error}");
        serde_json::from_str(&shown).unwrap()
    }

    /// Returns standard error after wrong usage.
    fn refused(&self, tee: &str, arguments: &[&str]) -> String {
        let (code, shown, error) = self.run(tee, arguments);
        assert_eq!((code, shown.as_str()), (2, ""), "{error}");
        error
    }
}

/// Returns a kernel of boot protocol 2.15 that is loaded high and accepts its initrd anywhere below
/// 4 GiB.
fn kernel() -> Vec<u8> {
    let mut kernel = firmware::kernel();
    kernel[0x206..0x208].copy_from_slice(&[0x0f, 0x02]);
    kernel[0x211] = 0x01;
    kernel[0x236..0x238].copy_from_slice(&[0x02, 0x00]);
    kernel
}

fn initrd() -> Vec<u8> {
    firmware::noise(4, 5000)
}
