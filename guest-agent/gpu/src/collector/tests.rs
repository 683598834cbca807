//! Tests of the answers to the agent for everything that a driver may report.

use std::fs;
use std::sync::Mutex;

use cocoon_protocol::bytes::Hex;
use cocoon_protocol::gpu::MAX_CHAIN;
use cocoon_protocol::gpu::collector::PciAddress;
use tempfile::TempDir;

use super::*;
use crate::driver::Memory;

mod events;

const NONCE: Hex32 = Hex([7; 32]);

/// Driver with preset answers.
struct Answers {
    count: u32,
    mode: Result<Mode, Fault>,
    minor: Result<u32, Fault>,
    vbios: String,
    certificates: Result<Vec<u8>, Fault>,
    report: Result<Vec<u8>, Fault>,
    set_ready: Result<(), Fault>,
    persist: Result<(), Fault>,
    memory: Result<Memory, Fault>,
    temperature: Result<u32, Fault>,
    events: Vec<Xid>,
    deaf: Fault,
    ready: Mutex<bool>,
}

fn on() -> Answers {
    Answers {
        count: 1,
        mode: Ok(Mode {
            confidential_computing: true,
            ..OFF
        }),
        minor: Ok(0),
        vbios: "96.00.5E.00.01".into(),
        certificates: Ok(b"-----BEGIN CERTIFICATE-----\n\0\0rubbish".to_vec()),
        report: Ok(vec![0x11]),
        set_ready: Ok(()),
        persist: Ok(()),
        memory: Ok(Memory {
            total: 80 << 30,
            used: 3 << 30,
        }),
        temperature: Ok(41),
        events: Vec::new(),
        deaf: Fault::NOT_SUPPORTED,
        ready: Mutex::new(false),
    }
}

fn address(bus: u8) -> PciAddress {
    PciAddress {
        domain: 0,
        bus,
        device: 0,
    }
}

impl Driver for Answers {
    fn version(&self) -> Result<String, Fault> {
        Ok("580.65.06".into())
    }
    fn mode(&self) -> Result<Mode, Fault> {
        self.mode
    }
    fn count(&self) -> Result<u32, Fault> {
        Ok(self.count)
    }
    // The driver lists the GPUs in reverse order of their addresses.
    fn listed(&self, gpu: u32) -> Result<Listed, Fault> {
        let bus = u8::try_from(0x20 - gpu).map_err(|_| Fault::NONSENSE)?;
        let (pci, device) = (address(bus), 0x2330);
        Ok(Listed { pci, device })
    }
    fn vbios_version(&self, _: u32) -> Result<String, Fault> {
        Ok(self.vbios.clone())
    }
    fn minor(&self, gpu: u32) -> Result<u32, Fault> {
        self.minor.map(|minor| minor + gpu)
    }
    fn persist(&self, _: u32) -> Result<(), Fault> {
        self.persist
    }
    fn certificates(&self, _: u32) -> Result<Vec<u8>, Fault> {
        self.certificates.clone()
    }
    fn report(&self, gpu: u32, nonce: &Hex32) -> Result<Vec<u8>, Fault> {
        let mut report = self.report.clone()?;
        report.push(u8::try_from(gpu).map_err(|_| Fault::NONSENSE)?);
        report.extend(nonce.0);
        Ok(report)
    }
    fn set_ready(&self, ready: bool) -> Result<(), Fault> {
        self.set_ready?;
        *self.ready.lock().unwrap() = ready;
        Ok(())
    }
    fn ready(&self) -> Result<bool, Fault> {
        Ok(*self.ready.lock().unwrap())
    }
    // Both values contain the driver's index of the GPU.
    fn memory(&self, gpu: u32) -> Result<Memory, Fault> {
        let memory = self.memory?;
        Ok(Memory {
            used: memory.used + u64::from(gpu),
            ..memory
        })
    }
    fn temperature(&self, gpu: u32) -> Result<u32, Fault> {
        self.temperature.map(|degrees| degrees + gpu)
    }
    fn listen(&self, tell: &mut dyn FnMut(Xid) -> bool) -> Result<(), Fault> {
        match self.events.iter().all(|event| tell(*event)) {
            true => Err(self.deaf),
            false => Ok(()),
        }
    }
}

