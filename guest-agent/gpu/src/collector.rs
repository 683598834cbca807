//! Answers the agent's requests with what the driver reports. Anything missing is an answer of its own, not an error.

use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use cocoon_protocol::bytes::{Blob, Hex32};
use cocoon_protocol::gpu::collector::{
    Found, GpuEvent, Held, Mode, NvmlCall, NvmlFailure, ReadyState, Shown,
};
use cocoon_protocol::gpu::{self, CollectedGpu, DriverState, GpuMetrics, MAX_GPUS};

use crate::driver::{Driver, Fault, Listed, Xid};

/// Temperatures from this on, in degrees Celsius, are taken for invalid.
const HOTTEST: u16 = 200;

/// Shortest and longest pause before GPU events are listened for again after a failure. The pause doubles each time. The agent
/// requests evidence after each failure, so as often as this.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// A driver and the GPUs that are held.
pub struct Collector<D> {
    driver: D,
    version: String,
    gpus: Vec<Attached>,
}

/// A GPU that is held.
struct Attached {
    /// Index of the GPU in the driver's list.
    index: u32,
    listed: Listed,
    vbios_version: String,
    persistent: bool,
    /// Holds the GPU: it is detached when the last open file of its device closes.
    _open: File,
}

/// Opens every GPU of the driver that `load` returns, through the device files in `devices`.
pub fn attach<D: Driver>(
    load: impl FnOnce() -> Result<D, Fault>,
    devices: &Path,
) -> (Found, Option<Collector<D>>) {
    match try_attach(load, devices) {
        Ok((collector, mode)) => (collector.found(mode), Some(collector)),
        Err(found) => (found, None),
    }
}

fn try_attach<D: Driver>(
    load: impl FnOnce() -> Result<D, Fault>,
    devices: &Path,
) -> Result<(Collector<D>, Mode), Found> {
    let driver = load().map_err(|fault| match fault {
        Fault::LIBRARY_NOT_FOUND | Fault::DRIVER_NOT_LOADED => Found::NoDriver,
        fault => failed(NvmlCall::Init)(fault),
    })?;
    let version = driver.version().map_err(failed(NvmlCall::DriverVersion))?;
    let version = text(version).ok_or_else(|| failed(NvmlCall::DriverVersion)(Fault::NONSENSE))?;
    let count = driver.count().map_err(failed(NvmlCall::Devices))?;
    if count == 0 {
        return Err(Found::NoGpu {
            driver_version: version,
        });
    }
    if usize::try_from(count).map_or(true, |count| count > MAX_GPUS) {
        return Err(failed(NvmlCall::Devices)(Fault::NONSENSE));
    }
    // Held before any other call, so that no later call is the first to open a GPU and the last to close it.
    let mut gpus = (0..count)
        .map(|index| hold(&driver, index, devices))
        .collect::<Result<Vec<_>, Found>>()?;
    gpus.sort_by_key(|gpu| gpu.listed.pci);
    let mode = match mode(&driver) {
        Ok(mode) => mode,
        Err(Fault::FUNCTION_NOT_FOUND) => {
            return Err(Found::OldDriver {
                driver_version: version,
            });
        }
        Err(fault) => return Err(failed(NvmlCall::Mode)(fault)),
    };
    let collector = Collector {
        driver,
        version,
        gpus,
    };
    Ok((collector, mode))
}

const OFF: Mode = Mode {
    confidential_computing: false,
    developer_mode: false,
    protected_pcie: false,
};

/// Returns the mode of confidential computing. GPUs that do not support it count as off.
fn mode(driver: &impl Driver) -> Result<Mode, Fault> {
    match driver.mode() {
        Err(Fault::NOT_SUPPORTED) => Ok(OFF),
        told => told,
    }
}

fn hold<D: Driver>(driver: &D, index: u32, devices: &Path) -> Result<Attached, Found> {
    let minor = driver.minor(index).map_err(failed(NvmlCall::Hold))?;
    let path = devices.join(format!("nvidia{minor}"));
    let open = File::options().read(true).write(true).open(path);
    let open = open.map_err(|_| failed(NvmlCall::Hold)(Fault::OPERATING_SYSTEM))?;
    let listed = driver.listed(index).map_err(failed(NvmlCall::PciInfo))?;
    let vbios = driver.vbios_version(index);
    let vbios = vbios.map_err(failed(NvmlCall::VbiosVersion))?;
    Ok(Attached {
        index,
        listed,
        vbios_version: text(vbios)
            .ok_or_else(|| failed(NvmlCall::VbiosVersion)(Fault::NONSENSE))?,
        // The open file holds the GPU in any case. This is the driver's own means, which may be refused.
        persistent: driver.persist(index).is_ok(),
        _open: open,
    })
}

impl<D: Driver> Collector<D> {
    fn found(&self, mode: Mode) -> Found {
        let held = |gpu: &Attached| Held {
            pci: gpu.listed.pci,
            device: gpu.listed.device,
            vbios_version: gpu.vbios_version.clone(),
            persistent: gpu.persistent,
        };
        Found::Gpus {
            driver_version: self.version.clone(),
            mode,
            gpus: self.gpus.iter().map(held).collect(),
        }
    }

    /// Returns the evidence of each GPU for this nonce. The mode is queried anew, because it is part of the evidence.
    pub fn evidence(&self, nonce: &Hex32) -> Vec<Shown> {
        let mode = mode(&self.driver);
        let show = |gpu: &Attached| match mode {
            Ok(mode) if is_off(mode) => Shown::Off,
            Ok(mode) => self.show(gpu, mode, nonce).unwrap_or_else(|shown| shown),
            Err(fault) => shown(NvmlCall::Mode)(fault),
        };
        self.gpus.iter().map(show).collect()
    }

