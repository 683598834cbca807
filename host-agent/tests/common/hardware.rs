//! The machine that configurations are checked against in tests.

use std::path::Path;

use cocoon_host_agent::config::Machine;

/// Returns a machine with room for everything that a test configures, and with the files that exist here.
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
