//! Reads from the kernel how much memory the VM has left.

/// Bytes that programs can still allocate, or zero if the kernel does not say: `MemAvailable` of `/proc/meminfo`
/// (Linux, Documentation/filesystems/proc.rst).
#[must_use]
pub fn available() -> u64 {
    available_in(&std::fs::read_to_string("/proc/meminfo").unwrap_or_default())
}

/// As [`available`], from the text of that file.
#[must_use]
pub fn available_in(meminfo: &str) -> u64 {
    let kib = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))
        .and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.unwrap_or(0).saturating_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_available_is_told_in_bytes() {
        let meminfo = "MemTotal: 200000 kB\nMemFree: 1 kB\nMemAvailable:   102400 kB\n";
        assert_eq!(available_in(meminfo), 100 << 20);
        for broken in ["", "MemAvailable: x kB", "MemAvailable: 12"] {
            assert_eq!(available_in(broken), 0, "{broken:?}");
        }
        assert!(available() > 1 << 20);
    }
}
