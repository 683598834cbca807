//! The properties of this machine that limit what a configuration may ask for.

use std::path::Path;

use cocoon_qemu::spec::HugePages;

use crate::numa;

/// The properties of a machine.
#[derive(Debug, Clone)]
pub struct Machine {
    /// Memory in MiB; `None` if unknown.
    pub memory_mib: Option<u64>,
    /// Number of processors.
    pub processors: usize,
    /// Numbers of the NUMA nodes; empty if unknown.
    pub nodes: Vec<u32>,
    /// Returns the number of huge pages of a size in the kernel's pool; `None` if unknown.
    pub hugepages: fn(HugePages) -> Option<u64>,
    /// Returns whether a folder exists.
    pub has_folder: fn(&Path) -> bool,
    /// Returns whether a file exists.
    pub has_file: fn(&Path) -> bool,
}

impl Machine {
    /// Reads the properties of this machine.
    #[must_use]
    pub fn this() -> Self {
        let memory = std::fs::read_to_string("/proc/meminfo");
        Self {
            memory_mib: memory.ok().as_deref().and_then(total),
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            nodes: numa::nodes(),
            hugepages: numa::hugepages,
            has_folder: Path::is_dir,
            has_file: Path::is_file,
        }
    }
}

/// Parses `MemTotal` of `/proc/meminfo`, in MiB.
fn total(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib / 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_from_the_kernels_table() {
        let table = "MemTotal:       24682012 kB\nMemFree:         3140000 kB\n";
        assert_eq!(total(table), Some(24_103));
        for broken in ["", "MemTotal: x kB", "MemTotal: 12", "MemFree: 12 kB"] {
            assert_eq!(total(broken), None, "{broken:?}");
        }
        let this = Machine::this();
        assert!(this.memory_mib.is_some_and(|mib| mib > 64) && this.processors > 0);
    }
}
