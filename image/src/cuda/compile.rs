//! Runs the CUDA compiler on each kernel, in an environment that is fully specified here.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use cocoon_inputs::report::Reporter;
use thiserror::Error;

use super::sources;
use crate::addresses;
use crate::family::PROGRAMS;
use crate::files::{self, FileError};

/// Largest source or cubin, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// Flags of the compiler, each with its reason.
const FLAGS: &[(&str, &str)] = &[
    (
        "-cubin",
        "machine code alone: nothing is compiled on the machine that runs it",
    ),
    ("-arch=sm_90", "H100 and H200"),
    ("-O3", "as fast as it can be made"),
    ("-std=c++17", "what the sources are written in"),
    (
        "-Werror",
        "a warning is a mistake until somebody has understood it",
    ),
    ("all-warnings", "all of them"),
    ("-Xptxas", "for the assembler:"),
    (
        "--warn-on-spills,--warn-on-local-memory-usage,--warning-as-error",
        "secrets and speed both want everything in registers",
    ),
];

/// Why a kernel cannot be compiled.
#[derive(Debug, Error)]
pub enum CompileError {
    /// The compiler cannot be started.
    #[error("cannot start {program}")]
    Start {
        /// Path of the compiler.
        program: PathBuf,
        /// What the system reported.
        #[source]
        source: io::Error,
    },
    /// Programs cannot run at fixed addresses here, so the machine code could differ between runs.
    #[error(
        "compilers for the GPU must run without randomised addresses, or their code differs from one run to the next, and that is \
         forbidden here: in a container allow the system call personality, such as with --security-opt seccomp=unconfined"
    )]
    Addresses(#[source] io::Error),
    /// The compiler failed.
    #[error(
        "nvcc cannot compile {kernel} (it needs gcc, of version 6 to 15, for the preprocessor: apt install \
         build-essential); it said:\n{said}"
    )]
    Failed {
        /// Name of the source.
        kernel: String,
        /// Output of the compiler.
        said: String,
    },
    /// A source or cubin cannot be read or written.
    #[error("cannot read or write a kernel")]
    File(#[from] FileError),
}

/// Returns names and contents of the cubins of all kernels in the folder `kernels`, sorted by name. `home` is the compiler's
/// folder, `scratch` a folder for temporary files, and `host` the C++ compiler to use instead of nvcc's default.
///
/// # Errors
/// [`CompileError`], with the compiler's output.
pub fn compile(
    home: &Path,
    kernels: &Path,
    scratch: &Path,
    host: Option<&str>,
    reporter: &dyn Reporter,
) -> Result<Vec<(String, Vec<u8>)>, CompileError> {
    addresses::check().map_err(CompileError::Addresses)?;
    // Compiling a copy by names without a folder keeps every path out of the result.
    let work = scratch.join("work");
    files::create_folder(&work)?;
    let mut names = Vec::new();
    for (name, path) in sources(kernels)? {
        let name = name.trim_start_matches("cuda/").to_owned();
        files::write(&work, &name, &files::read(&path, MAX_FILE)?)?;
        names.extend(name.strip_suffix(".cu").map(ToOwned::to_owned));
    }
    let mut cubins = Vec::new();
    for name in names {
        let task = reporter.start(&format!("compiling {name}.cu"), None);
        let (source, cubin) = (format!("{name}.cu"), format!("{name}.cubin"));
        let program = home.join("bin/nvcc");
        let mut command = Command::new(&program);
        command
            .args(FLAGS.iter().map(|(flag, _)| flag))
            .args(host.map(|host| format!("-ccbin={host}")))
            .args(["-o", &cubin, &source])
            .current_dir(&work)
            .env_clear()
            .envs(environment(home, scratch, std::env::var_os("PATH")));
        // The output goes to a file: a pipe could fill up while this thread waits for the compiler's end.
        let said = scratch.join("said");
        let file = File::create(&said).map_err(FileError::write(&said))?;
        let both = file.try_clone().map_err(FileError::write(&said))?;
        command.stdin(Stdio::null()).stdout(file).stderr(both);
        let running = PROGRAMS.start(&mut command);
        let status = running
            .and_then(|mut running| running.wait())
            .map_err(|source| CompileError::Start { program, source })?;
        if !status.success() {
            let said = files::read(&said, MAX_FILE)?;
            return Err(CompileError::Failed {
                kernel: source,
                said: String::from_utf8_lossy(&said).into_owned(),
            });
        }
        cubins.push((cubin.clone(), files::read(&work.join(cubin), MAX_FILE)?));
        task.finish("done");
    }
    Ok(cubins)
}

/// Returns the compiler's environment: where it finds gcc, whose preprocessor it runs, and where it puts temporary files.
fn environment(
    home: &Path,
    scratch: &Path,
    path: Option<OsString>,
) -> [(&'static str, OsString); 3] {
    let mut search = home.join("bin").into_os_string();
    if let Some(path) = path {
        search.push(":");
        search.push(path);
    }
    [
        ("PATH", search),
        ("TMPDIR", scratch.as_os_str().to_owned()),
        ("LC_ALL", "C".into()),
    ]
}
