//! What a supervisor has to start, as the daemon writes it into the VM's folder.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cocoon_protocol::binding::Tee;
use cocoon_protocol::config::OperatorConfig;
use cocoon_qemu::PciAddress;
use cocoon_qemu::accel::Wanted;
use cocoon_qemu::spec::Placement;
use serde::{Deserialize, Serialize};

use crate::config::{Appliance, HostSettings, Network, TeeMode};
use crate::lifecycle::Deadlines;
use crate::qemu::QemuError;
use crate::relay::{Door, Limits};
use crate::tee;
use crate::up::CPU_MODEL;
use crate::{UpError, UpOptions};

/// The launch of one VM, as the operator configured it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Launch {
    /// Number of the appliance's run.
    pub run: u64,
    /// Name of the VM.
    pub name: String,
    image: PathBuf,
    manifest: Option<PathBuf>,
    listen: SocketAddr,
    /// Whether the run does without the public listener until it is ordered to take it over.
    pub waits: bool,
    tee: Option<Tee>,
    simulate: Option<Tee>,
    /// Absent in files of earlier releases, which supported only the default CPU model.
    #[serde(default = "usual_cpu")]
    cpu: String,
    gpu: Option<PciAddress>,
    network: Network,
    placement: Placement,
    vcpus: u16,
    memory_mib: u32,
    accelerator: String,
    operator: OperatorConfig,
    qemu: Option<PathBuf>,
    simulator: Option<PathBuf>,
    development_roots: Option<PathBuf>,
    connections: usize,
    /// Absent in files of earlier releases.
    #[serde(default)]
    connections_per_address: Option<usize>,
    life_seconds: u64,
}

impl Launch {
    /// Returns the launch of `appliance`, before its first run.
    #[must_use]
    pub fn new(appliance: &Appliance, host: &HostSettings) -> Self {
        Self {
            run: 0,
            name: appliance.name.clone(),
            image: appliance.image.clone(),
            manifest: appliance.manifest.clone(),
            listen: appliance.listen,
            waits: false,
            tee: match appliance.tee {
                TeeMode::Real(tee) => Some(tee),
                TeeMode::Simulated(_) => None,
            },
            simulate: match appliance.tee {
                TeeMode::Simulated(tee) => Some(tee),
                TeeMode::Real(_) => None,
            },
            cpu: appliance.cpu.clone(),
            gpu: appliance.gpu,
            network: appliance.network.clone(),
            placement: appliance.placement.clone(),
            vcpus: appliance.vcpus,
            memory_mib: appliance.memory_mib,
            accelerator: match appliance.accel {
                Wanted::Automatic => "auto",
                Wanted::Kvm => "kvm",
                Wanted::Emulated => "tcg",
            }
            .to_owned(),
            operator: appliance.operator.clone(),
            qemu: host.qemu.clone(),
            simulator: host.simulator.clone(),
            // In the host's own state folder, also for a VM in slot B.
            development_roots: Some(
                host.development_roots
                    .clone()
                    .unwrap_or_else(|| host.state.join("development-roots")),
            ),
            connections: appliance.limits.connections,
            connections_per_address: appliance.limits.per_address,
            life_seconds: appliance.limits.life.as_secs(),
        }
    }

    /// Returns the same launch for another run.
    #[must_use]
    pub fn of_run(&self, run: u64) -> Self {
        Self {
            run,
            ..self.clone()
        }
    }

    /// Returns the same launch for another image.
    #[must_use]
    pub fn of_image(&self, image: &Path, manifest: Option<&Path>) -> Self {
        Self {
            image: image.to_owned(),
            manifest: manifest.map(Path::to_owned),
            ..self.clone()
        }
    }

    /// Returns the same launch, with `waits` set.
    #[must_use]
    pub fn waiting(self, waits: bool) -> Self {
        Self { waits, ..self }
    }

    /// Returns the public address.
    #[must_use]
    pub fn listen(&self) -> SocketAddr {
        self.listen
    }

