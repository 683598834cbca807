//! Resource use of the host and of single processes, from the kernel's tables (proc(5)).

use serde::{Deserialize, Serialize};

use crate::doctor::source::Files;

/// `USER_HZ`: processor time units per second in `/proc/PID/stat`, the same on every x86-64 Linux.
const TICKS: f64 = 100.0;

/// Resource use of the host.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostUse {
    /// Number of processors that this process may use.
    pub processors: Option<u64>,
    /// Processes that ran or waited to run, averaged over one minute.
    pub load1: Option<f64>,
    /// Total memory, in bytes.
    pub memory_bytes: Option<u64>,
    /// Memory available without swapping, in bytes.
    pub memory_available_bytes: Option<u64>,
}

/// Resource use of a process.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProcessUse {
    /// Processor time since its start, in seconds.
    pub cpu_seconds: f64,
    /// Resident memory in bytes, without huge pages.
    pub resident_bytes: u64,
}

impl HostUse {
    /// Reads the figures of the machine behind `files`.
    #[must_use]
    pub fn read(files: &dyn Files) -> Self {
        let memory = files.text("/proc/meminfo").unwrap_or_default();
        let field = |name: &str| kib(&memory, name);
        let load = files.text("/proc/loadavg").unwrap_or_default();
        let processors = std::thread::available_parallelism();
        Self {
            processors: processors
                .ok()
                .and_then(|count| count.get().try_into().ok()),
            load1: load
                .split_whitespace()
                .next()
                .and_then(|load| load.parse().ok()),
            memory_bytes: field("MemTotal:"),
            memory_available_bytes: field("MemAvailable:"),
        }
    }
}

impl ProcessUse {
    /// Reads the figures of the process `pid`; `None` if it is gone.
    #[must_use]
    pub fn read(files: &dyn Files, pid: u32) -> Option<Self> {
        let stat = files.text(&format!("/proc/{pid}/stat"))?;
        let status = files.text(&format!("/proc/{pid}/status"))?;
        Some(Self {
            cpu_seconds: cpu_seconds(&stat)?,
            resident_bytes: kib(&status, "VmRSS:")?,
        })
    }
}

/// Returns a field that is given in KiB, in bytes.
fn kib(table: &str, name: &str) -> Option<u64> {
    let line = table.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// Returns the sum of `utime` and `stime`, the 14th and 15th fields, in seconds. The second field is the program's name in
/// parentheses, which may contain any characters.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let (_, after) = stat.rsplit_once(')')?;
    let mut fields = after.split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<u64>().ok();
    let (user, system) = (ticks()?, ticks()?);
    Some(user.saturating_add(system) as f64 / TICKS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::real::Real;

    #[test]
    fn tables_are_read_as_the_kernel_writes_them() {
        let stat = "41 (qemu) S) x) S 1 41 41 0 -1 4194560 9 0 0 0 250 50 0 0 20 0 5 0 12 1 2 3";
        assert_eq!(cpu_seconds(stat), Some(3.0));
        for broken in ["", "41 (qemu) S 1", "41 (qemu) S 1 1 1 1 1 1 1 1 1 1 x y"] {
            assert_eq!(cpu_seconds(broken), None, "{broken:?}");
        }
        let status = "Name:\tq\nVmRSS:\t   20480 kB\nThreads:\t4\n";
        assert_eq!(kib(status, "VmRSS:"), Some(20_480 << 10));
        assert_eq!(kib("VmRSS: 99999999999999999 kB", "VmRSS:"), None);
    }

    #[test]
    fn this_machine_and_this_process_have_numbers() {
        let host = HostUse::read(&Real);
        let (total, free) = (
            host.memory_bytes.unwrap(),
            host.memory_available_bytes.unwrap(),
        );
        assert!(total >= free && free > 0 && host.load1.is_some());
        let own = ProcessUse::read(&Real, std::process::id()).unwrap();
        assert!(own.resident_bytes > 1 << 20 && own.cpu_seconds >= 0.0);
        assert_eq!(ProcessUse::read(&Real, u32::MAX), None);
    }
}
