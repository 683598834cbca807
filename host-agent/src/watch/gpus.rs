//! What this machine knows of the GPUs that an appliance has.
//!
//! A GPU that is passed through belongs to its guest, whose driver alone knows its memory and temperature: the guest tells
//! them, as it tells its counters, and a GPU in confidential computing may have its driver refuse them. The host itself sees
//! what the kernel says of any PCI function, and the temperature where the driver that holds it reports one (`hwmon`), which
//! vfio-pci does not. Nothing else is shown, and nothing is zero that nobody said.

use cocoon_protocol::gpu::GpuMetrics;
use cocoon_qemu::PciAddress;
use serde::{Deserialize, Serialize};

use crate::doctor::facts::{DEVICES, model};
use crate::doctor::source::Files;

/// In the place of an address.
pub const SIMULATED: &str = "simulated";

/// A GPU.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GpuUse {
    /// Where it is; [`SIMULATED`] for one that is nowhere.
    pub address: String,
    /// What it is, if it has a confidential mode.
    pub model: Option<String>,
    /// The driver of the host's that holds it.
    pub driver: Option<String>,
    /// Its memory in bytes.
    pub memory_bytes: Option<u64>,
    /// What of it is in use, in bytes.
    pub memory_used_bytes: Option<u64>,
    /// Its temperature in degrees Celsius.
    pub temperature_celsius: Option<f64>,
}

impl GpuUse {
    /// What is known of an appliance's GPUs: of the one at `address`, or of those that a `simulated` TEE's guest imitates;
    /// with what the guest has `told`.
    #[must_use]
    pub fn all(
        files: &dyn Files,
        address: Option<PciAddress>,
        simulated: bool,
        told: &[GpuMetrics],
    ) -> Vec<Self> {
        let mut gpus: Vec<Self> = match address {
            Some(address) => vec![Self::read(files, address)],
            None if simulated => told.iter().map(|_| Self::imitated()).collect(),
            // Whatever it says of them: it was given none.
            None => vec![],
        };
        // In the guest's own order, which for one is the host's.
        for (gpu, told) in gpus.iter_mut().zip(told) {
            gpu.hear(told);
        }
        gpus
    }

    fn imitated() -> Self {
        Self {
            address: SIMULATED.to_owned(),
            model: None,
            driver: None,
            memory_bytes: None,
            memory_used_bytes: None,
            temperature_celsius: None,
        }
    }

    /// A guest that says what cannot be is taken to have said nothing.
    fn hear(&mut self, told: &GpuMetrics) {
        let used = told.memory_used_bytes;
        let fits = |used: &u64| told.memory_bytes.is_none_or(|all| *used <= all);
        self.memory_bytes = told.memory_bytes;
        self.memory_used_bytes = used.filter(fits);
        if let Some(degrees) = told.temperature_celsius {
            self.temperature_celsius = Some(degrees.into());
        }
    }

    /// What is known of the GPU at `address`, from files alone: neither the GPU is asked, which may be its guest's, nor
    /// its IOMMU group opened, which QEMU may be about to do.
    #[must_use]
    pub fn read(files: &dyn Files, address: PciAddress) -> Self {
        let file = |name: &str| files.text(&format!("{DEVICES}/{address}/{name}"));
        let device = file("device").and_then(|text| {
            let digits = text.strip_prefix("0x")?.to_owned();
            u16::from_str_radix(&digits, 16).ok()
        });
        Self {
            address: address.to_string(),
            model: device.and_then(model).map(str::to_owned),
            driver: files.link(&format!("{DEVICES}/{address}/driver")),
            memory_bytes: None,
            memory_used_bytes: None,
            temperature_celsius: temperature(files, address),
        }
    }
}

