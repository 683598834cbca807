//! NUMA nodes, their processors and huge page pools as sysfs shows them (`Documentation/ABI/stable/sysfs-devices-node`,
//! `Documentation/admin-guide/mm/hugetlbpage.rst`), and the binding of a VM's vCPU threads to nodes.

use std::fs;

use cocoon_qemu::Qmp;
use cocoon_qemu::qmp::QmpError;
use cocoon_qemu::spec::HugePages;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

const NODES: &str = "/sys/devices/system/node";

/// Why vCPU threads could not be bound to NUMA nodes.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    /// The nodes have no processors.
    #[error("the NUMA nodes {0:?} have no processors: name others in placement.numa_nodes")]
    NoProcessors(Vec<u32>),
    /// QEMU does not report the threads of its vCPUs.
    #[error(
        "QEMU does not tell the threads of its processors, which then stay on any node: leave placement.numa_nodes out"
    )]
    Threads(#[from] QmpError),
    /// The kernel refused to bind a thread.
    #[error(
        "the kernel does not bind thread {thread} to the processors of the NUMA nodes {nodes:?}, named in \
         placement.numa_nodes: name others, or let this service have those (AllowedCPUs= of its unit)"
    )]
    Refused {
        /// Thread id of the vCPU.
        thread: i32,
        /// The NUMA nodes that were named.
        nodes: Vec<u32>,
        /// The kernel's error.
        #[source]
        source: nix::Error,
    },
}

/// Returns the online NUMA nodes in ascending order; empty if the kernel does not report them.
#[must_use]
pub fn nodes() -> Vec<u32> {
    let online = fs::read_to_string(format!("{NODES}/online"));
    online.map_or_else(|_| vec![], |text| list(&text))
}

/// Returns the number of huge pages of this size in the kernel's pool, used or not.
#[must_use]
pub fn hugepages(size: HugePages) -> Option<u64> {
    let path = format!("{}/nr_hugepages", pool(size));
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// Returns the sysfs directory of the pool.
#[must_use]
pub fn pool(size: HugePages) -> String {
    format!(
        "/sys/kernel/mm/hugepages/hugepages-{}kB",
        u64::from(size.mib()) << 10
    )
}

/// Binds the VM's vCPU threads to the processors of these nodes and returns the number of threads. Memory follows,
/// since the kernel allocates a page on the node of the thread that first touches it.
///
/// # Errors
/// [`PinError`] if the nodes have no processors, QEMU does not report its threads, or the kernel refuses.
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

/// Returns `None` for no processors, or if a processor's number is too large for a CPU set.
fn set(processors: &[u32]) -> Option<CpuSet> {
    let mut set = CpuSet::new();
    for processor in processors {
        set.set(usize::try_from(*processor).ok()?).ok()?;
    }
    (!processors.is_empty()).then_some(set)
}

/// Parses a kernel list such as `0-3,8`. Returns an empty list for anything else.
fn list(text: &str) -> Vec<u32> {
    let mut all = vec![];
    for part in text.trim().split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (Ok(first), Ok(last)) = (first.parse::<u32>(), last.parse::<u32>()) else {
            return vec![];
        };
        // An upper bound on memory: no kernel has so many nodes or processors.
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
