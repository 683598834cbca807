//! Reads what a QEMU process opened: its command line from `/proc/PID/cmdline`, and through `/proc/PID/fd` the files that
//! its arguments name, even if their paths were replaced since.
//!
//! Hardware measures the memory that QEMU prepares, while the simulator reads QEMU's inputs. It therefore refuses every
//! argument that could put other data into that memory, and every argument that it does not know.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Largest command line, in bytes.
pub const MAX_COMMAND_LINE: u64 = 256 * 1024;
/// Largest firmware, in bytes.
pub const MAX_FIRMWARE: u64 = 16 << 20;
/// Largest kernel, in bytes.
pub const MAX_KERNEL: u64 = 256 << 20;
/// Largest initrd, in bytes.
pub const MAX_INITRD: u64 = 2 << 30;

const PROGRAM: &str = "qemu-system-x86_64";
const WITHOUT_VALUE: [&str; 3] = ["-no-user-config", "-nodefaults", "-no-reboot"];
/// Arguments that put no measured data into the guest's memory.
const WITH_VALUE: [&str; 16] = [
    "-L",
    "-accel",
    "-blockdev",
    "-chardev",
    "-cpu",
    "-device",
    "-display",
    "-machine",
    "-mon",
    "-monitor",
    "-name",
    "-netdev",
    "-object",
    "-pidfile",
    "-sandbox",
    "-serial",
];
const MEASURED: [&str; 6] = ["-append", "-bios", "-initrd", "-kernel", "-m", "-smp"];
/// Devices that only transfer data. Others, such as `loader`, can write into memory.
const DEVICES: [&str; 4] = [
    "virtio-blk-pci",
    "virtio-net-pci",
    "virtio-serial-pci",
    "virtserialport",
];
/// Memory objects that start empty, whose origin is not measured. A file-backed object could contain data.
const OBJECTS: [&str; 2] = ["memory-backend-memfd", "memory-backend-ram"];
/// Options of `-machine` that name boot files.
const MACHINE_BOOTS: [&str; 5] = ["append", "dtb", "firmware", "initrd", "kernel"];

/// Why a process cannot be measured.
#[derive(Debug, thiserror::Error)]
pub enum OpenedError {
    /// A file below `/proc` cannot be read.
    #[error("cannot read {path:?}: the process must run, as the same user")]
    Read {
        /// Path of the file.
        path: PathBuf,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// An input exceeds its limit.
    #[error("{what} is larger than {limit} bytes")]
    TooLarge {
        /// Name of the input.
        what: &'static str,
        /// Limit in bytes.
        limit: u64,
    },
    /// A descriptor is not a regular file, so it cannot be read a second time.
    #[error("{what} of QEMU is not a regular file: its bytes cannot be read again")]
    NotAFile {
        /// Name of the input.
        what: &'static str,
    },
    /// The process runs another program.
    #[error("the process is not {PROGRAM}")]
    NotQemu,
    /// The command line is not UTF-8.
    #[error("QEMU's command line is not UTF-8")]
    NotText,
    /// An argument might change what is booted.
    #[error("QEMU has the argument {0:?}, which cannot be measured: start it without")]
    Unmeasurable(String),
    /// A required argument is missing.
    #[error("QEMU has no argument {0:?}, which is needed to measure it")]
    Missing(&'static str),
    /// An argument has no value.
    #[error("QEMU's argument {0:?} has no value")]
    NoValue(String),
    /// A measured argument occurs twice. QEMU would use the last one, but the simulator does not rely on that.
    #[error("QEMU has the argument {0:?} twice")]
    Twice(&'static str),
    /// A measured argument has an unsupported form.
    #[error("QEMU's argument `{flag} {value}` is not {expected}")]
    Odd {
        /// Name of the argument.
        flag: &'static str,
        /// Value of the argument.
        value: String,
        /// Supported form.
        expected: &'static str,
    },
}

/// The measured arguments of QEMU's command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandLine {
    /// File descriptor in `-bios`.
    pub firmware: u32,
    /// File descriptor in `-kernel`.
    pub kernel: u32,
    /// File descriptor in `-initrd`.
    pub initrd: Option<u32>,
    /// Kernel command line in `-append`.
    pub append: String,
    /// Memory size in `-m`, in bytes.
    pub memory: u64,
    /// Number of virtual CPUs in `-smp`.
    pub vcpus: u32,
}

/// Inputs of a launch.
#[derive(Clone, PartialEq, Eq)]
pub struct Opened {
    /// Contents of the firmware.
    pub firmware: Vec<u8>,
    /// Contents of the kernel.
    pub kernel: Vec<u8>,
    /// Contents of the initrd.
    pub initrd: Option<Vec<u8>>,
    /// Kernel command line.
    pub append: String,
    /// Memory size in bytes.
    pub memory: u64,
    /// Number of virtual CPUs.
    pub vcpus: u32,
}

impl Opened {
    /// Reads the inputs of the QEMU process `pid`.
    ///
    /// # Errors
    /// [`OpenedError`] names the argument or file that cannot be measured.
    pub fn by(pid: u32) -> Result<Self, OpenedError> {
        Self::below(&PathBuf::from(format!("/proc/{pid}")))
    }

    /// Reads the inputs of the process whose folder below `/proc` is `process`.
    ///
    /// # Errors
    /// As [`Self::by`].
    pub fn below(process: &Path) -> Result<Self, OpenedError> {
        let line = read(
            &process.join("cmdline"),
            "QEMU's command line",
            MAX_COMMAND_LINE,
            false,
        )?;
        let line = CommandLine::parse(&line)?;
        let file =
            |fd: u32, what, limit| read(&process.join(format!("fd/{fd}")), what, limit, true);
        Ok(Self {
            firmware: file(line.firmware, "the firmware", MAX_FIRMWARE)?,
            kernel: file(line.kernel, "the kernel", MAX_KERNEL)?,
            initrd: line
                .initrd
                .map(|fd| file(fd, "the initrd", MAX_INITRD))
                .transpose()?,
            append: line.append,
            memory: line.memory,
            vcpus: line.vcpus,
        })
    }
}

impl CommandLine {
    /// Parses `/proc/PID/cmdline`, in which a NUL ends each argument.
    ///
    /// # Errors
    /// [`OpenedError`] names the argument.
    pub fn parse(bytes: &[u8]) -> Result<Self, OpenedError> {
        let text = std::str::from_utf8(bytes).map_err(|_| OpenedError::NotText)?;
        let all: Vec<&str> = text
            .strip_suffix('\0')
            .unwrap_or(text)
            .split('\0')
            .collect();
        // QEMU may be started through its own dynamic loader, whose arguments come first.
        let is_program = |argument: &&str| {
            Path::new(argument)
                .file_name()
                .is_some_and(|name| name == PROGRAM)
        };
        let program = all
            .iter()
            .rposition(is_program)
            .ok_or(OpenedError::NotQemu)?;
        let measured = collect(&all[program + 1..])?;
        let get = |flag: &'static str| {
            let index = MEASURED.iter().position(|known| *known == flag);
            index
                .and_then(|index| measured[index])
                .ok_or(OpenedError::Missing(flag))
        };
        Ok(Self {
            firmware: descriptor("-bios", get("-bios")?)?,
            kernel: descriptor("-kernel", get("-kernel")?)?,
            initrd: get("-initrd")
                .ok()
                .map(|value| descriptor("-initrd", value))
                .transpose()?,
            append: get("-append")?.to_owned(),
            memory: memory(get("-m")?)?,
            vcpus: vcpus(get("-smp")?)?,
        })
    }
}

/// Returns the values of [`MEASURED`], in its order. Checks all other arguments and drops them.
fn collect<'a>(arguments: &[&'a str]) -> Result<[Option<&'a str>; MEASURED.len()], OpenedError> {
    let mut found = [None; MEASURED.len()];
    let mut rest = arguments.iter();
    while let Some(flag) = rest.next() {
        if WITHOUT_VALUE.contains(flag) {
            continue;
        }
        let measured = MEASURED.iter().position(|known| known == flag);
        if measured.is_none() && !WITH_VALUE.contains(flag) {
            return Err(OpenedError::Unmeasurable((*flag).to_owned()));
        }
        let value = rest
            .next()
            .ok_or_else(|| OpenedError::NoValue((*flag).to_owned()))?;
        match measured {
            Some(index) if found[index].is_some() => {
                return Err(OpenedError::Twice(MEASURED[index]));
            }
            Some(index) => found[index] = Some(*value),
            None if harmless(flag, value) => {}
            None => return Err(OpenedError::Unmeasurable(format!("{flag} {value}"))),
        }
    }
    Ok(found)
}

