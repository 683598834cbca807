//! Tests in the jail what NVIDIA's library does when it starts. The program is dynamic, as the engine of an image with
//! GPUs is: loader, libraries and program lie in one folder, and the cell has no other.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use cocoon_guest_agent::jail::Cell;

use super::{jailed, prepared, skip};

/// Setting without which unnamed files (memfds) could be executed.
const MEMFD_NOEXEC: &str = "/proc/sys/vm/memfd_noexec";

/// Libraries beside the program. The program opens the last one by name, as NVIDIA's library opens its compiler.
const LIBRARIES: [&str; 4] = [
    "ld-linux-x86-64.so.2",
    "libc.so.6",
    "libgcc_s.so.1",
    "libm.so.6",
];

/// Source of a program that writes one line to file descriptor 3 for each attempt: the result, or the number of the error.
const PROBE: &str = r##"
use std::ffi::{c_char, c_int, c_long, c_void};
use std::fs::{self, OpenOptions};
use std::io::{Error, Write};
use std::os::fd::FromRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;
extern "C" {
    fn socket(family: c_int, kind: c_int, protocol: c_int) -> c_int;
    fn setsockopt(socket: c_int, level: c_int, name: c_int, value: *const c_int, length: u32) -> c_int;
    fn bind(socket: c_int, name: *const u8, length: u32) -> c_int;
    fn listen(socket: c_int, backlog: c_int) -> c_int;
    fn connect(socket: c_int, name: *const u8, length: u32) -> c_int;
    fn shm_open(name: *const c_char, flags: c_int, mode: u32) -> c_int;
    fn shm_unlink(name: *const c_char) -> c_int;
    fn ftruncate(file: c_int, length: i64) -> c_int;
    fn mmap(at: *mut c_void, length: usize, protection: c_int, flags: c_int, file: c_int, offset: i64) -> *mut c_void;
    fn memfd_create(name: *const c_char, flags: u32) -> c_int;
    fn fcntl(file: c_int, command: c_int, ...) -> c_int;
    fn dup2(from: c_int, to: c_int) -> c_int;
    fn dup3(from: c_int, to: c_int, flags: c_int) -> c_int;
    fn dlopen(name: *const c_char, flags: c_int) -> *mut c_void;
    fn dlsym(library: *mut c_void, name: *const c_char) -> *mut c_void;
    fn syscall(number: c_long, ...) -> c_long;
}
type Outcome = Result<c_int, Option<i32>>;
fn of(outcome: c_int) -> Outcome {
    if outcome < 0 { Err(Error::last_os_error().raw_os_error()) } else { Ok(outcome) }
}
fn write(path: &str, text: &str) -> Result<(), Option<i32>> {
    fs::write(path, text).map_err(|error| error.raw_os_error())
}
/// The abstract name "cuda-uvmfd-1".
const NAME: &[u8] = b"\x01\x00\x00cuda-uvmfd-1";
fn offer() -> Outcome {
    unsafe {
        let sequence = of(socket(1, 0x80005, 0))?;
        of(setsockopt(sequence, 1, 16, &1, 4))?;
        of(bind(sequence, NAME.as_ptr(), NAME.len() as u32))?;
        of(listen(sequence, 16))
    }
}
fn reach(family: c_int) -> Outcome {
    unsafe {
        let other = of(socket(family, 0x80005, 0))?;
        of(connect(other, NAME.as_ptr(), NAME.len() as u32))
    }
}
fn share() -> Outcome {
    unsafe {
        let name = c"/cuda.shm.fffe.1.1".as_ptr();
        let file = of(shm_open(name, 0xc2, 0o600))?;
        of(ftruncate(file, 1 << 20))?;
        let memory = mmap(std::ptr::null_mut(), 1 << 20, 3, 1, file, 0);
        if memory as isize == -1 { return of(-1); }
        memory.cast::<u8>().write_volatile(7);
        of(shm_unlink(name))
    }
}
fn nameless(flags: u32) -> Outcome {
    unsafe {
        let file = of(memfd_create(c"x".as_ptr(), flags))?;
        of(ftruncate(file, 4096))?;
        // F_SEAL_EXEC
        Ok(of(fcntl(file, 1034))? & 0x20)
    }
}
fn execute(path: &str) -> Option<i32> {
    Command::new(path).exec().raw_os_error()
}
fn list(folder: &str) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(|name| !name.starts_with("nvidia")).collect();
    names.sort();
    names
}
fn main() {
    let mut agent = unsafe { fs::File::from_raw_fd(3) };
    let mut tell = |what: &str, outcome: &dyn std::fmt::Debug| writeln!(agent, "{what} {outcome:?}").unwrap();
    tell("root", &list("/"));
    tell("devices", &list("/dev"));
    tell("model", &fs::read_to_string("/model/weights").unwrap());
    let cosine = unsafe {
        let library = dlopen(c"libm.so.6".as_ptr(), 2);
        std::mem::transmute::<_, Option<extern "C" fn(f64) -> f64>>(dlsym(library, c"cos".as_ptr()))
    };
    tell("library", &cosine.map(|cosine| cosine(0.0)));
    tell("offer", &offer());
    tell("share", &share());
    tell("nameless", &nameless(1));
    tell("copies", &unsafe { of(dup2(3, 100)).and(of(dup3(3, 101, 0x80000))) });
    let thread = std::thread::spawn(|| {
        let name = format!("/proc/self/task/{}/comm", unsafe { syscall(186) });
        write(&name, "cuda").map(|()| fs::read_to_string(name).unwrap())
    });
    tell("thread", &thread.join().unwrap());
    tell("kernel", &fs::read_to_string("/proc/devices").unwrap().contains("mem"));

    tell("to itself", &reach(1));
    tell("network", &reach(2));
    tell("kernel's sockets", &reach(16));
    tell("file", &write("/x", ""));
    tell("library's file", &write("/runtime/libm.so.6", ""));
    tell("model's file", &write("/model/weights", ""));
    tell("setting", &write("/proc/sys/kernel/core_pattern", "|/x"));
    tell("device's setting", &write("/sys/kernel/mm/transparent_hugepage/enabled", "never"));
    tell("outside", &fs::read("/etc/passwd").map_err(|error| error.raw_os_error()));
    tell("process", &Command::new("/runtime/engine").spawn().map(drop).map_err(|error| error.raw_os_error()));
    tell("program without a name", &nameless(0x11));
    let program = OpenOptions::new().write(true).create_new(true).mode(0o700).open("/dev/shm/p");
    program.unwrap().write_all(b"#!/runtime/engine\n").unwrap();
    tell("new program", &execute("/dev/shm/p"));
    let nameless = unsafe { memfd_create(c"p".as_ptr(), 0) };
    tell("other new program", &execute(&format!("/proc/self/fd/{nameless}")));
    tell("end", &std::process::id());
}
"##;

