//! Guest memory as an object: always for confidential machines, for others with huge pages or selected NUMA nodes of the
//! host. The guest's memory map and its tables are the same in every case.

use serde::Serialize;

use super::Args;
use super::confidential::{json, tee};
use crate::spec::{Confidential, Placement, SpecError, VmSpec};
use crate::text::range;

/// Highest NUMA node number: x86 kernels are built for at most 1024 nodes (`MAX_NUMNODES` of Debian and Ubuntu).
const NODES_MAX: u64 = 1023;

/// Returns the additional options of `-machine`, with a leading comma.
pub(super) fn machine_option(spec: &VmSpec) -> &'static str {
    if needed(spec) {
        ",memory-backend=ram0"
    } else {
        ""
    }
}

/// Adds the memory object that `-machine` names.
pub(super) fn object(args: &mut Args, spec: &VmSpec) -> Result<(), SpecError> {
    if !needed(spec) {
        return Ok(());
    }
    let Placement { hugepages, nodes } = &spec.placement;
    if let (Some(_), Some(tee)) = (hugepages, tee(&spec.confidential)) {
        return Err(SpecError::HugePagesInTee { tee });
    }
    if let Some(page) = hugepages.filter(|page| !spec.memory_mib.is_multiple_of(page.mib())) {
        return Err(SpecError::PartOfPage {
            memory_mib: spec.memory_mib,
            page_mib: page.mib(),
        });
    }
    for node in nodes {
        range("NUMA node", (*node).into(), 0, NODES_MAX)?;
    }
    let shared = matches!(spec.confidential, Confidential::Snp(_));
    let memory = Memory {
        qom_type: if shared || hugepages.is_some() {
            "memory-backend-memfd"
        } else {
            "memory-backend-ram"
        },
        id: "ram0",
        size: u64::from(spec.memory_mib) << 20,
        share: shared,
        pages: hugepages.map(|page| Pages {
            hugetlb: true,
            hugetlbsize: u64::from(page.mib()) << 20,
            prealloc: true,
        }),
        binding: (!nodes.is_empty()).then(|| Binding {
            host_nodes: nodes.clone(),
            policy: "bind",
        }),
    };
    let reason = match (hugepages, nodes.is_empty()) {
        (None, true) => "guest memory as an object, as the machine option wants it",
        (None, false) => "guest memory from these nodes of the host and no others",
        (Some(_), true) => {
            "guest memory in huge pages, all taken now: a page that lacks later would end the machine"
        }
        (Some(_), false) => "guest memory in huge pages of these nodes of the host, all taken now",
    };
    args.add("-object", json(&memory), reason);
    Ok(())
}

fn needed(spec: &VmSpec) -> bool {
    spec.confidential != Confidential::None || spec.placement != Placement::default()
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Memory {
    qom_type: &'static str,
    id: &'static str,
    size: u64,
    share: bool,
    #[serde(flatten)]
    pages: Option<Pages>,
    #[serde(flatten)]
    binding: Option<Binding>,
}

#[derive(Serialize)]
struct Pages {
    hugetlb: bool,
    hugetlbsize: u64,
    prealloc: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Binding {
    host_nodes: Vec<u32>,
    policy: &'static str,
}
