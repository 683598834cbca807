//! NUMA nodes, their processors, and pools of huge pages, as the kernel shows them (sysfs, `Documentation/ABI/stable/
//! sysfs-devices-node`, `Documentation/admin-guide/mm/hugetlbpage.rst`); and binding a machine's processors to nodes.

use std::fs;

use cocoon_qemu::Qmp;
use cocoon_qemu::qmp::QmpError;
use cocoon_qemu::spec::HugePages;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

const NODES: &str = "/sys/devices/system/node";

/// Why processors are not where they should be.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    /// Such a node has none.
    #[error("the NUMA nodes {0:?} have no processors: name others in placement.numa_nodes")]
    NoProcessors(Vec<u32>),
    /// QEMU does not tell its threads.
    #[error(
        "QEMU does not tell the threads of its processors, which then stay on any node: leave placement.numa_nodes out"
    )]
    Threads(#[from] QmpError),
    /// The kernel refuses.
    #[error(
        "the kernel does not bind thread {thread} to the processors of the NUMA nodes {nodes:?}, named in \
         placement.numa_nodes: name others, or let this service have those (AllowedCPUs= of its unit)"
    )]
    Refused {
        /// The thread.
        thread: i32,
        /// The nodes.
        nodes: Vec<u32>,
        /// Why not.
        #[source]
        source: nix::Error,
    },
}

/// The nodes that are there, in order; none when the kernel does not say.
#[must_use]
pub fn nodes() -> Vec<u32> {
    let online = fs::read_to_string(format!("{NODES}/online"));
    online.map_or_else(|_| vec![], |text| list(&text))
}

/// How many huge pages of this size the kernel's pool has, used or not.
#[must_use]
pub fn hugepages(size: HugePages) -> Option<u64> {
    let path = format!("{}/nr_hugepages", pool(size));
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// The folder of a pool.
#[must_use]
pub fn pool(size: HugePages) -> String {
    format!(
        "/sys/kernel/mm/hugepages/hugepages-{}kB",
        u64::from(size.mib()) << 10
    )
}

/// Lets the threads of the machine's virtual processors run on processors of these nodes alone. Their memory follows: the
/// kernel takes a page from the node of the thread that first touches it.
///
/// # Errors
/// [`PinError`].
pub async fn pin(qmp: &Qmp, nodes: &[u32]) -> Result<usize, PinError> {
    let lists = nodes
        .iter()
        .filter_map(|node| fs::read_to_string(format!("{NODES}/node{node}/cpulist")).ok());
    let processors: Vec<u32> = lists.flat_map(|text| list(&text)).collect();
    let set = set(&processors).ok_or_else(|| PinError::NoProcessors(nodes.to_vec()))?;
    let threads = qmp.cpu_threads().await?;
    for thread in &threads {
        let bound = sched_setaffinity(Pid::from_raw(*thread), &set);
        bound.map_err(|source| PinError::Refused {
            thread: *thread,
            nodes: nodes.to_vec(),
            source,
        })?;
    }
    Ok(threads.len())
}

/// `None` where it would be empty, or where a processor's number is beyond what the call takes.
fn set(processors: &[u32]) -> Option<CpuSet> {
    let mut set = CpuSet::new();
    for processor in processors {
        set.set(usize::try_from(*processor).ok()?).ok()?;
    }
    (!processors.is_empty()).then_some(set)
}

/// A list as the kernel writes it: `0-3,8`. What is none is empty.
fn list(text: &str) -> Vec<u32> {
    let mut all = vec![];
    for part in text.trim().split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (Ok(first), Ok(last)) = (first.parse::<u32>(), last.parse::<u32>()) else {
            return vec![];
        };
        // No kernel has so many of anything.
        if last >= 1 << 16 {
            return vec![];
        }
        all.extend(first..=last);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_as_the_kernel_writes_them() {
        assert_eq!(list("0-3,8\n"), [0, 1, 2, 3, 8]);
        assert_eq!(list("0\n"), [0]);
        for none in ["", "\n", "x", "0-", "1-4294967295", "3-1"] {
            assert_eq!(list(none), Vec::<u32>::new(), "{none:?}");
        }
        assert!(set(&[]).is_none() && set(&[1 << 15]).is_none());
        assert!(set(&[0, 5]).is_some_and(|set| set.is_set(5) == Ok(true)));
    }

    #[test]
    fn pools_are_named_by_their_pages() {
        let expected = "/sys/kernel/mm/hugepages/hugepages-1048576kB";
        assert_eq!(pool(HugePages::OneGib), expected);
        assert!(pool(HugePages::TwoMib).ends_with("-2048kB"));
    }
}