/// `temp1_input` of `hwmon`, in thousandths of a degree.
fn temperature(files: &dyn Files, address: PciAddress) -> Option<f64> {
    let folder = format!("{DEVICES}/{address}/hwmon");
    let names = files.list(&folder);
    let text = names
        .iter()
        .find_map(|name| files.text(&format!("{folder}/{name}/temp1_input")))?;
    let thousandths: i32 = text.parse().ok()?;
    Some(f64::from(thousandths) / 1000.0)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::doctor::source::Refusal;

    /// A machine of a few files; a link is a file with its target's last part.
    struct Few(BTreeMap<&'static str, &'static str>);

    impl Files for Few {
        fn read(&self, path: &str) -> Result<Vec<u8>, Refusal> {
            let text = self.0.get(path.trim_start_matches(DEVICES));
            text.map(|text| text.as_bytes().to_vec())
                .ok_or(Refusal::NotFound)
        }

        fn list(&self, path: &str) -> Vec<String> {
            let folder = format!("{}/", path.trim_start_matches(DEVICES));
            let below = self
                .0
                .keys()
                .filter_map(|key| key.strip_prefix(folder.as_str()));
            below
                .filter_map(|rest| Some(rest.split('/').next()?.to_owned()))
                .collect()
        }

        fn link(&self, path: &str) -> Option<String> {
            self.text(path)
        }

        fn open(&self, path: &str) -> Result<(), Refusal> {
            panic!("{path} is opened")
        }
    }

    #[test]
    fn a_guests_gpu_shows_what_it_is_and_no_more() {
        let address: PciAddress = "0000:17:00.0".parse().unwrap();
        let mut files = Few(BTreeMap::from([
            ("/0000:17:00.0/device", "0x2330"),
            ("/0000:17:00.0/driver", "vfio-pci"),
        ]));
        let gpu = GpuUse::read(&files, address);
        assert_eq!(gpu.model.as_deref(), Some("H100 SXM5 80 GB"));
        assert_eq!(gpu.driver.as_deref(), Some("vfio-pci"));
        assert_eq!((gpu.memory_bytes, gpu.temperature_celsius), (None, None));
        files
            .0
            .insert("/0000:17:00.0/hwmon/hwmon3/temp1_input", "41500");
        assert_eq!(
            GpuUse::read(&files, address).temperature_celsius,
            Some(41.5)
        );
        let told = GpuMetrics {
            memory_bytes: Some(80 << 30),
            memory_used_bytes: Some(3 << 30),
            temperature_celsius: None,
        };
        let all =
            |address, simulated, told: &[GpuMetrics]| GpuUse::all(&files, address, simulated, told);
        let [gpu] = &all(Some(address), false, &[told])[..] else {
            panic!("not one GPU")
        };
        assert_eq!(gpu.model.as_deref(), Some("H100 SXM5 80 GB"));
        let memory = (gpu.memory_used_bytes, gpu.memory_bytes);
        assert_eq!(memory, (Some(3 << 30), Some(80 << 30)));
        // The host's, where the guest says none, and the guest's where it does.
        assert_eq!(gpu.temperature_celsius, Some(41.5));
        let hot = GpuMetrics {
            temperature_celsius: Some(64),
            // More than there is.
            memory_used_bytes: Some(81 << 30),
            ..told
        };
        let [gpu] = &all(Some(address), false, &[hot, told])[..] else {
            panic!("it has one, whatever its guest says")
        };
        assert_eq!(gpu.temperature_celsius, Some(64.0));
        assert_eq!(gpu.memory_used_bytes, None);
        // None was given to it.
        assert_eq!(all(None, false, &[told]), []);
        let [one, other] = &all(None, true, &[told, hot])[..] else {
            panic!("not two GPUs")
        };
        assert_eq!((&*one.address, &one.model), (SIMULATED, &None));
        assert_eq!(one.memory_used_bytes, Some(3 << 30));
        assert_eq!(other.temperature_celsius, Some(64.0));
        let gone = GpuUse::read(&files, "0000:18:00.0".parse().unwrap());
        assert_eq!((gone.model, gone.driver), (None, None));
    }
}
