//! Processes of this machine, as `/proc` shows them.

use std::fs;
use std::path::Path;

/// Processes whose command line names something in `folder`, by number: QEMU and the simulator of
/// the VM whose state lies there.
pub fn naming(folder: &Path) -> Vec<u32> {
    let needle = folder.as_os_str().as_encoded_bytes();
    let names = |pid: &u32| {
        // Gone meanwhile: then it names nothing.
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.windows(needle.len()).any(|part| part == needle)
    };
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut found: Vec<u32> = all
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(names)
        .collect();
    found.sort_unstable();
    found
}

/// Whether a process has that number, be it dead and not yet reaped.
pub fn exists(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}
