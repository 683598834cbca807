//! Whether the new VM can run beside the old one.

use super::Way;
use crate::doctor::real::Real;
use crate::watch::HostUse;

/// What QEMU needs beside the guest's memory, in MiB.
const OVERHEAD_MIB: u64 = 256;

/// What the choice depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// Memory that the machine has left, in MiB; `None` when that cannot be learnt.
    pub available_mib: Option<u64>,
    /// What of it guests that run may still come to use: they have not touched it yet.
    pub promised_mib: u64,
    /// Memory that no appliance may have, in MiB.
    pub reserve_mib: u32,
    /// The new VM's memory in MiB.
    pub wanted_mib: u32,
    /// What it has that cannot be in two VMs: a GPU, or a network of its own.
    pub exclusive: Option<&'static str>,
    /// Whether its memory has a place: huge pages or NUMA nodes, of which it is not known how much is left.
    pub placed: bool,
    /// Whether the old VM runs, or is about to be started again.
    pub runs: bool,
    /// Whether the operator wants the old one to finish first.
    pub drain_first: bool,
}

/// The way, and why it is not the better one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// How.
    pub way: Way,
    /// Why clients are turned away for a while; `None` where they are not.
    pub because: Option<String>,
}

/// Chooses.
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

/// `MemAvailable` of this machine, in MiB.
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
