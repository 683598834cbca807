//! The machine that configurations are judged on.

use std::path::Path;

use cocoon_host_agent::config::Machine;

/// One with room for whatever a test asks for, and with the files that are there.
pub fn roomy() -> Machine {
    Machine {
        memory_mib: None,
        processors: 64,
        nodes: vec![],
        hugepages: |_| None,
        has_folder: Path::is_dir,
        has_file: Path::is_file,
    }
}