    fn show(&self, gpu: &Attached, mode: Mode, nonce: &Hex32) -> Result<Shown, Shown> {
        let chain = self.driver.certificates(gpu.index);
        let mut chain = chain.map_err(shown(NvmlCall::Certificate))?;
        // The driver fills its buffer up with zeros.
        let length = chain.iter().position(|byte| *byte == 0);
        chain.truncate(length.unwrap_or(chain.len()));
        let nonsense = |call| shown(call)(Fault::NONSENSE);
        let chain = String::from_utf8(chain).map_err(|_| nonsense(NvmlCall::Certificate))?;
        let report = self.driver.report(gpu.index, nonce);
        let collected = CollectedGpu {
            report: Blob(report.map_err(shown(NvmlCall::Report))?),
            chain,
            driver: DriverState {
                confidential_computing: mode.confidential_computing,
                developer_mode: mode.developer_mode,
                protected_pcie: mode.protected_pcie,
                driver_version: self.version.clone(),
                vbios_version: gpu.vbios_version.clone(),
            },
        };
        // Checked here, because the agent could not tell a fault of the driver from one of the collector.
        match collected.check() {
            Ok(()) => Ok(Shown::Evidence(collected)),
            Err(_) => Err(nonsense(NvmlCall::Report)),
        }
    }

    /// Allows or forbids the GPUs to accept work, and returns the state that the driver then reports.
    pub fn set_ready(&self, ready: bool) -> ReadyState {
        match mode(&self.driver) {
            Ok(mode) if is_off(mode) => return ReadyState::Unsupported,
            Ok(_) => {}
            Err(fault) => return state(NvmlCall::Mode)(fault),
        }
        if let Err(fault) = self.driver.set_ready(ready) {
            return state(NvmlCall::SetReady)(fault);
        }
        match self.driver.ready() {
            Ok(true) => ReadyState::Ready,
            Ok(false) => ReadyState::NotReady,
            Err(fault) => state(NvmlCall::GetReady)(fault),
        }
    }

    /// Returns the use of each GPU. Values are absent if they are impossible or refused by the driver, as may happen in
    /// confidential computing. A lost GPU is reported by its evidence.
    pub fn metrics(&self) -> Vec<GpuMetrics> {
        let metrics = |gpu: &Attached| {
            let memory = self.driver.memory(gpu.index).ok();
            let memory = memory.filter(|memory| memory.total > 0 && memory.used <= memory.total);
            let temperature = self.driver.temperature(gpu.index).ok();
            GpuMetrics {
                memory_bytes: memory.map(|memory| memory.total),
                memory_used_bytes: memory.map(|memory| memory.used),
                temperature_celsius: temperature
                    .and_then(|degrees| u16::try_from(degrees).ok())
                    .filter(|degrees| *degrees < HOTTEST),
            }
        };
        self.gpus.iter().map(metrics).collect()
    }

    /// Passes GPU events to `tell` until it returns false or a GPU is lost. Blocks. If events cannot be received, or not any
    /// more, it reports that, calls `wait`, and listens again, as often as necessary.
    pub fn listen(&self, wait: &mut dyn FnMut(Duration), tell: &mut dyn FnMut(GpuEvent) -> bool) {
        let (first, longest) = PAUSES;
        let mut pause = first;
        loop {
            let (began, mut heard) = (Instant::now(), false);
            let ended = self.driver.listen(&mut |xid: Xid| {
                heard = true;
                tell(self.event(xid))
            });
            let Err(fault) = ended else {
                return;
            };
            if matches!(fault, Fault::GPU_LOST | Fault::RESET_REQUIRED) {
                tell(GpuEvent::Lost { gpu: None });
                return;
            }
            if heard || began.elapsed() > longest {
                pause = first;
            }
            if !tell(GpuEvent::Deaf(failure(NvmlCall::Events)(fault))) {
                return;
            }
            wait(pause);
            pause = longest.min(pause * 2);
        }
    }

    fn event(&self, xid: Xid) -> GpuEvent {
        let place = self
            .gpus
            .iter()
            .position(|gpu| Some(gpu.listed.pci) == xid.pci);
        GpuEvent::Xid {
            gpu: place.and_then(|place| u8::try_from(place).ok()),
            code: xid.code,
        }
    }
}

/// Protected PCIe is a mode of its own: reports are made, although confidential computing is reported as off.
fn is_off(mode: Mode) -> bool {
    !mode.confidential_computing && !mode.protected_pcie
}

/// Returns the version if the agent accepts its form.
fn text(version: String) -> Option<String> {
    let good = gpu::version("characters of a version", &version);
    good.is_ok().then_some(version)
}

fn failure(call: NvmlCall) -> impl Fn(Fault) -> NvmlFailure {
    move |fault| NvmlFailure {
        call,
        code: fault.0,
    }
}

fn failed(call: NvmlCall) -> impl Fn(Fault) -> Found {
    move |fault| Found::Failed(failure(call)(fault))
}

fn shown(call: NvmlCall) -> impl Fn(Fault) -> Shown {
    move |fault| match fault {
        Fault::NOT_SUPPORTED | Fault::FUNCTION_NOT_FOUND => Shown::Unsupported,
        Fault::GPU_LOST | Fault::RESET_REQUIRED => Shown::Lost,
        fault => Shown::Failed(failure(call)(fault)),
    }
}

fn state(call: NvmlCall) -> impl Fn(Fault) -> ReadyState {
    move |fault| match fault {
        Fault::NOT_SUPPORTED | Fault::FUNCTION_NOT_FOUND => ReadyState::Unsupported,
        fault => ReadyState::Failed(failure(call)(fault)),
    }
}

#[cfg(test)]
mod tests;