/// Returns a folder with the device files of 16 GPUs.
fn devices() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for minor in 0..16 {
        fs::write(folder.path().join(format!("nvidia{minor}")), b"").unwrap();
    }
    folder
}

fn found(driver: Answers) -> Found {
    attach(|| Ok(driver), devices().path()).0
}

fn attached(driver: Answers) -> Collector<Answers> {
    let (found, collector) = attach(|| Ok(driver), devices().path());
    collector.unwrap_or_else(|| panic!("{found:?}"))
}

fn failure(call: NvmlCall, fault: Fault) -> NvmlFailure {
    NvmlFailure {
        call,
        code: fault.0,
    }
}

#[test]
fn what_there_is_not_has_a_name() {
    let loaded = |fault| attach(|| Err::<Answers, _>(fault), devices().path()).0;
    assert_eq!(loaded(Fault::LIBRARY_NOT_FOUND), Found::NoDriver);
    assert_eq!(loaded(Fault::DRIVER_NOT_LOADED), Found::NoDriver);
    assert_eq!(
        loaded(Fault(18)),
        Found::Failed(failure(NvmlCall::Init, Fault(18)))
    );
    let driver_version = "580.65.06".to_owned();
    let none = Answers { count: 0, ..on() };
    assert_eq!(
        found(none),
        Found::NoGpu {
            driver_version: driver_version.clone()
        }
    );
    let old = Answers {
        mode: Err(Fault::FUNCTION_NOT_FOUND),
        ..on()
    };
    assert_eq!(found(old), Found::OldDriver { driver_version });
}

