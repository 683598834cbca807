//! The compiler's run over the modules, and its whole environment.

use cocoon_inputs::report::Reporter;
use cocoon_inputs::unpack::{self, Tree};

use super::{DriverError, MAX_MODULE, MODULES, file};
use crate::files;
use crate::workroom::{Job, Workroom, WorkroomError, outside};

/// Where the sources lie while they are compiled, as seen from inside. The same for everybody, and mapped away besides.
const FOLDER: &str = "/build/nvidia-open-kernel";
/// Modules that need what the kernel has not (DRM) or the image not (a network card that reads a GPU's memory).
const EXCLUDED: &str = "nvidia-drm nvidia-modeset nvidia-peermem";
/// The clock of the build: 2023-11-14, for no reason but that it stands still.
const CLOCK: &str = "1700000000";

/// The modules' bytes in the order of [`MODULES`].
pub(super) fn compile(
    room: &Workroom,
    sources: &Tree,
    kernel: &str,
    reporter: &dyn Reporter,
) -> Result<Vec<Vec<u8>>, DriverError> {
    let folder = outside(room.root(), FOLDER);
    unpack::write_tree(sources, &folder).map_err(|source| WorkroomError::Tree {
        what: "the driver's compiler".to_owned(),
        source,
    })?;
    let environment = environment();
    let job = |what, command: &[String]| {
        let job = Job {
            what,
            folder: FOLDER,
            command,
            environment: &environment,
        };
        room.run(&job, reporter)
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut make = make(kernel);
    make.push(format!("-j{threads}"));
    job("compiling NVIDIA's kernel modules (minutes)", &make)?;
    job("stripping them", &strip())?;
    MODULES
        .iter()
        .map(|(name, _)| Ok(files::read(&file(&folder, name), MAX_MODULE)?))
        .collect()
}

/// Everything of the commands that decides the result: the number of threads does not.
pub(super) fn recipe(kernel: &str) -> Vec<String> {
    let variables = environment().map(|(name, value)| format!("{name}={value}"));
    let commands = make(kernel).into_iter().chain(strip());
    variables.into_iter().chain(commands).collect()
}

fn make(kernel: &str) -> Vec<String> {
    vec![
        "make".to_owned(),
        "modules".to_owned(),
        "CC=x86_64-linux-gnu-gcc-14".to_owned(),
        format!("KERNEL_UNAME={kernel}"),
        format!("NV_EXCLUDE_KERNEL_MODULES={EXCLUDED}"),
    ]
}

/// Line numbers and the like, nine tenths of the files.
fn strip() -> Vec<String> {
    let files = MODULES.iter().map(|(name, _)| format!("{name}.ko"));
    ["strip", "--strip-debug"]
        .map(ToOwned::to_owned)
        .into_iter()
        .chain(files)
        .collect()
}

fn environment() -> [(&'static str, String); 7] {
    [
        ("PATH", "/usr/sbin:/usr/bin:/sbin:/bin".to_owned()),
        ("LC_ALL", "C".to_owned()),
        ("SOURCE_DATE_EPOCH", CLOCK.to_owned()),
        ("KBUILD_BUILD_TIMESTAMP", format!("@{CLOCK}")),
        ("KBUILD_BUILD_USER", "cocoon".to_owned()),
        ("KBUILD_BUILD_HOST", "cocoon".to_owned()),
        ("KCFLAGS", format!("-ffile-prefix-map={FOLDER}=/nvidia")),
    ]
}