    /// Returns what another VM cannot have at the same time, if anything. A successor then starts after this VM has
    /// ended instead of beside it.
    #[must_use]
    pub fn exclusive(&self) -> Option<&'static str> {
        match (&self.gpu, &self.network) {
            (Some(_), _) => Some("its GPU"),
            (None, Network::Tap { .. } | Network::Passt { .. }) => Some("its network"),
            (None, Network::User) => None,
        }
    }

    /// Returns how long the kernel may take to reclaim the VM's memory after QEMU was killed.
    #[must_use]
    pub fn reclaim(&self) -> Duration {
        tee::reclaim(self.tee, self.memory_mib)
    }

    /// Returns `usual` extended by the time that the kernel may take to reclaim memory: of this VM, and with a GPU also
    /// of the VM that had the GPU before.
    #[must_use]
    pub fn deadlines(&self, usual: Deadlines) -> Deadlines {
        let reclaim = self.reclaim();
        let mut deadlines = usual.reclaiming(reclaim);
        if self.gpu.is_some() {
            deadlines.preparing += reclaim;
        }
        deadlines
    }

    /// Reads the launch from the VM's folder; `None` if it cannot be read.
    #[must_use]
    pub fn read(folder: &Path) -> Option<Self> {
        let bytes = std::fs::read(folder.join(super::LAUNCH)).ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    /// Returns the options for [`Host::up`](crate::Host::up), with state in `root` and clients arriving at `door`.
    /// Binds the public address unless the launch waits for it.
    ///
    /// # Errors
    /// [`UpError`] if the address cannot be bound, or if this release does not know the accelerator.
    pub async fn options(&self, root: &Path, door: &Door) -> Result<UpOptions, UpError> {
        if !self.waits {
            door.bind(self.listen).await?;
        }
        let mut options = UpOptions::new(self.image.clone(), root.to_owned());
        options.name = self.name.clone();
        options.manifest = self.manifest.clone();
        options.listen = self.listen;
        options.door = Some(door.clone());
        options.tee = self.tee;
        options.simulate = self.simulate;
        options.cpu_model = self.cpu.clone();
        options.gpu = self.gpu;
        options.network = self.network.clone();
        options.placement = self.placement.clone();
        options.vcpus = self.vcpus;
        options.memory_mib = self.memory_mib;
        options.accel = self.accelerator.parse().map_err(QemuError::from)?;
        options.config = self.operator.clone();
        options.qemu = self.qemu.clone();
        options.simulator = self.simulator.clone();
        options.roots = self.development_roots.clone();
        options.limits = Limits {
            connections: self.connections,
            per_address: self.connections_per_address,
            life: Duration::from_secs(self.life_seconds),
            ..Limits::default()
        };
        Ok(options)
    }
}

fn usual_cpu() -> String {
    CPU_MODEL.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_for_a_gpu_has_the_time_that_its_last_vm_takes_to_end() {
        let mut launch = Launch {
            run: 1,
            name: "first".to_owned(),
            image: "/image".into(),
            manifest: None,
            listen: "127.0.0.1:8443".parse().unwrap(),
            waits: false,
            tee: Some(Tee::Tdx),
            simulate: None,
            cpu: usual_cpu(),
            gpu: None,
            network: Network::default(),
            placement: Placement::default(),
            vcpus: 1,
            memory_mib: 256 << 10,
            accelerator: "kvm".to_owned(),
            operator: OperatorConfig::default(),
            qemu: None,
            simulator: None,
            development_roots: None,
            connections: 1,
            connections_per_address: None,
            life_seconds: 1,
        };
        let (usual, reclaim) = (Deadlines::default(), launch.reclaim());
        assert!(reclaim > usual.preparing, "{reclaim:?}");
        let expected = usual.reclaiming(reclaim);
        assert_eq!(launch.deadlines(usual), expected);
        launch.gpu = Some("0000:41:00.0".parse().unwrap());
        let preparing = usual.preparing + reclaim;
        assert_eq!(
            launch.deadlines(usual),
            Deadlines {
                preparing,
                ..expected
            }
        );
    }
}
