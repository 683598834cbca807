//! Compiles the modules, with commands and an environment that are fully specified here.

use cocoon_inputs::report::Reporter;
use cocoon_inputs::unpack::{self, Tree};

use super::{DriverError, MAX_MODULE, MODULES, file};
use crate::files;
use crate::workroom::{Job, Workroom, WorkroomError, outside};

/// Folder of the sources inside the workroom. It is the same on every machine, and the compiler's output names it `/nvidia`.
const FOLDER: &str = "/build/nvidia-open-kernel";
/// Modules that are not built: the kernel has no DRM, and the image has no network card that reads a GPU's memory.
const EXCLUDED: &str = "nvidia-drm nvidia-modeset nvidia-peermem";
/// Time of the build as the compiler sees it: 2023-11-14, an arbitrary constant.
const CLOCK: &str = "1700000000";

/// Compiles the modules and returns their bytes in the order of [`MODULES`].
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

/// Returns all parts of the commands and the environment that decide the result. The number of threads does not.
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

/// Returns the command that removes debug information, nine tenths of each file.
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