#[test]
fn gpus_are_held_in_the_order_of_their_addresses() {
    let driver = Answers {
        count: 3,
        persist: Err(Fault::NO_PERMISSION),
        ..on()
    };
    let collector = attached(driver);
    let Found::Gpus { gpus, mode, .. } = collector.found(OFF) else {
        panic!("no GPUs");
    };
    let places: Vec<u8> = gpus.iter().map(|gpu| gpu.pci.bus).collect();
    assert_eq!((places, mode), (vec![0x1e, 0x1f, 0x20], OFF));
    assert!(
        gpus.iter()
            .all(|gpu| !gpu.persistent && gpu.device == 0x2330)
    );
    // The evidence has the same order: each report contains the driver's index.
    let shown = collector.evidence(&NONCE);
    let numbers: Vec<u8> = shown
        .iter()
        .map(|shown| match shown {
            Shown::Evidence(gpu) => gpu.report.0[1],
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(numbers, [2, 1, 0]);
}

#[test]
fn a_gpu_that_cannot_be_held_is_none() {
    let folder = tempfile::tempdir().unwrap();
    let (missing, _) = attach(|| Ok(on()), folder.path());
    assert_eq!(
        missing,
        Found::Failed(failure(NvmlCall::Hold, Fault::OPERATING_SYSTEM))
    );
    let nameless = Answers {
        vbios: "96.00\u{1b}[2J".into(),
        ..on()
    };
    assert_eq!(
        found(nameless),
        Found::Failed(failure(NvmlCall::VbiosVersion, Fault::NONSENSE))
    );
    let many = Answers { count: 17, ..on() };
    assert_eq!(
        found(many),
        Found::Failed(failure(NvmlCall::Devices, Fault::NONSENSE))
    );
}

#[test]
fn evidence_is_what_the_driver_gave_without_its_padding() {
    let shown = attached(on()).evidence(&NONCE);
    let [Shown::Evidence(gpu)] = &shown[..] else {
        panic!("{shown:?}");
    };
    assert_eq!(gpu.chain, "-----BEGIN CERTIFICATE-----\n");
    assert_eq!(gpu.report.0[2..], NONCE.0);
    assert!(gpu.driver.confidential_computing && !gpu.driver.developer_mode);
    assert_eq!(gpu.driver.driver_version, "580.65.06");
    assert_eq!(gpu.driver.vbios_version, "96.00.5E.00.01");
}

#[test]
fn what_a_gpu_does_not_show_has_a_name() {
    let show = |driver: Answers| attached(driver).evidence(&NONCE).remove(0);
    let off = || Answers {
        mode: Ok(OFF),
        ..on()
    };
    assert_eq!(show(off()), Shown::Off);
    // GPUs without support count as off when they are held and when they are asked, and have no ready state.
    let never = || Answers {
        mode: Err(Fault::NOT_SUPPORTED),
        ..on()
    };
    assert!(matches!(found(never()), Found::Gpus { mode: OFF, .. }));
    assert_eq!(show(never()), Shown::Off);
    assert_eq!(attached(never()).set_ready(true), ReadyState::Unsupported);
    for (fault, shown) in [
        (Fault::NOT_SUPPORTED, Shown::Unsupported),
        (Fault::GPU_LOST, Shown::Lost),
        (Fault::RESET_REQUIRED, Shown::Lost),
        (
            Fault(999),
            Shown::Failed(failure(NvmlCall::Report, Fault(999))),
        ),
    ] {
        let driver = Answers {
            report: Err(fault),
            ..on()
        };
        assert_eq!(show(driver), shown);
    }
    let certificates = |bytes: Vec<u8>| Answers {
        certificates: Ok(bytes),
        ..on()
    };
    assert_eq!(
        show(certificates(vec![0xff])),
        Shown::Failed(failure(NvmlCall::Certificate, Fault::NONSENSE))
    );
    for bytes in [vec![], vec![b'A'; MAX_CHAIN + 1], b"\x1b[2J".to_vec()] {
        assert_eq!(
            show(certificates(bytes)),
            Shown::Failed(failure(NvmlCall::Report, Fault::NONSENSE))
        );
    }
    // Under protected PCIe confidential computing is reported as off, but reports are made.
    let protected = Answers {
        mode: Ok(Mode {
            protected_pcie: true,
            ..OFF
        }),
        ..on()
    };
    assert!(matches!(show(protected), Shown::Evidence(gpu) if gpu.driver.protected_pcie));
}

#[test]
fn the_ready_state_is_what_the_driver_says_afterwards() {
    let collector = attached(on());
    assert_eq!(collector.set_ready(true), ReadyState::Ready);
    assert_eq!(collector.set_ready(false), ReadyState::NotReady);
    let refused = Answers {
        set_ready: Err(Fault::NO_PERMISSION),
        ..on()
    };
    assert_eq!(
        attached(refused).set_ready(true),
        ReadyState::Failed(failure(NvmlCall::SetReady, Fault::NO_PERMISSION))
    );
    let off = Answers {
        mode: Ok(OFF),
        ..on()
    };
    let off = attached(off);
    assert_eq!(off.set_ready(true), ReadyState::Unsupported);
    assert!(!*off.driver.ready.lock().unwrap(), "asked all the same");
}

#[test]
fn what_the_driver_does_not_tell_of_a_gpus_use_is_absent_and_never_zero() {
    let metrics = |driver: Answers| attached(driver).metrics();
    let told = |used: u64, degrees| GpuMetrics {
        memory_bytes: Some(80 << 30),
        memory_used_bytes: Some((3_u64 << 30) + used),
        temperature_celsius: Some(degrees),
    };
    // In the order of the addresses, like all answers.
    let two = Answers { count: 2, ..on() };
    assert_eq!(metrics(two), [told(1, 42), told(0, 41)]);
    let refused = Answers {
        memory: Err(Fault::NOT_SUPPORTED),
        temperature: Err(Fault::NO_PERMISSION),
        ..on()
    };
    assert_eq!(metrics(refused), [GpuMetrics::default()]);
    for (total, used, degrees) in [(0, 0, 200), (1 << 30, 2 << 30, u32::MAX)] {
        let odd = Answers {
            memory: Ok(Memory { total, used }),
            temperature: Ok(degrees),
            ..on()
        };
        assert_eq!(metrics(odd), [GpuMetrics::default()]);
    }
}