fn harmless(flag: &str, value: &str) -> bool {
    let mut parts = value.split(',');
    match flag {
        "-device" => parts.next().is_some_and(|driver| DEVICES.contains(&driver)),
        "-object" => {
            let object = serde_json::from_str::<serde_json::Value>(value);
            object.is_ok_and(|object| OBJECTS.iter().any(|known| object["qom-type"] == *known))
        }
        "-machine" => parts.all(|part| {
            let key = part.split('=').next().unwrap_or_default();
            !MACHINE_BOOTS.contains(&key) && !key.starts_with("pflash")
        }),
        _ => true,
    }
}

fn descriptor(flag: &'static str, value: &str) -> Result<u32, OpenedError> {
    let number = value
        .strip_prefix("/dev/fd/")
        .filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()));
    number.and_then(|digits| digits.parse().ok()).ok_or_else(|| OpenedError::Odd {
        flag,
        value: value.to_owned(),
        expected: "an open descriptor (/dev/fd/N), the only thing that cannot be exchanged behind our back",
    })
}

fn memory(value: &str) -> Result<u64, OpenedError> {
    let mebibytes = value
        .strip_suffix('M')
        .and_then(|digits| digits.parse::<u32>().ok());
    mebibytes
        .map(|mebibytes| u64::from(mebibytes) << 20)
        .ok_or_else(|| OpenedError::Odd {
            flag: "-m",
            value: value.to_owned(),
            expected: "a number of mebibytes with M behind it",
        })
}

fn vcpus(value: &str) -> Result<u32, OpenedError> {
    let first = value
        .split(',')
        .next()
        .and_then(|digits| digits.parse().ok());
    first
        .filter(|count| (1..=255).contains(count))
        .ok_or_else(|| OpenedError::Odd {
            flag: "-smp",
            value: value.to_owned(),
            expected: "a number from 1 to 255, perhaps with a topology behind it",
        })
}

/// Reads at most `limit` bytes. With `regular`, refuses pipes and devices, because reading them could block for ever.
fn read(
    path: &Path,
    what: &'static str,
    limit: u64,
    regular: bool,
) -> Result<Vec<u8>, OpenedError> {
    let fail = |source| OpenedError::Read {
        path: path.to_owned(),
        source,
    };
    if regular && !std::fs::metadata(path).map_err(fail)?.is_file() {
        return Err(OpenedError::NotAFile { what });
    }
    let mut bytes = Vec::new();
    File::open(path)
        .map_err(fail)?
        .take(limit + 1)
        .read_to_end(&mut bytes)
        .map_err(fail)?;
    if bytes.len() as u64 > limit {
        return Err(OpenedError::TooLarge { what, limit });
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests;
