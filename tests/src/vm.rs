//! Options and addresses of VMs under simulated hardware.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use cocoon_client::Address;
use cocoon_host_agent::{RunningVm, UpOptions};
use cocoon_inputs::report::Reporter;
use cocoon_protocol::binding::Tee;

use crate::image::cache;

/// Returns options for a VM of the image in `folder`: a free port of the loopback interface, and `tee` simulated by
/// `executable` in the simulator's role.
///
/// `state` is the folder of the VM's sockets and logs. Its path must be short enough for the name of a Unix socket.
pub fn options(
    folder: &Path,
    name: &str,
    tee: Tee,
    state: PathBuf,
    executable: &Path,
    reporter: Arc<dyn Reporter>,
) -> anyhow::Result<UpOptions> {
    let simulator = crate::role::simulator_link(executable, &state)
        .with_context(|| format!("cannot link the simulator into {}", state.display()))?;
    let mut options = UpOptions::new(folder.to_owned(), state);
    options.name = name.to_owned();
    options.listen = (Ipv4Addr::LOCALHOST, 0).into();
    options.simulate = Some(tee);
    options.simulator = Some(simulator);
    // Kept across runs, because generating RSA keys takes seconds.
    options.roots = Some(cache()?.join("development-roots"));
    options.reporter = reporter;
    Ok(options)
}

/// Returns the public address of `vm`, as clients name it.
pub fn address(vm: &RunningVm) -> anyhow::Result<Address> {
    Ok(format!("https://{}", vm.endpoint).parse::<Address>()?)
}
