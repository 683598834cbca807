//! Information about processes of this machine, from `/proc`.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;

/// Returns the process IDs of all processes whose command line names `folder` or something in it. For a VM's state
/// folder these are its QEMU and its simulator.
pub fn naming(folder: &Path) -> Vec<u32> {
    let needle = folder.as_os_str().as_encoded_bytes();
    let names = |pid: &u32| {
        // A process that has ended meanwhile matches nothing.
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

/// Returns whether a process with this ID exists, including one that has ended and has not been reaped.
pub fn exists(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

/// Sends the signal with this name, such as `STOP`. Returns whether it could be sent.
pub fn signal(pid: u32, name: &str) -> bool {
    let kill = format!("kill -{name} {pid}");
    let sent = Command::new("sh").args(["-c", &kill]).status();
    sent.is_ok_and(|status| status.success())
}

/// Returns the children that all threads of a process have started and that have not been reaped.
///
/// # Errors
/// If there is no such process, or if this kernel does not list children.
pub fn children(pid: u32) -> anyhow::Result<Vec<u32>> {
    let mut found = Vec::new();
    for list in of_threads(pid, "children")? {
        for child in list.split_whitespace() {
            found.push(child.parse()?);
        }
    }
    Ok(found)
}

/// Returns the processor time of all threads of a process.
///
/// # Errors
/// If there is no such process, or if this kernel does not report processor time.
pub fn processor_time(pid: u32) -> anyhow::Result<Duration> {
    let mut all = Duration::ZERO;
    for text in of_threads(pid, "schedstat")? {
        let nanoseconds = text.split_whitespace().next();
        let nanoseconds = nanoseconds.context("this kernel tells no processor time")?;
        all += Duration::from_nanos(nanoseconds.parse()?);
    }
    Ok(all)
}

/// Returns the contents of `/proc/PID/task/TID/FILE` for each thread of a process.
fn of_threads(pid: u32, file: &str) -> anyhow::Result<Vec<String>> {
    let threads = format!("/proc/{pid}/task");
    let mut texts = Vec::new();
    for thread in fs::read_dir(&threads).with_context(|| format!("cannot read {threads}"))? {
        let thread = thread?.path();
        match fs::read_to_string(thread.join(file)) {
            Ok(text) => texts.push(text),
            Err(_) if !thread.exists() => {}
            Err(error) => return Err(error).with_context(|| format!("no {file} in {threads}")),
        }
    }
    anyhow::ensure!(!texts.is_empty(), "the process {pid} has ended");
    Ok(texts)
}