#[test]
fn an_engine_with_gpus_may_do_what_their_library_does_and_no_more() {
    if !Path::new(MEMFD_NOEXEC).exists() {
        skip::skipped(format_args!(
            "the jail for GPUs needs Linux 6.3, for {MEMFD_NOEXEC}"
        ));
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let loader = "-Clink-arg=-Wl,--dynamic-linker=/runtime/ld-linux-x86-64.so.2";
    let Some((engine, model)) = prepared(folder.path(), PROBE, &[loader]) else {
        return;
    };
    for library in LIBRARIES {
        fs::copy(found(library), engine.with_file_name(library)).unwrap();
    }
    // As in the runtime volume. The /proc entries of a process that cannot read its own program belong to root.
    fs::set_permissions(&engine, Permissions::from_mode(0o511)).unwrap();
    let (told, status) = jailed(&Cell {
        engine,
        model,
        model_id: "none".into(),
        gpus: true,
        threads: 2,
    });
    let expected = [
        r#"root ["dev", "model", "proc", "runtime", "sys"]"#,
        r#"devices ["random", "shm", "urandom"]"#,
        r#"model "of gold""#,
        "library Some(1.0)",
        "offer Ok(0)",
        "share Ok(0)",
        "nameless Ok(32)",
        "copies Ok(101)",
        r#"thread Ok("cuda\n")"#,
        "kernel true",
        // 1 is EPERM, 13 is EACCES, 30 is EROFS.
        "to itself Err(Some(1))",
        "network Err(Some(1))",
        "kernel's sockets Err(Some(1))",
        "file Err(Some(30))",
        "library's file Err(Some(30))",
        "model's file Err(Some(30))",
        "setting Err(Some(30))",
        "device's setting Err(Some(30))",
        "outside Err(Some(2))",
        "process Err(Some(1))",
        "program without a name Err(Some(1))",
        "new program Some(13)",
        "other new program Some(13)",
        "end 1",
    ];
    assert_eq!(told.lines().collect::<Vec<_>>(), expected);
    assert_eq!(status.code(), Some(0));
}

/// Path of a library of the machine that runs the test.
fn found(library: &str) -> PathBuf {
    let output = Command::new("cc")
        .arg(format!("-print-file-name={library}"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().trim().into()
}

/// Runs the driver's library itself. `kernels/on-gpu` prepares the folder: `driver.rs` as `engine`, all libraries that
/// it and libcuda are linked to, and the kernels in `model`.
#[test]
#[ignore = "needs NVIDIA's driver, a GPU and root: run by kernels/on-gpu"]
fn the_drivers_library_works_in_the_cell() {
    assert!(
        Path::new(MEMFD_NOEXEC).exists(),
        "the jail for GPUs needs Linux 6.3, for {MEMFD_NOEXEC}, which is not there: run this on a later kernel"
    );
    let folder = std::env::var_os("COCOON_CELL").expect("COCOON_CELL names the programs' folder");
    let folder = Path::new(&folder);
    let (told, status) = jailed(&Cell {
        engine: folder.join("engine"),
        model: folder.join("model"),
        model_id: "none".into(),
        gpus: true,
        threads: 2,
    });
    let calls = [
        "cuInit",
        "cuDeviceGet",
        "cuDevicePrimaryCtxRetain",
        "cuCtxSetCurrent",
        "cuMemAlloc_v2",
        "cuMemcpyHtoD_v2",
        "cuModuleLoadData",
        "cuModuleGetFunction",
        "cuMemAlloc_v2",
        "cuMemcpyHtoD_v2",
        "cuLaunchKernel",
        "cuCtxSynchronize",
        "cuMemcpyDtoH_v2",
        "cuMemFree_v2",
        "cuMemFree_v2",
    ];
    let mut expected = calls.map(|call| format!("{call} 0")).to_vec();
    expected.extend(["zeros true", "same true"].map(str::to_owned));
    assert_eq!(told.lines().collect::<Vec<_>>(), expected);
    assert_eq!(status.code(), Some(0));
}
