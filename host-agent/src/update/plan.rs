//! Decides whether the new VM can run beside the old one.

use super::Way;
use crate::doctor::real::Real;
use crate::watch::HostUse;

/// Memory that QEMU needs in addition to the guest's, in MiB.
const OVERHEAD_MIB: u64 = 256;

/// Facts that the decision depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// Available memory of the machine in MiB; `None` if it cannot be read.
    pub available_mib: Option<u64>,
    /// Part of it that running guests may still use, since they have not touched all of their memory, in MiB.
    pub promised_mib: u64,
    /// Memory reserved for the host itself, in MiB.
    pub reserve_mib: u32,
    /// Memory of the new VM, in MiB.
    pub wanted_mib: u32,
    /// What two VMs cannot share: a GPU, or a network of its own.
    pub exclusive: Option<&'static str>,
    /// Whether the VM's memory is placed on huge pages or NUMA nodes, whose free amount is not known.
    pub placed: bool,
    /// Whether the old VM runs, or is about to be started again.
    pub runs: bool,
    /// Whether the operator wants the old VM to finish first.
    pub drain_first: bool,
}

/// The chosen way, and why it is not the better one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// How the new VM replaces the old one.
    pub way: Way,
    /// Why clients are refused for a while; `None` if they are not.
    pub because: Option<String>,
}

/// Chooses how the new VM replaces the old one.
#[must_use]
pub fn plan(facts: &Facts) -> Plan {
    let needed = u64::from(facts.wanted_mib) + u64::from(facts.reserve_mib) + OVERHEAD_MIB;
    let available = facts.available_mib;
    let available = available.map(|mib| mib.saturating_sub(facts.promised_mib));
    let because = match available {
        _ if !facts.runs => None,
        _ if facts.drain_first => Some("as asked".to_owned()),
        _ if facts.exclusive.is_some() => {
            (facts.exclusive).map(|what| format!("{what} cannot be in two VMs"))
        }
        _ if facts.placed => Some("its memory is of huge pages or NUMA nodes".to_owned()),
        None => Some("how much memory is free cannot be learnt".to_owned()),
        Some(available) if available < needed => Some(format!(
            "{available} MiB of memory are free of what running VMs may come to use, and a VM beside the old one takes \
             {needed} MiB, what the machine keeps for itself included"
        )),
        Some(_) => None,
    };
    let way = match because {
        Some(_) => Way::InPlace,
        None => Way::Beside,
    };
    Plan { way, because }
}

/// Returns `MemAvailable` of this machine, in MiB.
#[must_use]
pub fn available_mib() -> Option<u64> {
    let available = HostUse::read(&Real).memory_available_bytes?;
    Some(available >> 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOMY: Facts = Facts {
        available_mib: Some(4096),
        promised_mib: 0,
        reserve_mib: 1024,
        wanted_mib: 1024,
        exclusive: None,
        placed: false,
        runs: true,
        drain_first: false,
    };

    fn because(facts: Facts) -> Option<String> {
        let plan = plan(&facts);
        assert_eq!(plan.because.is_some(), plan.way == Way::InPlace);
        plan.because
    }

    #[test]
    fn beside_where_memory_and_devices_allow() {
        assert_eq!(because(ROOMY), None);
        let exactly = Facts {
            available_mib: Some(2304),
            ..ROOMY
        };
        assert_eq!(because(exactly), None);
        let tight = Facts {
            available_mib: Some(2303),
            ..ROOMY
        };
        assert_eq!(
            because(tight).unwrap(),
            "2303 MiB of memory are free of what running VMs may come to use, and a VM beside the old one takes 2304 MiB, \
             what the machine keeps for itself included"
        );
        let promised = Facts {
            promised_mib: 4096 - 2303,
            ..ROOMY
        };
        assert_eq!(because(promised), because(tight));
        let stopped = Facts {
            runs: false,
            exclusive: Some("its GPU"),
            ..tight
        };
        assert_eq!(because(stopped), None);
    }

    #[test]
    fn else_the_old_one_finishes_first_and_the_reason_is_said() {
        let exclusive = Facts {
            exclusive: Some("its GPU"),
            ..ROOMY
        };
        assert_eq!(because(exclusive).unwrap(), "its GPU cannot be in two VMs");
        let placed = Facts {
            placed: true,
            ..ROOMY
        };
        assert_eq!(
            because(placed).unwrap(),
            "its memory is of huge pages or NUMA nodes"
        );
        let asked = Facts {
            drain_first: true,
            ..exclusive
        };
        assert_eq!(because(asked).unwrap(), "as asked");
        let unknown = Facts {
            available_mib: None,
            ..ROOMY
        };
        assert_eq!(
            because(unknown).unwrap(),
            "how much memory is free cannot be learnt"
        );
    }
}
